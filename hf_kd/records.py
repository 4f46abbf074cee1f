"""The records that the rooms of `hf_kd` hand to each other. All are frozen.

Axes: B rows, N tokens, S selected positions, V vocabulary or classes, D width, A heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .plans import StudentPlan

if TYPE_CHECKING:
    from torch import Tensor

TERMS = ("task", "logits", "attention", "hidden", "relation")
"""Every term that an objective can hold, in the order in which they are shown."""

LAYER_TERMS = ("attention", "hidden", "relation")
"""The terms that compare layers, and so need a layer map."""

EMBEDDINGS = -1
"""Stands for the embedding output where a layer number is expected."""


class LayerPair(NamedTuple):
    """One student layer and the teacher layer it learns from, both counted from 0."""

    student: int
    teacher: int

    def __str__(self) -> str:
        return "embeddings" if self.student == EMBEDDINGS else f"{self.student}:{self.teacher}"


@dataclass(frozen=True)
class Objective:
    """What the student is trained on, every default filled in.

    Attributes:
        recipe: name of the recipe that set the defaults, or None.
        weights: factor of each term of `TERMS`, ≥ 0.
        temperature: softening of both distributions, dimensionless, > 0.
        logits_divergence: name in `hf_kd.losses.LOGITS_DIVERGENCES`.
        attention_heads: "head_mean" or "per_head".
        attention_values: "probabilities" or "scores".
        attention_distance: name in `hf_kd.losses.ATTENTION_DISTANCES`.
        hidden_distance: name in `hf_kd.losses.HIDDEN_DISTANCES`.
        positions: "masked" (where there is a label) or "all" (every real token).
        relation_heads: number of relation heads, or None for the student's head count.
        layer_maps: layer map, as typed, of each term of `LAYER_TERMS`.

    Raises:
        ValueError: every weight is 0, or a distance does not fit what it compares.
    """

    recipe: str | None
    weights: Mapping[str, float]
    temperature: float
    logits_divergence: str
    attention_heads: str
    attention_values: str
    attention_distance: str
    hidden_distance: str
    positions: str
    relation_heads: int | None
    layer_maps: Mapping[str, str]

    def __post_init__(self) -> None:
        if not any(self.weights.values()):
            raise ValueError(
                "Every term has weight 0, so there is nothing to train on. Give at least one of "
                f"{', '.join(f'`kd_{term}_weight`' for term in TERMS)} a value above 0."
            )
        if self.uses("attention") and (self.attention_values, self.attention_distance) == ("scores", "kl"):
            raise ValueError(
                "`kd_attention_values` is scores and `kd_attention_distance` is kl, but KL compares distributions. "
                "Use `kd_attention_values probabilities`, or `kd_attention_distance mse`."
            )

    def uses(self, term: str) -> bool:
        """Whether the term has a weight above 0."""
        return self.weights[term] > 0


@dataclass(frozen=True)
class Signal:
    """What one model said about one batch.

    Attributes:
        outputs: the head's outputs by name. Language-model logits are those of the
            selected positions alone, shape (S, V); other heads keep their own shape.
        hidden: hidden states by layer. Shape (B, N, D) each.
        attention: attention maps by layer. Shape (B, N, N) for the head mean, (B, A, N, N)
            per head.
        relation: (query, key, value) states by layer. Shape (B, N, D) each.
    """

    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    relation: Mapping[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class LossReport:
    """One batch's loss.

    Attributes:
        total: the loss to differentiate. Shape ().
        terms: each weighted term by name, detached; they sum to `total`. Shape () each.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True)
