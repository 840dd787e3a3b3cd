"""Proves that DVC's plots show the curves of a run, by step and by tokens, and open offline."""

import csv
import json
import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from fresh_project import enter_project
from test_page import asked
from tiny_project import run, set_params

from pipeline.__main__ import main

WHAT = ("Loss", "Perplexity", "Learning rate", "Gradient norm")
BY = ("step", "tokens")
OF_THE_STAGE = "reports/train.csv"  # the learning rate by step: the out's own plot


def shown(project: Path) -> dict[str, Any]:
    """Name -> Vega-Lite specification of every plot that DVC shows."""
    said = json.loads(run(project, "dvc", "plots", "show", "--json").stdout)
    assert "errors" not in said
    return {name: plot["content"] for name, (plot,) in said["data"].items()}


def test_every_curve_is_there_by_step_and_by_tokens(finished: Path) -> None:
    plots = shown(finished)
    names = {f"{what} by {x}" for what, x in product(WHAT, BY)} - {"Learning rate by step"}
    assert set(plots) == {*names, OF_THE_STAGE}
    titles = {plot["title"]["text"] for plot in plots.values()}
    assert len(titles) == len(WHAT) * len(BY)
    assert "Learning rate by step" in titles
    for plot in plots.values():
        assert "<DVC_METRIC" not in json.dumps(plot)
        assert len(plot["data"]["values"]) >= 20


def test_perplexity_is_e_to_the_val_loss_where_val_was_looked_at(finished: Path) -> None:
    scene = json.dumps(vl_convert.vegalite_to_scenegraph(shown(finished)["Perplexity by step"]))
    drawn = dict(re.findall(r"step: (\d+); perplexity: ([\d.]+)", scene))
    rows = csv.DictReader((finished / "reports/train.csv").read_text().splitlines())
    expected = {row["step"]: math.exp(float(row["val_loss"])) for row in rows if row["val_loss"]}
    assert {step: pytest.approx(float(value)) for step, value in drawn.items()} == expected


@pytest.fixture
def two_revisions(finished: Path) -> Path:
    """A finished project whose workspace differs from HEAD, with a page made on this machine."""
    set_params(finished, train__lr=1e-4)
    run(finished, "dvc", "repro", "-q", "train")
    run(finished, "python", "-m", "pipeline", "plots")
    return finished


@pytest.mark.slow
def test_a_diff_opens_offline_in_a_browser(two_revisions: Path, browser: Any) -> None:
    run(two_revisions, "dvc", "plots", "diff", "HEAD")
    assert run(two_revisions, "git", "status", "--porcelain", ".dvc").stdout == ""
    browser.get_log("performance")
    address = (two_revisions / "dvc_plots/index.html").as_uri()
    browser.get(address)
    drawn = "return document.querySelectorAll('canvas, svg.marks').length"
    assert browser.execute_script(drawn) == len(WHAT) * len(BY)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert asked(browser) == [address]


def test_outside_a_dvc_repository_it_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter_project(tmp_path, monkeypatch)
    assert main(["plots"]) == 1
    assert capsys.readouterr().err == "error: .dvc: not found; run from the project's top folder\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]
