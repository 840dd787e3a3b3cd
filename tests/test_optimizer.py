"""Muon is torch.optim.Muon, weight decay acts on matrices alone, rates keep their ratios."""

from pathlib import Path

import pytest
import torch

from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig
from pipeline.params import load_params
from pipeline.training.optimizer import AdamW, Muon, build_optimizers, set_lr

SHIPPED = load_params(Path(__file__).parent.parent / "params.yaml").train


def test_muon_equals_torchs_own_on_stacked_and_plain_matrices() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(24, 24), (96, 24), (24, 96), (24, 24)]
    plain = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    stacked = torch.nn.Parameter(torch.cat([plain[0].detach(), plain[3].detach()]))
    theirs = torch.optim.Muon(plain, lr=0.1, weight_decay=0.2, momentum=0.95)
    own = [torch.nn.Parameter(p.detach().clone()) for p in plain[1:3]]
    ours = Muon([(stacked, 2), (own[0], 1), (own[1], 1)], 0.1, 0.2, torch.bfloat16)
    for _ in range(3):
        gradients = [torch.randn(s, generator=generator) for s in shapes]
        for parameter, gradient in zip(plain, gradients, strict=True):
            parameter.grad = gradient
        stacked.grad = torch.cat([gradients[0], gradients[3]])
        own[0].grad, own[1].grad = gradients[1], gradients[2]
        theirs.step()
        ours.step()
    for one, other in [(stacked[:24], plain[0]), (stacked[24:], plain[3]), *zip(own, plain[1:3])]:  # noqa: B905
        torch.testing.assert_close(one, other, rtol=0, atol=5e-3)  # bf16 rounds by product's order


def test_muon_in_fp32_makes_singular_values_alike() -> None:
    parameter = torch.nn.Parameter(torch.zeros(32, 64))
    muon = Muon([(parameter, 1)], lr=1.0, weight_decay=0.0, dtype=torch.float32)
    parameter.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    muon.step()
    values = torch.linalg.svdvals(parameter.detach())
    assert values.min() > 0.5
    assert values.max() < 1.3


def build(optimizer: str, architecture: str = "gpt2") -> tuple[GPT, list[AdamW | Muon]]:
    model = GPT(GPTConfig(architecture, 2, 2, 16, 8, 31))
    settings = {"optimizer": optimizer, "lr": 0.01, "muon_lr_ratio": 4.0}
    params = SHIPPED.model_copy(update=settings)
    return model, build_optimizers(model, params, torch.float32)


def test_decay_acts_on_matrices_only_and_every_parameter_is_in_one_group() -> None:
    built = [build(name, form) for name in ("adamw", "muon") for form in ARCHITECTURES]
    for model, optimizers in built:
        seen = []
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.1 if parameter.dim() == 2 else 0.0)
                seen.append(id(parameter))
        assert sorted(seen) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_muon_takes_the_blocks_matrices_and_nothing_else(architecture: str) -> None:
    model, (_, muon) = build("muon", architecture)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = {names[id(parameter)] for parameter in muon.param_groups[0]["params"]}
    inside = {n for n in names.values() if n.startswith("h.") and "ln_" not in n}
    assert taken == {n for n in inside if "canon" not in n and not n.endswith("bias")}


def test_queries_keys_and_values_are_orthogonalised_each_by_itself() -> None:
    model, (_, muon) = build("muon", "modern")
    weight = model.get_parameter("h.0.attn.c_attn.weight")
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    for parameter in muon.param_groups[0]["params"]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    assert weight.grad is not None
    weight.grad[:16] *= 1e-3  # together with the others they would hardly move
    muon.param_groups[0]["weight_decay"] = 0.0
    muon.step()
    for update in (before - weight.detach()).split(16):
        values = torch.linalg.svdvals(update / muon.param_groups[0]["lr"])
        assert 0.5 < values.mean() < 1.3


@pytest.mark.parametrize(
    ("architecture", "embedding"), [("gpt2", 0.005), ("modern", 0.15), ("canon", 0.15)]
)  # gpt2's is the head too
@pytest.mark.parametrize(("optimizer", "block"), [("adamw", 0.005), ("muon", 0.02)])
def test_muons_and_the_embeddings_rates_are_their_multiples_of_lr(
    optimizer: str, block: float, architecture: str, embedding: float
) -> None:
    model, optimizers = build(optimizer, architecture)
    set_lr(optimizers, 0.005)
    groups = [group for each in optimizers for group in each.param_groups]
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        matrix = name.startswith("h.") and parameter.dim() == 2
        table = name.startswith(("wte.", "values."))
        expected = embedding if table else block if matrix else 0.005
        assert rates[id(parameter)] == pytest.approx(expected), name
