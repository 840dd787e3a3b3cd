"""Several processes on this machine, by torchrun's own launcher (torch.distributed.launcher).

It starts the workers, gives each its rank, ends the others when one dies, and hands signals on to
them. What a worker writes to stderr is kept aside, so that the one that failed first speaks alone.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS_TO_SAVE = 600  # after Ctrl-C or SIGTERM, before the workers are killed; torch's own: 30


class Ended(NamedTuple):
    """How the workers ended: the exit status, and what the first to fail wrote to stderr."""

    status: int
    stderr: str
    killed: str  # which was killed by what, or empty


def count_processes(nproc: int | str, device: str) -> int:
    """Processes for train.nproc; `auto`: one for each GPU."""
    import torch

    if nproc != "auto":
        return int(nproc)
    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1


def launch(processes: int, command: list[str]) -> Ended:
    """Run `python COMMAND` in so many processes, until all have ended."""
    from torch.distributed.elastic.multiprocessing import SignalException, Std
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # its own lines; the caller says what happened in one
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    os.environ.pop("DVC_STAGE", None)  # this process puts a failed stage's results back, they not
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="tracegpt",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.ERR),
        )
        try:
            elastic_launch(config, sys.executable)(*command)
        except SignalException as end:
            return Ended(128 + int(end.sigval), "", "")
        except ChildFailedError as error:
            return first_to_fail(error, Path(logs), processes)
    return Ended(0, "", "")


def first_to_fail(error: "object", logs: Path, processes: int) -> Ended:
    """What ended a run: a process that was killed, or an error of one's own; error: torch's
    ChildFailedError, logs: where the workers wrote."""
    failures: dict[int, tuple[int, str]] = {}
    for rank, failure in error.failures.items():  # type: ignore[attr-defined]
        files = sorted(logs.glob(f"**/attempt_0/{failure.local_rank}/stderr.log"))
        text = files[0].read_text(encoding="utf-8", errors="replace") if files else ""
        failures[rank] = failure.exitcode, text
    # what the launcher sends to the rest: SIGTERM, and SIGKILL to those that a GPU keeps waiting
    spoken = any(error_line(text) is not None for _, text in failures.values())
    for rank, (status, _) in failures.items():
        if status < 0 and status != -signal.SIGTERM and not spoken:
            name = signal.Signals(-status).name
            return Ended(1, "", f"process {rank} of {processes} was killed by {name}")
    # an error of its own before what a process says of others that are gone
    status, text = min(failures.values(), key=lambda f: (error_line(f[1]) is None, f[0] < 0))
    return Ended(status if status > 0 else 1, text, "")


def error_line(stderr: str) -> str | None:
    """The line by which a command says what was wrong; None where it did not end with one."""
    *_, last = stderr.splitlines() or [""]
    return last.removeprefix("error: ") if last.startswith("error: ") else None
