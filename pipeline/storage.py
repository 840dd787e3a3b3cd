"""Files that are either whole or not there, and the hashes that name them.

A write goes to a temporary file beside the target, is flushed to the disk, renamed over the
target, and the folder is flushed too: after a crash the old file or the new one is there,
never a part of one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path.parent)  # a full disk's names none
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
    """A new folder .cache/KIND-*, removed at the end, with those that a killed process left."""
    CACHE.mkdir(exist_ok=True)
    for left_behind in CACHE.glob(f"{kind}-*"):
        shutil.rmtree(left_behind)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{kind}-") as folder:
        yield Path(folder)


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
