"""One objective, one batch, one loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..records import LayerPair, LossReport, Objective, Signal
from . import ATTENTION_DISTANCES, HIDDEN_DISTANCES, LOGITS_DIVERGENCES, relation_kl
from .reduce import FAR_BELOW, full_precision, share_of_mean
from .task import sequence_loss, span_loss, token_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from ..positions import Positions
    from .output import OutputLoss


def combine(
    objective: Objective,
    pairs: Mapping[str, tuple[LayerPair, ...]],
    student: Signal,
    teacher: Signal,
    positions: Positions,
    counts: Tensor,
    task: Tensor | None,
    fused: OutputLoss | None = None,
) -> LossReport:
    """Weigh and add every term that the objective uses.

    Args:
        objective: weights, divergences and distances.
        pairs: pairs of layers by term.
        student: hidden states by index of the pair, already of the teacher's width; attention and
            relations by layer; logits of the compared positions.
        teacher: hidden states, attention and relations by layer; logits of the same positions.
        positions: where the terms count.
        counts: labelled positions, compared positions and real tokens of the whole optimizer step.
            Shape (3,).
        task: the task term of this batch, reduced. Shape (). None if it has weight 0.
        fused: task and logits term, if they were computed together from hidden states.

    Returns:
        The loss and its weighted terms.
    """
    labelled, compared, tokens = counts.unbind()
    values: dict[str, Tensor] = {}
    if task is not None:
        values["task"] = task
    if objective.uses("logits") and fused is None:
        values["logits"] = logits_term(objective, student.outputs, teacher.outputs, positions, compared)
    if objective.uses("attention"):
        distance = ATTENTION_DISTANCES[objective.attention_distance]
        values["attention"] = _layer_sum(
            distance(student.attention[pair.student], teacher.attention[pair.teacher], positions.padding_free)
            for pair in pairs["attention"]
        )
    if objective.uses("hidden"):
        hidden_distance = HIDDEN_DISTANCES[objective.hidden_distance]
        values["hidden"] = _layer_sum(
            hidden_distance(student.hidden[index], teacher.hidden[pair.teacher])
            for index, pair in enumerate(pairs["hidden"])
        )
    if objective.uses("relation"):
        values["relation"] = _layer_sum(
            relation_kl(one, other, positions.padding_free, relation_heads=objective.relation_heads or 1)
            for pair in pairs["relation"]
            for one, other in zip(student.relation[pair.student], teacher.relation[pair.teacher], strict=True)
        )
    for term in set(values) & {"attention", "hidden", "relation"}:
        values[term] = share_of_mean(values[term], positions.tokens, tokens)
    terms = {term: objective.weights[term] * value for term, value in values.items()}
    summands = list(terms.values())
    if fused is not None:
        own = {name: getattr(fused, name) for name in ("task", "logits") if objective.uses(name)}
        terms, summands = own | terms, [fused.total, *summands]
    total = torch.stack([term.to(torch.promote_types(term.dtype, torch.float32)) for term in summands]).sum()
    return LossReport(total, {name: term.detach() for name, term in terms.items()})


def task_term(
    head: str,
    outputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    positions: Positions,
    count: Tensor,
    *,
    problem_type: str | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The task's own loss on one batch, as its share of the mean over the optimizer step. Shape ().

    Args:
        head: one of `architecture.HEADS`.
        outputs: the head's outputs; a language model's logits are those of `labels["targets"]`.
        labels: the batch's labels by name; `targets` (S,) for a language model.
        positions: where the task counts.
        count: labelled positions of the whole optimizer step.
        problem_type: of a sequence classifier, or None to infer it.
        label_smoothing: share of the target spread over all classes.
    """
    if head == "question_answering":
        return share_of_mean(span_loss(outputs, labels, positions.padding_free), positions.labelled, count)
    logits = outputs["logits"]
    if head == "sequence_classification":
        values = sequence_loss(logits, labels["labels"], problem_type, label_smoothing=label_smoothing)
        return share_of_mean(values, positions.labelled, count)
    targets = labels["targets"].reshape(-1)
    values = token_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets, label_smoothing=label_smoothing)
    return share_of_mean(values, None, count)


def logits_term(
    objective: Objective,
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    positions: Positions,
    count: Tensor,
) -> Tensor:
    """The divergence between the outputs, as its share of the mean over the optimizer step. Shape ().

    Outputs of a question answerer are distributions over the positions of the row: start and
    end are compared over its real tokens and averaged.
    """
    divergence = LOGITS_DIVERGENCES[objective.logits_divergence]
    shares = []
    for name, teacher_logits in teacher.items():
        student_logits = student[name]
        is_span = name in ("start_logits", "end_logits")
        if is_span:
            student_logits, teacher_logits = (
                full_precision(logits).masked_fill(~positions.padding_free, FAR_BELOW)
                for logits in (student_logits, teacher_logits)
            )
        values = divergence(student_logits, teacher_logits, temperature=objective.temperature)
        if is_span and objective.logits_divergence == "mse":  # a mean over the row: padding is no part of it
            values = values * positions.padding_free.shape[1] / positions.padding_free.sum(-1).clamp(min=1)
        mask = positions.compared if values.shape == positions.compared.shape else None
        shares.append(share_of_mean(values, mask, count))
    return torch.stack(shares).mean()


def _layer_sum(values: object) -> Tensor:
    """Sum over pairs of layers, as TinyBERT's equation 11. Shape (B, N)."""
    return torch.stack(list(values)).sum(0)  # type: ignore[call-overload]
