"""The state that an interrupted run goes on from: .cache/train/<key>/ under the main repository.

The key is the hash of everything that decides the run's bytes (settings, data, code, numeric
platform), so a changed one never meets a stale state. A state is one file state-STEP.pt and,
written after it, state-STEP.json with its sha256, those of the checkpoints it counts on and what
the key was made of; only a state whose hashes agree is used. The newest two are kept. DVC deletes
a stage's outputs before it runs, so best.pt and the kept checkpoints lie here too, until the stage
has succeeded.

The weights and optimizer state of a sharded model lie beside it, in a folder state-STEP.shards
that torch.distributed.checkpoint wrote: readable by any number of processes.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import filelock

from pipeline.errors import CheckpointError, TrainingError
from pipeline.model.tensor_file import read_tensors, save_tensors
from pipeline.paths import shared_cache
from pipeline.storage import atomic_writer, sha256_file, sha256_json, write_json

Facts: TypeAlias = dict[str, dict[str, Any]]

KEPT_STATES = 2
LOCK = "lock"
MOST_DIFFERENCES = 3  # named
_MISPLACED = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_DAMAGE = (CheckpointError, *_MISPLACED, ValueError, LookupError, TypeError, AttributeError)


class ResumeState:
    """One run's folder of states, held by one process at a time: of several by the first.

    decides: all that decides the run's bytes, as {what: {name: value}}.
    """

    def __init__(self, decides: Facts, first: bool = True) -> None:
        self.decides = decides
        self.folder = shared_cache() / "train" / sha256_json(decides)[:16]
        self._sha256: dict[tuple[str, int, int, int], str] = {}  # of each file as it was written
        if not first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / LOCK)
        # of a sweep's runs two may differ in what follows training alone: the second waits
        in_experiment = "DVC_EXP_NAME" in os.environ
        try:
            self._lock.acquire(timeout=-1 if in_experiment else 1)  # that of `other` is soon over
        except filelock.Timeout:
            raise TrainingError(
                f"{self.folder}: another process is training this very run; "
                "wait for it, or stop it first"
            ) from None

    def save(self, step: int, payload: dict[str, Any], files: list[Path]) -> None:
        """Keep the run as it stands after `step`, with the checkpoint files it counts on."""
        path = self.folder / f"state-{step:09d}.pt"
        save_tensors(path, payload)
        shards = sorted(self.shards(step).glob("*"))
        record = {
            "sha256": sha256_file(path),
            "decides": self.decides,
            "files": {file.name: self._keep(file) for file in files},
            "shards": {file.name: sha256_file(file) for file in shards},
        }
        write_json(path.with_suffix(".json"), record)
        self._prune()

    def shards(self, step: int) -> Path:
        """The folder of a step's shards."""
        return self.folder / f"state-{step:09d}.shards"

    def clear_shards(self, step: int) -> None:
        """Make room for a save; what one that did not end has left goes."""
        shutil.rmtree(self.shards(step), ignore_errors=True)

    def _keep(self, file: Path) -> str:
        # named by content: a later best.pt must not replace the one an older state counts on
        facts = file.stat()
        written = file.name, facts.st_ino, facts.st_mtime_ns, facts.st_size
        if written not in self._sha256:
            self._sha256[written] = sha256_file(file)
        kept = self.folder / f"{self._sha256[written]}.pt"
        if not kept.exists():
            with file.open("rb") as data, atomic_writer(kept) as copied:
                shutil.copyfileobj(data, copied)
        return self._sha256[written]

    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.json"), reverse=True)

    def _prune(self) -> None:
        wanted = set()
        for record in self._records()[:KEPT_STATES]:
            values = json.loads(record.read_text(encoding="utf-8"))
            wanted |= {record.name, f"{record.stem}.pt", f"{record.stem}.shards"}
            wanted |= {f"{sha256}.pt" for sha256 in values["files"].values()}
        self._remove_but(wanted)

    def _remove_but(self, wanted: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name in wanted | {LOCK}:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def load(self, outputs: Path) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole state, or None, and a line for each damaged one that was passed over.

        The checkpoints that the state counts on are put back into `outputs`.
        """
        damaged = []
        for record in self._records():
            try:
                values = json.loads(record.read_text(encoding="utf-8"))
                path = record.with_suffix(".pt")
                self._check(path, values["sha256"])
                for sha256 in values["files"].values():
                    self._check(self.folder / f"{sha256}.pt", sha256)
                for name, sha256 in values["shards"].items():
                    self._check(path.with_suffix(".shards") / name, sha256)
            except _DAMAGE as error:  # a disk or a memory that fails now is none: that ends the run
                damaged.append(f"{record.with_suffix('').name}: damaged, not used: {error}")
                record.unlink(missing_ok=True)  # or it would take a whole one's place
                continue
            payload = read_tensors(path)
            outputs.mkdir(parents=True, exist_ok=True)
            for name, sha256 in values["files"].items():
                shutil.copyfile(self.folder / f"{sha256}.pt", outputs / name)
            return payload, damaged
        return None, damaged

    def other(self) -> str | None:
        """A line on the newest unfinished run on the same data that this one differs from."""
        folders = self.folder.parent.glob("*/state-*.json")
        for record in sorted(folders, key=_written, reverse=True):
            try:
                if record.parent == self.folder or _is_held(record.parent):
                    continue
                then: Facts = json.loads(record.read_text(encoding="utf-8"))["decides"]
                if then["data"] == self.decides["data"]:
                    return (
                        f"{record.parent} holds an unfinished run, at step "
                        f"{int(record.stem.split('-')[1]):,}, which this one does not go on with, "
                        f"as it differs: {differences(then, self.decides)}"
                    )
            except (*_DAMAGE, OSError):  # another run's, and perhaps another user's
                continue
        return None

    def read(self, step: int) -> dict[str, Any]:
        """The state that the first process has loaded and checked, for another one.

        Raises CheckpointError where this machine does not see the folder.
        """
        return read_tensors(self.folder / f"state-{step:09d}.pt")

    @staticmethod
    def _check(path: Path, sha256: str) -> None:
        if sha256_file(path) != sha256:
            raise CheckpointError(f"{path.name}: its sha256 does not agree")

    def remove(self) -> None:
        """Forget the run: it has succeeded. Its lock stays, for one that may wait for it."""
        self._remove_but(set())
        self._lock.release()


def differences(then: Facts, now: Facts) -> str:
    """What decides one run's bytes and not another's, the first few by name."""
    found = []
    for what in now:
        before, after = then.get(what, {}), now[what]
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                values = f" {before.get(name)}, now {after.get(name)}"
                found.append(f"{what}.{name}{'' if what == 'code' else values}")
    more = len(found) - MOST_DIFFERENCES
    return "; ".join(found[:MOST_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # its run has ended meanwhile, say
        return 0


def _is_held(folder: Path) -> bool:
    """Whether a process is training the run of this folder."""
    try:
        with filelock.FileLock(folder / LOCK, blocking=False):
            return False
    except filelock.Timeout:
        return True
