"""Evaluation scores every target once, whatever the batch, and knows what uniform is worth."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.errors import CheckpointError, CorpusError
from pipeline.evaluation.perplexity import Score, perplexity, score_split, windows
from pipeline.model.gpt import GPT, GPTConfig

TOKENS = np.random.Generator(np.random.PCG64(1)).integers(0, 61, 107).astype(np.uint16)


def model(uniform: bool = False) -> GPT:
    gpt = GPT(GPTConfig("modern", 1, 2, 16, 16, 61))
    gpt.initialise(1)
    if not uniform:
        torch.nn.init.normal_(gpt.lm_head.weight, generator=torch.Generator().manual_seed(1))
    return gpt


def score(gpt: GPT, overlap: float = 0.5, batch_size: int = 4, most_windows: int = 0) -> Score:
    return score_split(
        gpt, TOKENS, overlap=overlap, batch_size=batch_size, autocast=nullcontext, name="test",
        most_windows=most_windows,
    )  # fmt: skip


@given(tokens=st.integers(2, 300), block_size=st.integers(1, 40), overlap=st.floats(0, 0.99))
def test_every_target_is_scored_exactly_once(tokens: int, block_size: int, overlap: float) -> None:
    if tokens < block_size + 1:
        return
    scored = np.zeros(tokens, dtype=int)
    for start, position in windows(tokens, block_size, overlap):
        assert start >= 0
        assert start + block_size < tokens
        scored[start + 1 + position : start + 1 + block_size] += 1
    assert scored[0] == 0
    assert (scored[1:] == 1).all()


def test_a_uniform_model_has_the_loss_ln_v() -> None:
    result = score(model(uniform=True))
    assert result.targets == len(TOKENS) - 1
    assert result.loss == pytest.approx(math.log(61), rel=1e-6)
    assert result.perplexity == pytest.approx(61, rel=1e-5)
    assert result.bits_per_byte(result.targets) == pytest.approx(math.log2(61), rel=1e-6)


def test_the_result_does_not_depend_on_the_batch_size() -> None:
    losses = [score(model(), batch_size=size).loss for size in (1, 3, 100)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_the_loss_is_the_mean_over_each_target_in_its_own_window() -> None:
    gpt, nats = model(), 0.0
    with torch.no_grad():
        for target in range(
            1, len(TOKENS)
        ):  # with the most overlap, each but the first has its own
            first = max(0, target - 16)
            window = torch.from_numpy(TOKENS[first:target].astype(np.int64))[None]
            nats += F.cross_entropy(gpt(window)[0][0, -1], torch.tensor(int(TOKENS[target]))).item()
    assert score(gpt, overlap=15 / 16).loss == pytest.approx(nats / (len(TOKENS) - 1), rel=1e-5)


def test_without_overlap_every_position_is_scored_as_often_but_for_the_rest() -> None:
    result = score(model(), overlap=0.0)
    assert result.position_targets.tolist() == [6] * 6 + [7] * 10
    assert result.position_nats.sum() == pytest.approx(result.nats)


def test_the_losses_by_token_add_up_to_the_whole() -> None:
    result = score(model())
    assert result.token_targets.tolist() == np.bincount(TOKENS[1:], minlength=61).tolist()
    assert result.token_nats.sum() == pytest.approx(result.nats)
    assert (result.token_nats[result.token_targets == 0] == 0).all()


def test_some_windows_stand_for_all() -> None:
    result = score(model(), overlap=0.0, most_windows=3)
    assert result.targets == 3 * 16


def test_a_loss_whose_perplexity_no_number_holds_is_one_line() -> None:
    assert perplexity(709.7) == math.exp(709.7)
    with pytest.raises(CheckpointError, match="found a held-out loss of 111,935 nats per token"):
        perplexity(111_934.9)


def test_a_split_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"val split: found 16 tokens; .* \(17\)"):
        score_split(
            model(), TOKENS[:16], overlap=0.0, batch_size=1, autocast=nullcontext, name="val"
        )


def test_a_batch_holds_no_more_logits_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes, observed = score(model(), batch_size=100), [], model()
    observed.wte.register_forward_hook(lambda module, ids, out: sizes.append(len(ids[0])))
    monkeypatch.setattr("pipeline.evaluation.perplexity.LOGITS_BYTES", 3 * 4 * 16 * 61)
    parts = score_split(
        observed, TOKENS, overlap=0.5, batch_size=100, autocast=nullcontext, name="test"
    )
    assert sizes[:3] == [3, 3, 3]
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
