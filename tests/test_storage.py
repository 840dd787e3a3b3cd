"""Files and folders are whole or not there: on the disk before their name is, put back if not."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fresh_project import contents

from pipeline.storage import append_text, atomic_writer, put_in_place, scratch, write_bytes


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


def test_what_cannot_be_written_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_bytes(tmp_path / "a", b"text")
    assert caught.value.filename == str(tmp_path / "a")
    assert contents(tmp_path) == {}


def test_what_cannot_be_written_in_a_read_only_place_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:  # as such a disk does, root too
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_bytes(tmp_path / "a", b"text")
    assert caught.value.filename == str(tmp_path / "a")


def test_a_folder_goes_to_another_disk_too(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=other) as disk:
        for text in ("first", "second"):
            (tmp_path / "new").mkdir()
            (tmp_path / "new/a.txt").write_text(text)
            put_in_place(tmp_path / "new", Path(disk, "raw"))
            assert contents(Path(disk)) == {f"{disk}/raw/a.txt": text.encode()}


def test_what_cannot_be_put_in_place_leaves_the_old_there(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.txt").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "never made", tmp_path / "raw")
    assert contents(tmp_path) == before


def test_a_folder_stopped_between_its_two_renames_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("raw", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    before = contents(tmp_path)
    rename = os.replace

    def stopped(source: Path, target: Path) -> None:
        rename(source, target)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(tmp_path / "new", tmp_path / "raw")
    assert contents(tmp_path) == before


def test_a_second_process_is_refused_and_what_a_killed_one_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".cache/prepare-left").mkdir(parents=True)
    code = "from pipeline.storage import scratch\nwith scratch('prepare'): print('worked')"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with scratch("prepare") as folder:
        assert sorted(tmp_path.glob(".cache/prepare-*")) == [tmp_path / folder]
        other = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert "prepare: another one is at work in this folder" in other.stderr
        assert folder.is_dir()
    assert subprocess.run(command, env=environment, capture_output=True).stdout == b"worked\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_to_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left") as caught,
        atomic_writer(tmp_path / "new/a"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"a")
    assert caught.value.filename == str(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(OSError, match="No space left") as caught:
        append_text(Path("/dev/full"), "a")
    assert caught.value.filename == "/dev/full"
