"""Raw text as a stream of pieces, so that a corpus of any size needs little memory.

`fetch` leaves a folder: manifest.json, which names the files in their order with their hashes,
and the files in texts/. A document (a file, or what stands between separators in one) comes as one
piece or several, cut where every tokenizer's pattern starts a new token anyway: the tokens are
those of the whole document.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import CorpusError
from pipeline.storage import sha256_file

PIECE_CHARACTERS = 1 << 20

# GPT-2's and GPT-4's patterns take a space only as the first character of a token or inside a run
# of whitespace, so before a space that follows something visible a token always ends. The same
# holds after a single newline between two visible characters.
_SAFE_CUT = re.compile(r"(?<=\S)(?= )|(?<=\S\n)(?=\S)")


class Piece(NamedTuple):
    """A stretch of a document's text."""

    text: str
    ends_document: bool


@dataclass(frozen=True)
class RawCorpus:
    """What `fetch` left in a folder."""

    folder: Path
    name: str
    source: str
    sha256: str
    license: str | None
    separator: str | None
    files: list[dict[str, Any]]  # path, bytes, sha256, in the order in which they are read

    def pieces(self, errors: str) -> Iterator[Piece]:
        """Every document's text in order; a document without text comes as one empty piece.

        `errors` is "strict" (CorpusError with the byte's offset) or "replace" (U+FFFD).
        """
        for entry in self.files:
            blocks = decoded_blocks(self.folder / "texts" / entry["path"], errors)
            if self.separator is None:
                yield from document_pieces(blocks)
            else:
                yield from separated_pieces(blocks, self.separator)


def open_corpus(folder: Path) -> RawCorpus:
    """Read what `fetch` left, and check that no file is missing or changed; raises CorpusError."""
    manifest = folder / "manifest.json"
    try:
        corpus = RawCorpus(folder=folder, **json.loads(manifest.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CorpusError(f"{manifest}: not found; run fetch first") from None
    except (ValueError, TypeError):
        raise CorpusError(f"{manifest}: not a manifest of fetch; run fetch again") from None
    for entry in corpus.files:
        path = folder / "texts" / entry["path"]
        if not path.is_file():
            raise CorpusError(f"{path}: missing since fetch; run fetch again")
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise CorpusError(f"{path}: changed since fetch; run fetch again")
    return corpus


def decoded_blocks(path: Path, errors: str) -> Iterator[str]:
    """A UTF-8 file's text in blocks, line ends untouched; raises CorpusError at the first bad byte.

    Only the first byte of a bad sequence is named: the offset is where the text stops being UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    with path.open("rb") as file:
        offset = 0
        while True:
            block = file.read(PIECE_CHARACTERS)
            waiting = len(decoder.getstate()[0])  # bytes of a character begun in the last block
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}: not UTF-8 at byte {offset - waiting + error.start}; "
                    "allowed: UTF-8 text, or corpus.errors: replace"
                ) from None
            if text:
                yield text
            if not block:
                return
            offset += len(block)


def document_pieces(blocks: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """One document's blocks as pieces of at least `size` characters, cut where a token ends."""
    pending, searched = "", 0
    for block in blocks:
        pending += block
        while match := _SAFE_CUT.search(pending, max(size, searched)):
            yield Piece(pending[: match.start()], ends_document=False)
            pending, searched = pending[match.start() :], 0
        searched = len(pending) - 2  # a cut near the end may show itself with the next block
    yield Piece(pending, ends_document=True)


def separated_pieces(blocks: Iterable[str], separator: str) -> Iterator[Piece]:
    """A file's documents, one piece each, without the separator and the newlines around it."""
    pending = ""
    for block in blocks:
        *documents, pending = (pending + block).split(separator)
        for document in documents:
            yield Piece(document.strip("\n"), ends_document=True)
    if last := pending.strip("\n"):
        yield Piece(last, ends_document=True)
