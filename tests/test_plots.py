"""Proves that the figures depend on the results alone, to the byte, and show what they claim."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from finished_run import metrics, write_run
from PIL import Image

from pipeline.reporting.plots import draw_figures, smoothed
from pipeline.reporting.results import read_results

DRAW = """
import hashlib
import json
from pipeline.reporting.plots import draw_figures
from pipeline.reporting.results import read_results
results = read_results()
figures = draw_figures(results, 0.9, 60)
print({name: hashlib.sha256(png).hexdigest() for name, png in figures.items()})
"""


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    results = read_results()
    return draw_figures(results, 0.9, 60)


def test_every_figure_is_a_png_of_the_asked_size(figures: dict[str, bytes]) -> None:
    names = {
        "loss",
        "learning_rate",
        "gradient_norm",
        "bits_per_byte",
        "loss_by_position",
        "tokens",
    }
    assert set(figures) == {f"{name}.png" for name in names}
    for png in figures.values():
        with Image.open(BytesIO(png)) as image:
            assert image.size == (8 * 60, 4 * 60)
            assert "Software" not in image.info


def test_bytes_are_the_same_in_another_process_with_other_matplotlib_settings(
    figures: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 23\nfigure.facecolor: red\n")
    seen = []
    for environment in ({}, {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}):
        run = subprocess.run(
            [sys.executable, "-c", DRAW],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environment},
        )
        seen.append(run.stdout)
    assert seen[0] == seen[1]
    results = read_results()
    again = draw_figures(results, 0.9, 60)
    assert again == figures


def test_drawing_leaves_the_callers_settings_alone(figures: dict[str, bytes]) -> None:
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]


def test_every_number_drawn_changes_the_figure(figures: dict[str, bytes]) -> None:
    results = read_results()
    other = metrics()
    other["test"]["bits_per_byte"] = 1.25  # type: ignore[index]
    other["train"]["best_step"] = 1250  # type: ignore[index]
    steeper = results.history.assign(
        lr=results.history["lr"] ** 2, grad_norm=results.history["grad_norm"] ** 2
    )
    bent = results.positions.assign(loss=results.positions["loss"] ** 2)
    rarer = json.loads(json.dumps(results.statistics).replace("1800", "1700"))
    altered = replace(results, history=steeper, positions=bent, metrics=other, statistics=rarer)
    changed = draw_figures(altered, 0.9, 60)
    assert all(changed[name] != figures[name] for name in figures)


def test_a_run_of_one_row_without_a_look_at_val_is_drawn(figures: dict[str, bytes]) -> None:
    results = read_results()
    row = results.history.iloc[:1].assign(val_loss=float("nan"))
    short = replace(results, history=row, positions=results.positions.iloc[:1])
    assert set(draw_figures(short, 0.0, 60)) == set(figures)


def test_without_a_test_split_the_figure_shows_val(figures: dict[str, bytes]) -> None:
    results = read_results()
    del results.metrics["test"]
    assert results.held_out == "val"
    assert draw_figures(results, 0.9, 60)["bits_per_byte.png"] != figures["bits_per_byte.png"]


def test_the_smoothed_curve_does_not_lag_behind_a_straight_line() -> None:
    line = pd.Series(range(101), dtype=float)
    middle = smoothed(line, 0.9).iloc[50]
    assert middle == pytest.approx(50)


def test_no_smoothing_gives_the_raw_values() -> None:
    values = pd.Series([3.0, 1.0, 2.0])
    assert list(smoothed(values, 0.0)) == list(values)
