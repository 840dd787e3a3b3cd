"""The figures of a sweep: val loss of all runs, the score over each setting, two settings' map.

Drawn from the record alone, each on light ground and on dark.
"""

import json
from itertools import pairwise, takewhile
from math import prod
from statistics import mean
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipeline.reporting.grounds import Ground, on_both_grounds
from pipeline.reporting.markdown import count
from pipeline.reporting.plots import shortened
from pipeline.reporting.sweep_record import (
    SEED,
    Record,
    Run,
    compares,
    finished,
    groups,
    score,
    shown,
)

SCORE = "bits per byte of val"
MOST_LABELS = 12  # curves that a legend can name
WIDE_RANGE = 4  # largest over smallest value from which an axis is logarithmic
LONGEST_VALUE = 20  # characters of a label
LONGEST_LABEL = 60  # of a curve
TITLE_WIDTH = 56  # characters of a line
LETTER, LINE = 0.1, 0.2  # inches that one takes
MARGINS = 1.5  # inches of a panel that are not its axis
CELL = 0.6  # inches that a score is wide
TALLEST = 12.0  # inches of a figure


def draw_sweep(record: Record, dpi: int) -> dict[str, bytes]:
    """File name -> PNG; none where no run is done."""
    if not finished(record):
        return {}
    keys = [key for key in record["varied"] if key != SEED]

    def draw(c: Ground) -> dict[str, Figure]:
        figures = {"loss": _loss(c, record)}
        # else a panel would show what goes with its setting
        if keys and _is_grid(record, keys) and compares(record):
            figures["params"] = _params(c, record, keys)
            if len(keys) == 2:
                figures["heatmap"] = _heatmap(record, *keys)
        return figures

    return on_both_grounds(draw, dpi)


def _loss(c: Ground, record: Record) -> Figure:
    """Val loss over steps, or over tokens where runs see different numbers of them a step."""
    figure = Figure()
    runs = finished(record)
    by_tokens = len({run["tokens"] / run["steps"] for run in runs}) > 1
    axes = figure.add_subplot(
        title=_title(record, "val loss"),
        xlabel="tokens" if by_tokens else "step",
        ylabel="nats per token",
    )
    found = groups(record)
    for place, (settings, same) in enumerate(found):
        parts = [_label(settings), count(len(same), "seed") if len(same) > 1 else ""]
        is_best = place == 0 and compares(record)
        best = " (best)" if is_best and len(found) > 1 else ""
        label = shortened(", ".join(filter(None, parts)), LONGEST_LABEL) + best
        for run in same:  # seeds of one setting in one color
            steps, tokens, losses = zip(*run["curve"], strict=True)
            axes.plot(
                tokens if by_tokens else steps,
                losses,
                "o-",
                color=c.shade(place / max(len(found) - 1, 1)),
                linewidth=2.6 if is_best else 1.4,
                markersize=5 if is_best else 3,
                zorder=3 if is_best else 2,
                label=label if run is same[0] else None,
            )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if len(found) <= MOST_LABELS and any(key for key, _ in found):  # of one setting nothing is said
        axes.legend(fontsize=9)
    return figure


def _params(c: Ground, record: Record, keys: list[str]) -> Figure:
    """A panel for each setting: every run a point, a line through the means."""
    runs = finished(record)
    wide = max(8, 4 * len(keys))
    inches = wide / len(keys) - MARGINS
    figure = Figure(figsize=(wide, 4))
    for place, key in enumerate(keys):
        axes = figure.add_subplot(1, len(keys), place + 1, xlabel=key)
        values = _in_order(runs, key)
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        where = {json.dumps(v): v if numeric else n for n, v in enumerate(values)}
        spots = [where[json.dumps(run["settings"][key])] for run in runs]
        axes.plot(spots, [score(run) for run in runs], "o", color=c.blue, alpha=0.75)
        means = [mean(score(r) for r in runs if r["settings"][key] == value) for value in values]
        line = "-" if numeric else "_"
        size = min(22, 72 * inches / len(values))  # points
        axes.plot(list(where.values()), means, line, color=c.blue, ms=size, label="mean")
        axes.margins(x=0.1)
        if numeric and min(values) > 0 and max(values) / min(values) >= WIDE_RANGE:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        _label_ticks(axes.xaxis, list(where.values()), values, inches)
        if place == 0:
            axes.set_ylabel(SCORE)
            axes.set_title(_title(record, f"{SCORE} over each setting"))
            axes.legend()
    return figure


