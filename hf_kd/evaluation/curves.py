"""The loss of a run and its terms over the optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..records import TERMS
from .style import DASHES, PALETTE, add_legend, new_figure, tidy


def draw_loss_terms(history: Iterable[Mapping[str, Any]]) -> Figure:
    """One line for the loss, one for each of its terms; logarithmic where terms lie far apart."""
    entries = [entry for entry in history if "loss" in entry and "step" in entry]
    names = ["loss", *(f"kd_{term}" for term in TERMS if any(f"kd_{term}" in entry for entry in entries))]
    picture = new_figure()
    axes = picture.add_subplot()
    largest = []
    for place, name in enumerate(names):
        points = [(entry["step"], float(entry[name])) for entry in entries if name in entry]
        label = "loss (sum of the terms)" if name == "loss" else name.removeprefix("kd_")
        colour = "#000000" if name == "loss" else PALETTE[place - 1]
        width = 2.2 if name == "loss" else 1.6
        axes.plot(*zip(*points), linestyle=DASHES[place], color=colour, label=label, linewidth=width)
        values = [value for _, value in points if value > 0]
        largest.append(max(values, default=0.0))
    if len(names) > 2 and min(largest) > 0 and max(largest) > 20 * min(largest):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, each term with its weight")
    tidy(axes)
    add_legend(picture, axes)
    return picture
