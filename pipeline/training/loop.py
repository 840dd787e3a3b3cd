"""The training loop: plain torch, one optimizer update a step.

AMP, gradient accumulation, clipping, warmup and decay. Everything random is a function of the
step, everything that decides the result is in the state, so a run stopped anywhere and resumed
ends in the same bytes. Losses stay on the device until a row, a look at val or a save needs them.

Of several processes each computes its share of every step's sequences; all take the same course,
rank 0 alone writes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pipeline.corpus.batches import Batches
from pipeline.errors import TrainingError
from pipeline.model.gpt import GPT
from pipeline.model.tensor_file import plain_copy, save_tensors
from pipeline.params import TrainParams
from pipeline.randomness import seed_for
from pipeline.storage import append_text, write_text
from pipeline.training.checkpoint import (
    checkpoint_payload,
    load_optimizer_tensors,
    optimizer_tensors,
)
from pipeline.training.compiled_step import CompiledStep
from pipeline.training.division import divide, share_of
from pipeline.training.history import History, Row
from pipeline.training.micro_batch import find_micro_batch
from pipeline.training.optimizer import build_optimizers, set_lr
from pipeline.training.parallel import (
    gathered,
    load_shards,
    parallelise,
    recompute_blocks,
    save_shards,
)
from pipeline.training.ranks import ALONE, Ranks
from pipeline.training.resume import ResumeState
from pipeline.training.runtime import Runtime
from pipeline.training.samples import format_samples
from pipeline.training.schedule import lr_at
from pipeline.training.sharding import whole

SAVE_INTERVAL = 60.0  # seconds between saves, where they take less than
SAVE_SHARE = 0.05  # of the time between them
# the Trainer's fields that a resumed run takes over as they are
KEPT = (
    "step",
    "best_loss",
    "best_step",
    "initial_loss",
    "looks_without_better",
    "stopped",
    "samples",
    "kept",
    "lr",
    "process_counts",
)


@dataclass
class Outputs:
    """Where a run writes."""

    checkpoints: Path
    train_csv: Path
    samples_txt: Path


@dataclass
class Hooks:
    """What the loop asks of its caller."""

    validate: Callable[[GPT], float]  # mean val loss, nats per token
    sample: Callable[[GPT, int], str]  # text after a step
    on_step: Callable[["Trainer"], None]  # after every step: show it
    on_event: Callable[[str], None]  # a line worth a log
    stop_requested: Callable[[], bool]  # Ctrl-C or SIGTERM came


@dataclass
class Trainer:
    """A model in training, and all that a resumed run needs of it."""

    model: GPT
    batches: Batches
    params: TrainParams
    runtime: Runtime
    tokenizer: dict[str, Any]
    ranks: Ranks = ALONE
    step: int = 0
    best_loss: float | None = None  # val
    best_step: int = 0
    pretrained: bool = False  # then the val loss before the first step counts too
    initial_loss: float | None = None  # it
    looks_without_better: int = 0
    stopped: str = ""  # max_steps, target_loss or patience, once the run is over
    samples: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # names of the numbered checkpoints
    history: History = field(default_factory=History)
    process_counts: list[int] = field(default_factory=list)  # that trained it, each once

    def __post_init__(self) -> None:
        params, runtime = self.params, self.runtime
        self.process_counts = [self.ranks.size]
        self.model.set_attention(runtime.attention)
        self.share = share_of(self.batches.sequences_per_step, self.ranks.size)
        self.sharded = params.parallel == "fsdp"
        if params.activation_checkpointing:
            recompute_blocks(self.model)
        if params.micro_batch_size == "auto":
            self.micro_batch_size = find_micro_batch(self.model, runtime, self.share, self.ranks)
        else:
            self.micro_batch_size = divide(self.share, params.micro_batch)
        if not self._is_compiled_whole():
            self.runtime = runtime = replace(runtime, threads_apart=False)
        self.forward, self._synced = parallelise(self.model, params.parallel, runtime, self.ranks)
        muon_dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
        self.optimizers = build_optimizers(self.model, params, muon_dtype)
        self.scaler = torch.amp.GradScaler(runtime.device, enabled=runtime.precision == "fp16")
        self.lr = 0.0
        self.val_loss: float | None = None
        self._pending: list[torch.Tensor] = []  # losses not read back from the device yet
        self._grad_norm = torch.zeros(())
        self._compiled_step: CompiledStep | None = None

    def train_step(self) -> None:
        """One optimizer update from the next step's batch."""
        self.step += 1
        self.model.train()
        self.lr = lr_at(self.step, self.params)
        set_lr(self.optimizers, self.lr)
        if self._is_compiled_whole():
            self._compiled_step = self._compiled_step or CompiledStep(
                self.model, self.optimizers, self.runtime, self.params.grad_clip
            )
            loss, self._grad_norm = self._compiled_step(*self._micro_batch(0, 0))
        else:
            loss = self._passes()
            self._grad_norm = self._update()
            self.model.zero_grad(set_to_none=True)
        self._pending.append(loss)

    def _is_compiled_whole(self) -> bool:
        """Whether a step is a CompiledStep: all of one process's, and on a CPU."""
        return (
            self.runtime.compile
            and self.runtime.device == "cpu"
            and self.ranks.size == 1
            and not self.sharded
            and self.share == self.micro_batch_size
            and not self.params.activation_checkpointing  # a graph would compute nothing again
        )

    def _micro_batch(self, micro_step: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and targets from the step's sequence `first` on, the generator of dropout set."""
        x, y = self.batches.sequences(self.step, first, self.micro_batch_size)
        if self.model.config.dropout:
            drawn = (self.params.seed, "dropout", self.step, micro_step, self.ranks.rank)
            torch.manual_seed(seed_for(*drawn))
        device = self.runtime.device
        if device != "cuda":
            return x.to(device), y.to(device)
        x, y = x.pin_memory(), y.pin_memory()
        return x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    def _passes(self) -> torch.Tensor:
        """Forward and backward passes of a step; returns this process's part of its loss."""
        total = torch.zeros((), device=self.runtime.device)
        count, step, batches = self.micro_batch_size, self.step, self.batches
        targets = batches.targets(step, 0, batches.sequences_per_step)
        end = (self.ranks.rank + 1) * self.share
        for micro_step, first in enumerate(range(end - self.share, end, count)):
            x, y = self._micro_batch(micro_step, first)
            with self._synced(first + count == end):
                with self.runtime.autocast():
                    loss = self.forward(x, y)
                # its share of the step's mean, times the processes: they average gradients
                here = batches.targets(step, first, count) * self.ranks.size
                loss = loss / (targets / here)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def settle(self) -> None:
        """Have behind it what only a first backward pass does, and changes no weight.

        DDP groups gradients anew after it, and the order in which several processes' are added up
        follows from the groups: the first step after a resumption must find them as any other.
        """
        if self.ranks.size == 1 or self.sharded:
            return
        x, y = self.batches.sequences(1, 0, self.micro_batch_size)
        self.model.train()
        with self.runtime.autocast():
            loss = self.forward(x.to(self.runtime.device), y.to(self.runtime.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)

    def _update(self) -> torch.Tensor:
        """Clip the gradients and let the optimizers step; returns the norm before."""
        grad_clip = self.params.grad_clip
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        norm = whole(total)
        # a CPU's tensors can be asked at no cost: mostly there is nothing to clip
        if grad_clip and (self.runtime.device != "cpu" or norm > grad_clip):
            nn.utils.clip_grads_with_norm_(self.model.parameters(), grad_clip, total)
        if not self.scaler.is_enabled() or norm.isfinite():  # clipping by inf or NaN spoils all
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    def read_back(self) -> float:
        """Bring the losses of all steps so far to the history; returns the last step's.

        Every process must call it. Raises TrainingError naming the first step whose loss is not
        finite.
        """
        if self._pending:
            first = len(self.history.losses) + 1
            losses = self.ranks.sum(torch.stack(self._pending)) / self.ranks.size
            for step, loss in enumerate(losses.tolist(), first):
                self.check_finite("training loss", loss, step)
                self.history.losses.append(loss)
            self._pending.clear()
        return self.history.losses[-1] if self.history.losses else math.nan

    def check_finite(self, what: str, loss: float, step: int) -> None:
        """Raise TrainingError where a loss has become infinite or not a number."""
        if not math.isfinite(loss):
            kept = "no checkpoint was before it"
            if self.best_loss is not None:
                kept = f"the best checkpoint before it (step {self.best_step}) is kept"
            raise TrainingError(
                f"{what} is {loss} at step {step}; {kept}. "
                "Lower train.lr, or raise train.warmup_steps"
            )

    def add_row(self) -> None:
        """Take this step into train.csv."""
        loss = self.read_back()
        tokens = self.batches.tokens_seen(self.step)
        grad_norm = float(self._grad_norm)
        self.history.rows.append(Row(self.step, tokens, self.lr, loss, grad_norm, self.val_loss))

    def plain_model(self) -> GPT | None:
        """The model with all its weights, for the first process; every one must ask for it."""
        if self.sharded:
            return gathered(self.model, self.ranks.first)
        return self.model if self.ranks.first else None

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, but the shards of a sharded model."""
        state = {
            "processes": self.ranks.size,
            "micro_batch_size": self.micro_batch_size,
            "scaler": self.scaler.state_dict(),
            "history": self.history.to_dict(),
            **{name: getattr(self, name) for name in KEPT},
        }
        if not self.sharded:
            state["model"] = plain_copy(self.model.state_dict())
            state["optimizers"] = optimizer_tensors(self.model, self.optimizers)
        return state

    def load_state(self, state: dict[str, Any], shards: Path) -> None:
        """Go on from what state() and, for a sharded model, save_shards gave."""
        if self.sharded:
            load_shards(shards, self.model, self.optimizers)
        else:
            self.model.load_state_dict(state["model"])
            load_optimizer_tensors(self.model, self.optimizers, state["optimizers"])
        self._compiled_step = None
        if state["processes"] == self.ranks.size:  # with `auto` another might fit today
            self.micro_batch_size = state["micro_batch_size"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.history = History.from_dict(state["history"])
        for name in KEPT:
            setattr(self, name, state[name])
        self.process_counts = sorted({*self.process_counts, self.ranks.size})


class Interrupted(Exception):  # noqa: N818 - a request, no error
    """The run was asked to stop, and has; its words say where the next one begins."""


def fit(
    trainer: Trainer,
    hooks: Hooks,
    outputs: Outputs,
    resume: ResumeState,
    save_interval: float | Literal["auto"],
) -> None:
    """Train to the end, writing best.pt, last.pt, train.csv and samples as they come.

    save_interval: seconds between saves of the resume state; auto: so many that large models too
    spend their time on training. Raises Interrupted after a requested stop, TrainingError for a
    loss that is not finite.
    """
    interval = SAVE_INTERVAL if save_interval == "auto" else save_interval
    params, ranks = trainer.params, trainer.ranks
    if ranks.first:
        write_text(outputs.train_csv, trainer.history.to_csv())
        write_text(outputs.samples_txt, format_samples(trainer.samples))
    trainer.settle()
    saved = time.monotonic()
    if trainer.pretrained and trainer.step == 0:
        _look_at_val(trainer, hooks, outputs)
        trainer.initial_loss = trainer.val_loss
    first = trainer.step + 1
    while not trainer.stopped:
        trainer.train_step()
        if trainer.step == first and trainer.runtime.compile:
            (stop,) = ranks.any(hooks.stop_requested())
            if stop:  # a compiler that the signal reached too may have passed for one without AVX
                raise Interrupted("it compiled and is not kept: the same command begins with it")
        last = trainer.step == params.max_steps
        logged = trainer.step % params.log_interval == 0 or last
        if last:
            trainer.stopped = "max_steps"
        looks = trainer.step % params.eval_interval == 0
        row = logged or looks
        if row and params.target_loss is not None and trainer.read_back() <= params.target_loss:
            trainer.stopped = "target_loss"
        trainer.val_loss = None
        if looks or trainer.stopped:
            _look_at_val(trainer, hooks, outputs)
        if params.patience and trainer.looks_without_better >= params.patience:
            trainer.stopped = trainer.stopped or "patience"
        if row:
            trainer.add_row()
            if ranks.first:
                trainer.history.append_csv(outputs.train_csv)
        if params.sample_interval and (
            trainer.step % params.sample_interval == 0 or trainer.stopped
        ):
            _take_sample(trainer, hooks, outputs)
        if params.keep_interval and trainer.step % params.keep_interval == 0:
            name = f"step-{trainer.step}.pt"
            _save_checkpoint(trainer, outputs.checkpoints / name)
            trainer.kept.append(name)
        hooks.on_step(trainer)
        due = time.monotonic() - saved >= interval
        stop, due = ranks.any(hooks.stop_requested(), due)
        if stop or due:
            began = time.monotonic()
            _save_state(trainer, outputs, resume)
            saved = time.monotonic()
            if save_interval == "auto":
                interval = max(SAVE_INTERVAL, (saved - began) / SAVE_SHARE)
            if stop:
                raise Interrupted("its state is saved: the same command goes on there")
    _save_checkpoint(trainer, outputs.checkpoints / "last.pt", with_optimizer=True)
    ranks.wait()


def _save_checkpoint(trainer: Trainer, path: Path, with_optimizer: bool = False) -> None:
    loss, model = trainer.read_back(), trainer.plain_model()
    more = {}
    if with_optimizer:
        states = optimizer_tensors(trainer.model, trainer.optimizers, keep=model is not None)
        more["optimizer_state_dict"] = states
    if model is None:
        return
    payload = checkpoint_payload(
        model,
        step=trainer.step,
        loss=loss,
        best_loss=trainer.best_loss,
        learning_rate=trainer.lr,
        history=trainer.history.to_dict(),
        tokenizer=trainer.tokenizer,
        **more,
    )
    save_tensors(path, payload)


def _save_state(trainer: Trainer, outputs: Outputs, resume: ResumeState) -> None:
    trainer.read_back()
    if trainer.sharded:
        if trainer.ranks.first:
            resume.clear_shards(trainer.step)
        trainer.ranks.wait()
        save_shards(resume.shards(trainer.step), trainer.model, trainer.optimizers)
    if trainer.ranks.first:
        names = [*trainer.kept, *(["best.pt"] if trainer.best_loss is not None else [])]
        resume.save(trainer.step, trainer.state(), [outputs.checkpoints / n for n in names])
    trainer.ranks.wait()


def _look_at_val(trainer: Trainer, hooks: Hooks, outputs: Outputs) -> None:
    trainer.read_back()
    trainer.model.eval()
    # every process looks: a sharded model needs them all, and copies would only wait
    trainer.val_loss = trainer.ranks.from_first(hooks.validate(trainer.model))
    trainer.check_finite("val loss", trainer.val_loss, trainer.step)
    trainer.looks_without_better += 1
    if trainer.best_loss is None or trainer.val_loss < trainer.best_loss:
        trainer.best_loss, trainer.best_step = trainer.val_loss, trainer.step
        trainer.looks_without_better = 0
        _save_checkpoint(trainer, outputs.checkpoints / "best.pt")
    hooks.on_event(f"step {trainer.step}: val loss {trainer.val_loss:.4f}")


def _take_sample(trainer: Trainer, hooks: Hooks, outputs: Outputs) -> None:
    model = trainer.plain_model()
    if model is None:
        return
    sample = {"step": trainer.step, "text": hooks.sample(model.eval(), trainer.step)}
    trainer.samples.append(sample)
    append_text(outputs.samples_txt, format_samples([sample]))
    hooks.on_event(f"step {trainer.step}: sample {sample['text']!r}")
