"""Where a student's weights come from: a model, or an adapter merged into its base. Safetensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModel
from transformers.utils import cached_file, logging

from ..vocabulary.load import has_file
from .families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.get_logger(__name__)

_ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PEFT_TASKS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
_CLASSIFIERS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")


def load_source(
    name_or_path: str, *, adapter: str | None = None, revision: str = "main", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load the model to cut, task head included, in float32 unless the checkpoint has another dtype.

    Args:
        name_or_path: Hub id or folder of a model, or of a peft adapter, whose base is then loaded
            and the adapter merged.
        adapter: Hub id or folder of a peft adapter to merge into the model.
        revision: branch, tag or commit of `name_or_path`.
        trust_remote_code: whether code from its repository may run.

    Raises:
        OSError: it cannot be found, or has no safetensors weights.
        ValueError: its family is not supported.
    """
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    base = adapter_base(name_or_path, revision) if adapter is None else None
    if base is not None:
        return _merged(base, name_or_path, revision, trust_remote_code=trust_remote_code)
    if adapter is not None:
        return _merged(name_or_path, adapter, "main", **hub)
    config = source_config(name_or_path, **hub)
    model: PreTrainedModel = _class_of(config).from_pretrained(name_or_path, use_safetensors=True, **hub)
    return model.eval()


def source_config(name_or_path: str, **hub: Any) -> PreTrainedConfig:
    """The configuration of a model of a supported family.

    Raises:
        OSError: there is none.
        ValueError: the family is not supported.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(name_or_path, **hub)
    family_of(config.get_text_config())
    return config


def adapter_base(name_or_path: str, revision: str = "main") -> str | None:
    """What a peft adapter adapts; None if this is no adapter.

    Raises:
        ValueError: the adapter does not say.
    """
    if not has_file(name_or_path, _ADAPTER, revision):
        return None
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(name_or_path, revision=revision).base_model_name_or_path
    if not base:
        raise ValueError(
            f"Adapter `{name_or_path}` does not say what its base is. Name the base, and this with `--adapter`."
        )
    return str(base)


def source_skeleton(name_or_path: str, **hub: Any) -> PreTrainedModel:
    """The model's shape without weights, to plan and check with."""
    config = source_config(name_or_path, **hub)
    with torch.device("meta"):
        skeleton: PreTrainedModel = _class_of(config)(config)
    return skeleton


def _class_of(config: PreTrainedConfig) -> Any:
    """The class that the checkpoint was saved from, so that its head comes along."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    return AutoModel


def _merged(base: str, adapter: str, adapter_revision: str, **hub: Any) -> PreTrainedModel:
    from peft import PeftConfig, PeftModel

    config = source_config(base, **hub)
    task = PeftConfig.from_pretrained(adapter, revision=adapter_revision).task_type
    name = _PEFT_TASKS.get(str(getattr(task, "value", task)))
    more: dict[str, Any] = {}
    labels = _label_count(adapter, adapter_revision)
    if labels is not None and labels != config.num_labels:
        more["num_labels"] = labels
    loader = _class_of(config) if name is None else getattr(transformers, name)
    model = loader.from_pretrained(base, use_safetensors=True, **hub, **more)
    adapted = PeftModel.from_pretrained(model, adapter, revision=adapter_revision, use_safetensors=True)
    merged: PreTrainedModel = adapted.merge_and_unload()
    merged.requires_grad_(True)
    logger.info(f"Adapter `{adapter}` is merged into `{base}`.")
    return merged.eval()


def _label_count(adapter: str, revision: str) -> int | None:
    """Classes of the classifier saved with an adapter, or None if it has none."""
    path = cached_file(adapter, _ADAPTER_WEIGHTS, revision=revision)
    with safe_open(path, framework="pt") as weights:
        for name in weights.keys():
            if name.endswith(_CLASSIFIERS):
                return int(weights.get_slice(name).get_shape()[0])
    return None
