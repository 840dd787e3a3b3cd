"""Proves that report.html is one file that says what the results say, and needs nothing else.

PAGE_SCREENSHOTS=FOLDER keeps pictures of it, as a phone and as a desktop show it.
"""

import json
import os
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from finished_run import META, RUN, metrics, write_run
from tiny_project import run

from pipeline.errors import ReportError
from pipeline.reporting.page import report_page, to_html
from pipeline.reporting.plots import CAPTIONS
from pipeline.reporting.results import read_results
from pipeline.reporting.sections import readme_sections
from pipeline.reporting.stages import Stage

PNG = b"\x89PNG light"
DARK = b"\x89PNG dark"
STAGES = [Stage("train", ("pipeline/train.py",), ("model", "train"))]
PROVENANCE: dict[str, Any] = {
    "corpus": META["corpus"],
    "tokens": {key: META[key] for key in ("tokenizer", "format", "splits")},
    "parameters": {"train": "e" * 64},
    "stages": {"train": {"code": "f" * 64, "files": ["pipeline/train.py"]}},
    "checkpoints": {"best.pt": "0" * 64},
    "platform": RUN["runtime"],
    "evaluated_on": {**RUN["runtime"], "precision": "fp32"},
    "figures": {"matplotlib": "3.10.9"},
}
SWEEP = """# Sweep rates

| run | train.lr | bits per byte |
| --- | ---: | ---: |
| **calm-owl** | 1e-3 | **1.8123** |

## Over seeds

<script>alert(1)</script>

![Val loss of each run](rates/loss.png)
"""


