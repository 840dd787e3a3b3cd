"""Puts back the outputs of a stage that failed: DVC deletes them before the stage runs.

Cached outputs come from DVC's cache by the hashes in dvc.lock, the small files that git tracks
from a copy of the last success under .cache/results/, or from the last commit. Only what has the
locked hash is put back, and only where nothing was written since.
"""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.dvc_cache import DvcCache
from pipeline.storage import write_bytes

LOCK = Path("dvc.lock")
KEPT = Path(".cache/results")


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
        files = _cached_files(cache, path, out["md5"]) or _uncached_file(path, out["md5"])
        for target, data in files.items():
            write_bytes(target, data)
        if files:
            restored.append(out["path"])
    return restored


def _locked_outputs(stage: str) -> list[dict[str, Any]]:
    if not LOCK.is_file():
        return []
    stages = YAML(typ="safe", pure=True).load(LOCK)["stages"]
    return list(stages.get(stage, {}).get("outs", []))


def _uncached_outputs(stage: str) -> list[Path]:
    entry = YAML(typ="safe", pure=True).load(Path("dvc.yaml"))["stages"][stage]
    outputs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    return [
        Path(path)
        for out in outputs
        if isinstance(out, dict)
        for path, flags in out.items()
        if flags.get("cache") is False and not flags.get("persist")
    ]


def _cached_files(cache: DvcCache, path: Path, md5: str) -> dict[Path, bytes]:
    """{target: bytes} of a cached output; nothing where any part of it is not in the cache."""
    wanted = {path: md5}
    if md5.endswith(".dir"):
        wanted = {path / name: inner for name, inner in cache.listing(md5).items()}
    found = {target: cache.read(name) for target, name in wanted.items()}
    whole = {target: data for target, data in found.items() if data is not None}
    return whole if len(whole) == len(wanted) else {}


def _uncached_file(path: Path, md5: str) -> dict[Path, bytes]:
    kept = KEPT / path
    candidates = [kept.read_bytes()] if kept.is_file() else []
    shown = subprocess.run(["git", "show", f"HEAD:./{path.as_posix()}"], capture_output=True)
    candidates += [shown.stdout] if shown.returncode == 0 else []
    for data in candidates:
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5:
            return {path: data}
    return {}
