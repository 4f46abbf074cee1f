"""A comparison shown and written: tables, JSON, CSV, plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import facts_file
from ..measures import MAIN_MEASURES, MEASURES
from ..records import Cost, Estimate, LanguageEvaluation
from . import curves, plots, style
from .compare import Comparison

SCHEMA = "hf_kd/comparison"


def show(console: Console, comparison: Comparison) -> None:
    """Show scores by language, likeness to the teacher, and cost."""
    first = next(iter(comparison.students.values()))
    for place in range(len(first.languages) + (first.mean is not None)):
        console.print(_language_table(comparison, place))
    console.print(_cost_table(comparison))
    if comparison.reused:
        console.print(f"Measured before, and not again: {', '.join(comparison.reused)}", highlight=False, markup=False)


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `comparison.json`, `comparison.csv` and the plots; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "version": 1,
        "teacher": comparison.teacher,
        "students": {name: facts_file.plain(evaluation) for name, evaluation in comparison.students.items()},
    }
    files = [folder / "comparison.json", folder / "comparison.csv"]
    files[0].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_csv(files[1], comparison)
    teacher = f"teacher: {comparison.teacher}"
    files.append(style.save(plots.draw_languages(comparison.students, teacher), folder / "languages.png"))
    files.append(style.save(plots.draw_quality(comparison.students, teacher), folder / "quality.png"))
    for number, (name, student) in enumerate(comparison.folders.items(), 1):
        history = read_history(student)
        if sum("loss" in entry and "step" in entry for entry in history) > 1:
            picture = curves.draw_loss_terms(history)
            picture.suptitle(style.plain(name), fontsize=11)
            files.append(style.save(picture, folder / f"loss_terms_{number}.png"))
    return files


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Logged training entries of a student: from its `trainer_state.json`, or else its facts."""
    state = folder / "trainer_state.json"
    try:
        if state.is_file():
            return list(json.loads(state.read_text(encoding="utf-8"))["log_history"])
        return [dict(entry) for entry in facts_file.load(folder).history]
    except (ValueError, KeyError, TypeError):
        return []


def _language_table(comparison: Comparison, place: int) -> Table:
    reports = {
        name: [*evaluation.languages, *([evaluation.mean] if evaluation.mean else [])][place]
        for name, evaluation in comparison.students.items()
    }
    first = next(iter(reports.values()))
    main = MAIN_MEASURES[first.task]
    quality = [main, *(name for name in first.student if name != main)]
    title = f"{escape(first.language)}: {first.rows:,} rows, {first.items:,} {first.unit}"
    table = Table(title=title, box=box.SIMPLE_HEAD, caption="in brackets: the middle 95 % of resampled rows")
    table.add_column("")
    table.add_column(escape(comparison.teacher), justify="right")
    for name in reports:
        table.add_column(escape(name), justify="right", style="bold")
    for name in quality:
        table.add_row(
            MEASURES[name].label, _show(name, first.teacher), *(_show(name, r.student) for r in reports.values())
        )
    table.add_section()
    table.add_row("student over teacher, %", "", *(_show(main, r.retention, "accuracy") for r in reports.values()))
    for name in first.fidelity:
        table.add_row(MEASURES[name].label, "", *(_show(name, r.fidelity) for r in reports.values()))
    return table


def _show(name: str, estimates: Any, shown_as: str | None = None) -> str:
    return MEASURES[shown_as or name].show(estimates.get(name))


def _cost_table(comparison: Comparison) -> Table:
    first = next(iter(comparison.students.values()))
    costs: dict[str, Cost] = {comparison.teacher: first.teacher_cost}
    costs |= {name: evaluation.student_cost for name, evaluation in comparison.students.items()}
    table = Table(title="Size and speed", box=box.SIMPLE_HEAD, caption=escape(str(first.settings["device"])))
    table.add_column("")
    for name in costs:
        table.add_column(escape(name), justify="right")
    table.add_row("parameters", *(f"{cost.parameters:,}" for cost in costs.values()))
    table.add_row("weights in memory, MB", *(f"{cost.megabytes:,.1f}" for cost in costs.values()))
    files = [cost.file_megabytes for cost in costs.values()]
    table.add_row("weight files, MB", *("not measured" if size is None else f"{size:,.1f}" for size in files))
    for place, timing in enumerate(first.teacher_cost.timings):
        shape = f"{timing.rows} × {timing.tokens} tokens"
        timings = [cost.timings[place] for cost in costs.values()]
        table.add_row(f"{shape}, ms", *(f"{one.milliseconds.value:.1f}" for one in timings))
        table.add_row(f"{shape}, rows a second", *(f"{one.rows_a_second:,.1f}" for one in timings))
    return table


def _write_csv(path: Path, comparison: Comparison) -> None:
    """One row a number, so that any tool can read it."""
    headings = ("student", "language", "rows", "items", "unit", "of", "measure", "value", "low", "high")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headings)
        for name, evaluation in comparison.students.items():
            for report in (*evaluation.languages, *([evaluation.mean] if evaluation.mean else [])):
                for group, measure, estimate in _estimates(report):
                    numbers = (estimate.value, estimate.low, estimate.high)
                    place = (report.language, report.rows, report.items, report.unit)
                    writer.writerow((name, *place, group, measure, *numbers))


def _estimates(report: LanguageEvaluation) -> list[tuple[str, str, Estimate]]:
    groups = ("student", "teacher", "fidelity", "retention")
    return [(group, name, one) for group in groups for name, one in getattr(report, group).items()]
