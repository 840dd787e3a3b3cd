"""A file is on the disk before its name is, and the name before the write is done."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.storage import write_bytes


def test_a_file_is_flushed_whole_then_named_then_its_folder_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        found = os.fstat(descriptor)
        folder = stat.S_ISDIR(found.st_mode)
        calls.append(("flush the folder", found.st_ino) if folder else ("flush", found.st_size))
        fsync(descriptor)

    def named(old: Path, new: Path) -> None:
        replace(old, new)
        calls.append(("name", new.stat().st_size))

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", named)
    write_bytes(tmp_path / "a", b"text")
    expected = [("flush", 4), ("name", 4), ("flush the folder", tmp_path.stat().st_ino)]
    assert calls == expected[: 2 if os.name == "nt" else 3]  # Windows flushes a rename itself
