"""Batches are a function of (seed, step) and hold what their order promises."""

import numpy as np
import pytest

from pipeline.corpus.batches import Batches
from pipeline.errors import CorpusError

TOKENS = np.arange(103, dtype=np.uint16)


def batches(order: str, seed: int = 1, sequences: int = 4) -> Batches:
    return Batches(TOKENS, 10, sequences, order, seed)


@pytest.mark.parametrize("order", ["random", "shuffled", "sequential"])
def test_targets_are_the_inputs_one_token_on(order: str) -> None:
    x, y = batches(order).sequences(3, 0, 4)
    assert x.shape == y.shape == (4, 10)
    assert (y == x + 1).all()


@pytest.mark.parametrize("order", ["random", "shuffled", "sequential"])
def test_a_step_is_the_same_in_any_sequence_of_calls(order: str) -> None:
    forward, backward = batches(order), batches(order)
    first = {step: forward.starts(step).tolist() for step in range(1, 30)}
    second = {step: backward.starts(step).tolist() for step in reversed(range(1, 30))}
    assert first == second


@pytest.mark.parametrize("order", ["random", "shuffled", "sequential"])
def test_micro_batches_are_slices_of_the_steps_sequences(order: str) -> None:
    whole = batches(order).sequences(5, 0, 4)[0]
    parts = [batches(order).sequences(5, first, 2)[0] for first in (0, 2)]
    assert (np.concatenate(parts) == whole.numpy()).all()


def test_another_seed_draws_another_order() -> None:
    for order in ("random", "shuffled"):
        assert batches(order, 1).starts(1).tolist() != batches(order, 2).starts(1).tolist()


def test_a_shuffled_epoch_has_every_block_once_and_the_next_another_order() -> None:
    shuffled = batches("shuffled", sequences=5)
    epochs = [np.concatenate([shuffled.starts(s), shuffled.starts(s + 1)]) for s in (1, 3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(0, 100, 10))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_sequential_goes_through_in_order_and_wraps() -> None:
    starts = [s for step in (1, 2, 3) for s in batches("sequential").starts(step).tolist()]
    assert starts == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 0, 10]


def test_random_reaches_both_ends() -> None:
    drawn = np.concatenate([batches("random").starts(step) for step in range(1, 800)])
    assert (drawn.min(), drawn.max()) == (0, 92)


def test_a_stream_without_a_whole_sequence_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"train split: found 10 tokens; .* \(11\)"):
        Batches(TOKENS[:10], 10, 1, "random", 1)
