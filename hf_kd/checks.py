"""What must hold for each batch, and is asked of it before its loss is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .architecture import LANGUAGE_MODEL_HEADS, checkpoints_reentrantly
from .records import Objective, Signal


def require_labels(batch: Mapping[str, Any], head: str, objective: Objective) -> None:
    """A batch must have the labels that its terms read."""
    has_labels = "labels" in batch or "start_positions" in batch
    needs_labels = objective.uses("task") or (
        objective.uses("logits")
        and objective.positions == "masked"
        and head in (*LANGUAGE_MODEL_HEADS, "token_classification")
    )
    if needs_labels and not has_labels:
        raise ValueError(
            f"The batch has no labels (it holds {', '.join(sorted(batch))}), but the objective needs them. Use a "
            "collator that makes labels, or set `--kd_task_weight 0 --kd_positions all` to learn from the teacher "
            "alone."
        )


def refuse_several_labels_a_row(labels: Mapping[str, Any], head: str, objective: Objective) -> None:
    """transformers infers multi-label classification from labels that are fractions: no softmax then."""
    if head != "sequence_classification" or not objective.uses("logits") or "labels" not in labels:
        return
    if labels["labels"].is_floating_point() and objective.logits_divergence != "mse":
        raise ValueError(
            "The labels are fractions, so the student is trained for regression or for several labels a row, and "
            f"its logits are no distribution over classes: `{objective.logits_divergence}` would compare "
            "nonsense. Use `--kd_logits_divergence mse`."
        )


def require_gradients(student: nn.Module, signal: Signal) -> None:
    """Layer terms must train something."""
    if not torch.is_grad_enabled():
        return
    tensors = [*signal.hidden.values(), *signal.attention.values(), *(q for q, _, _ in signal.relation.values())]
    if not tensors or any(tensor.requires_grad for tensor in tensors) and not checkpoints_reentrantly(student):
        return
    if checkpoints_reentrantly(student):
        raise ValueError(
            "Reentrant activation checkpointing runs the student's layers without gradients, so the layer terms "
            "would train nothing. Set `gradient_checkpointing_kwargs={'use_reentrant': False}`."
        )
    raise ValueError(
        "Nothing that can be trained lies below the student layers that are compared, so the layer terms would "
        "train nothing. Unfreeze lower layers, put adapters there, or compare higher layers."
    )
