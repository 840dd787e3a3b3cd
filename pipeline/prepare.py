"""prepare: split the text, train the tokenizer on the train split, write token files.

data/tokens/ holds {train,val,test}.bin (or .pt, or shards: corpus/token_file.py), tokenizer.json,
statistics.json (corpus/statistics.py) and meta.json:

    {"corpus": {"name", "source", "license", "sha256", "files", "documents", "bytes",
                "empty_documents", "replaced_characters"},
     "tokenizer": {"kind", "vocab_size", "eot_id", "sha256"},
     "format": "bin" or "pt",
     "splits": {"train": {"documents", "tokens", "bytes", "sha256"}, "val": ..., "test": ...}}

<|endoftext|> stands after each document, but where the whole corpus is one: there is nothing to
tell apart. A split's `documents` are those that end in it; its `bytes` are those of its text, where
<|endoftext|> has none: the denominator of bits per byte.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from pipeline.corpus.encode_lists import check_ids, encode_lists, split_lists
from pipeline.corpus.encoding import Encoded, Job, encoded, jobs, worker_count
from pipeline.corpus.formats import Decoding
from pipeline.corpus.new_tokenizers import (
    byte_tokenizer,
    char_tokenizer,
    tiktoken_tokenizer,
    train_bpe,
)
from pipeline.corpus.ranks import gpt2_merges, tiktoken_encoding
from pipeline.corpus.readers import Piece, RawCorpus, document_pieces, open_corpus
from pipeline.corpus.split_writer import SplitWriter
from pipeline.corpus.splits import (
    SPLITS,
    Survey,
    by_document,
    by_stream,
    check_documents,
    check_sizes,
    split_bounds,
    survey,
)
from pipeline.corpus.statistics import Statistics
from pipeline.corpus.token_lists import read_token_lists
from pipeline.corpus.tokenizers import Ids, Tokenizer, gpt2_tokenizer, utf8_length
from pipeline.errors import CorpusError
from pipeline.params import Params, PrepareParams, load_params
from pipeline.paths import GIVEN_TOKENIZER, RAW, TOKENIZER, TOKENS
from pipeline.processes import sigterm_as_ctrl_c
from pipeline.storage import put_in_place, scratch, write_json

# characters, at least: a trainer takes hundreds of pieces at a time, and Ctrl-C waits for them
TRAINED_AT_ONCE = 1 << 14


def prepare() -> None:
    """Turn data/raw into data/tokens: train, val and test tokens, tokenizer.json, meta.json.

    Example: python -m pipeline prepare
    """
    params = load_params()
    console = Console()
    corpus = open_corpus(RAW)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    rates = (TransferSpeedColumn(), TimeRemainingColumn())
    with (
        sigterm_as_ctrl_c(),
        Progress(
            *columns, *rates, console=console, transient=True, disable=not console.is_terminal
        ) as progress,
        scratch("prepare") as temporary,
    ):
        new = temporary / "tokens"
        write = _write_token_lists if corpus.holds_token_lists else _write_text
        meta = write(new, corpus, params, progress, console)
        write_json(new / "meta.json", meta)
        put_in_place(new, TOKENS)
    _print_summary(console, meta, params.prepare)


def _write_text(
    new: Path, corpus: RawCorpus, params: Params, progress: Progress, console: Console
) -> dict[str, Any]:
    settings = params.prepare
    fractions = settings.val_fraction, settings.test_fraction
    reader = _Reader(corpus, params, progress)
    found = survey(reader.pieces("reading"), settings.split_by, *fractions)
    if not found.text_bytes:
        raise CorpusError(f"{RAW}: every document is empty")
    reader.text_bytes, replaced = found.text_bytes, reader.decoding.replaced
    if settings.split_by == "document":
        check_documents(found.split_of, *fractions)
    bounds = split_bounds(found.text_bytes, *fractions) if settings.split_by == "stream" else {}

    def routed(doing: str) -> Iterator[tuple[str, Piece]]:
        pieces = reader.pieces(doing)
        return by_stream(pieces, bounds) if bounds else by_document(pieces, found.split_of)

    train_text = (
        part.text
        for split, piece in routed("tokenizer")
        if split == "train"
        for part in document_pieces([piece.text], TRAINED_AT_ONCE)
    )
    tokenizer = _make_tokenizer(settings, train_text)
    workers = worker_count(params.log.workers, found.text_bytes)
    started = time.perf_counter()
    work, end_documents = jobs(routed("tokens")), found.documents > 1
    if params.log.scheduler is None:
        by = f"{workers} process{'es' * (workers > 1)}"
        results = encoded(tokenizer, work, end_documents, workers)
    else:
        by = params.log.scheduler
        results = _by_cluster(tokenizer, work, end_documents, params.log.scheduler)
    splits = _write_splits(new, results, tokenizer, settings)
    check_sizes({split: counts["bytes"] for split, counts in splits.items()}, *fractions)
    seconds = time.perf_counter() - started
    megabytes = found.text_bytes / 1e6
    tokens = sum(split["tokens"] for split in splits.values())
    console.print(
        f"tokenized {megabytes:,.1f} MB in {seconds:.1f} s: {megabytes / seconds:,.1f} MB/s, "
        f"{tokens / 1e6 / seconds:,.2f} million tokens/s, "
        f"{by}",
        highlight=False,
    )
    return _meta(corpus, found, replaced, tokenizer, settings.format, splits)


def _by_cluster(
    tokenizer: Tokenizer, work: Iterable[Job], end_documents: bool, scheduler: str
) -> Iterator[Encoded]:
    try:
        from pipeline.corpus.cluster import encoded_by_cluster
    except ModuleNotFoundError as error:
        raise CorpusError(
            f"log.scheduler: found {scheduler}, but {error.name} is not installed; "
            'allowed: null, or pip install -c constraints.txt -e ".[cluster]"'
        ) from None
    return encoded_by_cluster(tokenizer, work, end_documents, scheduler)


def _write_token_lists(
    new: Path, corpus: RawCorpus, params: Params, progress: Progress, console: Console
) -> dict[str, Any]:
    settings = params.prepare
    if settings.tokenizer in ("bpe", "char"):
        raise CorpusError(
            f"prepare.tokenizer: found {settings.tokenizer!r}, which is made from text, and the "
            "corpus holds token lists; allowed: byte, file, or one of tiktoken's whose ids they are"
        )
    tokenizer = _make_tokenizer(settings, [])
    documents: list[Ids] = []
    for entry in corpus.files:
        path = corpus.path(entry)
        new_documents = read_token_lists(path)
        check_ids(new_documents, path, tokenizer)
        documents += new_documents
    with_ids = sum(len(ids) > 0 for ids in documents)
    if not with_ids:
        raise CorpusError(f"{RAW}: every document is empty")
    fractions = settings.val_fraction, settings.test_fraction
    parts = split_lists(documents, settings.split_by, *fractions, tokenizer.eot_id)
    results = encode_lists(parts, tokenizer, with_ids > 1)
    splits = _write_splits(new, results, tokenizer, settings)
    check_sizes({split: counts["bytes"] for split, counts in splits.items()}, *fractions)
    text_bytes = sum(split["bytes"] for split in splits.values())
    found = Survey(text_bytes, with_ids, len(documents) - with_ids)
    return _meta(corpus, found, 0, tokenizer, settings.format, splits)


class _Reader:
    """The corpus' pieces, once for each pass, with progress."""

    def __init__(self, corpus: RawCorpus, params: Params, progress: Progress) -> None:
        self._corpus, self._progress = corpus, progress
        self._text_field = params.corpus.text_field
        self.decoding = Decoding(params.corpus.errors)
        self.text_bytes = corpus.bytes  # until the first pass has counted the text itself

    def pieces(self, doing: str) -> Iterator[Piece]:
        task = self._progress.add_task(doing, total=self.text_bytes)
        for piece in self._corpus.pieces(self.decoding, self._text_field):
            yield piece
            self._progress.advance(task, utf8_length(piece.text))


