"""A compiled step is what autograd, clipping and the optimizers do one after another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.graph import GraphLowering

from pipeline.corpus.batches import Batches
from pipeline.errors import TrainingError
from pipeline.model.gpt import ARCHITECTURES, GPT, GPTConfig
from pipeline.params import load_params
from pipeline.training import compiled_step
from pipeline.training.compiled_step import CompiledStep
from pipeline.training.loop import Trainer
from pipeline.training.optimizer import set_lr
from pipeline.training.runtime import Runtime, can_compile

SHIPPED = load_params(Path(__file__).parent.parent / "params.yaml").train
TOKENS = np.random.Generator(np.random.PCG64(1)).integers(0, 31, 500).astype(np.uint16)
needs_compiler = pytest.mark.skipif(not can_compile(), reason="needs g++ and Python's headers")


@pytest.fixture
def traced_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is what it is before the compiler has it: each operation by itself."""
    monkeypatch.setattr(compiled_step, "_compile", lambda function, inputs, options: function)


def trainer(
    compiled: bool = True,
    architecture: str = "gpt2",
    n_layer: int = 2,
    dropout: float = 0.0,
    kernel: str = "matmul",
    threads: int = 1,  # apart if there are several
    **changes: object,
) -> Trainer:
    settings = {
        "max_steps": 6, "warmup_steps": 0, "schedule": "constant", "micro_batch_size": 4,
        "lr": 0.03, "optimizer": "adamw", "embedding_lr_ratio": 2.0, "muon_lr_ratio": 2.0,
    }  # fmt: skip
    params = SHIPPED.model_copy(update={**settings, **changes})
    # no biases: that of keys changes nothing, and its gradient is rounding alone
    model = GPT(GPTConfig(architecture, n_layer, 2, 16, 8, 31, dropout, bias=False))
    model.initialise(1)
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():  # none may stay zero, or hide what reaches another
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    batches = Batches(TOKENS, 8, params.sequences, params.batch_order, params.seed)
    apart = threads > 1
    runtime = Runtime("cpu", params.precision, kernel, compiled, threads, "native", apart)
    return Trainer(model, batches, params, runtime, {})


def after(steps: int, trained: Trainer) -> Trainer:
    for _ in range(steps):
        trained.train_step()
    trained.read_back()
    return trained


def assert_alike(one: Trainer, other: Trainer, rtol: float, atol: float) -> None:
    """The same losses, norms, weights and optimizers' states, about; atol: of a weight."""
    losses = [torch.tensor(each.history.losses) for each in (one, other)]
    torch.testing.assert_close(*losses, rtol=rtol, atol=0)
    torch.testing.assert_close(one._grad_norm, other._grad_norm, rtol=rtol, atol=0)
    states = [each.state() for each in (one, other)]
    torch.testing.assert_close(states[0]["model"], states[1]["model"], rtol=rtol, atol=atol)
    for name, expected in states[1]["optimizers"].items():
        for key, tensor in expected.items():  # beside its own largest: second moments are small
            found, size = states[0]["optimizers"][name][key], float(tensor.abs().max())
            torch.testing.assert_close(found, tensor, rtol=0, atol=rtol * size)


