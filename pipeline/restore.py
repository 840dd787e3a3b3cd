"""Puts back the outputs of a stage that failed: DVC deletes them before the stage runs.

Cached outputs come from DVC's cache by the hashes in dvc.lock, the small files that git tracks
from a copy of the last success under .cache/results/, or from the last commit where these have the
locked hash. Nothing is put back where something was written since.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.dvc_lock import LOCK, parse_lock
from pipeline.errors import ReportError
from pipeline.paths import CACHE
from pipeline.reporting.revisions import git, md5
from pipeline.reporting.stages import dvc, read_stages
from pipeline.storage import atomic_writer, write_bytes

KEPT = CACHE / "results"


def keep_results(stage: str) -> None:
    """Copy the uncached outputs of a stage that has succeeded."""
    for path in _uncached_outputs(stage):
        if path.is_file():
            write_bytes(KEPT / path, path.read_bytes())


def restore_results(stage: str) -> list[str]:
    """Put back what the lock file knows of a failed stage's missing outputs; names them."""
    restored = []
    cache = _dvc_cache()
    for out in _locked_outputs(stage):
        path = Path(out["path"])
        if path.exists():
            continue
        if _from_cache(cache, path, out["md5"]) or _from_git(path, out["md5"]):
            restored.append(out["path"])
    return restored


def _locked_outputs(stage: str) -> list[dict[str, Any]]:
    if not LOCK.is_file():
        return []
    return list(parse_lock(LOCK.read_bytes()).get(stage, {}).get("outs", []))


def _uncached_outputs(stage: str) -> list[Path]:
    outs = next((entry.outs for entry in read_stages() if entry.name == stage), {})
    return [
        Path(path)
        for path, flags in outs.items()
        if flags.get("cache") is False and not flags.get("persist")
    ]


def _dvc_cache() -> Path:
    """Where DVC keeps contents by md5, also for a temporary copy that it runs in."""
    try:
        folder = dvc("cache", "dir").strip()
    except ReportError:
        folder = ".dvc/cache"
    return Path(folder) / "files" / "md5"


def _from_cache(cache: Path, path: Path, locked: str) -> bool:
    """Put back a cached output; nothing of it where any part is not in the cache."""

    def held(name: str) -> Path:
        return cache / name[:2] / name[2:]

    wanted = {path: held(locked)}
    if locked.endswith(".dir"):
        listing = held(locked).read_bytes() if held(locked).is_file() else b"[]"
        wanted = {path / entry["relpath"]: held(entry["md5"]) for entry in json.loads(listing)}
    if not wanted or not all(source.is_file() for source in wanted.values()):
        return False
    for target, source in wanted.items():
        with source.open("rb") as data, atomic_writer(target) as file:
            shutil.copyfileobj(data, file)
    return True


def _from_git(path: Path, locked: str) -> bool:
    """Put back a small file from the last success, or from the last commit."""
    kept = KEPT / path
    candidates = [kept.read_bytes()] if kept.is_file() else []
    candidates.append(git("show", f"HEAD:./{path.as_posix()}", check=False))
    for data in candidates:
        if md5(data) == locked:
            write_bytes(path, data)
            return True
    return False