def _make_tokenizer(settings: PrepareParams, train_text: Iterable[str]) -> Tokenizer:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "gpt2": lambda: gpt2_tokenizer(gpt2_merges()),
        "r50k_base": lambda: gpt2_tokenizer(gpt2_merges(), "r50k_base"),
        "byte": byte_tokenizer,
        "char": lambda: char_tokenizer(train_text),
        "bpe": lambda: train_bpe(train_text, settings.vocab_size),
        "file": _given_tokenizer,
    }
    if settings.tokenizer in makers:
        return makers[settings.tokenizer]()
    return tiktoken_tokenizer(tiktoken_encoding(settings.tokenizer))


def _given_tokenizer() -> Tokenizer:
    from pipeline.corpus.hf import read_tokenizer  # slow to import, and needed here only

    allowed = f"an earlier run's {TOKENIZER}, or Hugging Face's"
    return read_tokenizer(GIVEN_TOKENIZER, f"allowed with prepare.tokenizer: file: {allowed}")


def _write_splits(
    folder: Path, results: Iterable[Encoded], tokenizer: Tokenizer, settings: PrepareParams
) -> dict[str, Any]:
    """Write the token files, tokenizer.json and statistics.json; what meta.json says of them."""
    tokenizer.save(folder / "tokenizer.json")
    statistics = Statistics(tokenizer)
    counts = {split: {"documents": 0, "tokens": 0, "bytes": 0} for split in SPLITS}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                SplitWriter(folder, split, settings.format, tokenizer, settings.shard_tokens)
            )
            for split in SPLITS
        }
        for result in results:
            writers[result.split].append(result.ids)
            counts[result.split]["bytes"] += result.bytes
            counts[result.split]["documents"] += sum(result.ends)
            statistics.add(result)
        splits = {split: {**counts[split], **writers[split].finish()} for split in SPLITS}
    write_json(folder / "statistics.json", statistics.to_json())
    return splits


