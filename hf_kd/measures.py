"""What is measured, as data: the names, units and directions that tables, plots and cards share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .records import Estimate


@dataclass(frozen=True)
class Measure:
    """One measured quantity.

    Attributes:
        label: what it is called, with its unit.
        is_share: whether it is a share of 1, shown in percent.
        is_loss: whether less is better; retention is then not defined.
        hub_type: the Hub's name of the metric.
    """

    label: str
    is_share: bool = True
    is_loss: bool = False
    hub_type: str = "accuracy"

    def show(self, estimate: Estimate | None) -> str:
        """The value with its interval, or that it was not measured.

        Example:
            >>> MEASURES["accuracy"].show(Estimate(0.5, 0.41, 0.6))
            '50.0 (41.0 to 60.0)'
        """
        if estimate is None:
            return "not measured"
        value = self._number(estimate.value)
        if estimate.low is None or estimate.high is None:
            return value
        return f"{value} ({self._number(estimate.low)} to {self._number(estimate.high)})"

    def _number(self, value: float) -> str:
        if not isinstance(value, float | int):  # infinite or undefined, kept as text in JSON
            return str(value)
        return f"{100 * value:.1f}" if self.is_share else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "masked_accuracy": Measure("masked tokens ranked first, %"),
        "masked_loss": Measure("cross-entropy of a masked token, nats", False, True, "loss"),
        "masked_perplexity": Measure("perplexity of masked tokens", False, True, "perplexity"),
        "pseudo_perplexity": Measure("pseudo-perplexity, each token masked alone", False, True, "perplexity"),
        "token_accuracy": Measure("next tokens ranked first, %"),
        "token_loss": Measure("cross-entropy of a token, nats", False, True, "loss"),
        "perplexity": Measure("perplexity", False, True, "perplexity"),
        "accuracy": Measure("accuracy, %"),
        "macro_f1": Measure("F1, mean of classes, %", hub_type="f1"),
        "weighted_f1": Measure("F1, weighted by class, %", hub_type="f1"),
        "entity_f1": Measure("F1 of entities, %", hub_type="f1"),
        "entity_precision": Measure("precision of entities, %", hub_type="precision"),
        "entity_recall": Measure("recall of entities, %", hub_type="recall"),
        "top1_agreement": Measure("same first choice as the teacher, %"),
        "top5_agreement": Measure("teacher's first choice among the first five, %"),
        "kl": Measure("KL from the teacher, nats", False, True, "kl"),
    }
)
"""Every measure by name."""

MAIN_MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "fill-mask": "masked_accuracy",
        "text-generation": "token_accuracy",
        "text-classification": "macro_f1",
        "token-classification": "entity_f1",
    }
)
"""The measure that a task is judged by, by task identifier of the Hub."""
