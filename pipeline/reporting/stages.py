"""The stages of dvc.yaml: which code and which parameters each depends on, and whether it is due.

A report must not be written from results that are stale, or a number would stand beside inputs
that did not make it. Whether they are is DVC's to say: `dvc status`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ReportError, UserError
from pipeline.processes import environment
from pipeline.storage import parse_yaml

DVC_FILE = Path("dvc.yaml")
CODE = (".py", ".j2")  # the endings of deps that are code
LAST_INPUT = "evaluate"  # the last stage before report


@dataclass(frozen=True)
class Stage:
    """One stage: the code files and the sections of params.yaml that it depends on, its outputs."""

    name: str
    code: tuple[str, ...]
    params: tuple[str, ...]
    outs: dict[str, dict[str, Any]] = field(default_factory=dict)  # path -> how DVC treats it


def read_stages(path: Path = DVC_FILE) -> list[Stage]:
    """The stages in the order of dvc.yaml."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"{path}: not found; run from the project's top folder") from None
    stages = parse_yaml(data, path, ReportError, "allowed: stages").get("stages")
    if not isinstance(stages, dict):
        raise ReportError(f"{path}: found no stages; allowed: those of the pipeline")
    return [
        Stage(
            name,
            tuple(dep for dep in stage.get("deps", ()) if dep.endswith(CODE)),
            tuple(dict.fromkeys(key.split(".")[0] for key in stage.get("params", ()))),
            {
                path: flags
                for kind in ("outs", "metrics", "plots")
                for out in stage.get(kind, ())
                for path, flags in (out if isinstance(out, dict) else {out: {}}).items()
            },
        )
        for name, stage in stages.items()
    ]


def dvc(*arguments: str, error: type[UserError] = ReportError) -> str:
    """What a command of DVC prints; raises `error` where it fails.

    It cannot be interrupted halfway: Ctrl-C is the caller's to answer, and in the middle it could
    leave people's edits in a stash.
    """
    # files, no pipes: a queue's workers hold what they inherit open until it is empty
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(),
            start_new_session=True,
        )
        for file in (output, errors):
            file.seek(0)
        printed, said = (file.read().decode(errors="replace") for file in (output, errors))
    if done.returncode:
        lines = said.strip().splitlines() or ["it said nothing"]
        line = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        command = " ".join(word for word in arguments[:2] if not word.startswith("-"))
        raise error(f"dvc {command}: {line.removeprefix('ERROR: ')}")
    return printed


def dvc_json(*arguments: str) -> Any:
    """What a command of DVC says in JSON; raises ReportError where it fails."""
    return json.loads(dvc(*arguments, "--json") or "{}")


def refuse_stale_inputs() -> None:
    """Raise ReportError on the first stage before report whose results are not of this tree."""
    changes = dvc_json("status", "--with-deps", LAST_INPUT)
    stages = read_stages()
    made = tuple(f"{out}/" for stage in stages for out in stage.outs)
    brought = [name for name in changes if name.endswith(".dvc")]  # what `dvc add` made
    for name in (*brought, *(stage.name for stage in stages)):  # the first explains those after it
        found = [what for change in changes.get(name, ()) for what in _described(change)]
        absent = _absent(changes.get(name, ()))
        if lacking := [path for path in absent if not f"{path}/".startswith(made)]:
            raise ReportError(f"{_first(lacking)}: not here; `dvc pull` or git brings it")
        gone = [path for path in absent if not Path(path).exists()]
        if found and len(absent) < len(found):
            raise ReportError(f"stage {name} is stale ({_first(found)}); run `dvc repro`")
        if gone:
            raise ReportError(
                f"stage {name}: {_first(gone)}: not here; `dvc pull` (or `dvc checkout`) "
                "brings it, `dvc repro` makes it again"
            )
        if found:
            raise ReportError(
                f"stage {name}: {_first(found)}; `dvc commit {name}` puts it into DVC's cache if "
                "it is unchanged, `dvc repro` makes it again"
            )


def _first(found: list[str]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{', '.join(found[:3])}{more}"


def _absent(changes: Sequence[Any]) -> list[str]:
    """The files and folders that are not as recorded because they are not here."""
    groups = [paths for change in changes if isinstance(change, dict) for paths in change.values()]
    states = [pair for paths in groups for pair in paths.items()]
    return [path for path, state in states if state in ("deleted", "not in cache")]


def _described(change: Any) -> list[str]:
    """`{"changed deps": {"a.py": "modified"}}` -> ["a.py modified"]; `"changed command"` as is."""
    if isinstance(change, str):
        return [change]
    described = []
    for paths in change.values():
        for path, state in paths.items():
            if isinstance(state, dict):  # params.yaml -> what happened to each section
                described += [f"{path}: {key} {what}" for key, what in state.items()]
            else:
                described.append(f"{path} {state}")
    return described
