"""One visual language for every plot of `hf_kd`.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes; hatches and markers say the
same without colour.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

GREY = "#999999"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
TEACHER_MARKER = "*"


def new_figure(width: float = 7.5, height: float = 4.0) -> Figure:
    """An empty picture, in inches, that needs no screen."""
    picture = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def tidy(axes: Axes) -> None:
    """What all axes share: no box, quiet grid lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def add_legend(picture: Figure, axes: Axes) -> None:
    """The legend of `axes` above the picture, in as many columns as its labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    column = 0.75 + 0.08 * max(map(len, labels))  # inches: the sample, then about this much a letter
    columns = max(1, min(3, int(picture.get_figwidth() / column)))
    picture.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=10)


def plain(text: str) -> str:
    """A name as a label shows it: no formulas, and short."""
    flat = " ".join(text.split()).replace("$", r"\$")
    return flat if len(flat) <= 32 else f"{flat[:31]}…"


def save(picture: Figure, path: Path) -> Path:
    """Write a picture, making its folder; the same picture gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=150, metadata={"Software": None})
    return path
