"""Raw text as a stream of pieces, so that a corpus of any size needs little memory.

`fetch` leaves a folder: manifest.json, which names the files in their order with their hashes,
and the files in texts/. A document (a file, or what stands between separators in one) comes as one
piece or several, cut where the patterns of this project's tokenizers, and of OpenAI's, start a new
token anyway: the tokens are those of the whole document. (A tokenizer from elsewhere, `file`, may
have a pattern that takes such a place within a token: then a long document has a boundary there.)
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.formats import TOKEN_LISTS, Decoding, decoded_blocks, documents
from pipeline.errors import CorpusError
from pipeline.storage import read_json, sha256_file

PIECE_CHARACTERS = 1 << 20

# Where every tokenizer's pattern (GPT-2's, GPT-4's, GPT-4o's) ends a token, whatever stands around:
# before a space behind something visible, as a token takes a space only as its first character or
# inside a run of whitespace; behind a single newline between two visible characters (but a slash:
# GPT-4o's takes it after newlines); and, for text without spaces, before plain punctuation behind a
# letter or digit. The letters are listed, as systems know different versions of Unicode.
_SAFE_CUT = re.compile(
    r"(?<=\S)(?= )|(?<=\S\n)(?=[^\s/])"
    r"|(?<=[0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
    r"(?=[.,;:!?\"()\[\]{}<>=+\-*\u3001\u3002\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f])"
)


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

    @property
    def holds_token_lists(self) -> bool:
        """Whether the files are .pt files of ids instead of text."""
        return any(entry["path"].lower().endswith(TOKEN_LISTS) for entry in self.files)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry["bytes"] for entry in self.files)

    def path(self, entry: dict[str, Any]) -> Path:
        """Where a file of `files` lies."""
        return self.folder / "texts" / str(entry["path"])

    def pieces(self, decoding: Decoding, text_field: str = "text") -> Iterator[Piece]:
        """Every document's text in order; a document without text comes as one empty piece."""
        for entry in self.files:
            path = self.path(entry)
            if self.separator is None:
                for blocks in documents(path, decoding, text_field):
                    yield from document_pieces(blocks)
            else:
                yield from separated_pieces(decoded_blocks(path, decoding), self.separator)


def open_corpus(folder: Path) -> RawCorpus:
    """Read what `fetch` left, and check that no file is missing or changed; raises CorpusError."""
    manifest = folder / "manifest.json"
    try:
        corpus = RawCorpus(
            folder=folder, **read_json(manifest, CorpusError, "run `dvc repro fetch`")
        )
    except TypeError:
        raise CorpusError(f"{manifest}: not a manifest of fetch; run `dvc repro fetch`") from None
    for entry in corpus.files:
        path = folder / "texts" / entry["path"]
        if not path.is_file():
            raise CorpusError(f"{path}: missing since fetch; run `dvc repro fetch`")
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise CorpusError(f"{path}: changed since fetch; run `dvc repro fetch`")
    return corpus


def document_pieces(blocks: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """One document's blocks as pieces of at least `size` characters, cut where a token ends."""
    pending, searched = "", 0
    for block in blocks:
        pending += block
        start = 0
        while match := _SAFE_CUT.search(pending, start + max(size, searched)):
            yield Piece(pending[start : match.start()], ends_document=False)
            start, searched = match.start(), 0
        pending = pending[start:]
        searched = len(pending) - 2  # a cut near the end may show itself with the next block
    yield Piece(pending, ends_document=True)


def separated_pieces(blocks: Iterable[str], separator: str) -> Iterator[Piece]:
    """A file's documents in pieces, without the separator and the newlines around it."""
    pending = ""
    for block in blocks:
        *whole, pending = (pending + block).split(separator)
        for document in whole:
            yield from document_pieces([document.strip("\n")])
    if last := pending.strip("\n"):
        yield from document_pieces([last])
