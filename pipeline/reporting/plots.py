"""The figures of a run, each on light ground and on dark."""

from collections.abc import Sized
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.reporting.grounds import Ground, on_both_grounds
from pipeline.reporting.results import Results
from pipeline.training.samples import visible

Numbers = NDArray[np.float64]


CAPTIONS = {  # name -> what it shows, in the order in which they are read
    "loss": "Train and val loss over steps",
    "bits_per_byte": "Bits per byte of held-out text, beside simpler models and xz",
    "learning_rate": "Learning rate over steps",
    "gradient_norm": "Gradient norm over steps",
    "loss_by_position": "Held-out loss by position in the context",
    "loss_by_token": "The hardest and the easiest held-out tokens",
    "tokens": "Lengths of documents, frequencies of tokens",
}
FITTED_POINTS = 400  # of a smoothed curve: no figure shows more
LONGEST_TOKEN = 17  # characters of a label: a longer one would leave its bar no room
BASELINES = {  # in metrics.json -> in words, from weak to strong
    "uniform": "every token alike",
    "unigram": "token frequencies",
    "bigram": "token pairs",
    "xz": "xz -9, this text alone",
    "xz_after_train": "xz -9, after the train text",
}


def draw_figures(results: Results, smoothing: float, dpi: int) -> dict[str, bytes]:
    """File name -> PNG; `smoothing` is the share of `smoothed`."""
    history = results.history

    def draw(c: Ground) -> dict[str, Figure]:
        return {
            "loss": _loss(c, history, results.metrics["train"], smoothing),
            "bits_per_byte": _bits_per_byte(c, results),
            "learning_rate": _learning_rate(c, history),
            "gradient_norm": _gradient_norm(c, history, smoothing),
            "loss_by_position": _loss_by_position(c, results.positions, smoothing),
            "loss_by_token": _loss_by_token(c, results),
            "tokens": _tokens(c, results.statistics),
        }

    return on_both_grounds(draw, dpi)


def smoothed(x: pd.Series, y: pd.Series, share: float) -> tuple[Numbers, Numbers]:
    """A local line through the points around each x, those within `share` of x: (x, fitted y).

    Nearer points weigh more (LOESS: Cleveland 1979, doi:10.1080/01621459.1979.10481038). A window
    that grows with x follows the steep start and does not hang on the last value at the end.
    """
    place, value = np.log1p(x.to_numpy(dtype=float)), y.to_numpy(dtype=float)
    chosen = np.unique(np.linspace(0, len(place) - 1, FITTED_POINTS).round().astype(int))
    fitted = value[chosen]
    for n, center in enumerate(place[chosen] if share else ()):
        reach = np.log1p(share)
        first, last = np.searchsorted(place, (center - reach, center + reach))
        d = (place[first:last] - center) / reach  # -1 to 1
        w = (1 - np.abs(d) ** 3) ** 3
        spread = w.sum() * (w * d**2).sum() - (w * d).sum() ** 2
        if spread > 1e-9:  # one point alone has no slope
            weights = w * ((w * d**2).sum() - d * (w * d).sum()) / spread
            fitted[n] = (weights * value[first:last]).sum()
    return x.to_numpy()[chosen], fitted


def _loss(c: Ground, history: pd.DataFrame, train: dict[str, Any], smoothing: float) -> Figure:
    figure, axes = _figure("Loss", "step", "nats per token")
    _raw_and_smoothed(c, axes, history["step"], history["loss"], smoothing, "train, ")
    looks = history.dropna(subset=["val_loss"])
    axes.plot(looks["step"], looks["val_loss"], "o-", color=c.orange, markersize=4, label="val")
    best_step, best = train["best_step"], train["best_val_loss"]
    label = f"best val, {best:.3f} at step {best_step:,}"
    axes.plot(best_step, best, "*", color=c.green, markersize=15, zorder=5, label=label)
    _log_scale(axes)
    axes.legend(loc="upper right")
    return figure


def _learning_rate(c: Ground, history: pd.DataFrame) -> Figure:
    figure, axes = _figure("Learning rate", "step", "lr")
    axes.plot(history["step"], history["lr"], _dot(history), color=c.blue)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _gradient_norm(c: Ground, history: pd.DataFrame, smoothing: float) -> Figure:
    figure, axes = _figure("Gradient norm before clipping", "step", "norm")
    _raw_and_smoothed(c, axes, history["step"], history["grad_norm"], smoothing)
    _log_scale(axes)
    axes.legend(loc="upper right")
    return figure


def _bits_per_byte(c: Ground, results: Results) -> Figure:
    metrics = results.metrics
    title = f"What the {results.held_out} text costs (lower is better)"
    figure, axes = _figure(title, "bits per byte", "")
    values = {
        label: metrics["baselines"][name]["bits_per_byte"] for name, label in BASELINES.items()
    }
    values["this model"] = metrics[results.held_out]["bits_per_byte"]
    values = dict(sorted(values.items(), key=lambda item: -item[1]))
    colors = [c.blue if label == "this model" else c.grey for label in values]
    bars = axes.barh(list(values), list(values.values()), color=colors, height=0.68)
    axes.bar_label(bars, fmt="%.3f", padding=5)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == "this model" else "normal")
    return figure


