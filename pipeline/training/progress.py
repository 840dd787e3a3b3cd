"""How a run stands: live in a terminal, a line now and then elsewhere, and a log with times."""

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.paths import CACHE
from pipeline.training.loop import Trainer

LOG = CACHE / "train.log"
SECONDS_BETWEEN_LINES = 15.0  # where the output is no terminal


class Show:
    """What a run's first process says; the others are quiet."""

    def __init__(self, max_steps: int, quiet: bool) -> None:
        self.console = Console(quiet=quiet)
        self.quiet = quiet
        self.max_steps = max_steps
        self.started = self.shown = time.monotonic()
        self.first_step = -1
        self.log = logging.getLogger("pipeline.train")
        self.log.setLevel(logging.CRITICAL if quiet else logging.INFO)
        self.log.propagate = False
        if not quiet:
            logging.raiseExceptions = False  # on a full disk what the run itself writes says so
            LOG.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(LOG, mode="w", encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self.log.addHandler(handler)
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=2,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=max_steps)

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.log.info(text)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, trainer: Trainer) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if self.first_step < 0:  # the first step compiles and allocates: not counted
            self.first_step, self.started = trainer.step, now
        row = trainer.history.rows[-1] if trainer.history.rows else None
        if row is None or (row.step != trainer.step and not trainer.stopped):
            return
        steps, seconds = trainer.step - self.first_step, now - self.started
        tokens = row.tokens - trainer.batches.tokens_seen(self.first_step)
        rate = tokens / max(seconds, 1e-9)
        left = (self.max_steps - trainer.step) * seconds / max(steps, 1)
        val = f", val {trainer.best_loss:.4f} best" if trainer.best_loss is not None else ""
        epochs = trainer.batches.epochs(trainer.step)
        text = f"loss {row.loss:.4f}{val}, epoch {epochs:.2f}, {rate:,.0f} tokens/s"
        self.log.info("step %d: %s", trainer.step, text)
        self.progress.update(self.task, completed=trainer.step, description=text)
        if not self.console.is_terminal and now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            print(f"step {trainer.step}/{self.max_steps}: {text}, {left:.0f} s left", flush=True)
