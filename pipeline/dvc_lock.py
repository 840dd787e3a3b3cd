"""dvc.lock: what each stage read and wrote when it last ran, by the md5 that DVC names it by."""

from pathlib import Path
from typing import Any

from pipeline.errors import ReportError
from pipeline.storage import parse_yaml

LOCK = Path("dvc.lock")


def parse_lock(data: bytes) -> dict[str, Any]:
    """The stages of the file's bytes; raises ReportError where it holds none."""
    remedy = "`git checkout dvc.lock` brings it, or delete it and run `dvc repro`"
    stages = parse_yaml(data, LOCK, ReportError, remedy).get("stages")
    if not isinstance(stages, dict):
        raise ReportError(f"{LOCK}: found no stages; {remedy}")
    for name, stage in stages.items():
        for each in (*stage.get("deps", ()), *stage.get("outs", ())):
            path = each.get("path", "an entry")
            if "md5" not in each and "://" not in path:  # of text elsewhere DVC has other marks
                raise ReportError(f"{LOCK}: stage {name}: {path}: found no md5; {remedy}")
    return stages


def producer_of(lock: dict[str, Any], path: str) -> str | None:
    """The stage that makes a file or folder, alone or inside a folder; None where none does."""
    for stage, entry in lock.items():
        if any(f"{path}/".startswith(f"{out['path']}/") for out in entry.get("outs", [])):
            return stage
    return None


def upstream(lock: dict[str, Any], path: str) -> list[str]:
    """The stages behind an output, itself included, in the order of the lock."""
    wanted: set[str] = set()
    paths = [path]
    while paths:
        target = paths.pop()
        stage = producer_of(lock, target)
        if stage and stage not in wanted:
            wanted.add(stage)
            paths += [dep["path"] for dep in lock[stage].get("deps", [])]
    return [stage for stage in lock if stage in wanted]
