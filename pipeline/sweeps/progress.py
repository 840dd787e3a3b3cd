"""How all runs of a sweep stand, live: counts, the steps of those at work, the time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from pipeline.sweeps.plan import Plan
from pipeline.sweeps.queue import Status


class Show:
    """Live progress over all runs in a terminal, elsewhere a line when something has changed."""

    def __init__(self, plan: Plan, max_steps: int, workers: int) -> None:
        self.members = {member.name: member.settings for member in plan.members}
        self.workers = workers
        self.max_steps = max_steps
        self.console = Console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            console=self.console,
            refresh_per_second=2,
            disable=not self.console.is_terminal,
        )
        self.all = self.progress.add_task(f"sweep {plan.name}", total=len(self.members))
        self.tasks: dict[str, TaskID] = {}
        self.seconds = dict(plan.seconds)  # of each run, as last seen at work or when it had ended
        self.steps: dict[str, int] = {}  # likewise: DVC takes its folder away before it has ended
        self.first: dict[str, tuple[float, int]] = {}  # each run's seconds and step, at first sight
        self.last = ""

    def __enter__(self) -> "Show":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, status: Status) -> None:
        ours = self.members.keys()
        failed, waiting = ours & status.failed, ours & status.queued
        at_work = {name: run for name, run in status.running.items() if name in ours}
        ended = len(ours) - len(waiting) - len(at_work)
        counts = (
            f"{ended - len(failed)} done, {len(at_work)} running, {len(failed)} failed, "
            f"{len(waiting)} waiting"
        )
        steps = {name: max(run.step(), self.steps.get(name, 0)) for name, run in at_work.items()}
        self.steps.update(steps)
        now = time.time()
        for name, run in at_work.items():  # at its end `started` is told anew
            self.seconds[name] = max(now - run.started, self.seconds.get(name, 0.0))
        for name, step in steps.items():
            if step:
                self.first.setdefault(name, (self.seconds[name], step))
        left = self._seconds_left(len(waiting), steps)
        text = f"{counts}, about {_duration(left)} left" if left else counts
        self.progress.update(self.all, completed=ended, description=text)
        for name in self.tasks.keys() - at_work.keys():
            self.progress.remove_task(self.tasks.pop(name))
        for name, step in steps.items():
            if name not in self.tasks:
                total = self._steps(name)
                self.tasks[name] = self.progress.add_task(f"  {name}", total=total)
            self.progress.update(self.tasks[name], completed=step)
        if not self.console.is_terminal and counts != self.last:
            self.line(text)
        self.last = counts

    def _steps(self, name: str) -> int:
        return int(self.members[name].get("train.max_steps", self.max_steps))

    def _seconds_left(self, waiting: int, steps: dict[str, int]) -> float | None:
        """From how fast steps are since the first seen; None before any run's speed is known."""
        whole = [seconds for name, seconds in self.seconds.items() if name not in steps]
        left: dict[str, float] = {}
        for name, step in steps.items():
            before, first = self.first.get(name, (0.0, step))
            if step > first:
                a_step = (self.seconds[name] - before) / (step - first)
                left[name] = a_step * (self._steps(name) - step)
                whole.append(before + a_step * self._steps(name))
        if not whole:
            return None
        mean = sum(whole) / len(whole)
        return (waiting * mean + sum(left.get(name, mean) for name in steps)) / self.workers


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
