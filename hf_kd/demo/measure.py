"""What models make of masked held-out lines: the same masks for every model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import bootstrap, cost, tokens
from ..evaluation.masking import UNMASKED, MaskedLine, mask_lines, write_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["UNMASKED", "MaskedLine", "mask_lines", "write_lines", "LineScore", "Score", "score_lines"]


@dataclass(frozen=True)
class LineScore:
    """How one model did on one line.

    Attributes:
        language: its language.
        masked: number of masked tokens.
        correct: how many of them the model ranked first.
        loss: sum of their cross-entropies, in nats.
    """

    language: str
    masked: int
    correct: int
    loss: float


@dataclass(frozen=True)
class Score:
    """How one model did on one language.

    Attributes:
        accuracy: share of masked tokens ranked first, 0 to 1.
        loss: mean cross-entropy of a masked token, in nats.
    """

    accuracy: float
    loss: float


def score_lines(model: PreTrainedModel, lines: Sequence[MaskedLine], pad_token_id: int) -> list[LineScore]:
    """Let a model fill the masks of every line."""
    found = tokens.score_lines(tokens.Reader(model, pad_token_id), lines)
    rows = zip(lines, found["items"], found["correct"], found["nats"], strict=True)
    return [LineScore(line.language, int(items), int(correct), float(nats)) for line, items, correct, nats in rows]


def by_language(scores: Sequence[LineScore]) -> dict[str, Score]:
    """Sum up lines: every masked token of a language counts the same."""
    of_language: dict[str, list[LineScore]] = {}
    for score in scores:
        of_language.setdefault(score.language, []).append(score)
    return {
        language: Score(
            sum(score.correct for score in group) / sum(score.masked for score in group),
            sum(score.loss for score in group) / sum(score.masked for score in group),
        )
        for language, group in of_language.items()
    }


def count_masked(scores: Sequence[LineScore]) -> dict[str, int]:
    """Number of masked tokens by language."""
    counts: dict[str, int] = {}
    for score in scores:
        counts[score.language] = counts.get(score.language, 0) + score.masked
    return counts


def mean_score(scores: Mapping[str, Score]) -> Score:
    """The mean over languages: every language counts the same."""
    return Score(
        statistics.fmean(score.accuracy for score in scores.values()),
        statistics.fmean(score.loss for score in scores.values()),
    )


def gain_interval(better: Sequence[LineScore], worse: Sequence[LineScore], seed: int) -> tuple[float, float]:
    """How far the mean gain in accuracy hangs on the lines held out.

    Lines are drawn again and again, with replacement, within each language.

    Args:
        better: scores of the model expected to win.
        worse: scores of the other model on the same lines.
        seed: seed of the drawing.

    Returns:
        The middle 95 % of the resampled gains in mean accuracy, as shares of 1. It covers
        the choice of lines, not that of seeds.
    """
    gain = bootstrap.ratio("gain", "items")
    rng = np.random.default_rng(seed)
    values, draws = [], []
    for language in sorted({score.language for score in better}):
        pairs = [(one, other) for one, other in zip(better, worse, strict=True) if one.language == language]
        rows = {
            "gain": np.array([one.correct - other.correct for one, other in pairs]),
            "items": np.array([one.masked for one, _ in pairs]),
        }
        values.append(float(gain(bootstrap.total(rows))))
        draws.append(gain(bootstrap.resample(rows, bootstrap.draw_rows(len(pairs), rng))))
    found = bootstrap.mean_of(values, draws)
    return (found.value, found.value) if found.low is None or found.high is None else (found.low, found.high)


def lines_per_second(
    models: Mapping[str, PreTrainedModel], lines: Sequence[MaskedLine], pad_token_id: int, rounds: int = 15
) -> dict[str, float]:
    """Median speed of each model on the same batch, the models taking turns.

    Args:
        models: models by name.
        lines: one batch.
        pad_token_id: fills short lines up.
        rounds: turns of each model, after one that does not count.
    """
    passes = {name: lambda model=model: tokens.fill(model, lines, pad_token_id) for name, model in models.items()}
    seconds = cost.take_turns(passes, rounds)
    return {name: len(lines) / statistics.median(times) for name, times in seconds.items()}