def _meta(
    corpus: RawCorpus,
    found: Survey,
    replaced: int,
    tokenizer: Tokenizer,
    suffix: str,
    splits: dict[str, Any],
) -> dict[str, Any]:
    return {
        "corpus": {
            "name": corpus.name,
            "source": corpus.source,
            "license": corpus.license,
            "sha256": corpus.sha256,
            "files": len(corpus.files),
            "documents": found.documents,
            "bytes": found.text_bytes,
            "empty_documents": found.empty_documents,
            "replaced_characters": replaced,
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


def splits_table(meta: dict[str, Any]) -> Table:
    """What meta.json says of the splits."""
    corpus, tokenizer = meta["corpus"], meta["tokenizer"]
    title = f"{corpus['name']}, {tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens"
    if corpus["empty_documents"]:
        title += f"; {corpus['empty_documents']} empty documents left out"
    table = Table("split", title=title)
    for heading in ("documents ended", "bytes", "tokens", "bytes/token"):
        table.add_column(heading, justify="right")
    for split, counts in meta["splits"].items():
        rate = f"{counts['bytes'] / counts['tokens']:.3f}" if counts["tokens"] else "-"
        numbers = (f"{counts[key]:,}" for key in ("documents", "bytes", "tokens"))
        table.add_row(split, *numbers, rate)
    return table


def _print_summary(console: Console, meta: dict[str, Any], settings: PrepareParams) -> None:
    corpus, tokenizer = meta["corpus"], meta["tokenizer"]
    console.print(splits_table(meta))
    if corpus["replaced_characters"]:
        console.print(f"replaced: {corpus['replaced_characters']:,} characters that are not UTF-8")
    if settings.tokenizer == "bpe" and tokenizer["vocab_size"] < settings.vocab_size:
        console.print(
            f"prepare.vocab_size: {settings.vocab_size:,} asked for; the train split has "
            f"pairs to merge for {tokenizer['vocab_size']:,} only"
        )
