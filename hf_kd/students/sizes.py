"""How large a model is, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..architecture import text_config
from .build import follow_ties, student_config
from .families import axes_of, family_of
from .plan import layer_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..plans import StudentPlan

PARTS = ("word embeddings", "attention", "feed-forward", "other")


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model. Parameters are counted once where tied.

    Attributes:
        counted: class of the model, which says what is counted.
        shape: sizes by the name that a reader knows, such as "layers".
        parameters: of each part of `PARTS`.
        encoder_multiply_adds: multiply-adds of the layers' matrices for one token; attention's
            own, which grow with the row's length, not among them.
        output_multiply_adds: multiply-adds of the output matrix for one token; 0 without one.
    """

    counted: str
    shape: Mapping[str, int]
    parameters: Mapping[str, int]
    encoder_multiply_adds: int
    output_multiply_adds: int

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def megabytes(self) -> float:
        """Megabytes (10⁶ bytes) of the parameters in float32."""
        return self.total * 4 / 1e6

    @property
    def embedding_share(self) -> float:
        """Share of the word embeddings in the parameters, 0 to 1."""
        return self.parameters["word embeddings"] / self.total


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Measure a model, which may lie on the meta device."""
    config = text_config(model)
    axes = axes_of(model, family_of(config))
    prefix = layer_prefix(model)
    parts = dict.fromkeys(PARTS, 0)
    encoder = 0
    for name, parameter in model.named_parameters():
        in_layer = name.startswith(prefix)
        parts[_part(name.removeprefix(prefix) if in_layer else "", axes[name])] += parameter.numel()
        if in_layer and parameter.dim() > 1:
            encoder += parameter.numel()
    output = model.get_output_embeddings()
    if isinstance(output, nn.Linear) and output.out_features != config.vocab_size:
        output = model.get_input_embeddings()  # which this head reads, with no matrix of its own
    shape = {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "attention heads": config.num_attention_heads,
        "feed-forward width": getattr(config, family_of(config).ffn_field),
        "vocabulary": config.vocab_size,
    }
    return Sizes(type(model).__name__, shape, parts, encoder, 0 if output is None else output.weight.numel())


def planned_sizes(teacher: PreTrainedModel, plan: StudentPlan) -> Sizes:
    """Sizes that a student would have: nothing is built but its skeleton."""
    with torch.device("meta"):
        return sizes_of(type(teacher)(follow_ties(student_config(teacher.config, plan), teacher)))


def _part(name: str, axes: tuple[str, ...]) -> str:
    if "vocab" in axes:
        return "word embeddings"
    if "attn" in name or "attention" in name:
        return "attention"
    if name and not name.lower().endswith(("norm.weight", "norm.bias")):
        return "feed-forward"
    return "other"
