"""DVC's queue of experiments: put runs in, start workers, see how they stand, stop them.

What changes something goes through DVC's commands. How the runs stand is read through DVC's
Python objects in milliseconds: a `dvc` process every second would take a core from the training.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.errors import SweepError
from pipeline.params import PARAMS_FILE
from pipeline.paths import HISTORY
from pipeline.processes import environment
from pipeline.reporting import stages
from pipeline.reporting.revisions import git
from pipeline.storage import write_bytes
from pipeline.sweeps.plan import Member

SECONDS_TO_STOP = 60.0

dvc = partial(stages.dvc, error=SweepError)


@dataclass(frozen=True)
class Running:
    """A run that a worker has taken."""

    folder: Path | None  # where it works; None while that is being made
    process: int | None  # of `dvc exp exec-run`, None before it has started
    started: float  # by the clock

    def step(self) -> int:
        """The last step in its train.csv, 0 before the first row."""
        if self.folder is None:
            return 0
        path = self.folder / HISTORY
        try:
            if path.stat().st_mtime < self.started:  # of the run that it starts from
                return 0
            rows = path.read_text(encoding="utf-8").split("\n")[1:-1]
        except OSError:
            return 0
        return int(rows[-1].split(",")[0]) if rows else 0


@dataclass(frozen=True)
class Status:
    """Which runs wait, which are at work, and which have failed, by name."""

    queued: frozenset[str]
    running: dict[str, Running]
    failed: frozenset[str]


class Queue:
    """The queue of the repository in the current folder, as far as it starts from one commit."""

    def __init__(self, baseline: str) -> None:
        self._baseline = baseline
        self._queue = Repo().experiments.celery_queue
        self._last = Status(frozenset(), {}, frozenset())

    def status(self) -> Status:
        """How the runs that are to be done or have failed stand."""
        try:
            running = self._of_baseline(self._queue.iter_active())
            queued = self._of_baseline(self._queue.iter_queued())
            failed = self._of_baseline(entry for entry, _ in self._queue.iter_failed())
        except (DvcException, OSError, ValueError):  # a task was moved while this was read
            return self._last
        self._last = Status(
            queued=frozenset(queued),
            running={name: self._running(rev) for name, rev in running.items()},
            failed=frozenset(failed),
        )
        return self._last

    def _of_baseline(self, entries: Iterable[Any]) -> dict[str, str]:
        return {e.name: e.stash_rev for e in entries if e.baseline_rev == self._baseline}

    def _running(self, rev: str) -> Running:
        try:
            info = json.loads(Path(self._queue.get_infofile_path(rev)).read_text("utf-8"))
        except (OSError, ValueError):
            return Running(None, None, time.time())
        folder = Path(info["root_dir"], info.get("wdir") or "")
        process = self._queue.proc.get(rev)
        if process is None:
            return Running(folder, None, time.time())
        written = Path(process.stdout).with_suffix(".pid")  # when it starts, and when it ends
        started = written.stat().st_mtime if written.is_file() else time.time()
        return Running(folder, process.pid, started)

    def workers(self) -> int:
        """How many workers there are, busy or not; asks them, which takes a second."""
        return len(self._queue.worker_status())

    def bury(self, names: Iterable[str]) -> None:
        """Take out runs that were at work when their worker was killed."""
        for name in sorted(names):
            dvc("queue", "kill", "--force", name)
        remove(names)

    def stop(self, names: Iterable[str]) -> None:
        """End the workers and take these runs out.

        A run at work gets what Ctrl-C would send it, so that its trainer saves its state.
        """
        ours = set(names)
        interrupted: set[str] = set()
        deadline = time.monotonic() + SECONDS_TO_STOP
        while True:
            status = self.status()
            waiting, at_work = ours & status.queued, ours & status.running.keys()
            if not waiting and not at_work:
                break
            if time.monotonic() > deadline:
                raise SweepError(
                    f"{', '.join(sorted(waiting | at_work))}: still there after "
                    f"{SECONDS_TO_STOP:.0f} s; allowed: `dvc queue stop --kill`"
                )
            if waiting:  # first: the worker of an interrupted run would take one, and die with it
                with suppress(SweepError):  # a worker has just taken one of them: look again
                    remove(waiting)
                continue
            for name in at_work - interrupted:
                process = status.running[name].process
                if process is not None:
                    interrupted.add(name)
                    _interrupt(process)
            time.sleep(0.2)
        dvc("queue", "stop")
        while self.workers() and time.monotonic() < deadline:
            time.sleep(0.2)
        remove(interrupted & self.status().failed)


def _interrupt(process: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        # the worker that waits for it is in its group, and ends after it
        os.killpg(os.getpgid(process), signal.SIGINT)


def add(member: Member, untracked: Iterable[str]) -> None:
    """Queue a run; `untracked` are folders that git does not have and the run needs."""
    copied = [word for path in untracked for word in ("-C", path)]
    dvc("exp", "run", "--queue", "--name", member.name, *_set(member.settings), *copied)


def remove(names: Iterable[str]) -> None:
    """Take runs out of the queue, waiting or ended; what they led to stays."""
    if ordered := sorted(names):
        dvc("queue", "remove", *ordered)


def set_aside(names: Iterable[str], baseline: str) -> dict[str, str]:
    """Give finished experiments of one commit another name each, so that theirs is free there."""
    folder = f"refs/exps/{baseline[:2]}/{baseline[2:]}"  # a name alone could mean another commit's
    renamed = {}
    for name in sorted(names):
        commit = git("rev-parse", f"{folder}/{name}").decode().strip()
        renamed[name] = f"{name}-{commit[:7]}"
        git("update-ref", f"{folder}/{renamed[name]}", commit)
    if renamed:
        dvc("exp", "remove", *(f"{folder}/{name}" for name in renamed))
    return renamed


def start(workers: int) -> None:
    """Start so many workers, less those that are there."""
    dvc("queue", "start", "--jobs", str(workers))


def run_here(settings: Mapping[str, Any]) -> None:
    """Run the stages in the workspace with these settings, in sight; raises SweepError.

    Where that fails or is stopped, params.yaml is as before: else it were not that of the results.
    """
    before, done = PARAMS_FILE.read_bytes(), False
    command = [sys.executable, "-m", "dvc", "exp", "run", *_set(settings)]
    try:
        done = subprocess.run(command, env=environment()).returncode == 0
    finally:
        if not done:
            write_bytes(PARAMS_FILE, before)
    if not done:
        raise SweepError("dvc exp run: failed, as it says above; params.yaml is as before")


def _set(settings: Mapping[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("-S", f"{key}={_override(value)}")]


def _override(value: Any) -> str:
    """A value in the grammar of DVC's -S: a word of OmegaConf's, quoted as Hydra has it.

    A backslash stands for itself but before what it would keep from its meaning.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    word = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    quoted = re.sub(r"(\\+)(?='|\Z)", r"\1\1", word).replace("'", "\\'")
    return f"'{quoted}'"
