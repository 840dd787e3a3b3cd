"""Train, val and test: stretches of the text, or whole documents.

stream    The corpus is one stream of UTF-8 bytes, the documents one after another, cut by the
          fractions into train, val and test in this order. A cut falls on a character's boundary
          (up to three bytes before the exact fraction) and may fall inside a document.
document  A document's sha256 says which split it is in: documents that are added or taken away move
          no other, and equal ones are never in two splits. The fractions are of the documents, and
          are met the better the more there are.

No tokenizer or model that reads the train split alone learns from the others.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.corpus.readers import Piece
from pipeline.corpus.tokenizers import utf8_length
from pipeline.errors import CorpusError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Survey:
    """What a pass over the whole text found."""

    text_bytes: int  # of UTF-8
    documents: int  # with text
    empty_documents: int
    split_of: bytes = b""  # by document: the place of its split in SPLITS, one byte for each


def survey(
    pieces: Iterable[Piece], split_by: str, val_fraction: float, test_fraction: float
) -> Survey:
    """Count the text and, with split_by "document", give each document its split."""
    total = documents = empty = 0
    by_document = split_by == "document"
    split_of, digest = bytearray(), hashlib.sha256()
    for piece in pieces:
        total += utf8_length(piece.text)
        documents += piece.ends_document and bool(piece.text)
        empty += not piece.text
        if by_document and piece.text:
            digest.update(piece.text.encode("utf-8"))
            if piece.ends_document:
                split = document_split(digest.digest(), val_fraction, test_fraction)
                split_of.append(SPLITS.index(split))
                digest = hashlib.sha256()
    return Survey(total, documents, empty, bytes(split_of))


def document_split(sha256: bytes, val_fraction: float, test_fraction: float) -> str:
    """The split of a document, by its hash alone."""
    share = int.from_bytes(sha256[:8], "big") / 2**64  # 0 to below 1, each as likely
    if share < test_fraction:
        return "test"
    return "val" if share < test_fraction + val_fraction else "train"


def split_bounds(
    total_bytes: int, val_fraction: float, test_fraction: float, unit: str = "bytes of text"
) -> dict[str, tuple[int, int]]:
    """Each split's first byte and the byte after its last, by the fractions.

    A fraction of 0 asks for an empty split and gets it; raises CorpusError if another is empty.
    """
    share = 1 - val_fraction - test_fraction
    train_bytes = int(round(total_bytes * share, 6))  # down, as nanoGPT has it
    test_bytes = round(total_bytes * test_fraction)
    val_bytes = total_bytes - train_bytes - test_bytes if val_fraction else 0
    train_bytes = total_bytes - val_bytes - test_bytes
    sizes = {"train": train_bytes, "val": val_bytes, "test": test_bytes}
    check_sizes(sizes, val_fraction, test_fraction, unit)
    return {
        "train": (0, train_bytes),
        "val": (train_bytes, train_bytes + val_bytes),
        "test": (train_bytes + val_bytes, total_bytes),
    }


def check_sizes(
    sizes: dict[str, int], val_fraction: float, test_fraction: float, unit: str = "bytes of text"
) -> None:
    """Raise CorpusError where a split that was asked for is empty.

    It may be by its bounds, or, as a cut moves to a character's start, only when it is written.
    """
    total = sum(sizes.values())
    for split, fraction in (("val", val_fraction), ("test", test_fraction)):
        if fraction and not sizes[split]:
            allowed = "more text" if split == "val" else "0, or more text"
            raise CorpusError(
                f"prepare.{split}_fraction: {fraction} of {total:,} {unit} is nothing; "
                f"allowed: {allowed}"
            )
    if sizes["train"] <= 0:
        raise CorpusError(
            f"corpus: {total:,} {unit} leave nothing to train on; "
            "allowed: more text, or smaller prepare.val_fraction and prepare.test_fraction"
        )


def check_documents(split_of: bytes, val_fraction: float, test_fraction: float) -> None:
    """Raise CorpusError where a split that was asked for got no document."""
    asked = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for place, split in enumerate(SPLITS):
        if asked[split] and place not in split_of:
            name = "prepare.split_by: document" if split == "train" else f"prepare.{split}_fraction"
            raise CorpusError(
                f"{name}: none of {len(split_of):,} documents came into {split} by its hash; "
                "allowed: more documents, or prepare.split_by: stream"
            )


def by_document(pieces: Iterable[Piece], split_of: bytes) -> Iterator[tuple[str, Piece]]:
    """Each piece with the split of its document, without empty ones."""
    document = 0
    for piece in pieces:
        if piece.text:
            yield SPLITS[split_of[document]], piece
            document += piece.ends_document


def by_stream(
    pieces: Iterable[Piece], bounds: dict[str, tuple[int, int]]
) -> Iterator[tuple[str, Piece]]:
    """The text of each split, piece by piece, without empty ones."""
    offset = 0
    for piece in pieces:
        size = utf8_length(piece.text)
        for split, (start, stop) in bounds.items():
            first, last = max(start - offset, 0), min(stop - offset, size)
            if first >= last:
                continue
            if last - first == size:
                yield split, piece
                continue
            data = piece.text.encode("utf-8")
            first, last = _character_start(data, first), _character_start(data, last)
            if text := data[first:last].decode("utf-8"):
                yield split, Piece(text, ends_document=piece.ends_document and last == size)
        offset += size


def _character_start(data: bytes, position: int) -> int:
    while position < len(data) and data[position] & 0xC0 == 0x80:  # a continuation byte
        position -= 1
    return position
