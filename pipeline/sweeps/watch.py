"""A sweep's runs in DVC's queue, from what an earlier command left there to the last one's end."""

import time
from collections.abc import Iterable

import psutil

from pipeline.sweeps.plan import Plan
from pipeline.sweeps.progress import Show
from pipeline.sweeps.queue import Queue, add, start

SECONDS_BETWEEN_LOOKS = 1.0
LOOKS_BEFORE_A_NEW_WORKER = 15  # that the runs have waited while none was at work, or alive


def take_up(queue: Queue, plan: Plan) -> set[str]:
    """What an earlier command that was killed left in the queue and is still to be run."""
    names = {member.name for member in plan.members}
    status = queue.status()
    at_work = names & status.running.keys()
    if at_work and not queue.workers():
        queue.bury(at_work)
        at_work = set()
    return at_work | (names & status.queued)


def watch(
    queue: Queue,
    plan: Plan,
    workers: int,
    show: Show,
    stopping: list[int],
    untracked: Iterable[str],
) -> dict[str, float]:
    """Until nothing of the sweep waits or runs, or a signal came; {ended run: when it started}.

    untracked: as `queue.add` takes them; a run whose worker was killed is put in again.
    """
    names = {member.name for member in plan.members}
    started: dict[str, float] = {}
    idle, ended = 0, 0
    if names & queue.status().queued and not stopping:
        start(workers)
    while ended < 2:  # a task on its way from waiting to running is in neither for a moment
        status = queue.status()
        waiting, at_work = names & status.queued, names & status.running.keys()
        ended = 0 if waiting or at_work else ended + 1
        if stopping and not ended:
            show.line("stopping: the runs at work save their state")
            queue.stop(names)
            break
        started = {name: status.running[name].started for name in at_work} | started
        dead = {name for name in at_work if _has_ended(status.running[name].process)}
        idle = idle + 1 if (waiting or at_work) and dead == at_work else 0
        if idle >= LOOKS_BEFORE_A_NEW_WORKER:
            idle = 0
            if not queue.workers():
                queue.bury(dead)
                for member in plan.members:
                    if member.name in dead:
                        started.pop(member.name)
                        add(member, untracked)
                start(workers)
        if not stopping:  # what was never queued would count as done
            show.update(status)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return started


def _has_ended(process: int | None) -> bool:
    return process is not None and not psutil.pid_exists(process)
