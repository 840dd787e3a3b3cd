"""Puts back the outputs of a stage that failed: DVC deletes them before the stage runs.

Cached outputs come from DVC's cache by the hashes in dvc.lock, the small files that git tracks
from a copy of the last success under .cache/results/, or from the last commit where these have the
locked hash. Nothing is put back where something was written since.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline.dvc_cache import DvcCache
from pipeline.dvc_lock import LOCK, parse_lock
from pipeline.paths import CACHE
from pipeline.reporting.revisions import git, md5
from pipeline.reporting.stages import read_stages
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
    cache = DvcCache()
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


def _from_cache(cache: DvcCache, path: Path, locked: str) -> bool:
    """Put back a cached output; nothing of it where any part is not in the cache."""
    wanted = {path: locked}
    if locked.endswith(".dir"):
        wanted = {path / name: inner for name, inner in cache.listing(locked).items()}
    sources = {target: cache.path(name) for target, name in wanted.items()}
    if not sources or not all(source.is_file() for source in sources.values()):
        return False
    for target, source in sources.items():
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
