"""A measured comparison as a card shows it: a sentence, tables, pictures, structured results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from huggingface_hub import EvalResult

from .measures import MAIN_MEASURES, MEASURES
from .records import Estimate, Evaluation, LanguageEvaluation, Timing

IMAGES = {
    "languages": "images/languages.png",
    "quality": "images/quality.png",
}

_FIDELITY = ("top1_agreement", "top5_agreement", "kl")


@dataclass(frozen=True)
class CardTable:
    """One table and the sentence above it, ready for a card.

    Attributes:
        note: what it shows.
        headings: column headings.
        rows: cells, row by row.
    """

    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary(evaluation: Evaluation | None, teacher_parameters: object = None) -> str:
    """What the student keeps, in a sentence; nothing if it was not measured.

    Args:
        evaluation: the comparison, or None.
        teacher_parameters: of the teacher that it was distilled from, as far as known.
    """
    if evaluation is None:
        return ""
    overall = evaluation.mean or evaluation.languages[0]
    name = MAIN_MEASURES[overall.task]
    kept = overall.retention.get(name)
    if kept is None:
        return ""
    cost, of_teacher = evaluation.student_cost, evaluation.teacher_cost
    where = f"mean of {len(evaluation.languages)} languages" if evaluation.mean else "in the one language measured"
    label = MEASURES[name].label.removesuffix(", %")
    is_other = teacher_parameters not in (None, of_teacher.parameters)
    whose = f"the score of a teacher of {of_teacher.parameters:,} parameters" if is_other else "its teacher's score"
    aside = " It was compared with another teacher than the one that it was distilled from." if is_other else ""
    return (
        f"It keeps {100 * kept.value:.1f} % of {whose} ({label}, {where}) with "
        f"{100 * cost.parameters / of_teacher.parameters:.1f} % of its parameters.{aside}"
    )


def tables(evaluation: Evaluation | None, inline: Callable[[object], str]) -> list[CardTable]:
    """Quality by language, likeness to the teacher, cost, and the settings of all of it."""
    if evaluation is None:
        return []
    return [
        _quality(evaluation, inline),
        *_more_quality(evaluation, inline),
        _fidelity(evaluation, inline),
        _cost(evaluation),
        CardTable(
            "Settings of this comparison:",
            ("setting", "value"),
            tuple(
                (inline(name.replace("_", " ")), inline(value))
                for name, value in evaluation.settings.items()
                if value is not None
            ),
        ),
    ]


def pictures(evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """Caption and path of each picture of a comparison."""
    if evaluation is None:
        return []
    return [
        ("Score by language, student beside teacher, with intervals", IMAGES["languages"]),
        ("Score against size and against latency", IMAGES["quality"]),
    ]


def command(evaluation: Evaluation | None) -> tuple[str, ...]:
    """The command that measures the same again, word by word; nothing if nothing was measured."""
    if evaluation is None:
        return ()
    data = [f"{one.language}=FILE" for one in evaluation.languages]
    flags = {"pseudo_rows": "--pseudo-perplexity"}
    settings = [
        word
        for name, value in evaluation.settings.items()
        if isinstance(value, (int, float))
        for word in (flags.get(name, f"--{name.replace('_', '-')}"), repr(value))
    ]
    return ("hf-kd", "compare", "TEACHER", "STUDENT", "--data", *data, *settings)


def eval_results(evaluation: Evaluation | None) -> list[EvalResult]:
    """The student's scores as the Hub's structured results."""
    if evaluation is None:
        return []
    return [
        EvalResult(
            task_type=one.task,
            dataset_type="local-text",
            dataset_name=f"own rows, {one.rows} of them, SHA-256 {one.data}",
            dataset_config=" ".join(one.language.split()),
            metric_type=MEASURES[name].hub_type,
            metric_name=name,
            metric_value=estimate.value,
        )
        for one in evaluation.languages
        for name, estimate in one.student.items()
    ]


def _quality(evaluation: Evaluation, inline: Callable[[object], str]) -> CardTable:
    overall = _all(evaluation)
    name = MAIN_MEASURES[overall[0].task]
    label = MEASURES[name].label
    headings = ("language", overall[0].unit, f"student: {label}", f"teacher: {label}", "student over teacher, %")
    rows = tuple(
        (
            inline(one.language),
            f"{one.items:,}",
            MEASURES[name].show(one.student.get(name)),
            MEASURES[name].show(one.teacher.get(name)),
            MEASURES["accuracy"].show(one.retention.get(name)),
        )
        for one in overall
    )
    note = (
        "Measured by `hf-kd compare`, student and teacher on the same rows. In brackets: the middle 95 % when rows\n"
        "are drawn anew, which covers the choice of rows and not that of seeds."
    )
    return CardTable(note, headings, rows)


def _more_quality(evaluation: Evaluation, inline: Callable[[object], str]) -> list[CardTable]:
    """The measures beside the main one, if there are any, student and teacher in one cell."""
    overall = _all(evaluation)
    names = [name for name in overall[0].student if name != MAIN_MEASURES[overall[0].task]]

    def cell(one: LanguageEvaluation, name: str) -> str:
        values = (one.student.get(name), one.teacher.get(name))
        return " / ".join(MEASURES[name].show(value and Estimate(value.value)) for value in values)

    rows = tuple((inline(one.language), *(cell(one, name) for name in names)) for one in overall)
    headings = ("language", *(MEASURES[name].label for name in names))
    alone = evaluation.settings.get("pseudo_rows")
    note = f" (pseudo-perplexity: of the first {alone} rows of each language)" if "pseudo_perplexity" in names else ""
    return [CardTable(f"Other measures of the same rows{note}, student / teacher:", headings, rows)] if names else []


def _fidelity(evaluation: Evaluation, inline: Callable[[object], str]) -> CardTable:
    overall = _all(evaluation)
    columns = [name for name in _FIDELITY if any(name in one.fidelity for one in overall)]
    rows = tuple(
        (inline(one.language), *(MEASURES[name].show(one.fidelity.get(name)) for name in columns)) for one in overall
    )
    return CardTable(
        "How alike student and teacher answer, right or wrong:",
        ("language", *(MEASURES[name].label for name in columns)),
        rows,
    )


def _cost(evaluation: Evaluation) -> CardTable:
    student, teacher = evaluation.student_cost, evaluation.teacher_cost
    rows = [
        ("parameters", f"{student.parameters:,}", f"{teacher.parameters:,}"),
        ("weights in memory, MB", f"{student.megabytes:,.1f}", f"{teacher.megabytes:,.1f}"),
        ("weight files, MB", _megabytes(student.file_megabytes), _megabytes(teacher.file_megabytes)),
    ]
    of_teacher: Mapping[tuple[int, int], Timing] = {(one.rows, one.tokens): one for one in teacher.timings}
    for one in student.timings:
        other = of_teacher.get((one.rows, one.tokens))
        shape = f"{one.rows} × {one.tokens} tokens"
        rows.append((f"{shape}, ms", _milliseconds(one), _milliseconds(other)))
        rows.append((f"{shape}, rows a second", _speed(one), _speed(other)))
        if one.peak_megabytes is not None:
            rows.append((f"{shape}, peak memory, MB", _peak(one), _peak(other)))
    if not student.timings:
        rows.append(("latency and throughput", "not measured", "not measured"))
    if all(one.peak_megabytes is None for one in student.timings):
        rows.append(("peak memory", "not measured", "not measured"))
    return CardTable(
        "What they cost on the machine named in the settings below; times are the median, and in brackets the\n"
        "quartiles, of turns taken one after the other:",
        ("", "student", "teacher"),
        tuple(rows),
    )


def _all(evaluation: Evaluation) -> list[LanguageEvaluation]:
    return [*evaluation.languages, *([evaluation.mean] if evaluation.mean else [])]


def _megabytes(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.1f}"


def _milliseconds(timing: Timing | None) -> str:
    if timing is None:
        return "not measured"
    estimate = timing.milliseconds
    return f"{estimate.value:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def _speed(timing: Timing | None) -> str:
    return "not measured" if timing is None else f"{timing.rows_a_second:,.1f}"


def _peak(timing: Timing | None) -> str:
    return "not measured" if timing is None or timing.peak_megabytes is None else f"{timing.peak_megabytes:,.0f}"
