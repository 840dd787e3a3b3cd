"""The figures: PNGs whose bytes depend on the results alone, never on the user's matplotlib set-up.

Matplotlib's figure is used without pyplot, so there is no global state and no display.
"""

from io import BytesIO
from itertools import chain
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pipeline.reporting.results import Results

BLUE, PALE, ORANGE, GREEN, GREY, INK = (
    "#2563b0",
    "#b7cce6",
    "#e07b18",
    "#2a8c5a",
    "#b9bec6",
    "#2b3038",
)
STYLE = {
    "figure.figsize": (8, 4),  # inches
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,  # inches
    "figure.constrained_layout.h_pad": 0.12,
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#8a919c",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
BASELINES = {  # in metrics.json -> in words, from weak to strong
    "uniform": "every token alike",
    "unigram": "token frequencies",
    "bigram": "token pairs",
    "xz": "xz -9, this text alone",
    "xz_after_train": "xz -9, after the train text",
}


def draw_figures(results: Results, smoothing: float, dpi: int) -> dict[str, bytes]:
    """File name -> PNG; `smoothing` is the weight of the rest in each smoothed point, 0 to 1."""
    history = results.history
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "figure.dpi": dpi, "savefig.dpi": dpi})
        return {
            "loss.png": _loss(history, results.metrics["train"], smoothing),
            "learning_rate.png": _learning_rate(history),
            "gradient_norm.png": _gradient_norm(history, smoothing),
            "bits_per_byte.png": _bits_per_byte(results),
            "loss_by_position.png": _loss_by_position(results.positions, smoothing),
            "tokens.png": _tokens(results.statistics),
        }


def smoothed(values: pd.Series, smoothing: float) -> pd.Series:
    """Mean of the exponential moving averages from both ends, so that the curve does not lag."""
    forward = values.ewm(alpha=1 - smoothing).mean()
    backward = values[::-1].ewm(alpha=1 - smoothing).mean()[::-1]
    return (forward + backward) / 2


def _loss(history: pd.DataFrame, train: dict[str, Any], smoothing: float) -> bytes:
    figure, axes = _figure("Loss", "step", "nats per token")
    axes.plot(history["step"], history["loss"], color=PALE, linewidth=1, label="train, raw")
    axes.plot(
        history["step"], smoothed(history["loss"], smoothing), color=BLUE, label="train, smoothed"
    )
    looks = history.dropna(subset=["val_loss"])
    axes.plot(looks["step"], looks["val_loss"], "o-", color=ORANGE, markersize=4, label="val")
    best_step, best = train["best_step"], train["best_val_loss"]
    label = f"best val, {best:.3f} at step {best_step:,}"
    axes.plot(best_step, best, "*", color=GREEN, markersize=15, zorder=5, label=label)
    _log_scale(axes)
    axes.legend(loc="upper right")
    return _png(figure)


def _learning_rate(history: pd.DataFrame) -> bytes:
    figure, axes = _figure("Learning rate", "step", "lr")
    axes.plot(history["step"], history["lr"], color=BLUE)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return _png(figure)


def _gradient_norm(history: pd.DataFrame, smoothing: float) -> bytes:
    figure, axes = _figure("Gradient norm before clipping", "step", "norm")
    axes.plot(history["step"], history["grad_norm"], color=PALE, linewidth=1, label="raw")
    axes.plot(
        history["step"], smoothed(history["grad_norm"], smoothing), color=BLUE, label="smoothed"
    )
    _log_scale(axes)
    axes.legend(loc="upper right")
    return _png(figure)


def _bits_per_byte(results: Results) -> bytes:
    metrics = results.metrics
    title = f"What the {results.held_out} text costs (lower is better)"
    figure, axes = _figure(title, "bits per byte", "")
    values = {
        label: metrics["baselines"][name]["bits_per_byte"] for name, label in BASELINES.items()
    }
    values["this model"] = metrics[results.held_out]["bits_per_byte"]
    values = dict(sorted(values.items(), key=lambda item: -item[1]))
    colors = [BLUE if label == "this model" else GREY for label in values]
    bars = axes.barh(list(values), list(values.values()), color=colors, height=0.68)
    axes.bar_label(bars, fmt="%.3f", padding=5)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == "this model" else "normal")
    return _png(figure)


def _loss_by_position(positions: pd.DataFrame, smoothing: float) -> bytes:
    title = "Held-out loss by position in the context"
    figure, axes = _figure(title, "tokens of context before it", "nats per token")
    axes.plot(positions["position"], positions["loss"], color=PALE, linewidth=1, label="raw")
    axes.plot(
        positions["position"],
        smoothed(positions["loss"], smoothing),
        color=BLUE,
        label="smoothed",
    )
    axes.legend(loc="upper right")
    return _png(figure)


def _tokens(statistics: dict[str, Any]) -> bytes:
    """How long documents are, and how often tokens come, by rank (Zipf)."""
    figure = Figure()
    lengths = figure.add_subplot(1, 2, 1, title="Documents", xlabel="tokens, from")
    seen = {int(n).bit_length() for n in chain(*statistics["document_tokens"].values())}
    powers = [2 ** (bits - 1) for bits in range(min(seen), max(seen) + 1)]
    below = [0] * len(powers)
    for split, color in zip(statistics["document_tokens"], (BLUE, ORANGE, GREEN), strict=True):
        counts = [statistics["document_tokens"][split].get(str(n), 0) for n in powers]
        lengths.bar([f"{n:,}" for n in powers], counts, 0.8, bottom=below, color=color, label=split)
        below = [under + count for under, count in zip(below, counts, strict=True)]
    lengths.tick_params(axis="x", rotation=60)
    lengths.yaxis.set_major_locator(MaxNLocator(integer=True))
    lengths.legend()
    frequency = figure.add_subplot(
        1, 2, 2, title="Tokens of the train split", xlabel="rank", ylabel="times"
    )
    frequency.loglog(
        statistics["token_counts"]["ranks"], statistics["token_counts"]["counts"], color=BLUE
    )
    return _png(figure)


def _figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure()
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    return figure, axes


def _log_scale(axes: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
