"""Training batches as a pure function of (seed, step): which tokens a step sees.

A step reads `sequences_per_step` sequences of `block_size` inputs and the targets one token on.
Its micro-batches are slices of that one list, so accumulating gradients over four micro-batches
of 8 sees what one batch of 32 sees, and so do four processes of 8.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import CorpusError
from pipeline.randomness import seed_for


def check_length(tokens: NDArray[np.integer], block_size: int, name: str) -> None:
    """Raise CorpusError where a split has no whole sequence of inputs and targets."""
    if len(tokens) < block_size + 1:
        raise CorpusError(
            f"{name} split: found {len(tokens)} tokens; allowed: at least "
            f"model.block_size + 1 ({block_size + 1})"
        )


class Batches:
    """Sequences of a token stream, drawn by step.

    order: `random` draws starts with replacement; `shuffled` goes through the non-overlapping
    blocks of the stream in a new order each epoch; `sequential` goes through them in order and
    wraps. Steps count from 1. Raises CorpusError where the stream has no whole sequence.
    """

    def __init__(
        self,
        tokens: NDArray[np.integer],
        block_size: int,
        sequences_per_step: int,
        order: str,
        seed: int,
    ) -> None:
        check_length(tokens, block_size, "train")
        self.tokens = tokens
        self.block_size = block_size
        self.sequences_per_step = sequences_per_step
        self.order = order
        self.seed = seed
        self.blocks = (len(tokens) - 1) // block_size
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def starts(self, step: int) -> NDArray[np.int64]:
        """First input token of each of the step's sequences, (S,)."""
        if self.order == "random":
            generator = np.random.Generator(np.random.PCG64(seed_for(self.seed, "batch", step)))
            return generator.integers(
                0, len(self.tokens) - self.block_size, self.sequences_per_step
            )
        first = (step - 1) * self.sequences_per_step
        places = np.arange(first, first + self.sequences_per_step)
        if self.order == "sequential":
            return places % self.blocks * self.block_size
        return np.array([self._shuffled(place) for place in places.tolist()]) * self.block_size

    def _shuffled(self, place: int) -> int:
        epoch, place = divmod(place, self.blocks)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64(seed_for(self.seed, "epoch", epoch)))
            self._permutation, self._epoch = generator.permutation(self.blocks), epoch
        return int(self._permutation[place])

    def sequences(self, step: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (B, T) int64 of `count` of the step's sequences from `first` on."""
        starts = self.starts(step)[first : first + count]
        block = np.stack([self.tokens[s : s + self.block_size + 1] for s in starts])
        both = torch.from_numpy(block.astype(np.int64))  # (B, T + 1)
        return both[:, :-1], both[:, 1:]
