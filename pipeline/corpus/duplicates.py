"""What stands in two splits: text that a model could have learnt by heart.

A window of held-out tokens is found in the train split by a hash of its tokens, taken at every
place of the train split; a document by the hash of the whole.
"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.token_stream import Tokens, TokenStream, document_bounds

WINDOW = 32  # tokens, a power of two: longer than a phrase that many would write
_AT_ONCE = 1 << 20  # places
_ODD = 0x9E3779B97F4A7C15


def repeated_windows(train: TokenStream, held_out: TokenStream) -> tuple[int, int]:
    """(windows of the held-out split that also stand in train, all of them, one after another)."""
    wanted = [hashes[::WINDOW] for hashes in _hashes(held_out)]
    if not wanted:
        return 0, 0
    asked = np.concatenate(wanted)
    kinds, times = np.unique(asked, return_counts=True)
    found = np.zeros(len(kinds), dtype=bool)
    for hashes in _hashes(train):
        place = np.searchsorted(kinds, hashes).clip(max=len(kinds) - 1)
        found[place[kinds[place] == hashes]] = True
    return int(times[found].sum()), len(asked)


def _hashes(tokens: TokenStream) -> Iterator[NDArray[np.uint64]]:
    """A hash of the WINDOW tokens at every place, in blocks that begin at multiples of WINDOW."""
    for start in range(0, len(tokens) - WINDOW + 1, _AT_ONCE):
        yield _window_hashes(tokens[start : start + _AT_ONCE + WINDOW - 1])


def _window_hashes(ids: Tokens) -> NDArray[np.uint64]:
    hashes = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_ODD)
    hashes ^= hashes >> np.uint64(29)
    size, factor = 1, _ODD | 1
    while size < WINDOW:  # of two halves, the hash of both
        hashes = hashes[:-size] * np.uint64(factor) + hashes[size:]
        hashes ^= hashes >> np.uint64(31)
        size, factor = 2 * size, factor * factor % 2**64
    return hashes


def equal_documents(first: TokenStream, second: TokenStream, eot_id: int) -> int:
    """Documents of the second split that the first one has too."""
    known = set(_document_hashes(first, eot_id))
    return sum(digest in known for digest in _document_hashes(second, eot_id))


def _document_hashes(tokens: TokenStream, eot_id: int) -> Iterator[bytes]:
    bounds = document_bounds(tokens, eot_id).tolist()
    for start, stop in pairwise(bounds):
        ids = tokens[start:stop]
        if ids[-1] == eot_id:  # what a split's end cuts off is no whole document
            yield hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
