"""The figures of a sweep: val loss of all runs, the score over each setting, two settings' map.

Drawn from the record alone, each on light ground and on dark.
"""

import json
from collections.abc import Sequence
from math import prod
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipeline.reporting.grounds import Ground, headline, on_both_grounds
from pipeline.reporting.markdown import count
from pipeline.reporting.sweep_record import SEED, Record, Run, finished, groups, score, shown

SCORE = "bits per byte of val"
MOST_LABELS = 12  # curves that a legend can name
MOST_TICKS = 10  # of more values every second, third, ... is named
LONGEST_LABEL = 20  # characters of a value
LONGEST_NAME = 30  # of the sweep, in a title
ROOM = 40  # characters beside one another below a figure
WIDE_RANGE = 4  # largest over smallest value from which an axis is logarithmic


def draw_sweep(record: Record, dpi: int) -> dict[str, bytes]:
    """File name -> PNG; none where no run is done."""
    if not finished(record):
        return {}
    keys = [key for key in record["varied"] if key != SEED]

    def draw(c: Ground) -> dict[str, Figure]:
        figures = {"loss": _loss(c, record)}
        if keys and _is_grid(record, keys):  # else a panel would show what goes with its setting
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
        title=f"{_cut(record['sweep'], LONGEST_NAME)}: val loss",
        xlabel="tokens" if by_tokens else "step",
        ylabel="nats per token",
    )
    found = groups(record)
    for place, (settings, same) in enumerate(found):
        parts = [_label(settings), count(len(same), "seed") if len(same) > 1 else ""]
        best = " (best)" if place == 0 and len(found) > 1 else ""
        label = ", ".join(filter(None, parts)) + best
        for run in same:  # seeds of one setting in one color
            axes.plot(
                *zip(*_points(run, by_tokens), strict=True),
                "o-",
                color=c.shade(place / max(len(found) - 1, 1)),
                linewidth=2.6 if place == 0 else 1.4,
                markersize=5 if place == 0 else 3,
                zorder=3 if place == 0 else 2,
                label=label if run is same[0] else None,
            )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if len(found) <= MOST_LABELS:
        axes.legend(fontsize=9)
    return figure


def _params(c: Ground, record: Record, keys: list[str]) -> Figure:
    """A panel for each setting: every run a point, a line through the means."""
    runs = finished(record)
    figure = Figure(figsize=(max(8, 4 * len(keys)), 4))
    for place, key in enumerate(keys):
        axes = figure.add_subplot(1, len(keys), place + 1, xlabel=key)
        values = _in_order(runs, key)
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        where = {json.dumps(v): v if numeric else n for n, v in enumerate(values)}
        spots = [where[json.dumps(run["settings"][key])] for run in runs]
        axes.plot(spots, [score(run) for run in runs], "o", color=c.blue, alpha=0.75)
        means = [mean(score(r) for r in runs if r["settings"][key] == value) for value in values]
        line = "-" if numeric else "_"
        axes.plot(list(where.values()), means, line, color=c.blue, ms=22, label="mean")
        axes.margins(x=0.1)
        if numeric and min(values) > 0 and max(values) / min(values) >= WIDE_RANGE:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        _name(axes, list(where.values()), values, ROOM / len(keys))
        if place == 0:
            axes.set_ylabel(SCORE)
            axes.legend()
    headline(figure, f"{_cut(record['sweep'], LONGEST_NAME)}: {SCORE} over each setting")
    return figure


def _name(axes: Axes, places: Sequence[float], values: list[Any], room: float) -> None:
    """Write values below their places, slanted where `room` characters do not hold them."""
    every = -(-len(values) // MOST_TICKS)
    labels = [_named(value) for value in values[::every]]
    axes.set_xticks(places[::every], labels)
    if sum(map(len, labels)) > room:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _named(value: Any) -> str:
    """A value as a label: a number in six digits, a long text without its middle."""
    return f"{value:g}" if isinstance(value, float) else _cut(shown(value), LONGEST_LABEL)


def _cut(text: str, longest: int) -> str:
    """Its beginning and its end, where it is longer."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


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
    figure = Figure(figsize=(8, max(3, 0.7 * len(rows) + 1.8)))
    axes: Axes = figure.add_subplot(
        title=f"{_cut(record['sweep'], LONGEST_NAME)}: {SCORE}, lower is better",
        xlabel=across,
        ylabel=down,
    )
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    _name(axes, range(len(columns)), columns, ROOM)
    axes.set_yticks(range(len(rows)), [_named(value) for value in rows])
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == value:
                dark = image.norm(value) < 0.6
                color = "white" if dark else "black"
                axes.text(x, y, f"{value:.4f}", ha="center", va="center", color=color)
    return figure


def _in_order(runs: list[Run], key: str) -> list[Any]:
    """The distinct values of a setting, numbers by size, others as they come."""
    values = list({json.dumps(run["settings"][key]): run["settings"][key] for run in runs}.values())
    numeric = all(isinstance(value, (int, float)) for value in values)
    return sorted(values) if numeric else values


def _points(run: Run, by_tokens: bool) -> list[tuple[float, float]]:
    return [(tokens if by_tokens else step, loss) for step, tokens, loss in run["curve"]]


def _is_grid(record: Record, keys: list[str]) -> bool:
    """Whether the sweep has a run for every combination of values."""
    met = {json.dumps([run["settings"][key] for key in keys]) for run in record["runs"]}
    return len(met) == prod(len(_in_order(record["runs"], key)) for key in keys)


def _label(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {_named(value)}" for key, value in settings.items())