class Estimate:
    """A measured number and how far it hangs on the rows that were drawn.

    Attributes:
        value: the number.
        low: lower end of the middle 95 % of resampled values; None if it was not resampled.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LanguageEvaluation:
    """Student and teacher on one language's held-out rows.

    Attributes:
        language: code or name, as given.
        task: task identifier of the Hub, such as "fill-mask".
        rows: rows measured on.
        items: what was counted, such as masked tokens; see `unit`.
        unit: what `items` counts.
        data: first digits of the SHA-256 of the data.
        student: the student's scores by metric.
        teacher: the teacher's scores on the same rows.
        fidelity: how alike the two answer.
        retention: student's score over the teacher's, by metric; shares, not percent.
    """

    language: str
    task: str
    rows: int
    items: int
    unit: str
    data: str
    student: Mapping[str, Estimate]
    teacher: Mapping[str, Estimate]
    fidelity: Mapping[str, Estimate]
    retention: Mapping[str, Estimate]


@dataclass(frozen=True)
class Timing:
    """One forward pass at one shape.

    Attributes:
        rows: rows at once.
        tokens: tokens a row.
        milliseconds: median of the turns, with their quartiles as `low` and `high`.
        rows_a_second: rows over the median.
        peak_megabytes: highest memory in use on the accelerator, 10⁶ bytes; None on a CPU.
    """

    rows: int
    tokens: int
    milliseconds: Estimate
    rows_a_second: float
    peak_megabytes: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a model weighs and how fast it is.

    Attributes:
        parameters: number of parameters, tied ones once.
        megabytes: parameters and buffers in memory, 10⁶ bytes.
        file_megabytes: weight files, 10⁶ bytes; None if they were not found.
        timings: one entry a shape; empty if speed was not measured.
    """

    parameters: int
    megabytes: float
    file_megabytes: float | None = None
    timings: tuple[Timing, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A student measured against its teacher.

    Attributes:
        weights: SHA-256 of the student's weights, which the figures are of.
        teacher: Hub id of the teacher measured; None if it came from a folder.
        languages: one entry a language.
        mean: the mean over languages, each counting the same; None for a single language.
        student_cost: what the student costs.
        teacher_cost: what the teacher costs.
        settings: seed, mask ratio, shapes, device and the like.
        versions: library versions by name.
    """

    weights: str
    teacher: str | None
    languages: tuple[LanguageEvaluation, ...]
    mean: LanguageEvaluation | None
    student_cost: Cost
    teacher_cost: Cost
    settings: Mapping[str, object]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class RunFacts:
    """Everything a model card is made of: plain values, no local paths.

    Attributes:
        model_name: name shown as the card's title.
        student: facts of the student, such as `parameters`, `layers`, `width`, `head`.
        teacher: the same facts of the teacher and its Hub id; None without a teacher.
        plan: how the student was cut from the teacher; None if it came ready-made.
        objective: what it was trained on; None without a teacher.
        layer_pairs: compared layers by term, as written in the card.
        training: arguments of the run that a reader needs to repeat it.
        results: the last evaluation's metrics by name.
        history: logged training entries, in order.
        languages: language codes, if the caller names them.
        licence: licence identifier, if the caller names it.
        datasets: Hub ids of the data, if the caller names them.
        tasks: task identifiers of the Hub, such as "fill-mask".
        tags: further tags.
        versions: library versions by name.
        peft: whether the student is a peft adapter.
        adapter: the adapter's own settings by name; empty without one.
        licence_from: whose card the licence was read from; None if the caller named it.
        repository: Hub id that the student is published under, if it is.
        data: number of rows trained on, in all and by language.
        hardware: processor, accelerators and the like.
        command: the command of the run, word by word, without local paths and secrets.
        carbon_kilograms: emissions as codecarbon estimated them; None if it did not run.
        evaluation: what `hf-kd compare` measured; None if it has not.
    """

    model_name: str
    student: Mapping[str, object]
    teacher: Mapping[str, object] | None
    plan: StudentPlan | None
    objective: Objective | None
    layer_pairs: Mapping[str, tuple[str, ...]]
    training: Mapping[str, object]
    results: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    languages: tuple[str, ...]
    licence: str | None
    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    tags: tuple[str, ...]
    versions: Mapping[str, str]
    peft: bool = False
    adapter: Mapping[str, object] = field(default_factory=dict)
    licence_from: str | None = None
    repository: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    hardware: Mapping[str, object] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    carbon_kilograms: float | None = None
    evaluation: Evaluation | None = None
