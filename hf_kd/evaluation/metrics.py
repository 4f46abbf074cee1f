"""`evaluate` modules over the same numbers: they load offline, and `evaluate.combine` takes them.

import evaluate
from hf_kd.evaluation.metrics import ClassificationScores, TopOneAgreement

both = evaluate.combine([ClassificationScores(), TopOneAgreement()])
both.compute(predictions=[0, 1, 1], references=[0, 1, 0])
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from . import labels
from .masking import UNMASKED

_NUMBERS = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
_TAGS = {name: datasets.List(datasets.Value("string")) for name in ("predictions", "references")}


def _info(description: str, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions and references, one entry a position or row",
        features=datasets.Features(features),
    )


class MaskedAccuracy(evaluate.Metric):
    """Share of tokens ranked first; references of -100 are not asked."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of masked tokens that are ranked first.", _NUMBERS)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        asked = np.asarray(references) != UNMASKED
        right = np.asarray(predictions)[asked] == np.asarray(references)[asked]
        return {"masked_accuracy": float(right.mean()) if asked.any() else float("nan")}


class TopOneAgreement(evaluate.Metric):
    """Share of positions where the student's first choice (prediction) is the teacher's (reference)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of positions where student and teacher choose the same.", _NUMBERS)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"top1_agreement": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class ClassificationScores(evaluate.Metric):
    """Accuracy, mean F1 of classes and F1 weighted by class, of class numbers from 0."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Accuracy and F1 of a classifier.", _NUMBERS)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        classes = max(*predictions, *references) + 1
        sums = {"confusion": labels.confusion_rows(predictions, references, classes).sum(0)}
        measures = {"accuracy": labels.accuracy, "macro_f1": labels.macro_f1, "weighted_f1": labels.weighted_f1}
        return {name: float(measure(sums)) for name, measure in measures.items()}


class EntityScores(evaluate.Metric):
    """Precision, recall and F1 of entities, of sentences tagged in BIO."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Precision, recall and F1 of entities.", _TAGS)

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        counts = [labels.entity_counts(one, other) for one, other in zip(predictions, references, strict=True)]
        right, found, wanted = np.asarray(counts, dtype=np.float64).sum(0)
        sums = {"right": right, "found": found, "wanted": wanted}
        measures = {
            "entity_f1": labels.entity_f1,
            "entity_precision": labels.entity_precision,
            "entity_recall": labels.entity_recall,
        }
        return {name: float(measure(sums)) for name, measure in measures.items()}
