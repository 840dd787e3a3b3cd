"""Puts back the outputs of a stage that failed: DVC deletes them before the stage runs.

Cached outputs come from DVC's cache by the hashes in dvc.lock, the small files that git tracks
from a copy of the last success under .cache/results/, or from the last commit where these have the
locked hash. Nothing is put back where something was written since.
"""

from pathlib import Path

from pipeline.paths import CACHE
from pipeline.reporting.revisions import git, md5
from pipeline.reporting.stages import read_stages
from pipeline.storage import write_bytes

KEPT = CACHE / "results"


def keep_results(stage: str) -> None:
    """Copy the uncached outputs of a stage that has succeeded."""
    for path in _uncached_outputs(stage):
        if path.is_file():
            write_bytes(KEPT / path, path.read_bytes())


def restore_results(stage: str) -> list[str]:
    """Put back what the lock file knows of a failed stage's missing outputs; names them.

    Of an output that DVC's cache lacks a part of, nothing is put back.
    """
    from dvc.repo import Repo  # a second, which a stage that succeeds does not wait for

    restored = []
    for out in Repo().stage.load_one(name=stage).outs:
        if out.exists or not out.hash_info:
            continue
        if out.use_cache and not out.changed_cache():
            out.checkout()
        elif out.use_cache or not _from_git(Path(out.def_path), str(out.hash_info.value)):
            continue
        restored.append(out.def_path)
    return restored


def _uncached_outputs(stage: str) -> list[Path]:
    outs = next((entry.outs for entry in read_stages() if entry.name == stage), {})
    return [
        Path(path)
        for path, flags in outs.items()
        if flags.get("cache") is False and not flags.get("persist")
    ]


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
