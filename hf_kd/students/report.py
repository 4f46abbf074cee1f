"""What a cut makes of a teacher: a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from .sizes import PARTS, Sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision.
_COLOURS = dict(zip(PARTS, ("#0072B2", "#E69F00", "#009E73", "#999999"), strict=True))


def size_table(student: Sizes, teacher: Sizes) -> Table:
    """Student beside teacher, with the ratio of the two."""
    table = Table(title="Student and teacher", caption=f"Parameters of {student.counted}, tied weights counted once")
    for heading in ("", "student", "teacher", "student / teacher"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in student.shape.items():
        table.add_row(name, f"{value:,}", f"{teacher.shape[name]:,}", _ratio(value, teacher.shape[name]))
    table.add_section()
    table.add_row("parameters", f"{student.total:,}", f"{teacher.total:,}", _ratio(student.total, teacher.total))
    for part in PARTS:
        one, other = student.parameters[part], teacher.parameters[part]
        table.add_row(f"  {part}", f"{one:,}", f"{other:,}", _ratio(one, other))
    table.add_section()
    table.add_row(
        "megabytes (float32)",
        f"{student.megabytes:,.1f}",
        f"{teacher.megabytes:,.1f}",
        _ratio(student.megabytes, teacher.megabytes),
    )
    table.add_row("embeddings' share", f"{student.embedding_share:.1%}", f"{teacher.embedding_share:.1%}", "")
    for label, one, other in (
        ("multiply-adds a token, layers", student.encoder_multiply_adds, teacher.encoder_multiply_adds),
        ("multiply-adds a token, output", student.output_multiply_adds, teacher.output_multiply_adds),
    ):
        table.add_row(label, f"{one:,}", f"{other:,}", _ratio(one, other))
    return table


def size_picture(student: Sizes, teacher: Sizes, path: Path) -> None:
    """Draw the parameters by part, teacher above student, into a PNG."""
    figure = _draw(student, teacher)
    figure.savefig(path, dpi=150)


def _draw(student: Sizes, teacher: Sizes) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    models = (("student", student), ("teacher", teacher))
    for row, (_, sizes) in enumerate(models):
        left = 0.0
        for part in PARTS:
            width = sizes.parameters[part] / 1e6
            axis.barh(row, width, left=left, height=0.6, color=_COLOURS[part], label=part if row == 0 else None)
            left += width
        axis.text(left, row, f"  {sizes.total / 1e6:,.1f} M", va="center")
    axis.set_yticks(range(2), [name for name, _ in models])
    axis.set_xlim(0, teacher.total / 1e6 * 1.18)
    axis.set_xlabel("parameters, millions")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)
    return figure


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.1%}" if other else ""