class Page(HTMLParser):
    """What a page asks for, and its text; fails on an element that is closed twice or not."""

    VOID = frozenset({"meta", "link", "img", "source", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asks: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.asks += [v for name in ("src", "srcset", "href") if (v := values.get(name))]
        assert tag != "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_run(tmp_path)
    (tmp_path / "reports/sweeps/rates").mkdir(parents=True)
    (tmp_path / "reports/sweeps/README.md").write_text("not a sweep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page() -> str:
    results = read_results()
    figures = {
        f"{name}{dark}.png": DARK if dark else PNG for name in CAPTIONS for dark in ("", "-dark")
    }
    sections = readme_sections(results, PROVENANCE, reports="")
    settings = {"train": {"lr": 3e-3, "sample_prompt": "<i>\n"}}
    return report_page(results, STAGES, settings, sections, figures)


def test_it_asks_for_nothing_but_what_it_holds(folder: Path) -> None:
    asks = Page(page()).asks
    assert sum(ask.startswith("data:image/png;base64,") for ask in asks) == 2 * len(CAPTIONS)
    links = {ask for ask in asks if not ask.startswith("data:")}
    assert links - {"train.csv", "provenance.json"} == {ask for ask in links if ask[0] == "#"}
    assert "url(" not in page()


def test_every_figure_is_there_on_both_grounds_with_words_for_it(folder: Path) -> None:
    text = page()
    for shows in CAPTIONS.values():
        assert f'<img alt="{shows}"' in text
    uris = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert {b64decode(uri) for uri in uris} == {PNG, DARK}


def test_every_number_of_the_metrics_is_on_it(folder: Path) -> None:
    text = Page(page()).text
    for split in ("val", "test"):
        values = metrics()[split]
        assert isinstance(values, dict)
        for name, digits in (("loss", 4), ("perplexity", 2), ("bits_per_byte", 4)):
            assert f"{values[name]:.{digits}f}" in text
    for part in ("greedy", "top-p 0.9", "What say you?", "d" * 64, "AVX512", "e" * 64, "1,371,000"):
        assert part in text


def test_what_a_model_wrote_stays_text(folder: Path) -> None:
    assert "And the &lt;b&gt;world&lt;/b&gt;." in page()
    assert "&lt;i&gt;" in page()


def test_a_recorded_sweep_is_on_it_with_its_figures(folder: Path) -> None:
    assert 'id="sweeps"' not in page()
    Path("reports/sweeps/rates.md").write_text(SWEEP)
    Path("reports/sweeps/rates.json").write_text("{}")
    Path("reports/sweeps/rates/loss.png").write_bytes(b"\x89PNG sweep")
    Path("reports/sweeps/rates/loss-dark.png").write_bytes(b"\x89PNG sweep, dark")
    text = page()
    seen = Page(text)
    assert 'id="sweeps"' in text
    assert "<h3>Sweep rates</h3>" in text
    assert "<strong>1.8123</strong>" in text
    assert "<script>alert(1)</script>" in seen.text
    held = {b64decode(ask.split(",")[1]) for ask in seen.asks if ask.startswith("data:image/png")}
    assert held == {PNG, DARK, b"\x89PNG sweep", b"\x89PNG sweep, dark"}


def test_a_sweeps_missing_figure_is_an_error_of_one_line(folder: Path) -> None:
    Path("reports/sweeps/rates.md").write_text(SWEEP)
    Path("reports/sweeps/rates.json").write_text("{}")
    with pytest.raises(ReportError, match=r"^reports/sweeps/rates/loss\.png: not found"):
        page()


def test_a_missing_input_is_an_error_of_one_line(folder: Path) -> None:
    for name in ("tokens.json", "strategies.json", "generated.json", "positions.csv"):
        path = Path("data/evaluation", name)
        held = path.read_bytes()
        path.unlink()
        with pytest.raises(ReportError, match=rf"^data/evaluation/{name}: not found; run `dvc"):
            page()
        path.write_bytes(held)


def test_what_may_be_wider_than_the_screen_is_reached_by_keys_and_has_a_name(folder: Path) -> None:
    text = to_html("| `n_<` | bits per byte |\n| --- | ---: |\n| 2 | 1.8 |\n", Path())
    label = "Table: n_&lt;, bits per byte"
    assert f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>' in text
    assert page().count('<div class="wide" tabindex="0"') == page().count('class="wide"') > 5


def test_what_a_model_wrote_runs_in_its_own_direction(folder: Path) -> None:
    *wrote, how_to = re.findall(r"<pre[^>]*>", page())
    assert set(wrote) == {'<pre dir="auto">'}
    assert how_to == "<pre>"


def test_html_in_markdown_is_text() -> None:
    assert "&lt;img" in to_html("<img src=x>", Path())


@pytest.mark.slow
def test_a_recorded_sweep_makes_the_report_due_and_nothing_else(finished: Path) -> None:
    (finished / "reports/sweeps/rates.json").write_text("{}")
    (finished / "reports/sweeps/rates.md").write_text("# Sweep rates\n\nNone won.\n")
    assert [*json.loads(run(finished, "dvc", "status", "--json").stdout)] == ["report"]
    run(finished, "dvc", "repro", "-q")
    assert "<h3>Sweep rates</h3>" in (finished / "reports/report.html").read_text(encoding="utf-8")
    run(finished, "python", "-m", "pipeline", "report", "--check")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("phone", 390, "dark"), ("desktop", 1280, "light")]
)
def test_a_browser_shows_it_without_a_request_an_error_or_a_sideways_scroll(
    finished: Path, browser: Any, name: str, width: int, scheme: str
) -> None:
    name_of_run = "rates-architecture=modern-lr=0.01-weight_decay=0.1-seed=1"
    row = f"| `modern` | 0.01 | 2.6158 ± 0.0311 | 161.38 | `{name_of_run}` |"
    table = (
        "| `architecture` | `lr` | val bits per byte | perplexity | run |\n"
        f"| --- | ---: | ---: | ---: | --- |\n{row}"
    )
    (finished / "reports/sweeps/rates.json").write_text("{}")
    (finished / "reports/sweeps/rates.md").write_text(f"# Sweep rates\n\n{table}\n", "utf-8")
    run(finished, "dvc", "repro", "-q")
    browser.get_log("performance")  # what the browser's own first page asked for
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    address = (finished / "reports/report.html").as_uri()
    browser.get(address)

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    too_wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    names = browser.execute_script(f"return {too_wide}.map(e => e.getAttribute('aria-label'))")
    assert all(width < 500 and name.endswith(", run") for name in names)  # the sweep's alone
    rows = "[...document.querySelectorAll('.sweep tbody tr')].map(row => row.offsetHeight)"
    assert 0 < browser.execute_script(f"return Math.max(...{rows})") < 60  # one or two lines
    shown = "return [...document.images].map(i => i.complete && i.naturalWidth)"
    assert set(browser.execute_script(shown)) == {8 * 50}  # all of them drawn
    assert browser.get_log("browser") == []
    assert asked(browser) == [address]
    if folder := os.environ.get("PAGE_SCREENSHOTS"):
        height = browser.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        Path(folder, f"{name}.png").write_bytes(b64decode(picture["data"]))
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert b64decode(printed["data"]).startswith(b"%PDF")


def asked(browser: Any) -> list[str]:
    """The addresses that were asked for, but for what stands in the page itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith(("data:", "chrome:"))]
