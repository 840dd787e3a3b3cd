"""reports/report.html: everything on one page; alone it lacks only what its two links lead to.

The numbers are those of the README's sections, in the same digits; figures and the tables of
recorded sweeps (reports/sweeps/NAME.md) stand inside it.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from pipeline.errors import ReportError
from pipeline.paths import REPORTS, SWEEPS
from pipeline.reporting.markdown import code, count, table
from pipeline.reporting.plots import CAPTIONS, shown_token
from pipeline.reporting.results import Results
from pipeline.reporting.stages import Stage
from pipeline.training.samples import sample_heading, visible

TEMPLATE = Path(__file__).with_name("page.html.j2")
HEADINGS = {
    "figures": "Figures",
    "metrics": "Metrics",
    "samples": "Samples",
    "sweeps": "Sweeps",
    "data": "Data",
    "configuration": "Configuration",
    "log": "Log",
    "lineage": "Lineage",
    "reproduce": "How to reproduce",
}
MOST_FREQUENT = 10  # tokens shown


def report_page(
    results: Results,
    stages: Sequence[Stage],
    settings: dict[str, dict[str, Any]],
    sections: Mapping[str, str],
    figures: Mapping[str, bytes],
) -> str:
    """The page. sections: those of `readme_sections`, with links from reports/ on; figures: PNGs
    by file name.

    Raises ReportError where a sweep's page names a figure that is not there.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = lambda text: to_html(text, REPORTS)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    model, corpus = results.run["model"], results.meta["corpus"]
    sweeps = _sweeps()
    return template.render(
        title=f"{corpus['name']}: a {model['architecture']} model of "
        f"{count(model['parameters'], 'parameter')}",
        headings={name: text for name, text in HEADINGS.items() if name != "sweeps" or sweeps},
        summary=sections["SUMMARY"],
        tiles=_tiles(results),
        figures=[
            _picture(figures[f"{name}.png"], figures[f"{name}-dark.png"], shows)
            for name, shows in CAPTIONS.items()
        ],
        metrics=sections["METRICS"],
        prompt=json.dumps(results.generated[0]["prompt"], ensure_ascii=False),
        samples=[(_settings_of(sample), visible(sample["text"])) for sample in results.generated],
        strategies=[(each["strategy"], visible(each["text"])) for each in results.strategies],
        strategy_tokens=results.strategies[0]["most_tokens"],
        on_the_way=[
            (sample_heading(sample), visible(sample["text"]).strip("\n"))
            for sample in results.run["samples"]
        ],
        sweeps=sweeps,
        corpus=[
            (name.replace("_", " "), _readable(value))
            for name, value in corpus.items()
            if value is not None
        ],
        splits=_splits(results.meta["splits"]),
        frequent=_frequent(results),
        settings={
            section: [(key, json.dumps(value, ensure_ascii=False)) for key, value in keys.items()]
            for section, keys in settings.items()
        },
        log=sections["LOGS"],
        stages=_stages(stages),
        lineage=sections["PROVENANCE"],
        traced=f"{results.held_out}.perplexity",
    )


def to_html(text: str, folder: Path) -> Markup:
    """Markdown as HTML; any HTML in it is text. Images are read from `folder` and stand inside."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(tokens: Any, index: int, options: Any, environment: Any) -> str:
        token = tokens[index]
        path = folder / str(token.attrs["src"])
        dark = path.with_name(f"{path.stem}-dark{path.suffix}")
        if not path.is_file():
            raise ReportError(f"{path}: not found, but a page in {folder} shows it")
        light = path.read_bytes()
        return _picture(light, dark.read_bytes() if dark.is_file() else light, token.content)

    def table_open(tokens: Any, index: int, options: Any, environment: Any) -> str:
        """One that is too wide is scrolled alone, by its keys too: a region that has a name."""
        head = takewhile(lambda token: token.type != "thead_close", tokens[index:])
        names = ["".join(part.content for part in token.children or ()) for token in head]
        label = escape(f"Table: {', '.join(filter(None, names))}")
        return f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>\n'

    markdown.renderer.rules["image"] = image  # type: ignore[attr-defined]
    markdown.renderer.rules["table_open"] = table_open  # type: ignore[attr-defined]
    return Markup(markdown.render(text).replace("</table>", "</table></div>"))


def _picture(light: bytes, dark: bytes, shows: str) -> Markup:
    source = ""
    if dark != light:
        media = "screen and (prefers-color-scheme: dark)"
        source = f'<source media="{media}" srcset="{_data_uri(dark)}">'
    return Markup(
        f'<picture>{source}<img alt="{escape(shows)}" src="{_data_uri(light)}"></picture>'
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def _sweeps() -> list[Markup]:
    """The pages of the recorded sweeps, their headings two levels below this page's own."""
    pages = [page for page in sorted(SWEEPS.glob("*.md")) if page.with_suffix(".json").is_file()]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    return [to_html(re.sub(r"^#", "###", text, flags=re.MULTILINE), SWEEPS) for text in texts]


def _tiles(results: Results) -> list[tuple[str, str]]:
    held_out, train = results.metrics[results.held_out], results.metrics["train"]
    return [
        (f"bits per byte, {results.held_out}", f"{held_out['bits_per_byte']:.4f}"),
        (f"perplexity, {results.held_out}", f"{held_out['perplexity']:.2f}"),
        ("best val loss in training", f"{train['best_val_loss']:.4f}"),
        ("parameters", count(train["parameters"])),
        ("steps", count(train["steps"])),
        ("tokens seen", count(train["tokens"])),
    ]


def _settings_of(sample: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sample["settings"].items())


def _readable(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _splits(splits: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            count(split["documents"]),
            count(split["tokens"]),
            count(split["bytes"]),
            f"{split['bytes'] / split['tokens']:.2f}" if split["tokens"] else "",
        )
        for name, split in splits.items()
    ]
    return table(("split", "documents ended", "tokens", "bytes", "bytes a token"), rows)


def _frequent(results: Results) -> str:
    most = results.statistics["frequent"][:MOST_FREQUENT]
    total = results.meta["splits"]["train"]["tokens"]
    rows = [
        (code(shown_token(text)), count(times), f"{times / total:.2%}") for text, _, times in most
    ]
    return table(("frequent tokens of train", "times", "share"), rows)


def _stages(stages: Sequence[Stage]) -> str:
    rows = [
        (stage.name, ", ".join(map(code, stage.params)), count(len(stage.code), "file"))
        for stage in stages
    ]
    return table(("stage", "settings", "code"), rows)
