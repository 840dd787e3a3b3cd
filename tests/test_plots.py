"""Proves that the figures depend on the results alone, to the byte, and show what they claim."""

import copy
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from finished_run import metrics, write_run
from PIL import Image

from pipeline.reporting.plots import CAPTIONS, FITTED_POINTS, draw_figures, shown_token, smoothed
from pipeline.reporting.results import read_results

DRAW = """
import hashlib
import json
from pipeline.reporting.plots import draw_figures
from pipeline.reporting.results import read_results
results = read_results()
figures = draw_figures(results, 0.2, 60)
print({name: hashlib.sha256(png).hexdigest() for name, png in figures.items()})
"""


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    results = read_results()
    return draw_figures(results, 0.2, 60)


def test_every_figure_is_a_png_of_the_asked_size_on_light_ground_and_on_dark(
    figures: dict[str, bytes],
) -> None:
    assert set(figures) == {f"{name}{dark}.png" for name in CAPTIONS for dark in ("", "-dark")}
    for name, png in figures.items():
        with Image.open(BytesIO(png)) as image:
            assert image.size == (8 * 60, 4 * 60)
            assert "Software" not in image.info
            corner = image.convert("L").getpixel((1, 1))
            assert isinstance(corner, int)
            assert (corner < 40) == name.endswith("-dark.png")


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
    again = draw_figures(results, 0.2, 60)
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
    tokens = json.loads(json.dumps(results.tokens).replace("1025", "1026"))
    altered = replace(
        results,
        history=steeper,
        positions=bent,
        tokens=tokens,
        metrics=other,
        statistics=rarer,
    )
    changed = draw_figures(altered, 0.2, 60)
    assert all(changed[name] != figures[name] for name in figures)


def test_a_run_of_one_row_without_a_look_at_val_is_drawn(figures: dict[str, bytes]) -> None:
    results = read_results()
    row = results.history.iloc[:1].assign(val_loss=float("nan"))
    short = replace(results, history=row, positions=results.positions.iloc[:1])
    drawn = draw_figures(short, 0.0, 60)
    assert set(drawn) == set(figures)
    for name in ("loss", "learning_rate", "gradient_norm", "loss_by_position"):
        assert blue(drawn[f"{name}.png"]) > 20, name  # a line of one point would have no ink


def test_a_gradient_norm_of_nought_is_drawn(
    figures: dict[str, bytes], recwarn: pytest.WarningsRecorder
) -> None:
    results = read_results()
    still = replace(results, history=results.history.assign(grad_norm=0.0))
    assert draw_figures(still, 0.2, 60)
    assert not recwarn.list


def test_a_long_token_leaves_room_for_its_bar(figures: dict[str, bytes]) -> None:
    results = read_results()
    tokens = copy.deepcopy(results.tokens)
    plain = blue(figures["loss_by_token.png"])
    tokens["easiest"][0]["text"] = "=" * 120
    assert blue(draw_figures(replace(results, tokens=tokens), 0.2, 60)["loss_by_token.png"]) > (
        plain * 0.5
    )


def blue(png: bytes) -> int:
    """How many of a picture's pixels are clearly blue."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=int)  # (H, W, 3)
    return int((pixels[:, :, 2] - pixels[:, :, 0] > 75).sum())


def test_without_a_test_split_the_figure_shows_val(figures: dict[str, bytes]) -> None:
    results = read_results()
    del results.metrics["test"]
    assert results.held_out == "val"
    assert draw_figures(results, 0.2, 60)["bits_per_byte.png"] != figures["bits_per_byte.png"]


def noisy(last: float) -> tuple[pd.Series, pd.Series]:
    """A loss that falls by a power of the step, with seeded noise, and its last value."""
    noise = random.Random(3)
    x = pd.Series(range(10, 3001, 10))
    y = pd.Series([3 + 6 * step**-0.4 + noise.gauss(0, 0.1) for step in x])
    y.iloc[-1] = last
    return x, y


def test_a_smoothed_straight_line_is_that_line_to_both_ends() -> None:
    x = pd.Series(range(1, 301), dtype=float)
    place, fitted = smoothed(x, 2 * np.log1p(x) + 1, 0.2)
    assert np.allclose(place, x)
    assert np.allclose(fitted, 2 * np.log1p(x) + 1)


def test_the_last_value_alone_does_not_bend_the_end_of_the_curve() -> None:
    low, high = (smoothed(*noisy(last), 0.2)[1][-1] for last in (3.0, 4.0))
    assert high - low < 0.12


def test_the_curve_keeps_to_what_is_behind_the_noise() -> None:
    x, y = noisy(3 + 6 * 3000**-0.4)
    place, fitted = smoothed(x, y, 0.2)
    true = 3 + 6 * place**-0.4
    late = place > 500  # where a window holds many points
    assert np.abs(fitted - true)[late].max() < 0.08
    assert np.abs(y.to_numpy() - (3 + 6 * x.to_numpy() ** -0.4)).max() > 0.2


def test_a_curve_of_many_points_is_fitted_at_as_many_as_can_be_seen() -> None:
    x = pd.Series(range(1, 5001))
    place, fitted = smoothed(x, x * 1.0, 0.2)
    assert len(place) == len(fitted) == FITTED_POINTS
    assert (place[0], place[-1]) == (1, 5000)


def test_no_smoothing_gives_the_raw_values() -> None:
    values = pd.Series([3.0, 1.0, 2.0])
    _, fitted = smoothed(pd.Series([1, 2, 3]), values, 0.0)
    assert list(fitted) == list(values)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "·the"),
        ("\n", "↵"),
        ("", "<|endoftext|>"),
        ("$x$", "$x$"),
        ("\x07", "\\x07"),
        ("\u4e2d", "\\u4e2d"),  # not in the font
        ("é", "é"),
    ],
)
def test_a_token_is_shown_by_what_the_font_has(text: str, shown: str) -> None:
    assert shown_token(text) == shown
