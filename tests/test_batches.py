"""Batches are a function of (seed, step) and hold what their order promises."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_project import enter_project, set_param

from pipeline.corpus.batches import PADDING, Batches, check_length
from pipeline.corpus.token_stream import ShardedTokens
from pipeline.errors import CorpusError, ParamsError
from pipeline.model.gpt import GPT, IGNORE, GPTConfig
from pipeline.params import load_params
from pipeline.randomness import seed_for

TOKENS = np.arange(103, dtype=np.uint16)


def batches(order: str, seed: int = 1, sequences: int = 4) -> Batches:
    return Batches(TOKENS, 10, sequences, order, seed)


@pytest.mark.parametrize("order", ["random", "shuffled", "sequential"])
def test_targets_are_the_inputs_one_token_on(order: str) -> None:
    x, y = batches(order).sequences(3, 0, 4)
    assert all(part.is_contiguous() for part in (x, y))  # or a GPU copies by way of the host
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
    with pytest.raises(CorpusError, match=r"train split: found 10 tokens; .* \(11\): more text$"):
        Batches(TOKENS[:10], 10, 1, "random", 1)
    with pytest.raises(CorpusError, match=r"more text or a larger prepare\.val_fraction$"):
        check_length(TOKENS[:10], 10, "val")


# stride, documents, what has been seen

EOT = 99
STREAM = np.array([1, 2, 3, EOT, 4, EOT, 5, 6, 7, 8, 9, 10, EOT, EOT, 11, 12], dtype=np.uint16)


def of_documents(sequences: int = 3, **settings: int) -> Batches:
    return Batches(STREAM, 4, sequences, "documents", 1, eot_id=EOT, **settings)


def epoch_of(batches: Batches) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each sequence of the first epoch, without the padding."""
    rows = []
    for step in range(1, 1 + batches.blocks // batches.sequences_per_step):
        x, y = batches.sequences(step, 0, batches.sequences_per_step)
        for inputs, targets in zip(x.tolist(), y.tolist(), strict=True):
            length = sum(target != PADDING for target in targets)
            assert inputs[length:] == [EOT] * (len(inputs) - length)
            assert targets[length:] == [PADDING] * (len(targets) - length)
            rows.append((inputs[:length], targets[:length]))
    return sorted(rows)


def test_a_stride_below_block_size_overlaps_and_block_size_does_not() -> None:
    overlapping = Batches(TOKENS, 10, 4, "sequential", 1, stride=4)
    assert overlapping.starts(1).tolist() == [0, 4, 8, 12]
    assert overlapping.blocks == 24
    starts = np.concatenate([overlapping.starts(step) for step in range(1, 7)])
    assert starts.max() + 10 < len(TOKENS)
    assert starts.max() + 4 + 10 >= len(TOKENS)
    plain, same = batches("shuffled"), Batches(TOKENS, 10, 4, "shuffled", 1, stride=10)
    assert plain.starts(3).tolist() == same.starts(3).tolist()


def test_each_target_of_every_document_is_seen_once_an_epoch_and_no_sequence_holds_two() -> None:
    rows = epoch_of(of_documents(sequences=1))
    assert rows == [
        ([1, 2, 3], [2, 3, EOT]),
        ([4], [EOT]),
        ([5, 6, 7, 8], [6, 7, 8, 9]),
        ([9, 10], [10, EOT]),
        ([11], [12]),
    ]


def test_max_seq_len_and_stride_cut_long_documents_into_windows() -> None:
    inputs = [x for x, _ in epoch_of(of_documents(sequences=1, max_seq_len=3, stride=2))]
    assert inputs == [[1, 2, 3], [4], [5, 6, 7], [7, 8, 9], [9, 10], [11]]
    assert of_documents(max_seq_len=2).sequences(1, 0, 3)[0].shape[1] <= 2


def test_documents_are_padded_to_the_longest_of_the_micro_batch() -> None:
    batches = of_documents(sequences=5)
    x, y = batches.sequences(1, 0, 5)
    assert x.shape == y.shape == (5, 4)
    assert int((y != PADDING).sum()) == batches.targets(1, 0, 5) == 11
    for first in range(5):
        part = batches.sequences(1, first, 1)[0]
        assert part.shape[1] == batches.targets(1, first, 1)


def test_epochs_of_documents_are_shuffled_anew_by_step_alone() -> None:
    forward, backward = of_documents(), of_documents()
    first = {step: forward.starts(step).tolist() for step in range(1, 30)}
    assert first == {step: backward.starts(step).tolist() for step in reversed(range(1, 30))}
    assert first[1] + first[2][:2] != first[2][2:] + first[3] + first[4][:1]


@pytest.mark.parametrize("sequences", [1, 3, 5, 8, 23])
@pytest.mark.parametrize("order", ["shuffled", "documents"])
def test_a_step_reads_its_places_in_the_epochs_orders(order: str, sequences: int) -> None:
    def made() -> Batches:
        if order == "documents":
            return of_documents(sequences)
        return batches(order, sequences=sequences)

    plain = made()
    epochs = [
        np.random.Generator(np.random.PCG64(seed_for(1, "epoch", n))).permutation(plain.blocks)
        for n in range(2 + 12 * sequences // plain.blocks)
    ]
    first_of = plain._starts if order == "documents" else np.arange(plain.blocks) * 10
    places = np.concatenate([first_of[epoch] for epoch in epochs]).reshape(-1)
    for step in (*range(1, 12), 3, 3, 11):
        expected = places[(step - 1) * sequences : step * sequences].tolist()
        assert plain.starts(step).tolist() == expected
        assert made().starts(step).tolist() == expected  # as a run that goes on there


@pytest.mark.parametrize("order", ["shuffled", "documents"])
def test_micro_batches_of_a_step_share_its_order(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int | str, ...]] = []

    def seed(*parts: int | str) -> int:
        drawn.append(parts)
        return seed_for(*parts)

    monkeypatch.setattr("pipeline.corpus.batches.seed_for", seed)
    several = batches(order, sequences=4) if order == "shuffled" else of_documents(4)
    for step in range(1, 11):
        for first in range(4):
            several.sequences(step, first, 1)
            several.targets(step, first, 1)
    assert len(drawn) == len(set(drawn))  # each epoch's order once


@pytest.mark.parametrize("order", ["random", "shuffled", "sequential", "documents"])
def test_tokens_seen_is_the_sum_of_the_targets(order: str) -> None:
    batches = Batches(STREAM, 4, 3, order, 1, eot_id=EOT)
    seen = 0
    for step in range(1, 12):
        seen += int((batches.sequences(step, 0, 3)[1] != PADDING).sum())
        assert batches.tokens_seen(step) == seen
        assert batches.epochs(step) == seen / len(STREAM)


def test_a_split_without_a_target_is_refused() -> None:
    with pytest.raises(CorpusError, match="train split: no document of two tokens or more"):
        Batches(np.array([EOT, EOT, 1]), 4, 1, "documents", 1, eot_id=EOT)


def test_padding_is_what_the_model_ignores() -> None:
    assert PADDING == IGNORE


def test_micro_batches_of_documents_add_up_to_the_loss_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig("gpt2", n_layer=1, n_head=2, n_embd=8, block_size=4, vocab_size=100))
    batches = of_documents(sequences=5)

    def gradient(size: int) -> torch.Tensor:
        model.zero_grad()
        for first in range(0, 5, size):
            _, loss = model(*batches.sequences(1, first, size))
            share = batches.targets(1, first, size) / batches.targets(1, 0, 5)
            (loss * share).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(1), gradient(5), atol=1e-7, rtol=1e-5)


