"""The compiled AdamW is torch's with clipping before it; copies compute what autocast does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.corpus.batches import Batches
from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig
from pipeline.params import TrainParams, load_params
from pipeline.training.adamw import CompiledAdamW, with_copies
from pipeline.training.loop import Trainer
from pipeline.training.runtime import Runtime, can_compile

pytestmark = pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")
SHIPPED = load_params(Path(__file__).parent.parent / "params.yaml").train
SHAPES = [(24, 40), (7, 24), (24,), (3, 5)]
TOKENS = np.random.Generator(np.random.PCG64(1)).integers(0, 31, 500).astype(np.uint16)


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """What was compiled for other tests cannot bring one to the limit, and so to run eager."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups(chosen: list[nn.Parameter]) -> list[dict[str, object]]:
    return [
        {"params": chosen[:1], "weight_decay": 0.3, "lr": 0.3},
        {"params": chosen[1:], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("grad_clip", [0.0, 1.0, 1e6])
def test_it_is_torchs_adamw_after_torchs_clipping(grad_clip: float) -> None:
    generator = torch.Generator().manual_seed(6)
    ours, theirs = parameters(), parameters()
    own = CompiledAdamW(groups(ours), 0.02, (0.9, 0.95), {})
    reference = torch.optim.AdamW(groups(theirs), 0.02, (0.9, 0.95))
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        norm = nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
        if grad_clip:
            nn.utils.clip_grads_with_norm_(theirs, grad_clip, norm)
        reference.step()
        torch.testing.assert_close(own.step(grad_clip), norm)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        for name, value in reference.state[other].items():
            torch.testing.assert_close(own.state[one][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_copy_gives_the_gradient_and_follows_the_weight(grad_clip: float) -> None:
    generator = torch.Generator().manual_seed(7)
    plain, copied = parameters(), parameters()
    copies = {copied[0]: nn.Parameter(copied[0].detach().bfloat16())}
    one = CompiledAdamW(groups(plain), 0.02, (0.9, 0.95), {})
    other = CompiledAdamW(groups(copied), 0.02, (0.9, 0.95), copies)
    for _ in range(3):
        # whole numbers: their norm is the same to the bit in whatever order it is summed
        gradients = [torch.randint(-8, 9, s, generator=generator).bfloat16() for s in SHAPES]
        for a, b, gradient in zip(plain, copied, gradients, strict=True):
            a.grad, b.grad = gradient.float(), gradient.float()
        copied[0].grad, copies[copied[0]].grad = None, gradients[0]
        assert torch.equal(one.step(grad_clip), other.step(grad_clip))
        assert torch.equal(copies[copied[0]], copied[0].bfloat16())
    for a, b in zip(plain, copied, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_give_autocasts_loss_and_gradients_to_the_bit(architecture: str) -> None:
    model = GPT(GPTConfig(architecture, 2, 2, 32, 16, 50))
    model.initialise(3)
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    twin, copies = with_copies(model, torch.bfloat16)
    ids = torch.randint(0, 50, (3, 16), generator=generator)
    losses = []
    for each in (model, twin):
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = each(ids, ids.roll(-1, 1))
        loss.backward()
        losses.append(loss.detach())
        if each is model:
            expected = {p: p.grad for p in model.parameters()}
            model.zero_grad(set_to_none=True)
    assert torch.equal(losses[0], losses[1])
    blocks = {p for p in model.h.parameters() if p.dim() == 2}
    assert copies.keys() == blocks
    for parameter, gradient in expected.items():
        found = copies.get(parameter, parameter).grad
        assert found is not None
        assert gradient is not None
        assert found.dtype == (torch.bfloat16 if parameter in blocks else torch.float32)
        assert torch.equal(found.float(), gradient)


def trainer(compiled: bool = True, **changes: object) -> Trainer:
    settings = {
        "max_steps": 6, "warmup_steps": 0, "schedule": "constant", "micro_batch_size": 4,
        "lr": 0.03, "optimizer": "adamw", "activation_checkpointing": True,
    }  # fmt: skip
    params = TrainParams.model_validate({**SHIPPED.model_dump(), **settings, **changes})
    model = GPT(GPTConfig("gpt2", 2, 2, 16, 8, 31))
    model.initialise(1)
    batches = Batches(TOKENS, 8, params.sequences, params.batch_order, params.seed)
    runtime = Runtime("cpu", params.precision, "matmul", compiled, 1, "native")
    return Trainer(model, batches, params, runtime, {})


@pytest.mark.slow
def test_a_compiled_run_trains_as_an_eager_one_and_resumes_to_the_bit() -> None:
    eager, compiled = trainer(compiled=False, precision="bf16"), trainer(precision="bf16")
    for _ in range(6):
        eager.train_step()
        compiled.train_step()
    eager.read_back()
    compiled.read_back()
    torch.testing.assert_close(
        torch.tensor(compiled.history.losses), torch.tensor(eager.history.losses), rtol=2e-3, atol=0
    )
    first, second = trainer(precision="bf16"), trainer(precision="bf16")
    for _ in range(3):
        first.train_step()
    second.load_state(first.state(), shards=None)  # type: ignore[arg-type]
    for _ in range(3):
        second.train_step()
    for one, other in zip(compiled.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_gradients_of_one_micro_batch_are_kept_in_bf16() -> None:
    def copied(**changes: object) -> int:
        (optimizer,) = trainer(**changes).optimizers
        assert isinstance(optimizer, CompiledAdamW)
        return len(optimizer.copies)

    assert copied(precision="bf16") == 8
    assert copied(precision="bf16", micro_batch_size=2, grad_accum_steps=2) == 0
    assert copied(precision="fp32") == 0
