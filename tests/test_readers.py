"""Raw text arrives whole and in order, in pieces that no tokenizer can tell from the document."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.formats import BLOCK_BYTES, Decoding, decoded_blocks
from pipeline.corpus.readers import (
    Piece,
    document_pieces,
    open_corpus,
    separated_pieces,
)
from pipeline.errors import CorpusError
from pipeline.storage import sha256_file


def raw_folder(folder: Path, files: dict[str, bytes], separator: str | None = None) -> Path:
    entries = []
    for name, data in files.items():
        path = folder / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries.append({"path": name, "bytes": len(data), "sha256": sha256_file(path)})
    manifest = {
        "name": "own",
        "source": "here",
        "sha256": "0" * 64,
        "license": None,
        "separator": separator,
        "files": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_each_file_is_a_document_in_the_manifests_order_with_its_line_ends(tmp_path: Path) -> None:
    folder = raw_folder(tmp_path, {"b.txt": b"one\r\n", "a/c.txt": b"", "a.txt": "ß".encode()})
    pieces = list(open_corpus(folder).pieces(Decoding("strict")))
    assert pieces == [Piece("one\r\n", True), Piece("", True), Piece("ß", True)]


@pytest.mark.parametrize("at", [0, 5, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 7])
def test_invalid_utf8_is_named_with_its_byte_offset(tmp_path: Path, at: int) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a" * at + b"\xff" + b"b" * 10)
    with pytest.raises(CorpusError, match=rf"bad\.txt: not UTF-8 at byte {at};"):
        list(decoded_blocks(path, Decoding("strict")))


def test_a_character_cut_off_by_the_files_end_is_named_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(b"abc" + "€".encode()[:2])
    with pytest.raises(CorpusError, match="not UTF-8 at byte 3;"):
        list(decoded_blocks(path, Decoding("strict")))


def test_replace_turns_bad_bytes_into_the_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a\xffb")
    assert list(decoded_blocks(path, Decoding("replace"))) == ["a\ufffdb"]


def test_a_character_across_two_blocks_is_read_whole(tmp_path: Path) -> None:
    text = "x" * (BLOCK_BYTES - 1) + "€uro"
    (tmp_path / "long.txt").write_bytes(text.encode())
    blocks = list(decoded_blocks(tmp_path / "long.txt", Decoding("strict")))
    assert len(blocks) == 2
    assert "".join(blocks) == text


@given(st.lists(st.text(alphabet="ab. \n")), st.integers(1, 5))
def test_pieces_join_to_the_document_and_only_the_last_ends_it(
    blocks: list[str], size: int
) -> None:
    pieces = list(document_pieces(blocks, size))
    assert "".join(piece.text for piece in pieces) == "".join(blocks)
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(pieces[n].text for n in range(len(pieces))) or pieces == [Piece("", True)]


@given(st.text(alphabet="ab. \n"), st.integers(1, 5), st.integers(1, 4))
def test_how_a_file_is_read_does_not_move_the_cuts(text: str, size: int, block: int) -> None:
    blocks = [text[n : n + block] for n in range(0, len(text), block)]
    assert list(document_pieces(blocks, size)) == list(document_pieces([text], size))


def test_a_long_document_is_cut(tmp_path: Path) -> None:
    pieces = list(document_pieces(["to be or not to be"], size=4))
    assert [piece.text for piece in pieces] == ["to be", " or not", " to be"]


def test_the_pieces_of_a_long_document_cost_no_copy_of_the_rest() -> None:
    block = "to be or not to be " * 100_000
    tracemalloc.start()
    try:
        for piece in document_pieces([block], size=1000):
            assert len(piece.text) < 1100
        assert tracemalloc.get_traced_memory()[1] < len(block) / 2
    finally:
        tracemalloc.stop()


@given(st.lists(st.text(alphabet="ab<\n").map(lambda t: t.strip("\n")).filter(bool)))
def test_documents_between_separators_come_out_as_they_went_in(documents: list[str]) -> None:
    text = "\n<|end|>\n".join(documents) + "\n<|end|>\n" * bool(documents)
    blocks = [text[n : n + 3] for n in range(0, len(text), 3)]
    assert list(separated_pieces(blocks, "<|end|>")) == [Piece(text, True) for text in documents]


def test_a_changed_missing_or_unlisted_state_of_data_raw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json: not found; run `dvc repro fetch`"):
        open_corpus(tmp_path)
    folder = raw_folder(tmp_path, {"a.txt": b"one", "b.txt": b"two"})
    (folder / "texts/b.txt").write_bytes(b"TWO")
    with pytest.raises(CorpusError, match=r"b\.txt: changed since fetch"):
        open_corpus(folder)
    (folder / "texts/b.txt").unlink()
    with pytest.raises(CorpusError, match=r"b\.txt: missing since fetch"):
        open_corpus(folder)
    (folder / "manifest.json").write_text('{"name": "own"}')
    with pytest.raises(CorpusError, match="not a manifest"):
        open_corpus(folder)
