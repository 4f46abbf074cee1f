"""Scores of classifiers and taggers, in NumPy: accuracy, F1 of classes, F1 of entities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Floats, Sums, divide


def confusion_rows(predicted: Sequence[int], gold: Sequence[int], classes: int) -> NDArray[np.float64]:
    """One confusion matrix a row, with a single 1 in it. Shape (rows, classes, classes), gold first."""
    rows = np.zeros((len(gold), classes, classes))
    rows[np.arange(len(gold)), np.asarray(gold, dtype=int), np.asarray(predicted, dtype=int)] = 1.0
    return rows


def accuracy(sums: Sums) -> Floats:
    """Share of right answers, from `confusion`. Shape (...,)."""
    confusion = sums["confusion"]
    return divide(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def macro_f1(sums: Sums) -> Floats:
    """Mean F1 of the classes that occur, among the gold or the predicted."""
    scores, present, _ = _class_f1(sums["confusion"])
    return divide((scores * present).sum(-1), present.sum(-1))


def weighted_f1(sums: Sums) -> Floats:
    """Mean F1 of classes, each weighing as many as there are gold rows of it."""
    scores, _, support = _class_f1(sums["confusion"])
    return divide((scores * support).sum(-1), support.sum(-1))


def _class_f1(confusion: Floats) -> tuple[Floats, Floats, Floats]:
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    gold, predicted = confusion.sum(-1), confusion.sum(-2)
    both = gold + predicted
    return np.nan_to_num(divide(2 * right, both)), (both > 0).astype(np.float64), gold


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Entities of a sentence tagged in BIO: kind, first word, word after the last.

    As seqeval reads it by default: an I- without an entity of its kind before it begins one.

    Example:
        >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
        [('LOC', 3, 4), ('PER', 0, 2)]
    """
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, of_kind = tag.partition("-")
        continues = prefix == "I" and of_kind == kind
        if kind and not continues:
            found.add((kind, start, place))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = place, of_kind
    return found


def entity_counts(predicted: Sequence[str], gold: Sequence[str]) -> tuple[int, int, int]:
    """Entities found rightly, found in all, and to be found, in one sentence."""
    found, wanted = entities(predicted), entities(gold)
    return len(found & wanted), len(found), len(wanted)


def entity_f1(sums: Sums) -> Floats:
    """F1 over all entities, from `right`, `found` and `wanted`; 0 where there is none."""
    return np.nan_to_num(divide(2 * sums["right"], sums["found"] + sums["wanted"]))


def entity_precision(sums: Sums) -> Floats:
    """Share of the entities found that are right; 0 where none is found."""
    return np.nan_to_num(divide(sums["right"], sums["found"]))


def entity_recall(sums: Sums) -> Floats:
    """Share of the entities to be found that are found; 0 where there is none."""
    return np.nan_to_num(divide(sums["right"], sums["wanted"]))
