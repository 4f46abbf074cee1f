"""Bars by language, and quality against size and latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter, PercentFormatter

from ..measures import MAIN_MEASURES, MEASURES
from ..records import Cost, Estimate, Evaluation, LanguageEvaluation
from .style import GREY, HATCHES, MARKERS, PALETTE, TEACHER_MARKER, add_legend, new_figure, plain, tidy

_LATENCY_SHAPE = (1, 128)


@dataclass(frozen=True)
class Bars:
    """One model's bars, a language each.

    Attributes:
        label: what the model is called.
        values: shares of 1, row by row.
        colour: fill of the bars.
        hatch: pattern of the bars.
        estimates: the same values with their intervals; empty to draw none.
    """

    label: str
    values: Sequence[float]
    colour: str
    hatch: str = ""
    estimates: Sequence[Estimate] = ()


def draw_bars(rows: Sequence[str], bars: Sequence[Bars], xlabel: str, rule_above_last: bool = True) -> Figure:
    """Horizontal bars, models side by side in each row.

    Args:
        rows: row labels, the mean of the others last.
        bars: one entry a model.
        xlabel: what the bars measure.
        rule_above_last: whether a line sets the last row apart.
    """
    picture = new_figure(7.5, 1.3 + max(0.5, 0.21 * len(bars) + 0.01) * len(rows))
    axes = picture.add_subplot()
    step = min(0.42, 0.84 / len(bars))
    for place, one in enumerate(bars):
        places = [row + step * (place - (len(bars) - 1) / 2) for row in range(len(rows))]
        drawn = axes.barh(
            places,
            one.values,
            height=0.9 * step,
            label=plain(one.label),
            color=one.colour,
            hatch=one.hatch,
            edgecolor="white",
        )
        estimates = one.estimates or [Estimate(value) for value in one.values]
        ends = [_end(estimate, value) for estimate, value in zip(estimates, one.values, strict=True)]
        if one.estimates:
            spread = [[value - low for (low, _), value in zip(ends, one.values)],
                      [high - value for (_, high), value in zip(ends, one.values)]]  # fmt: skip
            axes.errorbar(one.values, places, xerr=spread, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        for (_, end), value, bar in zip(ends, one.values, drawn, strict=True):
            middle = bar.get_y() + bar.get_height() / 2
            axes.annotate(f"{100 * value:.1f}", (end, middle), (4, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows], fontsize=11)
    axes.invert_yaxis()
    if rule_above_last:
        axes.axhline(len(rows) - 1.5, color="#bbbbbb", linewidth=0.8)
    axes.set_xlim(0, min(1.12, 1.12 * axes.dataLim.x1 + 0.01))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(picture, axes)
    return picture


def draw_languages(students: Mapping[str, Evaluation], teacher: str = "teacher") -> Figure:
    """The main measure of each student and of the teacher, by language."""
    first = next(iter(students.values()))
    name = MAIN_MEASURES[first.languages[0].task]
    bars = []
    for place, (label, reports) in enumerate([(teacher, _rows(first)), *_students(students)]):
        side = "teacher" if place == 0 else "student"
        estimates = [getattr(report, side).get(name, Estimate(0.0)) for report in reports]
        colour, hatch = (GREY, "") if place == 0 else (PALETTE[(place - 1) % 7], HATCHES[(place - 1) % 7])
        bars.append(Bars(label, [estimate.value for estimate in estimates], colour, hatch, estimates))
    rows = [report.language for report in _rows(first)]
    return draw_bars(rows, bars, MEASURES[name].label, rule_above_last=first.mean is not None)


def draw_quality(students: Mapping[str, Evaluation], teacher: str = "teacher") -> Figure:
    """The main measure, mean of languages, against parameters and, where it was timed, latency."""
    first = next(iter(students.values()))
    name = MAIN_MEASURES[first.languages[0].task]
    points = [(teacher, _rows(first)[-1].teacher[name], first.teacher_cost)]
    points += [
        (label, reports[-1].student[name], students[label].student_cost) for label, reports in _students(students)
    ]
    shape = _shape(first)
    picture = new_figure(8.4 if shape else 5.0, 4.0)
    panels = picture.subplots(1, 2 if shape else 1, sharey=True, squeeze=False)[0]
    for place, (label, quality, cost) in enumerate(points):
        xs = [cost.parameters / 1e6, _latency(cost, shape)]
        for axes, x in zip(panels, xs):
            if x is not None:
                _point(axes, x, quality, label, place)
    panels[0].set_ylabel(f"{MEASURES[name].label}\n{'mean of languages' if first.mean else ''}".strip())
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    for axes, label in zip(
        panels, ("parameters, millions", f"latency of {shape[0]} × {shape[1]} tokens, ms" if shape else "")
    ):
        axes.set_xlabel(label)
        _spread(axes)
        tidy(axes)
    add_legend(picture, panels[0])
    return picture


def _point(axes: Axes, x: float, quality: Estimate, label: str, place: int) -> None:
    low, high = _end(quality, quality.value)
    is_teacher = place == 0
    axes.errorbar(
        x,
        quality.value,
        yerr=[[quality.value - low], [high - quality.value]],
        fmt=TEACHER_MARKER if is_teacher else MARKERS[(place - 1) % 7],
        markersize=13 if is_teacher else 9,
        color="#666666" if is_teacher else PALETTE[(place - 1) % 7],
        capsize=3,
        label=plain(label),
        linestyle="none",
    )


def _spread(axes: Axes) -> None:
    """Room around the points; logarithmic where they lie far apart."""
    low, high = axes.dataLim.x0, axes.dataLim.x1
    if low > 0 and high > 4 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.xaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
    else:
        axes.set_xlim(0, 1.15 * high)
        axes.xaxis.set_minor_formatter(NullFormatter())


def _rows(evaluation: Evaluation) -> list[LanguageEvaluation]:
    return [*evaluation.languages, *([evaluation.mean] if evaluation.mean else [])]


def _students(students: Mapping[str, Evaluation]) -> list[tuple[str, list[LanguageEvaluation]]]:
    return [(label, _rows(evaluation)) for label, evaluation in students.items()]


def _shape(evaluation: Evaluation) -> tuple[int, int] | None:
    """The shape whose latency is drawn: one row of 128 tokens, or else the longest single row."""
    shapes = [(one.rows, one.tokens) for one in evaluation.student_cost.timings]
    single = [shape for shape in shapes if shape[0] == 1]
    return _LATENCY_SHAPE if _LATENCY_SHAPE in shapes else max(single, default=None)


def _latency(cost: Cost, shape: tuple[int, int] | None) -> float | None:
    found = {(one.rows, one.tokens): one.milliseconds.value for one in cost.timings}
    return None if shape is None else found.get(shape)


def _end(estimate: Estimate, value: float) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return value, value
    return min(estimate.low, value), max(estimate.high, value)
