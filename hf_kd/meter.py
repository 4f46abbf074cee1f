"""Sums of the loss terms between two log entries, kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SCALE_GAP = 1000.0
"""Weighted terms further apart than this factor are worth a warning."""


class TermMeter:
    """Adds up each term without reading it: the device is asked once, when a log entry is written."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._first_step = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added since the last drain."""
        return not self._sums

    def add(self, terms: Mapping[str, Tensor], step: int) -> None:
        """Add one micro-batch's terms, at this many finished optimizer steps. Shape () each."""
        if self.is_empty:
            self._first_step = step
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def read(self, reduce: Callable[[Tensor], Tensor], step: int) -> dict[str, float]:
        """Mean of each term over the optimizer steps since the last drain, over all processes.

        Args:
            reduce: averages a tensor over the processes; every process must call this method.
            step: optimizer steps finished by now.
        """
        steps = max(step - self._first_step, 1)
        values = reduce(
            torch.stack([value.double() if value.device.type != "mps" else value for value in self._sums.values()])
        )
        return {name: value / steps for name, value in zip(self._sums, values.tolist(), strict=True)}

    def drain(self, reduce: Callable[[Tensor], Tensor], step: int) -> dict[str, float]:
        """`read`, and start anew."""
        values = self.read(reduce, step)
        self._sums = {}
        return values


def scale_warning(terms: Mapping[str, float]) -> str | None:
    """A warning if the weighted terms differ so much that the smallest has no say; else None.

    Args:
        terms: weighted terms by name. A term of exactly 0 is left out: an untrained copy of the
            teacher has such terms.
    """
    nonzero = {name: abs(value) for name, value in terms.items() if value}
    if len(nonzero) < 2:
        return None
    small, large = min(nonzero, key=nonzero.__getitem__), max(nonzero, key=nonzero.__getitem__)
    gap = nonzero[large] / nonzero[small]
    if gap < SCALE_GAP:
        return None
    return (
        f"The weighted {small} term is {nonzero[small]:.3g} and the {large} term {nonzero[large]:.3g}, {gap:,.0f} "
        f"times as much: {small} hardly counts. To give both the same say at the start, multiply `kd_{small}_weight` "
        f"by {gap:,.0f}; or set it to 0 and save its cost."
    )
