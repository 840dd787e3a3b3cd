"""What simpler models reach on the same text, so that a reader sees what a loss is worth.

`uniform` knows nothing, `unigram` the train split's token counts (add one), `bigram` the counts
of pairs, backed off to unigrams (Witten-Bell smoothing), `xz` compresses the held-out text alone
or after the train text. All in bits per byte of the same text.
"""

import lzma
import math

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.token_stream import PART

MOST_TOKENS = 1 << 24  # of the train split's end: memory
XZ_MOST_BYTES = 1 << 24  # of the train text's end: time, and xz -9 looks back no more than 64 MiB


def uniform_bits(targets: int, vocab_size: int) -> float:
    """Bits for `targets` tokens, each as likely."""
    return targets * math.log2(vocab_size)


def unigram_bits(train: NDArray[np.integer], test: NDArray[np.integer], vocab_size: int) -> float:
    """Bits for test[1:] by the train split's token frequencies."""
    return float(-np.log2(_unigram(train, vocab_size)[test[1:]]).sum())


def _unigram(train: NDArray[np.integer], vocab_size: int) -> NDArray[np.float64]:
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return counts / counts.sum()  # type: ignore[no-any-return]


def bigram_bits(train: NDArray[np.integer], test: NDArray[np.integer], vocab_size: int) -> float:
    """Bits for test[1:], each given the token before it.

    p(b | a) = (c(a, b) + n(a) p(b)) / (c(a) + n(a)), n(a) the kinds of token seen after a
    (Witten and Bell 1991).
    """
    pairs = train[:-1].astype(np.int64) * vocab_size + train[1:]
    kinds, counts = np.unique(pairs, return_counts=True)
    followers = np.bincount(kinds // vocab_size, minlength=vocab_size)  # n(a)
    times = np.bincount(train[:-1], minlength=vocab_size)  # c(a)
    frequencies, bits = _unigram(train, vocab_size), 0.0
    for first in range(0, len(test) - 1, PART):
        part = test[first : first + PART + 1]
        before, after = part[:-1].astype(np.int64), part[1:]
        asked = before * vocab_size + after
        place = np.searchsorted(kinds, asked).clip(max=len(kinds) - 1)
        seen = np.where(kinds[place] == asked, counts[place], 0)
        unigram, n, c = frequencies[after], followers[before], times[before]
        share = np.where(c > 0, (seen + n * unigram) / np.maximum(c + n, 1), unigram)
        bits -= float(np.log2(share).sum())
    return bits


def xz_bits(text: bytes, after: bytes = b"") -> float:
    """Bits that `xz -9` adds for `text`, behind the end of `after`."""
    after = after[-XZ_MOST_BYTES:]
    before = len(lzma.compress(after, preset=9)) if after else 0
    return 8.0 * (len(lzma.compress(after + text, preset=9)) - before)
