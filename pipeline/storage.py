"""Files that are either whole or not there, and the hashes that name them.

A write goes to a temporary file beside the target, is flushed to the disk, renamed over the
target, and the folder is flushed too: after a crash the old file or the new one is there,
never a part of one.
"""

import hashlib
import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import filelock
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import UserError
from pipeline.paths import CACHE


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing bytes; it appears whole when the block ends, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # as of a folder that is read-only
            temporary.unlink()
        if isinstance(error, OSError) and error.errno:
            if error.filename == str(temporary):
                error.filename = str(path)
            elif not error.filename:  # as a full disk's
                error.filename = str(path.parent)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and flushes a rename itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A new folder .cache/KIND-*, removed at the end, with those that a killed process left.

    Raises UserError where another process has one.
    """
    CACHE.mkdir(exist_ok=True)
    lock = filelock.FileLock(CACHE / f"{kind}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(f"{kind}: another one is at work in this folder; wait for it") from None
    try:
        for left_behind in CACHE.glob(f"{kind}-*"):
            shutil.rmtree(left_behind)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{kind}-") as folder:
            yield Path(folder)
    finally:
        lock.release()


def put_in_place(new: Path, target: Path) -> None:
    """Move a finished folder to where `target` is, in its stead; a failure leaves the old one.

    Where `target` is a link, the folder that it points to is replaced.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if new.parent.stat().st_dev != target.parent.stat().st_dev:  # no rename goes to another disk
        beside = target.with_name(f".{target.name}.new")
        shutil.rmtree(beside, ignore_errors=True)  # a killed process left it
        new = Path(shutil.move(new, beside))
    old = new.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_writer(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8 with `\\n` line ends on every system."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Write `text` at the end of a file that may be watched meanwhile."""
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk's names none
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, error: type[UserError], remedy: str, kind: type = dict) -> Any:
    """The object (or list) in a JSON file; where there is none, raises `error` with `remedy`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: not found; {remedy}") from None
    return parse_json(data, path, error, remedy, kind)


def parse_json(
    data: bytes, path: str | Path, error: type[UserError], remedy: str, kind: type = dict
) -> Any:
    """What read_json gives, of a file's bytes."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise error(f"{path}: not JSON in UTF-8; {remedy}") from None
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        raise error(f"{path}: not {wanted} in JSON; {remedy}")
    return value


def parse_yaml(
    data: bytes, path: str | PurePath, error: type[UserError], remedy: str
) -> dict[str, Any]:
    """The mapping in a YAML file's bytes, as YAML 1.2, where `1e-4` is a number and `no` a word;
    where there is none, raises `error` with its line or `remedy`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 at byte {problem.start}") from None
    if line := _merge_conflict(text):
        raise error(
            f"{path}: line {line}: a merge conflict; choose the settings in params.yaml, then "
            "`git checkout --ours dvc.lock README.md reports` and `dvc repro`"
        )
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid YAML: {_yaml_problem(problem)}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else reprlib.repr(values)
        raise error(f"{path}: found {found}; {remedy}")
    return values


def _merge_conflict(text: str) -> int | None:
    """The line of the first mark that a git merge left in a file, None where there is none."""
    lines = text.splitlines()
    if not {"<<<<<<<", ">>>>>>>"} <= {line.split(" ")[0] for line in lines}:
        return None
    return next(number for number, line in enumerate(lines, 1) if line.startswith("<<<<<<<"))


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}: {problem.splitlines()[0]}"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
