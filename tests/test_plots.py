"""Proves that the figures depend on the results alone, to the byte, and show what they claim."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from finished_run import metrics, write_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from pipeline.reporting import grounds
from pipeline.reporting.plots import CAPTIONS, FITTED_POINTS, draw_figures, shown_token, smoothed
from pipeline.reporting.results import Results, read_results

Drawn = Callable[[Results], dict[str, Figure]]

DRAW = """
import hashlib
import json
from pipeline.reporting.plots import draw_figures
from pipeline.reporting.results import read_results
results = read_results()
figures = draw_figures(results, 0.2, 60)
print(json.dumps({name: hashlib.sha256(png).hexdigest() for name, png in figures.items()}))
"""


@pytest.fixture(scope="module")
def _drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("drawn")
    write_run(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return draw_figures(read_results(), 0.2, 60)


@pytest.fixture
def figures(
    _drawn: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The figures of the finished run in the working directory."""
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return dict(_drawn)


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
    run = subprocess.run(
        [sys.executable, "-c", DRAW],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
    )
    here = {name: hashlib.sha256(png).hexdigest() for name, png in figures.items()}
    assert json.loads(run.stdout) == here
    assert draw_figures(read_results(), 0.2, 60) == figures


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


@pytest.fixture
def drawn(figures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Draws results without smoothing and gives the figures on light ground, by name."""

    def draw(results: Results) -> dict[str, Figure]:
        seen: list[Figure] = []
        monkeypatch.setattr(grounds, "_png", lambda figure: seen.append(figure) or b"")
        draw_figures(results, 0.0, 60)
        return dict(zip(CAPTIONS, seen, strict=False))

    return draw


def test_a_run_of_one_row_without_a_look_at_val_is_drawn_with_its_points(drawn: Drawn) -> None:
    results = read_results()
    row = results.history.iloc[:1].assign(val_loss=float("nan"))
    one = {"ranks": [1], "counts": [57996]}
    short = replace(
        results,
        history=row,
        positions=results.positions.iloc[:1],
        statistics={**results.statistics, "token_counts": one},
    )
    shown = drawn(short)
    for name in ("loss", "learning_rate", "gradient_norm", "loss_by_position", "tokens"):
        lines = [line for line in shown[name].axes[-1].lines if len(np.asarray(line.get_xdata()))]
        assert lines
        assert all(line.get_marker() in {"o", "*"} for line in lines)
    assert shown["learning_rate"].axes[0].lines[0].get_ydata() == [row["lr"].iloc[0]]
    for line in drawn(results)["loss"].axes[0].lines[:2]:
        assert line.get_marker() == "None"


@pytest.mark.filterwarnings("error")
def test_a_gradient_norm_of_0_throughout_is_a_line_on_a_linear_scale(drawn: Drawn) -> None:
    results = read_results()
    flat = replace(results, history=results.history.assign(grad_norm=0.0))
    (axes,) = drawn(flat)["gradient_norm"].axes
    assert axes.get_yscale() == "linear"
    low, high = axes.get_ylim()
    assert low < 0 < high


@pytest.mark.parametrize("least", [1e-4, 0.02, 0.9])
def test_a_logarithmic_axis_has_labels_over_the_whole_of_it(drawn: Drawn, least: float) -> None:
    results = read_results()
    norms = np.geomspace(1, least, len(results.history))
    figure = drawn(replace(results, history=results.history.assign(grad_norm=norms)))[
        "gradient_norm"
    ]
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    (axes,) = figure.axes
    places = np.log([least, *(y for y in axes.get_yticks() if least < y < 1), 1])
    assert 4 <= len(places) <= 16
    assert np.diff(places).max() < 0.5 * np.log(1 / least)


def test_the_bars_of_long_tokens_have_room(drawn: Drawn) -> None:
    results = read_results()
    rows = [{"id": n, "text": "=" * n, "count": 12, "loss": 9.5} for n in (16, 17, 64, 120)]
    long = replace(results, tokens={**results.tokens, "hardest": rows})
    figure = drawn(long)["loss_by_token"]
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    axes = figure.axes[0]
    assert axes.get_window_extent().width > figure.bbox.width / 5
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["=" * 16, "=" * 17, *["========…========"] * 2]
    assert get_font(findfont("DejaVu Sans Mono")).get_char_index(ord("…"))


def test_every_axis_says_what_it_counts(drawn: Drawn) -> None:
    axes = drawn(read_results())["tokens"].axes
    assert [(one.get_xlabel(), one.get_ylabel()) for one in axes] == [
        ("tokens, from", "documents"),
        ("rank", "times"),
    ]


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