def _heatmap(record: Record, down: str, across: str) -> Figure:
    """The mean score of each pair of values; white where no run is done."""
    runs = finished(record)
    rows, columns = _in_order(runs, down), _in_order(runs, across)
    cells: dict[str, list[float]] = {}
    for run in runs:
        pair = json.dumps([run["settings"][down], run["settings"][across]])
        cells.setdefault(pair, []).append(score(run))
    empty = [float("nan")]
    values = [[mean(cells.get(json.dumps([r, c]), empty)) for c in columns] for r in rows]
    tall = min(max(3, 0.7 * len(rows) + 1.8), TALLEST)
    figure = Figure(figsize=(8, tall))
    axes: Axes = figure.add_subplot(
        title=_title(record, f"{SCORE}, lower is better"), xlabel=across, ylabel=down
    )
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    wide_inches, tall_inches = 8 - MARGINS, tall - MARGINS
    _label_ticks(axes.xaxis, list(range(len(columns))), columns, wide_inches)
    _label_ticks(axes.yaxis, list(range(len(rows))), rows, tall_inches)
    if wide_inches < CELL * len(columns) or tall_inches < LINE * len(rows):
        figure.colorbar(image, ax=axes)  # the cells have no room for their scores
        return figure
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == value:
                dark = image.norm(value) < 0.6
                color = "white" if dark else "black"
                axes.text(x, y, f"{value:.4f}", ha="center", va="center", color=color)
    return figure


def _title(record: Record, shows: str) -> str:
    return fill(f"{record['sweep']}: {shows}", TITLE_WIDTH)


def _label_ticks(axis: Axis, places: list[float], values: list[Any], inches: float) -> None:
    """Ticks whose labels keep off each other: turned where too long, left out where too many."""
    labels = _short(values)
    at = axis.get_transform().transform(np.array(places, dtype=float))
    at = inches * (at - at.min()) / (np.ptp(at) or 1)  # from the first
    horizontal = isinstance(axis, XAxis)
    room = [LETTER * (len(a) + len(b)) / 2 + LETTER for a, b in pairwise(labels)]
    if horizontal and (np.diff(at) < room).any():
        axis.set_tick_params(rotation=90)
        horizontal = False
    kept = [0]
    for place in range(1, len(places)):
        if horizontal or at[place] - at[kept[-1]] >= LINE:
            kept.append(place)
    axis.set_ticks([places[place] for place in kept], [labels[place] for place in kept])


def _short(values: list[Any]) -> list[str]:
    """Values as labels; of long ones that begin and end alike, what is around the difference."""
    texts = [
        f"{value:.4g}" if isinstance(value, float) and len(shown(value)) > 10 else shown(value)
        for value in values
    ]
    short = [shortened(text, LONGEST_VALUE) for text in texts]
    if len({*short}) == len({*texts}):
        return short
    alike = takewhile(lambda letters: len({*letters}) == 1, zip(*texts, strict=False))
    start = max(len([*alike]) - LONGEST_VALUE // 4, 0)
    return [f"…{shortened(text[start:], LONGEST_VALUE - 1)}" for text in texts]


def _in_order(runs: list[Run], key: str) -> list[Any]:
    """The distinct values of a setting, numbers by size, others as they come."""
    values = list({json.dumps(run["settings"][key]): run["settings"][key] for run in runs}.values())
    numeric = all(isinstance(value, (int, float)) for value in values)
    return sorted(values) if numeric else values


def _is_grid(record: Record, keys: list[str]) -> bool:
    """Whether the sweep has a run for every combination of values."""
    met = {json.dumps([run["settings"][key] for key in keys]) for run in record["runs"]}
    return len(met) == prod(len(_in_order(record["runs"], key)) for key in keys)


def _label(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {shown(value)}" for key, value in settings.items())
