"""A split's ids as one 1-D sequence, whether one file holds them or several, and its documents."""

import mmap
from bisect import bisect_right
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.integer[Any]]
PART = 1 << 20  # ids looked at at a time: memory


class ShardedTokens:
    """Several shards' ids as one sequence, to be read in slices."""

    def __init__(self, shards: list[Tokens]) -> None:
        self.shards = shards
        self._starts = [0, *accumulate(len(shard) for shard in shards)]
        self.dtype = shards[0].dtype

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, places: slice) -> Tokens:
        """The ids of a slice without a step; within a shard it is no copy."""
        start, stop, step = places.indices(len(self))
        assert step == 1
        parts = []
        while start < stop:
            n = bisect_right(self._starts, start) - 1
            first, end = self._starts[n], min(stop, self._starts[n + 1])
            parts.append(self.shards[n][start - first : end - first])
            start = end
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self.shards[0][:0]


TokenStream: TypeAlias = "Tokens | ShardedTokens"


def release(tokens: TokenStream) -> None:
    """Give back the memory of what was read of a mapped file: the system's cache still has it.

    Without it a run's resident memory grows to the size of the files.
    """
    for part in tokens.shards if isinstance(tokens, ShardedTokens) else [tokens]:
        mapped = getattr(part, "_mmap", None)
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def document_bounds(tokens: TokenStream, eot_id: int | None) -> npt.NDArray[np.int64]:
    """Where each document begins, and the stream's end; <|endoftext|> is its document's last."""
    ends = []
    for start in range(0, len(tokens), PART):
        piece = tokens[start : start + PART]
        ends.append(np.flatnonzero(piece == eot_id) + start + 1)
        release(tokens)
    return np.unique(np.concatenate([[0], *ends, [len(tokens)]]).astype(np.int64))
