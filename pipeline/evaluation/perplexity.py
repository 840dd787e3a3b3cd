"""How well a model predicts a whole text: every target scored exactly once.

Windows of block_size tokens slide over the split by a stride of (1 - overlap) * block_size. The
first window scores all its targets, each later one those that no window before it scored, so
that a target has at least overlap * block_size tokens of context, but near the start. The split's
first token has no context and is no target. (Sliding windows: Baevski and Auli 2019, §3.)
"""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.corpus.batches import check_length
from pipeline.corpus.token_stream import TokenStream
from pipeline.errors import CheckpointError
from pipeline.model.gpt import GPT

LOGITS_BYTES = 1 << 30  # of one forward pass, in fp32


@dataclass(frozen=True)
class Score:
    """Sums over a split, in float64."""

    nats: float  # total loss
    targets: int
    position_nats: NDArray[np.float64]  # (T,) loss by position in the window
    position_targets: NDArray[np.int64]  # (T,)
    token_nats: NDArray[np.float64]  # (V,) loss by target
    token_targets: NDArray[np.int64]  # (V,)

    @property
    def loss(self) -> float:
        """Mean, nats per token."""
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    def bits_per_byte(self, text_bytes: int) -> float:
        """Bits over the bytes of the scored targets' text."""
        return self.nats / math.log(2) / text_bytes


def perplexity(loss: float) -> float:
    """e to the mean loss in nats; raises CheckpointError where no number can hold it."""
    if loss > math.log(sys.float_info.max):
        raise CheckpointError(
            f"found a held-out loss of {loss:,.0f} nats per token, which has no perplexity; "
            "allowed: below 710: train again with a lower train.lr"
        )
    return math.exp(loss)


def windows(tokens: int, block_size: int, overlap: float) -> list[tuple[int, int]]:
    """(first input, first scored position) of each window over a stream of `tokens` tokens.

    All windows are block_size long; the last one ends at the stream's end.
    """
    targets = tokens - 1
    stride = max(1, block_size - round(overlap * block_size))
    plan = [(0, 0)]
    scored = block_size
    while scored < targets:
        new = min(stride, targets - scored)
        scored += new
        plan.append((scored - block_size, block_size - new))
    return plan


@torch.no_grad()
def score_split(
    model: GPT,
    tokens: TokenStream,
    *,
    overlap: float,
    batch_size: int,
    name: str,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    most_windows: int = 0,
    block_size: int | None = None,
) -> Score:
    """Score a split; most_windows > 0 takes that many, evenly spaced, instead of all.

    batch_size: windows in one forward pass, fewer where their logits would take more than
    LOGITS_BYTES; block_size: their length, if not the model's. Raises CorpusError where the split
    is shorter than block_size + 1 tokens.
    """
    T = block_size or model.config.block_size
    check_length(tokens, T, name)
    plan = windows(len(tokens), T, overlap)
    if 0 < most_windows < len(plan):
        plan = [plan[i * len(plan) // most_windows] for i in range(most_windows)]
    model.eval()
    device = next(model.parameters()).device
    V = model.config.vocab_size
    batch_size = min(batch_size, max(1, LOGITS_BYTES // (4 * T * V)))
    nats, targets = np.zeros(T), np.zeros(T, dtype=np.int64)
    token_nats, token_targets = np.zeros(V), np.zeros(V, dtype=np.int64)
    for first in range(0, len(plan), batch_size):
        part = plan[first : first + batch_size]
        block = np.stack([tokens[start : start + T + 1] for start, _ in part]).astype(np.int64)
        both = torch.from_numpy(block).to(device)  # (B, T + 1)
        with autocast():
            logits, _ = model(both[:, :-1])  # (B, T, V)
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), both[:, 1:].flatten(), reduction="none"
        )
        scored = np.arange(T) >= np.array([[position] for _, position in part])  # (B, T)
        losses_64 = losses.view(len(part), T).cpu().double().numpy()  # mps has no float64
        nats += np.where(scored, losses_64, 0.0).sum(axis=0)
        targets += scored.sum(axis=0)
        ids = block[:, 1:][scored]
        token_nats += np.bincount(ids, losses_64[scored], V)
        token_targets += np.bincount(ids, minlength=V)
    return Score(float(nats.sum()), int(targets.sum()), nats, targets, token_nats, token_targets)
