"""Measures from sums over rows, and how far they hang on the rows that were drawn.

Every measure here is a function of sums: correct answers and all answers, say. So rows can be
drawn again and again without asking a model again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..records import Estimate

Floats = NDArray[np.float64]
Sums = Mapping[str, Floats]
"""Sums over rows by name. Shape (..., *shape of one row's statistic)."""

Seed = int | Sequence[int] | np.random.Generator

RESAMPLES = 1000


def draw_rows(rows: int, seed: Seed, resamples: int = RESAMPLES) -> Floats:
    """How often each row is drawn, with replacement, in each resampling. Shape (resamples, rows)."""
    drawn = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    places = (drawn + rows * np.arange(resamples)[:, None]).ravel()
    return np.bincount(places, minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def total(statistics: Mapping[str, NDArray[np.generic]]) -> dict[str, Floats]:
    """Sums over all rows. The first axis of every statistic is that of rows."""
    return {name: values.astype(np.float64).sum(0) for name, values in statistics.items()}


def resample(statistics: Mapping[str, NDArray[np.generic]], counts: Floats) -> dict[str, Floats]:
    """Sums over the rows of each resampling. Shape (resamples, ...)."""
    return {name: np.tensordot(counts, values.astype(np.float64), axes=1) for name, values in statistics.items()}


def interval(value: float, draws: Floats) -> Estimate:
    """A value with the middle 95 % of its resampled values; without an interval where some are undefined."""
    if not np.isfinite(draws).all():
        return Estimate(value)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def estimate(
    measure: Callable[[Sums], Floats], statistics: Mapping[str, NDArray[np.generic]], seed: Seed = 0
) -> Estimate:
    """A measure with its interval.

    Args:
        measure: gives the measure of sums, whatever their leading axes.
        statistics: what each row adds to the sums. Shape (rows, ...) each.
        seed: seed of the drawing.

    Example:
        >>> half = {"correct": np.array([1, 0] * 200), "items": np.ones(400)}
        >>> found = estimate(ratio("correct", "items"), half)
        >>> found.value, bool(0.4 < found.low < 0.5 < found.high < 0.6)
        (0.5, True)
    """
    rows = len(next(iter(statistics.values())))
    draws = measure(resample(statistics, draw_rows(rows, seed)))
    return interval(float(measure(total(statistics))), draws)


def ratio(above: str, below: str) -> Callable[[Sums], Floats]:
    """The measure that divides one sum by another; undefined where that is 0."""

    def measure(sums: Sums) -> Floats:
        return divide(sums[above], sums[below])

    return measure


def divide(above: Floats, below: Floats) -> Floats:
    """Division that gives nan, and no warning, where the divisor is 0."""
    below = np.asarray(below, dtype=np.float64)
    safe = np.where(below == 0, 1.0, below)
    return np.where(below == 0, np.nan, np.asarray(above) / safe)


def mean_of(values: Sequence[float], draws: Sequence[Floats]) -> Estimate:
    """The mean of languages, each counting the same, rows drawn within each language."""
    return interval(float(np.mean(values)), np.mean(np.stack(list(draws)), axis=0))
