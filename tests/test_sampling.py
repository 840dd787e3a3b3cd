"""Drawing is exact: the same tokens with and without a cache, alone and among others, and each
strategy keeps the tokens that its definition keeps."""

import math
from collections import Counter

import pytest
import torch

from pipeline.evaluation import sampling
from pipeline.evaluation.sampling import Draw, Strategy, choose, generate, stream
from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.5])


def randomised(architecture: str, dtype: torch.dtype = torch.float64, block_size: int = 24) -> GPT:
    """In fp64 by default: rounding is then too small to decide any draw on any machine."""
    model = GPT(GPTConfig(architecture, 2, 4, 32, block_size, 61)).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.to(dtype)


def prompts(count: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, 61, (n,), generator=generator).tolist() for n in lengths]


def same_tokens(model: GPT, count: int) -> None:
    for number, prompt in enumerate(prompts(count, longest=40)):  # block_size is 24
        settings = {"max_new_tokens": 20, "temperature": number % 2 * 0.9, "top_k": 20}
        cached = generate(model, prompt, seed=number, use_cache=True, **settings)
        assert cached == generate(model, prompt, seed=number, use_cache=False, **settings), number


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cache_gives_the_same_tokens(architecture: str) -> None:
    same_tokens(randomised(architecture), 20)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cache_gives_the_same_tokens_for_a_thousand_prompts(
    architecture: str, kernel: str, dtype: torch.dtype
) -> None:
    model = randomised(architecture, dtype)
    model.set_attention(kernel)
    same_tokens(model, 1000)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
def test_the_cache_gives_the_logits_of_the_whole_context(architecture: str, kernel: str) -> None:
    model = randomised(architecture, torch.float32)
    model.set_attention(kernel)
    idx = torch.randint(0, 61, (3, 24), generator=torch.Generator().manual_seed(1))
    whole, _ = model(idx)
    cache = model.new_cache(3)
    parts = [model.features(idx[:, :10], cache)]
    parts += [model.features(idx[:, n : n + 1], cache) for n in range(10, 24)]
    torch.testing.assert_close(model.lm_head(torch.cat(parts, dim=1)), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_sample_is_the_same_alone_and_among_others(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised("modern", torch.float32)
    monkeypatch.setitem(sampling.ROWS, "cpu", rows)  # more than one is the case of an accelerator
    settings = {"max_new_tokens": 40, "temperature": 1.0, "top_k": 0}
    together = generate(model, [5, 6], seed=10, num_samples=7, **settings)
    for number, ids in enumerate(together):
        assert [ids] == generate(model, [5, 6], seed=10 + number, **settings)
    assert len({tuple(ids) for ids in together}) == 7


def test_strategies_beside_one_another_do_not_disturb_each_other() -> None:
    model = randomised("gpt2")
    draws = [Draw(Strategy(temperature=t), 1) for t in (0.0, 0.5, 1.0)]
    apart: list[list[int]] = [
        [token for _, token in stream(model, [1], [draw], max_new_tokens=20, stopped=set())]
        for draw in draws
    ]
    beside: list[list[int]] = [[], [], []]
    for number, token in stream(model, [1], draws, max_new_tokens=20, stopped=set()):
        beside[number].append(token)
    assert beside == apart


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_full_context_goes_on_from_its_last_half(use_cache: bool) -> None:
    model = randomised("gpt2")
    prompt = list(range(30))  # block_size is 24
    (new,) = generate(
        model, prompt, max_new_tokens=14, temperature=0, top_k=0, seed=0, use_cache=use_cache
    )
    context = prompt[-12:]
    for token in new:
        logits = model(torch.tensor([context]))[0][0, -1]
        assert token == int(logits.argmax())
        context = [*context, token]
        if len(context) > 24:
            context = context[-12:]


def test_a_sample_ends_at_the_stop_id_and_leaves_the_others_going() -> None:
    model = randomised("modern")
    settings = {"max_new_tokens": 60, "temperature": 1.0, "top_k": 0, "seed": 4, "num_samples": 5}
    free = generate(model, [1], **settings)
    stop_id = free[2][7]
    ended = generate(model, [1], stop_id=stop_id, **settings)
    for one, other in zip(free, ended, strict=True):
        cut = one.index(stop_id) if stop_id in one else len(one)
        assert other == one[:cut]
    assert len(ended[2]) < 60


def kept(strategy: Strategy, seen: tuple[int, ...] = ()) -> set[int]:
    """The tokens that a strategy can choose."""
    return {choose(LOGITS, strategy, list(seen), n / 4096) for n in range(4096)}


def test_each_strategy_keeps_what_its_definition_keeps() -> None:
    p = LOGITS.double().softmax(dim=-1)
    assert kept(Strategy()) == {0, 1, 2, 3, 4}
    assert kept(Strategy(temperature=0)) == {1}
    assert kept(Strategy(top_k=2)) == {1, 4}
    assert kept(Strategy(top_p=float(p[1]) - 0.01)) == {1}
    assert kept(Strategy(top_p=float(p[1]) + 0.01)) == {1, 4}
    assert kept(Strategy(top_p=1e-9)) == {1}
    assert kept(Strategy(min_p=math.exp(-0.6))) == {1, 4}
    assert kept(Strategy(min_p=1.0)) == {1}
    assert kept(Strategy(temperature=1e-300)) == {1}
    assert kept(Strategy(temperature=0, repetition_penalty=2.0), seen=(1, 1, 3)) == {4}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    drawn = Counter(
        choose(LOGITS, Strategy(temperature=2.0), [], n / 10_000) for n in range(10_000)
    )
    expected = (LOGITS.double() / 2).softmax(dim=-1)
    for token in range(5):
        assert drawn[token] / 10_000 == pytest.approx(float(expected[token]), abs=2e-4)


@pytest.mark.parametrize("case", range(60))
def test_the_tokens_kept_are_those_of_transformers(case: int) -> None:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(case)
    logits = torch.randn(12, generator=generator, dtype=torch.float64)
    temperature, top_p, min_p, penalty = torch.rand(4, generator=generator).tolist()
    strategy = Strategy(temperature + 0.3, case % 13, top_p, min_p / 4, penalty + 0.5)
    steps = [
        RepetitionPenaltyLogitsProcessor(strategy.repetition_penalty),
        TemperatureLogitsWarper(strategy.temperature),
        *([TopKLogitsWarper(strategy.top_k)] if strategy.top_k else []),
        TopPLogitsWarper(strategy.top_p),
        MinPLogitsWarper(strategy.min_p),
    ]
    theirs = LogitsProcessorList(steps)(torch.tensor([[0, 1]]), logits[None])[0].softmax(dim=-1)
    counts = Counter(choose(logits, strategy, [0, 1], n / 2000) for n in range(2000))
    for token in range(12):
        assert counts[token] / 2000 == pytest.approx(float(theirs[token]), abs=1e-3)


def test_a_prompt_of_no_id_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt: found no id; allowed: one or more"):
        generate(randomised("modern"), [], max_new_tokens=1, temperature=1.0, top_k=0, seed=1)
