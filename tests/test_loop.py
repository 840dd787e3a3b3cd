"""The loop: accumulation is one large batch, looking changes nothing, stops are clean."""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pipeline.corpus.batches import Batches
from pipeline.errors import TrainingError
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.params import TrainParams, load_params
from pipeline.training import progress
from pipeline.training.loop import Hooks, Outputs, Trainer, fit
from pipeline.training.ranks import Ranks
from pipeline.training.resume import ResumeState
from pipeline.training.runtime import Runtime
from pipeline.training.schedule import lr_at

SHIPPED = load_params(Path(__file__).parent.parent / "params.yaml").train
TOKENS = np.random.Generator(np.random.PCG64(1)).integers(0, 31, 500).astype(np.uint16)


def settings(**changes: object) -> TrainParams:
    small = {
        "max_steps": 12, "micro_batch_size": 4, "grad_accum_steps": 1, "warmup_steps": 2,
        "lr": 0.005, "weight_decay": 0.0, "eval_interval": 4, "sample_interval": 0,
        "log_interval": 1, "keep_interval": 0,
    }  # fmt: skip
    return TrainParams.model_validate({**SHIPPED.model_dump(), **small, **changes})


def make_trainer(dropout: float = 0.0, **changes: object) -> Trainer:
    model = GPT(GPTConfig("modern", 1, 2, 16, 8, 31, dropout))
    model.initialise(1)
    params = settings(**changes)
    sequences = params.micro_batch_size * params.grad_accum_steps
    batches = Batches(TOKENS, 8, sequences, params.batch_order, params.seed)
    runtime = Runtime("cpu", "fp32", "matmul", False, 1, "native")
    return Trainer(model, batches, params, runtime, {})


def run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    validate: Callable[[GPT], float] | None = None,
    dropout: float = 0.0,
    **changes: object,
) -> Trainer:
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    trainer = make_trainer(dropout, **changes)
    looks = iter(range(100, 0, -1))
    hooks = Hooks(
        validate or (lambda model: float(next(looks))),
        lambda model, step: f"text {step}",
        lambda trainer: None,
        lambda line: None,
        lambda: False,
    )
    outputs = Outputs(folder, folder / "train.csv", folder / "samples.txt")
    fit(trainer, hooks, outputs, ResumeState({}), 1e9)
    return trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_accumulation_equals_one_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = run(tmp_path / "a", monkeypatch, micro_batch_size=8, optimizer="adamw")
    small = run(
        tmp_path / "b", monkeypatch, micro_batch_size=2, grad_accum_steps=4, optimizer="adamw"
    )
    torch.testing.assert_close(
        torch.tensor(small.history.losses), torch.tensor(large.history.losses), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_looking_and_sampling_more_often_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    rarely = run(tmp_path / "a", monkeypatch, dropout=dropout, eval_interval=12)
    often = run(
        tmp_path / "b", monkeypatch, dropout=dropout, eval_interval=1, sample_interval=1,
        keep_interval=1, log_interval=3,
    )  # fmt: skip
    assert torch.equal(weights(rarely), weights(often))
    assert rarely.history.losses == often.history.losses


def test_the_loss_falls_and_the_csv_holds_every_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = run(tmp_path, monkeypatch, max_steps=120)
    assert trainer.history.losses[-1] < trainer.history.losses[0] - 0.1
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert lines[0] == "step,tokens,lr,loss,grad_norm,val_loss"
    assert [float(line.split(",")[3]) for line in lines[1:]] == trainer.history.losses
    assert [line.split(",")[1] for line in lines[1:4]] == ["32", "64", "96"]
    rates = [lr_at(step, trainer.params) for step in range(1, 121)]
    assert [row.lr for row in trainer.history.rows] == rates
    looked = [line.split(",")[0] for line in lines[1:] if line.split(",")[5]]
    assert looked == [str(step) for step in range(4, 121, 4)]


def test_best_is_the_lowest_val_loss_and_kept_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 1.0])  # of equals the first
    run(tmp_path, monkeypatch, validate=lambda model: next(losses), keep_interval=5)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (best["step"], best["best_loss"]) == (8, 1.0)
    assert (last["step"], last["best_loss"]) == (12, 1.0)
    assert "optimizer_state_dict" in last
    assert "optimizer_state_dict" not in best
    assert sorted(path.name for path in tmp_path.glob("step-*.pt")) == ["step-10.pt", "step-5.pt"]


def test_patience_stops_after_so_many_looks_without_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0, 2.0, 2.0])
    trainer = run(
        tmp_path, monkeypatch, validate=lambda model: next(losses), eval_interval=1, patience=2
    )
    assert (trainer.step, trainer.stopped, trainer.best_step) == (3, "patience", 1)


