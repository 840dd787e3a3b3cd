"""Every format gives its documents' text, or names the file and the place where it cannot."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.corpus.formats import BLOCK_BYTES, Decoding, documents
from pipeline.errors import CorpusError

TEXTS = ["one\r\ntwo", "", "ünï漢😀", "x" * (BLOCK_BYTES + 5)]


def read(path: Path, decoding: Decoding | None = None, field: str = "text") -> list[str]:
    decoding = decoding or Decoding("strict")
    return ["".join(blocks) for blocks in documents(path, decoding, field)]


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in texts)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "a.jsonl": lambda data: data,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.zst": zstandard.compress,
    "a.JSONL": lambda data: data,
}


@pytest.mark.parametrize("name", PACKED)
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED[name](json_lines(TEXTS)))
    assert read(path) == TEXTS
    path.write_bytes(PACKED[name](b"\xef\xbb\xbf" + json_lines(TEXTS).rstrip() + b"\n \n"))
    assert read(path) == TEXTS
    path.write_bytes(PACKED[name](b'{"text": null}'))
    assert read(path) == [""]


def test_several_frames_of_zst_are_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(json_lines([text])) for text in TEXTS))
    assert read(path) == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_packed_file_cut_short_or_foreign_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = PACKED[name](json_lines(TEXTS))
    for content in (whole[:-5], whole[: len(whole) // 2], b"not packed at all", b""):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=rf"{name}: (not gzip|not zstd|cut short)"):
            read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "line 2: not JSON; allowed: one JSON object a line"),
        (
            b'{"body": "a", "i\\nd": 1}',
            r"line 2: no field 'text' \(corpus\.text_field\); found: 'body', 'i\\nd'$",
        ),
        (b'["a"]', "line 2: no field 'text' .* found: list"),
        (b'{"text": 5}', "line 2: field 'text': found int; allowed: text, null"),
        (b'{"text": "a\xff"}', "line 2: not UTF-8 at byte 11"),
        (b'{"text": "\\ud800"}', r"line 2: half a character, \\ud800"),
        (b"[" * 100_000, "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(CorpusError, match=rf"bad\.jsonl: {message}"):
        read(path)


def test_a_column_of_parquet_is_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    categories = pa.dictionary(pa.int32(), pa.string())  # as pandas has a column of few values
    for kind in (pa.string(), pa.large_string(), pa.string_view(), categories):
        column = pa.array([*TEXTS, None]).cast(kind)
        table = pa.table({"id": range(5), "body": column})
        parquet.write_table(table, path, row_group_size=2)
        assert read(path, field="body") == [*TEXTS, ""]


def test_a_parquet_file_without_the_column_lists_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1], "body": ["a"]}), path)
    with pytest.raises(
        CorpusError, match=r"a\.parquet: no column 'text' .*; columns: 'id', 'body'"
    ):
        read(path)
    with pytest.raises(CorpusError, match="column 'id': found int64; allowed: string"):
        read(path, field="id")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"a\.parquet: not a whole parquet file: [^\n]*$"):
        read(path)


def test_a_column_of_parquet_is_found_by_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    nested, flat = pa.array([{"text": "nested"}]), pa.array(["flat"])
    parquet.write_table(pa.table({"a": nested, "a.text": flat}), path)
    assert read(path, field="a.text") == ["flat"]
    parquet.write_table(pa.Table.from_arrays([flat, flat], ["text", "text"]), path)
    with pytest.raises(CorpusError, match=r"a\.parquet: 2 columns 'text' .*; columns: 'text', 't"):
        read(path)


def test_a_row_group_of_parquet_is_read_a_part_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [random.Random(n).randbytes(2000).hex() for n in range(8000)]  # 32 MB
    parquet.write_table(pa.table({"text": texts}), path, use_dictionary=False)
    before = pa.total_allocated_bytes()
    for blocks in documents(path, Decoding("strict"), "text"):
        assert sum(map(len, blocks)) == 4000
        assert pa.total_allocated_bytes() < before + (8 << 20)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_cannot_be_read_at_all_is_not_called_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        read(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name)


def test_parquet_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    column = pa.array([b"good", b"bad \xff"]).view(pa.string())
    parquet.write_table(pa.table({"text": column}), path)
    with pytest.raises(CorpusError, match=r"a\.parquet: row 2: not UTF-8 at byte 4"):
        read(path)
    decoding = Decoding("replace")
    assert read(path, decoding) == ["good", "bad \ufffd"]
    assert decoding.replaced == 1


def test_a_byte_order_mark_is_left_out_at_the_files_start_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone \ufeff two".encode())
    assert read(path) == ["one \ufeff two"]


@pytest.mark.parametrize("before", [0, BLOCK_BYTES - 4])
def test_replaced_characters_are_counted_but_not_those_of_the_text(
    tmp_path: Path, before: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * before + "\ufffd\ufffd".encode() + b"\xff b \xe4\xbd")
    decoding = Decoding("replace")
    assert read(path, decoding) == ["a" * before + "\ufffd\ufffd\ufffd b \ufffd"]
    assert decoding.replaced == 2


def test_what_is_replaced_in_another_field_of_json_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\xff b\xfe", "other": "\xff"}\n{"text": "c", "other": "\xff"}\n')
    decoding = Decoding("replace")
    assert read(path, decoding) == ["a\ufffd b\ufffd", "c"]
    assert decoding.replaced == 2


def test_half_a_character_of_json_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(rb'{"text": "a\ud83d b \ud83d\ude00"}')
    decoding = Decoding("replace")
    assert read(path, decoding) == ["a\ufffd b \U0001f600"]
    assert decoding.replaced == 1


def test_a_file_of_another_kind_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# notes")
    assert read(path) == ["# notes"]


def test_a_damaged_page_of_parquet_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["some text " * 50] * 100}), path)
    data = bytearray(path.read_bytes())
    data[4:24] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"a\.parquet: not a whole parquet file: [^\n]*$"):
        read(path)


def test_zst_of_the_longest_window_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(packer.compress(json_lines(TEXTS)) + packer.flush())  # its size is not stated
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << 30
    assert read(path) == TEXTS
