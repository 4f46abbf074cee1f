"""What kind of model this is: its head, its layers, its attention modules.

The only place that knows families. A new family whose layers lie in a list of
`num_hidden_layers` modules and whose attention goes through the attention interface needs
nothing here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from transformers.models.auto import modeling_auto

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

HEADS = {
    "masked_lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "sequence_classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token_classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question_answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
"""Supported heads, each with the model classes that have it."""

LANGUAGE_MODEL_HEADS = ("masked_lm", "causal_lm")
CLASSIFICATION_HEADS = ("sequence_classification", "token_classification")

AUTO_CLASSES = {
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}

# Attention that bypasses the attention interface. Its probabilities reach a dropout module,
# and its query, key and value leave linear modules: those names are all that capture needs.
BYPASSING_ATTENTION = {
    "DisentangledSelfAttention": {
        "probabilities": "dropout",
        "relation": ("query_proj", "key_proj", "value_proj"),
    },
}

_SHARED_LAYER_TYPES = ("albert",)

# Heads whose own loss is not what their kind of head computes: unshifted (XLNet), or of another form.
_UNLIKE_THEIR_HEAD = ("xlnet", "cpmant", "trocr", "xlm", "flaubert")


def unwrap_peft(model: nn.Module) -> nn.Module:
    """The model inside a peft wrapper, or the model itself."""
    peft = sys.modules.get("peft")  # an instance cannot exist before the package was imported
    return model.get_base_model() if peft is not None and isinstance(model, peft.PeftModel) else model


def head_of_class(name: str) -> str | None:
    """The head that a model class of this name has, or None."""
    for head, names in HEADS.items():
        if name in names.values():
            return head
    return None


def head_of(model: nn.Module) -> str | None:
    """The model's head, one of `HEADS`, or None if it has another.

    Encoder-decoder models count as unsupported, whatever their head, and so do a few families
    whose loss is not that of their head.
    """
    model = unwrap_peft(model)
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "model_type", None) in _UNLIKE_THEIR_HEAD:
        return None
    for cls in type(model).__mro__:
        head = head_of_class(cls.__name__)
        if head is not None:
            return head
    return None


def require_head(model: nn.Module) -> str:
    """The model's head.

    Raises:
        ValueError: the head is not supported.
    """
    head = head_of(model)
    if head is None:
        raise ValueError(
            f"`{type(unwrap_peft(model)).__name__}` has a head that `hf_kd` cannot distil. Supported heads: "
            f"{', '.join(HEADS)} of encoder-only and decoder-only models. Use `transformers.Trainer`, or a model with "
            "one of these heads."
        )
    return head


def text_config(model: nn.Module) -> PreTrainedConfig:
    """The configuration that holds layer count, width and vocabulary size."""
    return unwrap_peft(model).config.get_text_config()


def transformer_layers(model: nn.Module) -> nn.ModuleList:
    """The list of transformer layers.

    Raises:
        ValueError: the model shares its layers, or not exactly one list of `num_hidden_layers`
            modules is found.
    """
    from torch import nn

    base: PreTrainedModel = unwrap_peft(model).base_model
    config = base.config
    count = getattr(config, "num_hidden_layers", None)
    if config.model_type not in _SHARED_LAYER_TYPES and count:
        found = [module for module in base.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
        inner = {id(module) for outer in found for module in outer.modules() if module is not outer}
        outermost = [module for module in found if id(module) not in inner]
        if len(outermost) == 1:
            return outermost[0]
    raise ValueError(
        f"`{type(unwrap_peft(model)).__name__}` ({config.model_type}) has no one list of {count} separate layers, so "
        "its layers can neither be compared nor cut. Use the task and logits terms alone, or a model such as BERT, "
        "XLM-R, DistilBERT, ELECTRA, ModernBERT, DeBERTa-v2, Llama or Qwen."
    )


def attention_of(model: nn.Module, layer: nn.Module) -> nn.Module:
    """The self-attention module of one transformer layer.

    Raises:
        ValueError: the model's attention can neither be reached through the attention interface
            nor is it one of `BYPASSING_ATTENTION`.
    """
    base = unwrap_peft(model).base_model
    for module in layer.modules():
        if type(module).__name__ in BYPASSING_ATTENTION:
            return module
    if base._supports_attention_backend:
        classes = _attention_classes(base)
        for module in layer.modules():
            if isinstance(module, classes) and hasattr(module, "config"):
                return module
    raise ValueError(
        f"The attention of `{type(unwrap_peft(model)).__name__}` ({base.config.model_type}) cannot be captured: it "
        "bypasses the attention interface of transformers. Use the task, logits and hidden terms, or a model such as "
        "BERT, XLM-R, DistilBERT, ELECTRA, ModernBERT, DeBERTa-v2, Llama or Qwen."
    )


def checkpoints_reentrantly(model: nn.Module) -> bool:
    """Whether activation checkpointing is on in the form that hides captured tensors from autograd."""
    for module in model.modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if function is not None and getattr(module, "gradient_checkpointing", False):
            return bool(getattr(function, "keywords", {}).get("use_reentrant", True))
    return False


def _attention_classes(base: PreTrainedModel) -> tuple[type, ...]:
    specs = (base._can_record_outputs or {}).get("attentions", ())
    specs = specs if isinstance(specs, (list, tuple)) else (specs,)
    classes = (getattr(spec, "target_class", spec) for spec in specs)
    return tuple(cls for cls in classes if isinstance(cls, type))
