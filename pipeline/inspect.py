"""Command inspect: what data/tokens holds, for a person to look at before training."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.corpus import tokenizers
from pipeline.corpus.duplicates import WINDOW, equal_documents, repeated_windows
from pipeline.corpus.splits import SPLITS
from pipeline.corpus.token_file import load_split, read_meta
from pipeline.corpus.token_stream import TokenStream
from pipeline.errors import TokenFileError
from pipeline.params import load_params
from pipeline.paths import STATISTICS, TOKENIZER, TOKENS
from pipeline.prepare import splits_table
from pipeline.randomness import seed_for
from pipeline.storage import read_json
from pipeline.training.samples import visible


def inspect(
    windows: Annotated[int, typer.Option(min=0, help="Windows of each split to show.")] = 2,
    length: Annotated[int, typer.Option(min=1, help="Tokens in a window.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same windows.")] = 1337,
) -> None:
    """Show what prepare made: counts, lengths, frequent tokens, duplicates, pieces of the text.

    Example: python -m pipeline inspect --windows 3
    """
    load_params()  # as every command: what is wrong there is said first
    meta = read_meta(TOKENS)
    tokenizer = tokenizers.load(TOKENIZER)
    statistics = read_json(STATISTICS, TokenFileError, "run `dvc repro prepare`")
    splits = {split: load_split(TOKENS, split).tokens for split in SPLITS}
    console = Console(highlight=False)
    console.print(splits_table(meta))
    console.print(_lengths(statistics["document_tokens"]))
    console.print(_frequent(statistics["frequent"], meta["splits"]["train"]["tokens"]))
    console.print(_duplicates(splits, tokenizer.eot_id))
    for split, tokens in splits.items():
        for number in range(windows if len(tokens) else 0):
            start = seed_for(seed, f"inspect {split}", number) % max(1, len(tokens) - length)
            text = tokenizer.decode(tokens[start : start + length].tolist())
            end = min(start + length, len(tokens))
            console.rule(f"{split}, tokens {start:,} to {end - 1:,}", align="left")
            console.print(Text(visible(text)), soft_wrap=True)


def _lengths(document_tokens: dict[str, dict[str, int]]) -> Table:
    table = Table("tokens of a document", title="Documents by length")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for low in sorted({int(low) for lengths in document_tokens.values() for low in lengths}):
        counts = (document_tokens[split].get(str(low), 0) for split in SPLITS)
        table.add_row(f"{low:,} to {2 * low - 1:,}", *map(str, counts))
    return table


def _frequent(frequent: list[tuple[str, int, int]], tokens: int) -> Table:
    table = Table("token", title="Most frequent tokens of train")
    for heading in ("id", "times", "share"):
        table.add_column(heading, justify="right")
    for text, token_id, count in frequent:
        table.add_row(Text(repr(text)), str(token_id), f"{count:,}", f"{count / tokens:.2%}")
    return table


def _duplicates(splits: dict[str, TokenStream], eot_id: int) -> Table:
    table = Table("in", "and in", title="What stands in two splits")
    table.add_column("whole documents", justify="right")
    table.add_column(f"windows of {WINDOW} tokens", justify="right")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        documents = equal_documents(splits[first], splits[second], eot_id)
        found, windows = repeated_windows(splits[first], splits[second])
        share = f"{found:,} of {windows:,}" + (f" ({found / windows:.2%})" if windows else "")
        table.add_row(first, second, str(documents), share)
    return table
