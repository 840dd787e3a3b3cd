"""Training batches as a pure function of (seed, step): which tokens a step sees.

A step reads `sequences_per_step` sequences of `block_size` inputs and the targets one token on.
Its micro-batches are slices of that one list, so accumulating gradients over four micro-batches
of 8 sees what one batch of 32 sees, and so do four processes of 8.

Nothing is read ahead and no worker helps: a batch is microseconds beside a step's milliseconds on
a CPU, and on a GPU it is made while the device still works on the step before.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpus.token_stream import TokenStream, document_bounds, release
from pipeline.errors import CorpusError
from pipeline.randomness import seed_for

PADDING = -1  # a target that counts for nothing (model.gpt.IGNORE)
RELEASE_AFTER = 16  # sequences; each brings up to half a megabyte of a mapped file into memory


def check_length(tokens: TokenStream, block_size: int, name: str) -> None:
    """Raise CorpusError where a split has no whole sequence of inputs and targets."""
    if len(tokens) < block_size + 1:
        larger = f" or a larger prepare.{name}_fraction" if name in ("val", "test") else ""
        raise CorpusError(
            f"{name} split: found {len(tokens)} tokens; allowed: at least "
            f"model.block_size + 1 ({block_size + 1}): more text{larger}"
        )


class Batches:
    """Sequences of a token stream, drawn by step.

    order: `random` draws starts with replacement; `shuffled` goes through the blocks of the stream
    in a new order each epoch; `sequential` goes through them in order and wraps; `documents` goes
    through the documents, those longer than max_seq_len in several sequences, in a new order each
    epoch, and pads the shorter ones: inputs with eot_id, targets with PADDING. What is left of the
    stream behind the last whole block is in no block: `shuffled` and `sequential` never read it.

    stride: tokens from one block's start to the next one's, block_size (max_seq_len) where it is
    None; fewer, and blocks overlap. max_seq_len: block_size where it is None. Steps count from 1.
    Raises CorpusError where the stream has no whole sequence.
    """

    def __init__(
        self,
        tokens: TokenStream,
        block_size: int,
        sequences_per_step: int,
        order: str,
        seed: int,
        *,
        stride: int | None = None,
        max_seq_len: int | None = None,
        eot_id: int | None = None,
    ) -> None:
        if order != "documents":
            check_length(tokens, block_size, "train")
        self.tokens = tokens
        self.block_size = block_size
        self.sequences_per_step = sequences_per_step
        self.order = order
        self.seed = seed
        self._eot_id = eot_id
        self._read = 0  # sequences since their memory was given back
        if order == "documents":
            longest = max_seq_len or block_size
            bounds = document_bounds(tokens, eot_id)
            self._starts, self._lengths = _windows(bounds, longest, stride or longest)
            self.blocks = len(self._starts)
            if not self.blocks:
                raise CorpusError("train split: no document of two tokens or more")
        else:
            self._stride = stride or block_size
            self.blocks = (len(tokens) - 1 - block_size) // self._stride + 1

    def starts(self, step: int) -> NDArray[np.int64]:
        """First input token of each of the step's sequences, (S,)."""
        if self.order == "random":
            generator = np.random.Generator(np.random.PCG64(seed_for(self.seed, "batch", step)))
            return generator.integers(
                0, len(self.tokens) - self.block_size, self.sequences_per_step
            )
        if self.order == "documents":
            return self._starts[self._places(step)]
        return self._places(step) * self._stride

    def _places(self, step: int) -> NDArray[np.int64]:
        """Which of the blocks the step reads, (S,)."""
        first = (step - 1) * self.sequences_per_step
        end = first + self.sequences_per_step
        if self.order == "sequential":
            return np.arange(first, end) % self.blocks
        parts = []
        for epoch in range(first // self.blocks, (end - 1) // self.blocks + 1):
            start = epoch * self.blocks
            order = _epoch_order(self.seed, epoch, self.blocks)
            parts.append(order[max(first - start, 0) : end - start])
        return np.concatenate(parts)

    def sequences(self, step: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (B, T) int64 of `count` of the step's sequences from `first` on.

        Documents are padded to the longest of these sequences.
        """
        self._read += count
        if self._read > RELEASE_AFTER:
            release(self.tokens)
            self._read = 0
        if self.order == "documents":
            return self._padded(self._places(step)[first : first + count])
        starts = self.starts(step)[first : first + count]
        block = np.stack([self.tokens[s : s + self.block_size + 1] for s in starts])
        # each of its own memory: a GPU takes no pinned rows that are apart
        x, y = block[:, :-1].astype(np.int64), block[:, 1:].astype(np.int64)
        return torch.from_numpy(x), torch.from_numpy(y)

    def _padded(self, places: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        starts, lengths = self._starts[places], self._lengths[places]
        shape = len(places), int(lengths.max())
        x = np.full(shape, self._eot_id or 0, dtype=np.int64)
        y = np.full(shape, PADDING, dtype=np.int64)
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            ids = self.tokens[start : start + length + 1]
            x[row, :length], y[row, :length] = ids[:-1], ids[1:]
        return torch.from_numpy(x), torch.from_numpy(y)

    def targets(self, step: int, first: int, count: int) -> int:
        """How many targets those sequences have: what a mean over them is a mean of."""
        if self.order != "documents":
            return count * self.block_size
        return int(self._lengths[self._places(step)[first : first + count]].sum())

    def tokens_seen(self, step: int) -> int:
        """Targets of all steps up to and with `step`."""
        if self.order != "documents":
            return step * self.sequences_per_step * self.block_size
        epochs, places = divmod(step * self.sequences_per_step, self.blocks)
        order = _epoch_order(self.seed, epochs, self.blocks)
        part = self._lengths[order[:places]].sum()
        return epochs * int(self._lengths.sum()) + int(part)

    def epochs(self, step: int) -> float:
        """Tokens seen over tokens in the split."""
        return self.tokens_seen(step) / len(self.tokens)


@lru_cache(maxsize=2)  # a step may lie in two epochs
def _epoch_order(seed: int, epoch: int, blocks: int) -> NDArray[np.int64]:
    """The blocks in the order in which the epoch goes through them."""
    generator = np.random.Generator(np.random.PCG64(seed_for(seed, "epoch", epoch)))
    return generator.permutation(blocks)


def _windows(
    bounds: NDArray[np.int64], longest: int, stride: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first input, inputs) of each sequence: a document's windows, each new to some target."""
    starts, targets = bounds[:-1], np.diff(bounds) - 1
    starts, targets = starts[targets > 0], targets[targets > 0]
    windows = 1 + np.maximum(0, -((longest - targets) // stride))  # 1 + ceil((targets - l) / s)
    document = np.repeat(np.arange(len(starts)), windows)
    number = np.arange(len(document)) - np.repeat(np.cumsum(windows) - windows, windows)
    offset = number * stride
    return starts[document] + offset, np.minimum(longest, targets[document] - offset)
