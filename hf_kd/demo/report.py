"""What the demo shows and leaves behind: stages, tables, verdict, plot, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.plots import Bars, draw_bars
from ..evaluation.style import GREY, PALETTE
from .figures import MODEL_NAMES, Figures
from .text import LanguageText, language_name

_COLOURS = {"teacher": GREY, "from_scratch": PALETTE[1], "copied": PALETTE[4], "distilled": PALETTE[0]}
_HATCHES = {"teacher": "", "from_scratch": "///", "copied": "...", "distilled": ""}

_HEADINGS = {"teacher": "teacher", "from_scratch": "scratch", "copied": "copied", "distilled": "distilled"}
"""Short names of models, for tables."""


def show_stage(console: Console, title: str, note: str) -> None:
    """Announce a stage of the demo."""
    console.print(f"\n[bold]{escape(title)}[/]: {escape(note)}", highlight=False)


def show_text(console: Console, text: Mapping[str, LanguageText]) -> None:
    """Show how many lines each language has, and one of them."""
    for language, lines in text.items():
        counts = f"{len(lines.train):,} lines to train on, {len(lines.held_out):,} held out"
        console.print(f"  {escape(language_name(language))}: {counts}", highlight=False)
        console.print(f"    {escape(lines.train[0])}", style="dim", highlight=False, overflow="ellipsis", no_wrap=True)


def show_figures(console: Console, figures: Figures, output_dir: Path) -> None:
    """Show the tables, the verdict and where everything lies."""
    console.print()
    console.print(_accuracy_table(figures))
    console.print(_loss_table(figures))
    console.print(_size_table(figures))
    console.print(verdict(figures), highlight=False, style="bold green" if figures.distilled_wins else "bold red")
    console.print(teachers_share(figures), highlight=False)
    console.print(f"\nAll this took {figures.seconds:.0f} s. It lies in `{output_dir}`:", highlight=False)
    for what, where in (
        ("student", "student"),
        ("its card", "student/README.md"),
        ("plot", "accuracy.png"),
        ("figures", "figures.json"),
        ("masked lines", "masked_lines.jsonl"),
        ("text", "text"),
    ):
        console.print(f"  {what:<13} {output_dir / where}", highlight=False, soft_wrap=True)


def verdict(figures: Figures) -> str:
    """Say whether the distilled student beats the one from scratch, and by how much."""
    gains = {figures.languages[language]: 100 * gain for language, gain in figures.gains.items()}
    least, most = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    won = sum(gain > 0 for gain in gains.values())
    if figures.distilled_wins:
        opening = f"The distilled student beats the one from scratch in {won} of {len(gains)} languages"
    else:
        opening = f"The distilled student does NOT beat the one from scratch (it wins {won} of {len(gains)} languages)"
    return (
        f"{opening}: {100 * figures.mean_gain:+.1f} points of masked accuracy on the mean "
        f"({_interval(figures, 'from_scratch')}), from {gains[least]:+.1f} ({least}) to {gains[most]:+.1f} "
        f"({most})."
    )


def teachers_share(figures: Figures) -> str:
    """Say how much of the gain is the teacher's, and how much the copied layers'."""
    share = figures.teachers_share
    return (
        f"Copied layers trained on labels alone reach {100 * figures.means['copied'].accuracy:.1f} %. The teacher's "
        f"part of the gain is {100 * share.accuracy:+.1f} points ({_interval(figures, 'copied')}) "
        f"and {share.loss:+.2f} nats."
    )


def _interval(figures: Figures, baseline: str) -> str:
    low, high = (100 * bound for bound in figures.gain_intervals[baseline])
    return f"95 % of resampled lines: {low:+.1f} to {high:+.1f}"


def write_files(figures: Figures, output_dir: Path) -> None:
    """Write `figures.json` and `accuracy.png`."""
    (output_dir / "figures.json").write_text(
        json.dumps(figures.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    draw(figures).savefig(output_dir / "accuracy.png", dpi=150)


def write_text(text: Mapping[str, LanguageText], output_dir: Path) -> None:
    """Write each language's lines, those held out beside those trained on."""
    folder = output_dir / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for language, lines in text.items():
        (folder / f"{language}.txt").write_text("\n".join(lines.train) + "\n", encoding="utf-8")
        (folder / f"{language}.held_out.txt").write_text("\n".join(lines.held_out) + "\n", encoding="utf-8")


def draw(figures: Figures) -> Figure:
    """Bars of masked accuracy by language and model; the mean of languages below."""
    rows = [*figures.languages.values(), "mean of languages"]
    bars = []
    for model, label in MODEL_NAMES.items():
        of_languages = [figures.scores[model][language].accuracy for language in figures.languages]
        bars.append(Bars(label, [*of_languages, figures.means[model].accuracy], _COLOURS[model], _HATCHES[model]))
    return draw_bars(rows, bars, "masked tokens ranked first, on lines held out")


def _accuracy_table(figures: Figures) -> Table:
    table = _score_table("Masked tokens of held-out lines ranked first, %")
    table.caption = "gain: distilled minus scratch"
    table.add_column("gain", justify="right", style="bold")
    rows = {figures.languages[language]: (language, gain) for language, gain in figures.gains.items()}
    for name, (language, gain) in rows.items():
        scores = (figures.scores[model][language] for model in MODEL_NAMES)
        table.add_row(escape(name), *(f"{100 * score.accuracy:.1f}" for score in scores), f"{100 * gain:+.1f}")
    table.add_section()
    means = (f"{100 * figures.means[model].accuracy:.1f}" for model in MODEL_NAMES)
    table.add_row("all, mean", *means, f"{100 * figures.mean_gain:+.1f}", style="bold")
    return table


def _loss_table(figures: Figures) -> Table:
    table = _score_table("Mean cross-entropy of the same tokens, nats")
    for language, name in figures.languages.items():
        table.add_row(escape(name), *(f"{figures.scores[model][language].loss:.2f}" for model in MODEL_NAMES))
    table.add_section()
    table.add_row("all, mean", *(f"{figures.means[model].loss:.2f}" for model in MODEL_NAMES), style="bold")
    return table


def _score_table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("language")
    for model in MODEL_NAMES:
        table.add_column(_HEADINGS[model], justify="right")
    return table


def _size_table(figures: Figures) -> Table:
    table = Table(title="Size and speed", box=box.SIMPLE_HEAD)
    table.add_column("model")
    for heading in ("layers", "parameters", "MB", "lines/s"):
        table.add_column(heading, justify="right")
    teacher, student = figures.sizes["teacher"], figures.sizes["distilled"]
    for model, size in figures.sizes.items():
        table.add_row(
            MODEL_NAMES[model],
            str(size.layers),
            f"{size.parameters:,}",
            f"{size.megabytes:.1f}",
            f"{size.lines_per_second:,.0f}",
        )
    table.add_row(
        "student / teacher",
        f"{student.layers / teacher.layers:.2f}",
        f"{student.parameters / teacher.parameters:.2f}",
        f"{student.megabytes / teacher.megabytes:.2f}",
        f"{student.lines_per_second / teacher.lines_per_second:.2f}",
    )
    return table
