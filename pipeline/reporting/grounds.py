"""What figures have in common: PNGs on light ground and on dark, loss.png and loss-dark.png.

Their bytes depend on what is drawn alone, never on the user's matplotlib set-up. Matplotlib's
figure is used without pyplot, so there is no global state and no display.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class Ground:
    """The colours of a figure: lines that stand out equally on its ground."""

    suffix: str  # of the file's name
    ground: str
    ink: str
    axis: str
    grid: str
    blue: str
    pale: str  # blue, for raw values behind smoothed ones
    orange: str
    green: str
    grey: str
    shades: tuple[float, float]  # the part of viridis that stands out on the ground

    def shade(self, place: float) -> tuple[float, float, float, float]:
        """The color of one of many curves, by its place among them, 0 to 1."""
        low, high = self.shades
        return matplotlib.colormaps["viridis"](low + (high - low) * place)


GROUNDS = (
    Ground(
        suffix="",
        ground="#ffffff",
        ink="#2b3038",
        axis="#8a919c",
        grid="#e3e6ea",
        blue="#2563b0",
        pale="#b7cce6",
        orange="#d9700d",
        green="#1f8a55",
        grey="#b9bec6",
        shades=(0.0, 0.8),
    ),
    Ground(
        suffix="-dark",
        ground="#0d1117",  # GitHub's
        ink="#dfe3e8",
        axis="#6e7681",
        grid="#252b33",
        blue="#6cb0ff",
        pale="#274468",
        orange="#f5a04c",
        green="#4ecb8d",
        grey="#59616b",
        shades=(0.35, 1.0),
    ),
)


def on_both_grounds(draw: Callable[[Ground], dict[str, Figure]], dpi: int) -> dict[str, bytes]:
    """File name -> PNG of each figure that `draw` gives by name, on every ground."""
    files: dict[str, bytes] = {}
    for c in GROUNDS:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**_style(c), "figure.dpi": dpi, "savefig.dpi": dpi})
            files |= {f"{name}{c.suffix}.png": _png(figure) for name, figure in draw(c).items()}
    return files


def _style(c: Ground) -> dict[str, Any]:
    return {
        "figure.figsize": (8, 4),  # inches
        "figure.facecolor": c.ground,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.12,  # inches
        "figure.constrained_layout.h_pad": 0.12,
        "font.size": 11,
        "text.color": c.ink,
        "text.parse_math": False,  # a token may hold a $
        "axes.facecolor": c.ground,
        "axes.edgecolor": c.axis,
        "axes.labelcolor": c.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": c.grid,
        "xtick.color": c.ink,
        "ytick.color": c.ink,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }


def _png(figure: Figure) -> bytes:
    """The figure in 256 colours, a third of the size."""
    canvas, file = FigureCanvasAgg(figure), BytesIO()
    canvas.draw()  # type: ignore[no-untyped-call]  # once: savefig draws it twice
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    image = Image.frombuffer("RGBA", canvas.get_width_height(), pixels)
    few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, format="PNG", optimize=True, dpi=(figure.dpi, figure.dpi))
    return file.getvalue()
