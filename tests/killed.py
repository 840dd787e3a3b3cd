"""Runs a command of the pipeline in this process, which gets a real signal at an exact point.

python killed.py POINT CALL SIGNAL COMMAND...: at the CALL-th call of POINT (step: a training
step; validate: inside a look at val; fsync: a file written but not flushed; replace: flushed but
not renamed) the process sends SIGNAL to itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

POINTS = {
    "step": ("pipeline.training.loop", "Trainer.train_step"),
    "validate": ("pipeline.evaluation.perplexity", "score_split"),
    "fsync": ("os", "fsync"),
    "replace": ("os", "replace"),
}


def signal_at(function: Callable[..., Any], call: int, number: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **settings)

    return wrapped


def main() -> int:
    point, call, name, *command = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    module_name, path = POINTS[point]
    if module_name.startswith("pipeline"):
        # torch must not be imported before the command has set its environment
        from pipeline.params import load_params
        from pipeline.training import runtime

        runtime.prepare_process(load_params().train)
        runtime.prepare_process = lambda *_: None
    target: Any = __import__(module_name, fromlist=["_"])
    *owners, attribute = path.split(".")
    for owner in owners:
        target = getattr(target, owner)
    number = getattr(signal, name)
    setattr(target, attribute, signal_at(getattr(target, attribute), int(call), number))
    from pipeline.__main__ import main as run

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