def _loss_by_position(c: Ground, positions: pd.DataFrame, smoothing: float) -> Figure:
    title = "Held-out loss by position in the context"
    figure, axes = _figure(title, "tokens of context before it", "nats per token")
    _raw_and_smoothed(c, axes, positions["position"], positions["loss"], smoothing)
    axes.legend(loc="upper right")
    return figure


def _loss_by_token(c: Ground, results: Results) -> Figure:
    """Mean loss of the tokens at both ends, with how often each came."""
    figure = Figure()
    tokens = results.tokens
    figure.suptitle(
        f"Tokens of the {tokens['split']} text that come {tokens['least_count']} times or more",
        x=0.015,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    for place, end, color in ((1, "hardest", c.orange), (2, "easiest", c.blue)):
        axes = figure.add_subplot(1, 2, place, xlabel="mean loss, nats")
        axes.set_title(f"the {end}", fontsize=11, fontweight="normal", pad=4)
        rows = tokens[end]
        places = range(len(rows))
        bars = axes.barh(places, [row["loss"] for row in rows], color=color, height=0.7)
        axes.bar_label(bars, [f"{row['count']:,}×" for row in rows], padding=4, fontsize=9)
        labels = [shortened(shown_token(row["text"]), LONGEST_TOKEN) for row in rows]
        axes.set_yticks(places, labels, family="monospace")
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.margins(x=0.25)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelsize=10)
    return figure


def shown_token(text: str) -> str:
    """A token as a label: spaces and line ends seen, as are characters that the font lacks."""
    font = get_font(findfont("DejaVu Sans Mono"))
    marks = {" ": "·", "\n": "↵", "\t": "⇥", "": "<|endoftext|>"}
    return marks.get(text) or "".join(
        marks.get(character)
        or (
            character
            if font.get_char_index(ord(character))
            else character.encode("unicode_escape").decode("ascii")
        )
        for character in visible(text)
    )


def shortened(text: str, most: int) -> str:
    """A text of more than `most` characters without its middle, in as many."""
    tail = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - tail]}…{text[-tail:]}"


def _tokens(c: Ground, statistics: dict[str, Any]) -> Figure:
    """How long documents are, and how often tokens come, by rank (Zipf)."""
    figure = Figure()
    lengths = figure.add_subplot(
        1, 2, 1, title="Documents", xlabel="tokens, from", ylabel="documents"
    )
    seen = {int(n).bit_length() for n in chain(*statistics["document_tokens"].values())}
    powers = [2 ** (bits - 1) for bits in range(min(seen), max(seen) + 1)]
    below = [0] * len(powers)
    colors = (c.blue, c.orange, c.green)
    for split, color in zip(statistics["document_tokens"], colors, strict=True):
        counts = [statistics["document_tokens"][split].get(str(n), 0) for n in powers]
        lengths.bar([f"{n:,}" for n in powers], counts, 0.8, bottom=below, color=color, label=split)
        below = [under + count for under, count in zip(below, counts, strict=True)]
    lengths.tick_params(axis="x", rotation=60)
    lengths.yaxis.set_major_locator(MaxNLocator(integer=True))
    lengths.grid(visible=False, axis="x")
    lengths.legend()
    frequency = figure.add_subplot(
        1, 2, 2, title="Tokens of the train split", xlabel="rank", ylabel="times"
    )
    ranks, counts = statistics["token_counts"]["ranks"], statistics["token_counts"]["counts"]
    frequency.loglog(ranks, counts, _dot(ranks), color=c.blue)
    for axis in (frequency.xaxis, frequency.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(LogFormatter())
    return figure


def _figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure()
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    return figure, axes


def _raw_and_smoothed(
    c: Ground, axes: Axes, x: pd.Series, y: pd.Series, smoothing: float, label: str = ""
) -> None:
    axes.plot(x, y, _dot(x), color=c.pale, linewidth=1, label=f"{label}raw")
    axes.plot(*smoothed(x, y, smoothing), _dot(x), color=c.blue, label=f"{label}smoothed")


def _dot(points: Sized) -> str:
    """The format of a line, which one point alone does not make."""
    return "o" if len(points) == 1 else "-"


def _log_scale(axes: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers; linear where nothing is above 0."""
    least, most = axes.dataLim.minposy, axes.dataLim.y1
    if not np.isfinite(least):
        return
    axes.set_yscale("log")
    even = MaxNLocator(nbins=7, steps=[1, 2, 5, 10])  # over decades they would crowd at the top
    axes.yaxis.set_major_locator(even if most < 10 * least else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