def test_the_target_stops_the_run_with_a_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = run(tmp_path / "a", monkeypatch, max_steps=60)
    target = full.history.losses[29]
    trainer = run(tmp_path / "b", monkeypatch, max_steps=60, target_loss=target)
    first = next(step for step, loss in enumerate(full.history.losses, 1) if loss <= target)
    assert (trainer.step, trainer.stopped) == (first, "target_loss")
    assert trainer.history.rows[-1].val_loss is not None
    assert (tmp_path / "b" / "last.pt").is_file()


@pytest.mark.parametrize(
    ("interval", "seconds", "saved"),
    [
        ("auto", 2, [60, 120, 180, 240, 300]),  # what a save takes, of steps of a second
        ("auto", 10, [60, 260]),
        (60, 10, [60, 120, 180, 240, 300]),
    ],
)
def test_saves_of_a_large_model_leave_the_time_to_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interval: float | Literal["auto"],
    seconds: float,
    saved: list[int],
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    clock = [0.0]
    fake = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("pipeline.training.loop.time", fake)
    resume, steps = ResumeState({}), []
    save = resume.save

    def slow(step: int, *rest: Any) -> None:
        save(step, *rest)
        steps.append(step)
        clock[0] += seconds

    def second(trainer: Trainer) -> None:
        clock[0] += 1

    monkeypatch.setattr(resume, "save", slow)
    hooks = Hooks(lambda _: 1.0, lambda *_: "", second, lambda _: None, lambda: False)
    outputs = Outputs(tmp_path, tmp_path / "train.csv", tmp_path / "samples.txt")
    trainer = make_trainer(max_steps=320, eval_interval=320, log_interval=100)
    fit(trainer, hooks, outputs, resume, interval)
    assert steps == saved


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def poison(model: GPT) -> float:
        looks.append(1)
        if len(looks) == 2:
            model.lm_head.weight.data.fill_(torch.nan)
        return float(len(looks))

    with pytest.raises(TrainingError, match=r"loss is nan at step \d+; .*step 4"):
        run(tmp_path, monkeypatch, validate=poison)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "last.pt").exists()


def test_a_val_loss_that_is_not_finite_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([3.0, math.nan])
    with pytest.raises(TrainingError, match=r"val loss is nan at step \d+; .*step 4"):
        run(tmp_path, monkeypatch, validate=lambda model: next(looks))
    assert torch.load(tmp_path / "best.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "last.pt").exists()


def test_every_micro_batch_of_every_step_and_process_has_a_dropout_of_its_own() -> None:
    seeds = []

    def observe(trainer: Trainer) -> None:
        forward = trainer.forward

        def observed(*given: torch.Tensor) -> torch.Tensor:
            seeds.append(torch.initial_seed())
            return forward(*given)  # type: ignore[no-any-return]

        trainer.forward = observed  # type: ignore[assignment]

    for rank in (0, 1):
        trainer = make_trainer(dropout=0.3, micro_batch_size=2, grad_accum_steps=4)
        trainer.ranks, trainer.share = Ranks(rank, 2), 4  # of two processes the one
        observe(trainer)
        trainer.train_step()
        trainer.train_step()
    assert len(seeds) == len(set(seeds)) == 2 * 2 * 2


def test_a_resumed_trainer_has_the_scale_and_the_patience_of_the_one_before(tmp_path: Path) -> None:
    before, after = make_trainer(optimizer="muon"), make_trainer(optimizer="muon")
    for trainer, scale in ((before, 4.0), (after, 8.0)):
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before.train_step()
    before.read_back()
    found = {
        "best_loss": 1.5, "best_step": 1, "initial_loss": 3.5, "looks_without_better": 2,
        "samples": [{"step": 1, "text": "a"}], "kept": ["step-1.pt"], "stopped": "patience",
    }  # fmt: skip
    for name, value in found.items():
        setattr(before, name, value)
    after.load_state(before.state(), tmp_path)
    assert after.scaler.get_scale() == 4.0
    assert {name: getattr(after, name) for name in found} == found
    assert (after.step, after.lr, after.history.losses) == (1, before.lr, before.history.losses)
    assert torch.equal(weights(after), weights(before))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_overflow_in_one_gradient_skips_every_optimizer(bad: float) -> None:
    trainer = make_trainer(optimizer="muon")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(5):  # until Muon's momentum is of every matrix
        trainer.train_step()
    before = weights(trainer)
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * bad)
    trainer.train_step()
    assert torch.equal(weights(trainer), before)
    assert trainer.scaler.get_scale() == 4.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_no_traceback_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(progress, "LOG", Path("/dev/full"))
    show = progress.Show(10, quiet=False)
    show.line("step 1")
    for handler in tuple(show.log.handlers):
        show.log.removeHandler(handler)
        with suppress(OSError):  # it has the line still
            handler.close()
    assert capsys.readouterr() == ("step 1\n", "")
