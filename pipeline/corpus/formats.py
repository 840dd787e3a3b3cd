"""Files of text, as documents: each a stream of blocks, so that no file is held in memory.

.txt                            the whole file is one document
.jsonl, .jsonl.gz, .jsonl.zst   a JSON object a line; its field `corpus.text_field` is a document
.parquet                        a row a document; its column `corpus.text_field`, in small batches
.pt                             token lists: no text, see token_lists.py

All text is UTF-8. A byte-order mark at a file's start is no text and is left out. A null in JSON or
parquet is an empty document.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import CorpusError

BLOCK_BYTES = 1 << 20
TOKEN_LISTS = ".pt"
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", TOKEN_LISTS)
_ROWS = 64  # of a parquet file, at a time
_ALLOWED = "allowed: UTF-8 text, or corpus.errors: replace"


@dataclass
class Decoding:
    """How bytes become text, and how many characters had to be replaced so far."""

    errors: str  # strict: CorpusError; replace: U+FFFD
    replaced: int = 0

    def text(self, data: bytes, where: str) -> str:
        """The text of whole data; `where` begins the error's line."""
        try:
            text = data.decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where}: not UTF-8 at byte {error.start}; {_ALLOWED}") from None
        self.count(data, text)
        return text

    def count(self, data: bytes, text: str) -> None:
        """Count the U+FFFD of `text` that are not in `data`."""
        if self.errors == "replace":
            self.replaced += text.count("\ufffd") - data.count("\ufffd".encode())

    def without_surrogates(self, text: str, where: str) -> str:
        """JSON can write half a character; no UTF-8 can."""
        if text.isascii():
            return text
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                found = f"\\u{ord(text[error.start]):04x}"
                raise CorpusError(f"{where}: half a character, {found}; {_ALLOWED}") from None
            whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            self.replaced += whole.count("\ufffd") - text.count("\ufffd")
            return whole
        return text


def suffix_of(name: str) -> str:
    """The file's kind, or "" where it is of none in SUFFIXES."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def documents(path: Path, decoding: Decoding, text_field: str) -> Iterator[Iterable[str]]:
    """Each document of a file as blocks of text; read each to its end before the next.

    A file of no known kind is read as plain text. Raises CorpusError, which names the place.
    """
    suffix = suffix_of(path.name)
    if suffix.startswith(".jsonl"):
        for text in _json_texts(path, suffix, decoding, text_field):
            yield [text]
    elif suffix == ".parquet":
        for text in _parquet_texts(path, decoding, text_field):
            yield [text]
    else:
        yield decoded_blocks(path, decoding)


def decoded_blocks(path: Path, decoding: Decoding) -> Iterator[str]:
    """A UTF-8 file's text in blocks, line ends untouched; raises CorpusError at the first bad byte.

    Only the first byte of a bad sequence is named: the offset is where the text stops being UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(decoding.errors)
    with path.open("rb") as file:
        offset, tail = 0, b""
        while True:
            block = file.read(BLOCK_BYTES)
            waiting = len(decoder.getstate()[0])  # bytes of a character begun in the last block
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = offset - waiting + error.start
                raise CorpusError(f"{path}: not UTF-8 at byte {at}; {_ALLOWED}") from None
            if decoding.errors == "replace":
                decoding.count(tail + block, text)
                tail = block[-2:]  # a U+FFFD in the file may lie across two blocks
            if offset == 0:
                text = text.removeprefix("\ufeff")
            if text:
                yield text
            if not block:
                return
            offset += len(block)


def _json_texts(path: Path, suffix: str, decoding: Decoding, text_field: str) -> Iterator[str]:
    number = 0
    for line in _lines(_bytes_of(path, suffix)):
        number += 1
        where = f"{path}: line {number}"
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        own = Decoding(decoding.errors)  # of the whole line: other fields are no text
        try:
            value = json.loads(own.text(line, where))
        except (ValueError, RecursionError):
            raise CorpusError(f"{where}: not JSON; allowed: one JSON object a line") from None
        if not isinstance(value, dict) or text_field not in value:
            is_object = isinstance(value, dict)
            found = ", ".join(map(repr, value)) if is_object else type(value).__name__
            raise CorpusError(
                f"{where}: no field {text_field!r} (corpus.text_field); found: {found or 'none'}"
            )
        text = value[text_field]
        if not isinstance(text, str | None):
            kind = type(text).__name__
            raise CorpusError(f"{where}: field {text_field!r}: found {kind}; allowed: text, null")
        # a line's own U+FFFD are told from these in a line without bad bytes alone
        decoding.replaced += min(own.replaced, (text or "").count("\ufffd"))
        yield decoding.without_surrogates(text or "", where)


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        pending.append(first)
        if rest:
            yield b"".join(pending)
            yield from rest[:-1]
            pending = [rest[-1]]
    if last := b"".join(pending):
        yield last


def _bytes_of(path: Path, suffix: str) -> Iterator[bytes]:
    """The file's bytes in blocks, unpacked."""
    try:
        if suffix.endswith(".gz") and not path.stat().st_size:  # Python's takes it for a whole one
            raise EOFError
        if suffix.endswith(".zst"):
            yield from _zstd_blocks(path)
            return
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CorpusError(f"{path}: not gzip, or cut short") from None


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    import zstandard

    # zstandard's own reader takes a file cut short for one that ends there
    unpack = zstandard.ZstdDecompressor(max_window_size=2**31)  # what zstd --long=31 writes
    frame = unpack.decompressobj()  # what it unpacks at once may be thousands of times as long
    with path.open("rb") as file:
        try:
            while data := file.read(1 << 12):
                while data:
                    if frame.eof:
                        frame = unpack.decompressobj()
                    yield frame.decompress(data)
                    data = frame.unused_data
        except zstandard.ZstdError:
            raise CorpusError(f"{path}: not zstd, or damaged") from None
    if not frame.eof:
        raise CorpusError(f"{path}: cut short: the last zstd frame does not end")


def _parquet_texts(path: Path, decoding: Decoding, text_field: str) -> Iterator[str]:
    import pyarrow as pa
    from pyarrow import parquet

    path.open("rb").close()  # an error of the system's names the file here
    try:
        # a buffer: without it memory grows with the file's row groups
        with parquet.ParquetFile(path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file:
            schema = file.schema_arrow
            if (count := schema.names.count(text_field)) != 1:
                raise CorpusError(
                    f"{path}: {count or 'no'} column{'s' * (count > 1)} {text_field!r} "
                    f"(corpus.text_field); columns: {', '.join(map(repr, schema.names))}"
                )
            kind: Any = schema.field(text_field).type
            texts = kind.value_type if pa.types.is_dictionary(kind) else kind
            if texts not in (pa.string(), pa.large_string(), pa.string_view()):
                raise CorpusError(f"{path}: column {text_field!r}: found {kind}; allowed: string")
            row = 0
            for batch in file.iter_batches(_ROWS, columns=[text_field]):
                for data in batch.column(text_field).cast(pa.large_binary()).to_pylist():
                    row += 1
                    yield decoding.text(data or b"", f"{path}: row {row}")
    except (pa.ArrowException, OSError) as error:  # OSError: a damaged page
        reason = str(error).splitlines()[0]
        raise CorpusError(f"{path}: not a whole parquet file: {reason}") from None
