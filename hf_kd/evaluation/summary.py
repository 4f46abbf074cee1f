"""Statistics of rows to what is reported: scores, likeness and retention, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..measures import MEASURES
from ..records import Estimate, LanguageEvaluation
from . import labels
from .bootstrap import Floats, Sums, divide, draw_rows, interval, mean_of, ratio, resample, total
from .tokens import Statistics

Measure = Callable[[Sums], Floats]


def _perplexity(nats: str, items: str) -> Measure:
    def measure(sums: Sums) -> Floats:
        with np.errstate(over="ignore"):
            return np.exp(divide(sums[nats], sums[items]))

    return measure


_CORRECT, _NATS = ratio("correct", "items"), ratio("nats", "items")

QUALITY: Mapping[str, Mapping[str, Measure]] = {
    "fill-mask": {
        "masked_accuracy": _CORRECT,
        "masked_loss": _NATS,
        "masked_perplexity": _perplexity("nats", "items"),
        "pseudo_perplexity": _perplexity("alone_nats", "alone_items"),
    },
    "text-generation": {"token_accuracy": _CORRECT, "token_loss": _NATS, "perplexity": _perplexity("nats", "items")},
    "text-classification": {
        "macro_f1": labels.macro_f1,
        "accuracy": labels.accuracy,
        "weighted_f1": labels.weighted_f1,
    },
    "token-classification": {
        "entity_f1": labels.entity_f1,
        "entity_precision": labels.entity_precision,
        "entity_recall": labels.entity_recall,
    },
}
"""Measures of one model, by task identifier of the Hub."""

FIDELITY: Mapping[str, Measure] = {
    "top1_agreement": ratio("agree1", "compared"),
    "top5_agreement": ratio("agree5", "compared"),
    "kl": ratio("kl", "compared"),
}
"""Measures of likeness to the teacher."""

UNITS: Mapping[str, str] = {
    "fill-mask": "masked tokens",
    "text-generation": "tokens",
    "text-classification": "texts",
    "token-classification": "entities",
}
"""What is counted, by task identifier of the Hub."""

_GROUPS = ("student", "teacher", "fidelity", "retention")


@dataclass(frozen=True)
class Summary:
    """One language's report, and the resampled values that the mean of languages needs.

    Attributes:
        report: what is reported.
        draws: resampled values by group (`student`, `teacher`, `fidelity`, `retention`) and measure.
    """

    report: LanguageEvaluation
    draws: Mapping[str, Mapping[str, Floats]]


def summarise(
    task: str, language: str, data: str, student: Statistics, teacher: Statistics, seed: Sequence[int]
) -> Summary:
    """Report one language.

    Args:
        task: task identifier of the Hub.
        language: code or name.
        data: first digits of the data's SHA-256.
        student: statistics of the student, likeness to the teacher among them.
        teacher: statistics of the teacher on the same rows.
        seed: seed of the drawing.
    """
    counts = draw_rows(len(student["items"]), seed)
    sums, drawn = total(student), resample(student, counts)
    of_teacher, drawn_teacher = total(teacher), resample(teacher, counts)
    values: dict[str, dict[str, float]] = {group: {} for group in _GROUPS}
    draws: dict[str, dict[str, Floats]] = {group: {} for group in _GROUPS}

    def keep(group: str, name: str, value: Floats, resampled: Floats) -> None:
        if np.isfinite(value):
            values[group][name], draws[group][name] = float(value), resampled

    for name, measure in QUALITY[task].items():
        if name == "pseudo_perplexity" and "alone_items" not in student:
            continue
        own, other = measure(sums), measure(of_teacher)
        own_drawn, other_drawn = measure(drawn), measure(drawn_teacher)
        keep("student", name, own, own_drawn)
        keep("teacher", name, other, other_drawn)
        if not MEASURES[name].is_loss:
            keep("retention", name, divide(own, other), divide(own_drawn, other_drawn))
    for name, measure in FIDELITY.items():
        if name != "top5_agreement" or "agree5" in student:
            keep("fidelity", name, measure(sums), measure(drawn))
    estimates = {
        group: {name: interval(value, draws[group][name]) for name, value in of_group.items()}
        for group, of_group in values.items()
    }
    rows = len(student["items"])
    report = LanguageEvaluation(language, task, rows, round(float(sums["items"])), UNITS[task], data, **estimates)
    return Summary(report, draws)


def average(summaries: Sequence[Summary]) -> LanguageEvaluation | None:
    """The mean over languages, each counting the same; None for a single language.

    Retention is the mean of the languages' retentions, not the ratio of mean scores.
    """
    if len(summaries) < 2:
        return None
    estimates: dict[str, dict[str, Estimate]] = {}
    for group in _GROUPS:
        shared = [name for name in summaries[0].draws[group] if all(name in one.draws[group] for one in summaries)]
        estimates[group] = {
            name: mean_of(
                [getattr(one.report, group)[name].value for one in summaries],
                [one.draws[group][name] for one in summaries],
            )
            for name in shared
        }
    first = summaries[0].report
    return LanguageEvaluation(
        language=f"mean of {len(summaries)} languages",
        task=first.task,
        rows=sum(one.report.rows for one in summaries),
        items=sum(one.report.items for one in summaries),
        unit=first.unit,
        data="",
        **estimates,
    )