def test_shards_give_the_batches_of_one_file() -> None:
    sharded = ShardedTokens([TOKENS[:33], TOKENS[33:40], TOKENS[40:]])
    for order in ("random", "shuffled", "sequential"):
        one, several = batches(order), Batches(sharded, 10, 4, order, 1)
        for step in range(1, 9):
            for left, right in zip(
                one.sequences(step, 0, 4), several.sequences(step, 0, 4), strict=True
            ):
                assert torch.equal(left, right)


@pytest.mark.parametrize("key", ["stride", "max_seq_len"])
def test_sequences_longer_than_the_context_are_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_project(tmp_path, monkeypatch)
    set_param("block_size", "128")
    set_param("batch_order", "documents")
    set_param(key, "129")
    message = rf"params.yaml: train\.{key}: found 129; allowed: 1 to model.block_size \(128\)"
    with pytest.raises(ParamsError, match=message):
        load_params()
    set_param("max_seq_len", "4")
    set_param("stride", "5")
    with pytest.raises(ParamsError, match=r"stride: found 5; allowed: 1 to train.max_seq_len .4."):
        load_params()
    for each in ("stride", "max_seq_len"):
        set_param(each, "null")
    set_param(key, "128")
    assert getattr(load_params().train, key) == 128
    set_param("batch_order", "random")
    with pytest.raises(ParamsError, match=rf"train\.{key}: found 128 with batch_order random"):
        load_params()
