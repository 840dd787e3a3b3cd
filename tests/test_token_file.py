"""A token file gives back the ids it was given, or says in one line why it cannot."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.split_writer import BinWriter, write_tensors
from pipeline.corpus.token_file import (
    load_split,
    read_tokens,
    verify_tokens,
)
from pipeline.errors import TokenFileError
from pipeline.storage import atomic_writer

TOKENIZER = "ab" * 32


def write(
    path: Path, ids: list[int], *, vocab_size: int = 300, tokenizer: str = TOKENIZER
) -> dict[str, Any]:
    pieces = [np.array(ids[n : n + 2], dtype=np.int64) for n in range(0, len(ids), 2)]
    if path.suffix == ".pt":
        return write_tensors(path, pieces, vocab_size, eot_id=vocab_size - 1)
    with atomic_writer(path) as file:
        writer = BinWriter(file, path, vocab_size, tokenizer)
        for piece in pieces:
            writer.append(piece)
        return writer.finish()


def prepared(folder: Path, ids: list[int], suffix: str = "bin") -> Path:
    written = write(folder / f"train.{suffix}", ids)
    meta = {
        "format": suffix,
        "tokenizer": {"sha256": TOKENIZER, "vocab_size": 300},
        "splits": {"train": {"tokens": written["tokens"], "sha256": written["sha256"]}},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "tokenizer.json").write_text(json.dumps({"sha256": TOKENIZER}))
    return folder


@settings(max_examples=30)
@given(st.lists(st.integers(0, 65_535)), st.sampled_from([65_536, 65_537]))
def test_ids_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], vocab_size: int
) -> None:
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    written = write(path, ids, vocab_size=vocab_size)
    file = read_tokens(path, tokenizer_sha256=TOKENIZER)
    assert file.tokens.tolist() == ids
    assert file.tokens.itemsize == (2 if vocab_size == 65_536 else 4)
    assert path.stat().st_size == 128 + len(ids) * file.tokens.itemsize
    assert (file.vocab_size, file.tokenizer_sha256) == (vocab_size, TOKENIZER)
    assert (written["tokens"], written["sha256"]) == (len(ids), file.sha256)
    verify_tokens(path)


def test_the_map_is_read_only(tmp_path: Path) -> None:
    write(tmp_path / "train.bin", [1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        read_tokens(tmp_path / "train.bin").tokens[0] = 9


@pytest.mark.parametrize("kept", [0, 7, 127, 128, 130, 133])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenFileError, match=r"train\.bin: (found .* expected 134|not a token)"):
        read_tokens(path)


def test_a_file_that_grew_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3])
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(TokenFileError, match="found 136 bytes; expected 134"):
        read_tokens(path)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(0, b"t", "not a token file"), (8, b"\2", "version 2"), (12, b"\3", "version 1")],
)
def test_a_foreign_header_is_refused(
    tmp_path: Path, position: int, value: bytes, message: str
) -> None:
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3])
    data = bytearray(path.read_bytes())
    data[position : position + 1] = value
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match=message):
        read_tokens(path)


def test_another_tokenizers_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.bin", [1], tokenizer="cd" * 32)
    with pytest.raises(TokenFileError, match="made by the tokenizer cdcdcdcdcdcd; allowed: abab"):
        read_tokens(tmp_path / "train.bin", tokenizer_sha256=TOKENIZER)


def test_verify_finds_one_changed_id_and_one_outside_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3])
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    read_tokens(path)
    with pytest.raises(TokenFileError, match="it states"):
        verify_tokens(path)
    data[-2:] = (300).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match="found id 300; allowed: 0 to 299"):
        verify_tokens(path)


def test_verify_reads_a_long_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    ids = np.arange((1 << 21) + 3) % 300
    with atomic_writer(path) as file:
        writer = BinWriter(file, path, 300, TOKENIZER)
        writer.append(ids)
        writer.finish()
    verify_tokens(path)
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write((300).to_bytes(2, "little"))
    with pytest.raises(TokenFileError, match="found id 300; allowed: 0 to 299"):
        verify_tokens(path)


@pytest.mark.parametrize("suffix", ["bin", "pt"])
@pytest.mark.parametrize("found", [300, 65_536 + 3, -1])
def test_an_id_outside_the_vocabulary_is_not_written(
    tmp_path: Path, found: int, suffix: str
) -> None:
    with pytest.raises(TokenFileError, match=f"found id {found}; allowed: 0 to 299"):
        write(tmp_path / f"train.{suffix}", [1, 2, found])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write(path, [1, 2, 3])
    before = path.read_bytes()

    def failing() -> None:
        with atomic_writer(path) as file:
            BinWriter(file, path, 300, TOKENIZER).append(np.array([4]))
            raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        failing()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.bin"]


@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_load_split_opens_the_format_that_prepare_wrote(tmp_path: Path, suffix: str) -> None:
    file = load_split(prepared(tmp_path, [5, 6, 7], suffix), "train")
    assert file.path.name == f"train.{suffix}"
    assert file.tokens.tolist() == [5, 6, 7]
    assert (file.vocab_size, file.tokenizer_sha256) == (300, TOKENIZER)
    verify_tokens(file.path)


def test_both_formats_state_the_same_hash(tmp_path: Path) -> None:
    assert write(tmp_path / "a.bin", [1, 2, 3]) == write(tmp_path / "a.pt", [1, 2, 3])


def test_a_pt_file_is_a_list_of_documents_whose_bytes_do_not_depend_on_its_name(
    tmp_path: Path,
) -> None:
    for name in ("train.pt", "other.pt"):
        pieces = [np.array([1, 2, 9]), np.array([3]), np.array([9, 4])]
        write_tensors(tmp_path / name, pieces, vocab_size=10, eot_id=9)
    documents = torch.load(tmp_path / "train.pt", weights_only=True)
    assert [document.tolist() for document in documents] == [[1, 2, 9], [3, 9], [4]]
    assert {document.dtype for document in documents} == {torch.int32}
    assert (tmp_path / "train.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_a_split_of_another_run_is_refused(tmp_path: Path, suffix: str) -> None:
    prepared(tmp_path, [5, 6, 7], suffix)
    write(tmp_path / f"train.{suffix}", [5, 6])
    with pytest.raises(TokenFileError, match=rf"train\.{suffix}: "):
        load_split(tmp_path, "train")


def test_a_tokenizer_that_is_not_the_metas_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path, [5, 6, 7])
    (tmp_path / "tokenizer.json").write_text(json.dumps({"sha256": "cd" * 32}))
    with pytest.raises(TokenFileError, match=r"tokenizer\.json: found sha256 cdcdcd"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(
    "change", [{"splits": []}, {"splits": {"train": "x"}}, {"format": None}, {"tokenizer": {}}]
)
def test_a_meta_that_is_not_prepares_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(tmp_path, [5, 6, 7])
    meta = {**json.loads((tmp_path / "meta.json").read_text()), **change}
    meta = {key: value for key, value in meta.items() if value is not None}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(TokenFileError, match=r"meta\.json or tokenizer\.json is not prepare's"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"PK\x03\x04"])
def test_a_pt_file_that_is_no_tensor_is_refused(tmp_path: Path, content: bytes) -> None:
    prepared(tmp_path, [5, 6, 7], "pt")
    (tmp_path / "train.pt").write_bytes(content)
    with pytest.raises(TokenFileError, match=r"train\.pt: cut short or not token lists"):
        load_split(tmp_path, "train")


def test_a_pt_file_of_no_split_is_named(tmp_path: Path) -> None:
    prepared(tmp_path, [5, 6, 7], "pt")
    shutil.copy(tmp_path / "train.pt", tmp_path / "stray.pt")
    with pytest.raises(TokenFileError, match=r"stray\.pt: found no split of this name"):
        verify_tokens(tmp_path / "stray.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"meta\.json: not found; run `dvc repro prepare`"):
        load_split(tmp_path, "train")
    prepared(tmp_path, [1])
    (tmp_path / "train.bin").unlink()
    with pytest.raises(TokenFileError, match=r"train\.bin: not found; run `dvc repro prepare`"):
        load_split(tmp_path, "train")
