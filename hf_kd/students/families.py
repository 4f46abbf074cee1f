"""What each family's parameters are made of: one table a family, axis by axis.

A cut of any kind is then one rule: keep the same units of an axis wherever the axis occurs.
To add a family, name its modules here; the tests in `tests/test_students.py` do the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..architecture import text_config, unwrap_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

DEPTH, WIDTH, VOCABULARY = "depth", "width", "vocabulary"

AXES = {
    "hidden": "the residual stream",
    "norm": "the residual stream, scaled unit by unit",
    "ffn": "neurons of the feed-forward layer",
    "glu": "the same neurons twice: their input half, then their gate half",
    "query": "query units, head by head",
    "key": "key units, head by head",
    "value": "value units, head by head",
    "context": "attention's output, head by head, which the output projection reads",
    "qkv": "query, key and value units in one matrix",
    "vocab": "tokens",
    "position": "position numbers, counted from the padding id on",
    "embedding": "width of the embeddings where it differs from the residual stream's",
    "*": "an axis that no cut touches",
}
"""What an axis of a parameter can be."""


@dataclass(frozen=True)
class Family:
    """A family of architectures.

    Attributes:
        model_types: the `model_type`s that belong to it.
        cuts: what can be cut.
        axes: module or parameter name → axes of its weight; `*` stands for one or more name
            parts. A bias has the weight's first axis. Modules not named have no cut axis, and
            are refused in a width cut.
        ffn_field: name of the FFN width in the configuration.
        follows_hidden: configuration fields that equal the hidden size and change with it.
        rotary: whether query and key units are rotated in pairs, so that they can be picked but
            not mixed.
        first_layer_lacks: module that layer 0 does without, since the embeddings already did
            its work, and the module that then reads in its place.
    """

    model_types: tuple[str, ...]
    cuts: frozenset[str]
    axes: Mapping[str, tuple[str, ...]]
    ffn_field: str = "intermediate_size"
    follows_hidden: tuple[str, ...] = ()
    rotary: bool = False
    first_layer_lacks: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        unknown = {axis for axes in self.axes.values() for axis in axes} - set(AXES)
        if unknown:
            raise ValueError(
                f"The table of {self.model_types[0]} names axes that there are none of: {sorted(unknown)}."
            )


_ALL = frozenset((DEPTH, WIDTH, VOCABULARY))

_EMBEDDINGS = {
    "embeddings.word_embeddings": ("vocab", "hidden"),
    "embeddings.position_embeddings": ("*", "hidden"),
    "embeddings.token_type_embeddings": ("*", "hidden"),
    "embeddings.LayerNorm": ("norm",),
}

_LAYER = {
    "encoder.layer.*.attention.self.query": ("query", "hidden"),
    "encoder.layer.*.attention.self.key": ("key", "hidden"),
    "encoder.layer.*.attention.self.value": ("value", "hidden"),
    "encoder.layer.*.attention.output.dense": ("hidden", "context"),
    "encoder.layer.*.attention.output.LayerNorm": ("norm",),
    "encoder.layer.*.intermediate.dense": ("ffn", "hidden"),
    "encoder.layer.*.output.dense": ("hidden", "ffn"),
    "encoder.layer.*.output.LayerNorm": ("norm",),
}

_HEADS = {
    "pooler.dense": ("hidden", "hidden"),
    "classifier": ("*", "hidden"),
    "classifier.dense": ("hidden", "hidden"),
    "classifier.out_proj": ("*", "hidden"),
    "qa_outputs": ("*", "hidden"),
}

_BERT_HEAD = {
    "cls.predictions.bias": ("vocab",),
    "cls.predictions.transform.dense": ("hidden", "hidden"),
    "cls.predictions.transform.LayerNorm": ("norm",),
    "cls.predictions.decoder": ("vocab", "hidden"),
    "cls.seq_relationship": ("*", "hidden"),
}

FAMILIES = (
    Family(("bert",), _ALL, _EMBEDDINGS | _LAYER | _HEADS | _BERT_HEAD),
    Family(
        ("roberta", "xlm-roberta", "camembert"),
        _ALL,
        _EMBEDDINGS
        | _LAYER
        | _HEADS
        | {
            "embeddings.position_embeddings": ("position", "hidden"),
            "lm_head.bias": ("vocab",),
            "lm_head.dense": ("hidden", "hidden"),
            "lm_head.layer_norm": ("norm",),
            "lm_head.decoder": ("vocab", "hidden"),
        },
    ),
    Family(
        ("distilbert",),
        _ALL,
        _EMBEDDINGS
        | _HEADS
        | {
            "transformer.layer.*.attention.q_lin": ("query", "hidden"),
            "transformer.layer.*.attention.k_lin": ("key", "hidden"),
            "transformer.layer.*.attention.v_lin": ("value", "hidden"),
            "transformer.layer.*.attention.out_lin": ("hidden", "context"),
            "transformer.layer.*.sa_layer_norm": ("norm",),
            "transformer.layer.*.ffn.lin1": ("ffn", "hidden"),
            "transformer.layer.*.ffn.lin2": ("hidden", "ffn"),
            "transformer.layer.*.output_layer_norm": ("norm",),
            "vocab_transform": ("hidden", "hidden"),
            "vocab_layer_norm": ("norm",),
            "vocab_projector": ("vocab", "hidden"),
            "pre_classifier": ("hidden", "hidden"),
        },
        ffn_field="hidden_dim",
    ),
    Family(
        ("electra",),
        _ALL,
        _LAYER
        | _HEADS
        | {
            "embeddings.word_embeddings": ("vocab", "embedding"),
            "embeddings.position_embeddings": ("*", "embedding"),
            "embeddings.token_type_embeddings": ("*", "embedding"),
            "embeddings.LayerNorm": ("embedding",),
            "embeddings_project": ("hidden", "embedding"),
            "generator_predictions.LayerNorm": ("embedding",),
            "generator_predictions.dense": ("embedding", "hidden"),
            "generator_lm_head": ("vocab", "embedding"),
            "discriminator_predictions.dense": ("hidden", "hidden"),
            "discriminator_predictions.dense_prediction": ("*", "hidden"),
        },
    ),
    Family(
        ("modernbert",),
        _ALL,
        _HEADS
        | {
            "embeddings.tok_embeddings": ("vocab", "hidden"),
            "embeddings.norm": ("norm",),
            "layers.*.attn_norm": ("norm",),
            "layers.*.attn.Wqkv": ("qkv", "hidden"),
            "layers.*.attn.Wo": ("hidden", "context"),
            "layers.*.mlp_norm": ("norm",),
            "layers.*.mlp.Wi": ("glu", "hidden"),
            "layers.*.mlp.Wo": ("hidden", "ffn"),
            "final_norm": ("norm",),
            "head.dense": ("hidden", "hidden"),
            "head.norm": ("norm",),
            "decoder": ("vocab", "hidden"),
        },
        rotary=True,
        first_layer_lacks=("attn_norm", "attn.Wqkv"),
    ),
    Family(
        ("deberta-v2",),
        _ALL,
        _EMBEDDINGS
        | _LAYER
        | _HEADS
        | _BERT_HEAD
        | {
            "embeddings.word_embeddings": ("vocab", "embedding"),
            "embeddings.position_embeddings": ("*", "embedding"),
            "embeddings.token_type_embeddings": ("*", "embedding"),
            "embeddings.embed_proj": ("hidden", "embedding"),
            "cls.predictions.transform.dense": ("embedding", "hidden"),
            "cls.predictions.transform.LayerNorm": ("embedding",),
            "cls.predictions.decoder": ("vocab", "embedding"),
            "encoder.layer.*.attention.self.query_proj": ("query", "hidden"),
            "encoder.layer.*.attention.self.key_proj": ("key", "hidden"),
            "encoder.layer.*.attention.self.value_proj": ("value", "hidden"),
            "encoder.layer.*.attention.self.pos_query_proj": ("query", "hidden"),
            "encoder.layer.*.attention.self.pos_key_proj": ("key", "hidden"),
            "encoder.rel_embeddings": ("*", "hidden"),
            "encoder.LayerNorm": ("norm",),
            "encoder.conv.conv": ("hidden", "hidden", "*"),
            "encoder.conv.LayerNorm": ("norm",),
            "lm_predictions.lm_head.dense": ("hidden", "hidden"),
            "lm_predictions.lm_head.LayerNorm": ("norm",),
            "lm_predictions.lm_head.bias": ("vocab",),
        },
        follows_hidden=("pooler_hidden_size",),
    ),
    Family(
        ("llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3"),
        frozenset((DEPTH, VOCABULARY)),
        {"embed_tokens": ("vocab", "*"), "lm_head": ("vocab", "*")},
    ),
)
"""Every family that students can be cut from."""


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model.

    Raises:
        ValueError: it is none of `FAMILIES`.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.model_types)
    reason = "shares one layer's weights over all its layers" if config.model_type == "albert" else "is not known here"
    raise ValueError(
        f"No student can be cut from a `{config.model_type}` model, which {reason}. Supported: {supported}. Take a "
        "teacher of one of these families, or give a ready-made student."
    )


def require_cut(family: Family, config: PreTrainedConfig, cut: str) -> None:
    """Refuse a kind of cut that the family does not allow.

    Raises:
        ValueError: it does not.
    """
    if cut not in family.cuts:
        able = ", ".join(name for other in FAMILIES for name in other.model_types if cut in other.cuts)
        raise ValueError(
            f"The {cut} of a `{config.model_type}` model cannot be cut, only its {' and '.join(sorted(family.cuts))}. "
            f"Leave it whole, or take a teacher of {able}."
        )


def axes_of(model: nn.Module, family: Family) -> Mapping[str, tuple[str, ...]]:
    """The axes of each parameter of a model, by name.

    A parameter that the family does not name has `*` for each of its axes.
    """
    model = unwrap_peft(model)
    prefix = f"{model.base_model_prefix}."
    config = text_config(model)
    embedding = "hidden" if getattr(config, "embedding_size", config.hidden_size) == config.hidden_size else "embedding"
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        axes = _look_up(family.axes, name.removeprefix(prefix))
        axes = ("*",) * parameter.dim() if axes is None else axes[: parameter.dim()]
        axes = tuple(embedding if axis == "embedding" else axis for axis in axes)
        # Where embeddings have the width of the residual stream, so has their norm.
        found[name] = ("norm",) if axes == ("hidden",) and "norm" in name.lower() else axes
    return MappingProxyType(found)


def unnamed_parameters(model: nn.Module, family: Family) -> list[str]:
    """Parameters that the family's table does not name, such as those of a head of one's own."""
    prefix = f"{unwrap_peft(model).base_model_prefix}."
    names = (name for name, _ in unwrap_peft(model).named_parameters())
    return [name for name in names if _look_up(family.axes, name.removeprefix(prefix)) is None]


def layer_number(name: str, prefix: str) -> int | None:
    """The number of the layer that a parameter belongs to, or None."""
    found = re.match(re.escape(prefix) + r"(\d+)\.", name)
    return int(found.group(1)) if found else None


def head_size(config: PreTrainedConfig) -> int:
    """Units of one attention head."""
    return getattr(config, "attention_head_size", None) or config.hidden_size // config.num_attention_heads


def _look_up(table: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, ...] | None:
    module = re.sub(r"\.(weight|bias)$", "", name)
    for pattern in (name, module):
        if pattern in table:
            return table[pattern]
    for pattern, axes in table.items():
        if "*" in pattern and fnmatchcase(module, pattern):
            return axes
    return None
