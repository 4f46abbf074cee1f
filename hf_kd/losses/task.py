"""The task's own loss, as each head of transformers defines it, unreduced."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from .reduce import FAR_BELOW, full_precision


def token_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each position; 0 where the target is −100.

    Args:
        logits: raw scores of the positions. Shape (S, V).
        targets: class or token ids, −100 where there is none. Shape (S,).
        label_smoothing: share of the target spread over all classes, 0 to 1.

    Returns:
        Nats, unreduced, float32 or wider. Shape (S,).
    """
    return functional.cross_entropy(full_precision(logits), targets, reduction="none", label_smoothing=label_smoothing)


def sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None, *, label_smoothing: float = 0.0) -> Tensor:
    """Loss of each row of a sequence classifier.

    Args:
        logits: raw scores. Shape (B, V).
        labels: class ids (B,), values (B,) or (B, V), or 0/1 flags (B, V).
        problem_type: `regression`, `single_label_classification`, `multi_label_classification`,
            or None to infer it as transformers does.
        label_smoothing: share of the target spread over all classes, 0 to 1; single label only.

    Returns:
        Squared error, cross-entropy or mean binary cross-entropy, unreduced over rows. Shape (B,).
    """
    logits = full_precision(logits)
    problem_type = problem_type or _infer_problem_type(logits, labels)
    if problem_type == "regression":
        return (logits - labels.view_as(logits).to(logits.dtype)).square().mean(-1)
    if problem_type == "multi_label_classification":
        flags = labels.view_as(logits).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, flags, reduction="none").mean(-1)
    return token_cross_entropy(logits, labels.view(-1), label_smoothing=label_smoothing)


def span_loss(outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor], padding_free: Tensor) -> Tensor:
    """Loss of each row of an extractive question answerer: the mean of start and end.

    The answer is looked for among the real tokens of the row. transformers also lets padding
    compete, which makes a row's loss depend on the length of the rows beside it. Rows whose
    answer lies beyond them or in padding are left to the caller to drop.

    Args:
        outputs: `start_logits` and `end_logits`. Shape (B, N) each.
        labels: `start_positions` and `end_positions`. Shape (B,) each.
        padding_free: True where a token is no padding. Shape (B, N).

    Returns:
        Nats, unreduced over rows. Shape (B,).
    """
    losses = []
    for side in ("start", "end"):
        logits = full_precision(outputs[f"{side}_logits"]).masked_fill(~padding_free, FAR_BELOW)
        beyond = logits.shape[1]
        targets = labels[f"{side}_positions"].view(-1).clamp(0, beyond)
        losses.append(functional.cross_entropy(logits, targets, ignore_index=beyond, reduction="none"))
    return (losses[0] + losses[1]) / 2


def _infer_problem_type(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[-1] == 1:
        return "regression"
    if labels.dtype in (torch.long, torch.int):
        return "single_label_classification"
    return "multi_label_classification"
