"""Processes: the cores they may use, what they start others with, and what asks them to stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

SECONDS_BETWEEN_LOOKS = 0.2


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use; `quota` is where Linux says how many a container may."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    try:
        most, period = map(int, quota.read_text("ascii").split())
    except (OSError, ValueError):  # another system, or "max"
        return cores
    return max(1, min(cores, most // period))


def environment() -> dict[str, str]:
    """This process's, with this Python's folder first: the stages' `python` and DVC's `dvc` are
    there, also where its environment is not activated."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt: no half file stays behind, and no child."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_on_signals(names: Sequence[str] = ("SIGINT", "SIGTERM")) -> list[int]:
    """The signals that came, of those this system has; from the second on, the process ends at
    once."""
    came: list[int] = []
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # nohup ignores SIGHUP
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def handle(number: int, frame: object) -> None:
        came.append(number)
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, handle)
    return came


def call_at_end_of_parent(shared: str, command: str, call: Callable[[], object]) -> None:
    """Call once the process that started this one is gone, from a thread; at once if it is.

    shared: an environment variable that the parent gave its children. A shell between the two,
    which has it too, lives on when the parent is killed, and is looked through. command: what the
    parent's command line holds; process 1 without it has only taken over the child of a dead one.
    """
    import psutil

    child = psutil.Process()
    parent = child.parent()
    try:
        while parent is not None and shared in parent.environ():
            child, parent = parent, parent.parent()
    except psutil.Error:  # gone meanwhile, or another user's
        pass
    if parent is None:  # all of them have it: a container's own
        return
    if parent.pid == 1 and command not in _command(parent):
        call()
        return

    def watch(number: int = parent.pid) -> None:
        while _parent_of(child) == number:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        call()

    threading.Thread(target=watch, daemon=True).start()


def _parent_of(child: "psutil.Process") -> int | None:
    import psutil

    try:
        return child.ppid()
    except psutil.NoSuchProcess:
        return None


def _command(process: "psutil.Process") -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
