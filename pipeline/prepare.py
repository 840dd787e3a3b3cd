"""prepare: split the text, train the tokenizer on the train split, write token files.

data/tokens/ holds {train,val,test}.bin (or .pt), tokenizer.json and meta.json:

    {"corpus": {"name", "source", "license", "sha256", "files", "documents", "bytes",
                "empty_documents"},
     "tokenizer": {"kind", "vocab_size", "eot_id", "sha256"},
     "format": "bin" or "pt",
     "splits": {"train": {"documents", "tokens", "bytes", "sha256"}, "val": ..., "test": ...}}

<|endoftext|> stands after each document. A split's `documents` are those that end in it; its
`bytes` are those of its text, where <|endoftext|> has none: the denominator of bits per byte.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pipeline.corpus.ranks import gpt2_merges
from pipeline.corpus.readers import Piece, RawCorpus, open_corpus
from pipeline.corpus.splits import (
    SPLITS,
    Survey,
    split_bounds,
    survey,
    text_between,
    utf8_length,
)
from pipeline.corpus.token_file import write_tokens
from pipeline.corpus.tokenizers import (
    Ids,
    Tokenizer,
    byte_tokenizer,
    char_tokenizer,
    gpt2_tokenizer,
    train_bpe,
)
from pipeline.errors import CorpusError, TokenFileError
from pipeline.params import PrepareParams, load_params
from pipeline.storage import write_json

RAW = Path("data/raw")
TOKENS = Path("data/tokens")
CACHE = Path(".cache")


def prepare() -> None:
    """Turn data/raw into data/tokens: train, val and test tokens, tokenizer.json, meta.json.

    Example: python -m pipeline prepare
    """
    params = load_params()
    console = Console()
    corpus = open_corpus(RAW)
    CACHE.mkdir(exist_ok=True)
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        tempfile.TemporaryDirectory(dir=CACHE, prefix="prepare-") as temporary,
    ):
        reader = _Reader(corpus, params.corpus.errors, progress)
        found = survey(reader.pieces("reading"))
        if not found.bytes:
            raise CorpusError(f"{RAW}: every document is empty")
        settings = params.prepare
        bounds = split_bounds(found.bytes, settings.val_fraction, settings.test_fraction)
        tokenizer = _make_tokenizer(settings, reader, bounds["train"])
        new = Path(temporary, "tokens")
        try:
            tokenizer.save(new / "tokenizer.json")
            splits = {
                split: _write_split(new, split, bounds[split], settings.format, tokenizer, reader)
                for split in SPLITS
            }
            meta = _meta(corpus, found, tokenizer, settings.format, splits)
            write_json(new / "meta.json", meta)
            if TOKENS.exists():
                shutil.rmtree(TOKENS)
            shutil.move(new, TOKENS)
        except OSError as error:
            raise TokenFileError(
                f"{TOKENS}: cannot be written: {error.strerror or error}"
            ) from None
    _print_summary(console, meta, settings)


class _Reader:
    """The corpus' pieces, once for each pass, with progress."""

    def __init__(self, corpus: RawCorpus, errors: str, progress: Progress) -> None:
        self._corpus, self._errors, self._progress = corpus, errors, progress
        self._bytes = sum(entry["bytes"] for entry in corpus.files)

    def pieces(self, doing: str) -> Iterator[Piece]:
        task = self._progress.add_task(doing, total=self._bytes)
        for piece in self._corpus.pieces(self._errors):
            yield piece
            self._progress.advance(task, utf8_length(piece.text))


def _make_tokenizer(
    settings: PrepareParams, reader: _Reader, train_bounds: tuple[int, int]
) -> Tokenizer:
    if settings.tokenizer == "gpt2":
        return gpt2_tokenizer(gpt2_merges())
    if settings.tokenizer == "byte":
        return byte_tokenizer()
    texts = (piece.text for piece in text_between(reader.pieces("tokenizer"), *train_bounds))
    if settings.tokenizer == "char":
        return char_tokenizer(texts)
    return train_bpe(texts, settings.vocab_size)


def _write_split(
    folder: Path,
    split: str,
    bounds: tuple[int, int],
    suffix: str,
    tokenizer: Tokenizer,
    reader: _Reader,
) -> dict[str, Any]:
    counts = {"documents": 0, "bytes": 0}

    def ids() -> Iterator[Ids]:
        for piece in text_between(reader.pieces(split), *bounds):
            yield tokenizer.encode(piece.text)
            if piece.ends_document:
                yield np.array([tokenizer.eot_id])
            counts["bytes"] += utf8_length(piece.text)
            counts["documents"] += piece.ends_document

    written = write_tokens(
        folder / f"{split}.{suffix}",
        ids(),
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    )
    return {
        "documents": counts["documents"],
        "tokens": written.tokens,
        "bytes": counts["bytes"],
        "sha256": written.sha256,
    }


def _meta(
    corpus: RawCorpus, found: Survey, tokenizer: Tokenizer, suffix: str, splits: dict[str, Any]
) -> dict[str, Any]:
    return {
        "corpus": {
            "name": corpus.name,
            "source": corpus.source,
            "license": corpus.license,
            "sha256": corpus.sha256,
            "files": len(corpus.files),
            "documents": found.documents,
            "bytes": found.bytes,
            "empty_documents": found.empty_documents,
        },
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "eot_id": tokenizer.eot_id,
            "sha256": tokenizer.sha256,
        },
        "format": suffix,
        "splits": splits,
    }


def _print_summary(console: Console, meta: dict[str, Any], settings: PrepareParams) -> None:
    corpus, tokenizer = meta["corpus"], meta["tokenizer"]
    table = Table(
        title=f"{corpus['name']}, {tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens"
    )
    table.add_column("split")
    for heading in ("documents", "bytes", "tokens", "bytes/token"):
        table.add_column(heading, justify="right")
    for split, counts in meta["splits"].items():
        rate = f"{counts['bytes'] / counts['tokens']:.3f}" if counts["tokens"] else "-"
        numbers = (f"{counts[key]:,}" for key in ("documents", "bytes", "tokens"))
        table.add_row(split, *numbers, rate)
    console.print(table)
    if corpus["empty_documents"]:
        console.print(f"left out: {corpus['empty_documents']} empty documents")
    if tokenizer["kind"] == "bpe" and tokenizer["vocab_size"] < settings.vocab_size:
        console.print(
            f"prepare.vocab_size: {settings.vocab_size:,} asked for; the train split has "
            f"pairs to merge for {tokenizer['vocab_size']:,} only"
        )