@pytest.mark.parametrize("grad_clip", [0.0, 0.05, 1e6])
def test_its_adamw_is_torchs_after_torchs_clipping(grad_clip: float, traced_alone: None) -> None:
    one = after(4, trainer(precision="fp32", grad_clip=grad_clip))
    other = after(4, trainer(compiled=False, precision="fp32", grad_clip=grad_clip))
    assert one._compiled_step is not None
    assert not one._compiled_step.copies
    assert other._compiled_step is None
    assert_alike(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["matmul", "sdpa"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_trains_each_architecture_as_an_eager_run_dropout_included(
    architecture: str, optimizer: str, kernel: str, traced_alone: None
) -> None:
    asked = {"architecture": architecture, "optimizer": optimizer, "kernel": kernel}
    asked["precision"] = "fp32"
    one = after(3, trainer(dropout=0.2, **asked))  # type: ignore[arg-type]
    other = after(3, trainer(compiled=False, dropout=0.2, **asked))  # type: ignore[arg-type]
    assert_alike(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_copies_give_autocasts_loss_and_gradients_and_follow_the_weights(
    architecture: str, traced_alone: None
) -> None:
    asked = {"architecture": architecture, "precision": "bf16", "grad_clip": 0.05}
    one = after(1, trainer(**asked))  # type: ignore[arg-type]
    other = after(1, trainer(compiled=False, **asked))  # type: ignore[arg-type]
    assert one.history.losses == other.history.losses
    means = [each.optimizers[0].state for each in (one, other)]
    # a tied weight's is rounded to bf16 with its rows' in it, and is part of the norm of all
    rtol = 2e-4 if architecture == "gpt2" else 1e-5
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        # the gradient times a number, whose own last digit in bf16 is a 256th of it
        tied = architecture == "gpt2" and mine is one.model.wte.weight
        found, expected = means[0][mine]["exp_avg"], means[1][theirs]["exp_avg"]
        torch.testing.assert_close(found, expected, rtol=1 / 200 if tied else rtol, atol=0)
    torch.testing.assert_close(one._grad_norm, other._grad_norm, rtol=rtol, atol=0)
    assert one._compiled_step is not None
    copies = one._compiled_step.copies
    matrices = {p for p in one.model.h.parameters() if p.dim() == 2}
    assert copies.keys() == matrices | {one.model.lm_head.weight}
    for _ in range(2):
        for weight, copied in copies.items():
            assert torch.equal(copied, weight.bfloat16())
        one.train_step()


def test_frozen_layers_stay_as_they_are(traced_alone: None) -> None:
    trained = []
    for compiled in (True, False):
        one = trainer(compiled=compiled, precision="fp32")
        one.model.freeze(1)
        first = one.model.state_dict()["h.0.mlp.c_fc.weight"].clone()
        trained.append(after(3, Trainer(one.model, one.batches, one.params, one.runtime, {})))
        assert torch.equal(one.model.state_dict()["h.0.mlp.c_fc.weight"], first)
    assert_alike(*trained, rtol=1e-4, atol=1e-5)


def test_a_step_in_micro_batches_or_with_blocks_computed_again_is_not_compiled_whole() -> None:
    assert trainer()._is_compiled_whole()
    assert trainer(threads=2).runtime.threads_apart
    for other in (
        trainer(threads=2, compiled=False),
        trainer(threads=2, micro_batch_size=2, grad_accum_steps=2),
        trainer(threads=2, activation_checkpointing=True),
    ):
        assert not other._is_compiled_whole()
        assert not other.runtime.threads_apart  # nor says so


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graphs_hold_nothing_by_value_and_have_the_faster_gelu(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []

    def keep(graph: Any, shapes: list[Any], options: dict[str, Any]) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr("torch._inductor.compile", keep)
    one = trainer(architecture=architecture, precision="bf16")
    one.train_step()
    passes, update = graphs
    names = [str(node.target) for node in passes.graph.nodes if node.op == "call_function"]
    assert ("aten.sigmoid.default" in names) is (architecture == "gpt2")
    assert not [name for name in names if "gelu" in name]
    for graph in (passes, update):
        held = [getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"]
        assert max((value.numel() for value in held), default=0) <= 1


@needs_compiler
@pytest.mark.parametrize(
    "threads", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_compiled_it_computes_the_same_by_threads_apart_too(threads: int) -> None:
    asked = {"n_layer": 1, "precision": "fp32", "grad_clip": 0.05}
    own = torch.get_num_threads()
    one = after(4, trainer(threads=threads, **asked))  # type: ignore[arg-type]
    assert torch.get_num_threads() == own  # of all but the step's
    assert one._compiled_step is not None
    assert one._compiled_step.parts == threads
    other = after(4, trainer(compiled=False, **asked))  # type: ignore[arg-type]
    assert_alike(one, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        one.model.h[0].attn.c_attn.weight[0, 0] = torch.nan  # type: ignore[union-attr, index, operator]
    one.train_step()
    with pytest.raises(TrainingError, match="training loss is nan at step 5"):
        one.read_back()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("threads", "kernel"), [(1, "matmul"), (2, "matmul"), (2, "sdpa")])
def test_compiled_in_bf16_it_trains_as_eager_and_goes_on_to_the_bit(
    threads: int, kernel: str
) -> None:
    asked = {"architecture": "canon", "n_layer": 1, "optimizer": "muon", "precision": "bf16"}
    asked["kernel"] = kernel
    eager = after(6, trainer(compiled=False, **asked))  # type: ignore[arg-type]
    asked["threads"] = threads  # type: ignore[assignment]
    first = after(3, trainer(**asked))  # type: ignore[arg-type]
    second = after(1, trainer(**asked))  # type: ignore[arg-type]
    # other weights are there now than those that it goes on from
    second.load_state(first.state(), shards=None)  # type: ignore[arg-type]
    after(3, first)
    after(3, second)
    assert first.history.losses == second.history.losses
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first._compiled_step is not None
    for weight, copied in first._compiled_step.copies.items():
        assert torch.equal(copied, weight.bfloat16())
    torch.testing.assert_close(
        torch.tensor(first.history.losses), torch.tensor(eager.history.losses), rtol=5e-3, atol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"micro_batch_size": 2, "grad_accum_steps": 2}, {"activation_checkpointing": True}],
    ids=["micro-batches", "again"],
)
@needs_compiler
def test_compiled_but_not_whole_it_computes_the_same(changes: dict[str, object]) -> None:
    asked = {"n_layer": 1, "precision": "fp32", "grad_clip": 0.05, **changes}
    one = after(4, trainer(**asked))  # type: ignore[arg-type]
    other = after(4, trainer(compiled=False, **asked))  # type: ignore[arg-type]
    assert one._compiled_step is None
    assert_alike(one, other, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_compiled_loop_has_its_exponential_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[str] = []
    monkeypatch.setattr(GraphLowering, "save_output_code", staticmethod(codes.append))
    x = torch.cat((torch.linspace(-100, 88, 4095), torch.tensor([-torch.inf])))
    compiled = compiled_step._compile(
        lambda x: [x.exp(), x.sigmoid()], (x,), {"fx_graph_cache": False}
    )
    torch.testing.assert_close(compiled(x), [x.exp(), x.sigmoid()], rtol=3e-6, atol=1e-37)
    (code,) = codes
    assert ".exp_u20()" in code
    assert ".exp()" not in code


@needs_compiler
def test_a_cache_that_was_cut_short_is_the_compilers_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("file too short")

    monkeypatch.setattr("torch._inductor.compile", refuse)
    with pytest.raises(BackendCompilerFailed, match="ImportError: file too short"):
        trainer(n_layer=1, precision="fp32").train_step()


@pytest.mark.slow
@needs_compiler
def test_a_compiled_dropout_is_of_its_seed() -> None:
    one = trainer(n_layer=1, dropout=0.5, precision="fp32")
    set_lr(one.optimizers, 0.0)
    step = CompiledStep(one.model, one.optimizers, one.runtime, grad_clip=0.0)
    x, y = one.batches.sequences(1, 0, 4)
    one.model.train()
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(float(step(x, y)[0]))
    with torch.no_grad():
        _, whole = one.model.eval()(x, y)
    assert losses[0] == losses[2]
    assert len({*losses, float(whole)}) == 3
