"""Small parts of Markdown: tables, figures, code, numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

SCORES = ("split", "loss (nats per token)", "perplexity", "bits per byte")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a column that holds nothing but numbers stands right."""
    numbers = [
        all(re.fullmatch(r"\**[-–+.,\d e±()]*\**", row[column]) for row in rows)
        for column in range(len(heads))
    ]
    rule = ["---:" if is_number else "---" for is_number in numbers]
    lines = [[cell.replace("|", r"\|") for cell in row] for row in (heads, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What metrics.json says of the held-out splits, under SCORES."""
    return [
        (
            split,
            f"{metrics[split]['loss']:.4f}",
            f"{metrics[split]['perplexity']:.2f}",
            f"{metrics[split]['bits_per_byte']:.4f}",
        )
        for split in ("val", "test")
        if split in metrics
    ]


def picture(path: str, shows: str) -> str:
    """The figure `path`.png, or where the reader has dark ground `path`-dark.png, as GitHub has it.

    shows: what stands in its place for those who do not see it.
    """
    dark = 'source media="(prefers-color-scheme: dark)"'
    return (
        f'<picture>\n  <{dark} srcset="{path}-dark.png">\n'
        f'  <img alt="{shows}" src="{path}.png">\n</picture>'
    )


def code(value: object) -> str:
    """A value in code type, on one line, whatever it holds."""
    text = str(value).replace("\n", "\\n")
    ticks = fence(text, 1)
    stripped = text.startswith(" ") and text.endswith(" ") and text.strip()
    room = " " if "`" in text or stripped or not text else ""  # CommonMark takes it away again
    return f"{ticks}{room}{text}{room}{ticks}"


def fence(text: str, least: int) -> str:
    """As many backticks as enclose a text that may hold some itself."""
    return "`" * max(least, *(len(run) + 1 for run in re.findall("`+", text)), 0)


def count(number: float, thing: str = "") -> str:
    """12345 -> 12,345; with a thing, 1 step or 2 steps."""
    return f"{int(number):,} {thing}{'s' * (number != 1)}" if thing else f"{int(number):,}"
