"""Train, val and test: contiguous stretches of the text, in this order, by bytes.

The corpus is one stream of UTF-8 bytes, the documents one after another. A cut falls on a
character's boundary (up to three bytes before the exact fraction) and may fall inside a document.
What follows a cut is never seen by what comes before: no tokenizer or model that reads the train
split alone learns from the others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.corpus.readers import Piece
from pipeline.errors import CorpusError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Survey:
    """What a pass over the whole text found."""

    bytes: int  # of UTF-8
    documents: int  # with text
    empty_documents: int


def utf8_length(text: str) -> int:
    """The text's length in UTF-8, bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def survey(pieces: Iterable[Piece]) -> Survey:
    """Count the text."""
    total = documents = empty = 0
    for piece in pieces:
        total += utf8_length(piece.text)
        documents += piece.ends_document and bool(piece.text)
        empty += not piece.text
    return Survey(total, documents, empty)


def split_bounds(
    total_bytes: int, val_fraction: float, test_fraction: float
) -> dict[str, tuple[int, int]]:
    """Each split's first byte and the byte after its last; raises CorpusError if one is empty.

    A fraction of 0 asks for an empty split and gets it.
    """
    val_bytes = round(total_bytes * val_fraction)
    test_bytes = round(total_bytes * test_fraction)
    train_bytes = total_bytes - val_bytes - test_bytes
    asked = {"val": (val_fraction, val_bytes), "test": (test_fraction, test_bytes)}
    for split, (fraction, size) in asked.items():
        if fraction and not size:
            raise CorpusError(
                f"prepare.{split}_fraction: {fraction} of {total_bytes:,} bytes of text is "
                "nothing; allowed: 0, or more text"
            )
    if train_bytes <= 0:
        raise CorpusError(f"corpus: {total_bytes:,} bytes of text leave nothing to train on")
    return {
        "train": (0, train_bytes),
        "val": (train_bytes, train_bytes + val_bytes),
        "test": (train_bytes + val_bytes, total_bytes),
    }


def text_between(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    """The pieces' text from byte `start` up to byte `stop` of the stream, without empty pieces."""
    offset = 0
    for piece in pieces:
        if offset >= stop:
            return
        size = utf8_length(piece.text)
        first, last = max(start - offset, 0), min(stop - offset, size)
        offset += size
        if first >= last:
            continue
        if last - first == size:
            yield piece
            continue
        data = piece.text.encode("utf-8")
        first, last = _character_start(data, first), _character_start(data, last)
        if text := data[first:last].decode("utf-8"):
            yield Piece(text, ends_document=piece.ends_document and last == size)


def _character_start(data: bytes, position: int) -> int:
    while position < len(data) and data[position] & 0xC0 == 0x80:  # a continuation byte
        position -= 1
    return position
