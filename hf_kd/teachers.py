"""Teachers: loaded, frozen, and checked against the student before anything trains."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from .architecture import AUTO_CLASSES, CLASSIFICATION_HEADS, head_of, head_of_class, unwrap_peft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


def load_teacher(
    name_or_path: str,
    head: str,
    *,
    revision: str = "main",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    device: torch.device | str = "cpu",
    needs_head: bool = True,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a teacher in evaluation mode, without gradients. Safetensors only.

    Args:
        name_or_path: Hub id or local folder.
        head: kind of head it must have, one of `architecture.HEADS`.
        revision: branch, tag or commit.
        dtype: "auto" (the checkpoint's own, but float32 on a CPU), or a torch dtype's name.
        attn_implementation: attention kernel, or None for the model's own choice.
        device: where to put it.
        needs_head: whether its logits will be compared. Without, a bare encoder will do.
        trust_remote_code: whether code from its repository may run.

    Raises:
        ValueError: it has another head, or its head's weights are not in the checkpoint.
        OSError: it cannot be found, or has no safetensors weights.
    """
    config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    if needs_head:
        _check_head(name_or_path, config, head)
    auto_class = getattr(transformers, AUTO_CLASSES[head] if needs_head else "AutoModel")
    kwargs = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with _replicated_under_zero3():
        teacher, loading = auto_class.from_pretrained(
            name_or_path,
            revision=revision,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
    if needs_head and loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(
            f"Teacher `{name_or_path}` lacks {len(missing)} weights of its {head} head (first: {missing[0]}), which "
            "would be random. Use a teacher trained for this task, or compare no logits: `--kd_logits_weight 0`."
        )
    if needs_head and head in CLASSIFICATION_HEADS:
        _restore_class_names(teacher.config, name_or_path, revision=revision)
    if dtype == "auto" and torch.device(device).type == "cpu" and teacher.dtype != torch.float32:
        teacher = teacher.float()
    return teacher.to(device).requires_grad_(False).eval()


def check_pair(student: nn.Module, teacher: nn.Module, head: str, *, compares_logits: bool) -> None:
    """Refuse a teacher that cannot teach this student.

    Raises:
        ValueError: it is the student, shares weights with it, has another head, or has no weights.
        TypeError: it is no transformers model.
    """
    if not hasattr(teacher, "config"):
        raise TypeError(
            f"The teacher is a `{type(teacher).__name__}`; it must be a transformers model. Load it with an "
            "`AutoModelFor...` class."
        )
    if any(parameter.is_meta for parameter in teacher.parameters()):
        raise ValueError("The teacher has weights on the meta device, which hold no numbers. Load its weights first.")
    student_memory = {parameter.data_ptr() for parameter in student.parameters() if parameter.numel()}
    if any(parameter.data_ptr() in student_memory for parameter in teacher.parameters() if parameter.numel()):
        raise ValueError(
            "Student and teacher share weights, so the teacher would change with the student. Pass a copy, such as "
            "`copy.deepcopy(student)`, or load the teacher by itself."
        )
    if compares_logits and head_of(teacher) != head:
        raise ValueError(
            f"The student has a {head} head, but teacher `{type(teacher).__name__}` has "
            f"{head_of(teacher) or 'an unsupported one'}. Use a teacher trained for the student's task."
        )


def align_labels(student_config: PreTrainedConfig, teacher_config: PreTrainedConfig) -> list[int] | None:
    """Match the classes of two classifiers by name.

    Args:
        student_config: names the student's classes.
        teacher_config: names the teacher's classes.

    Returns:
        For each student class the teacher's class of the same name; None if the order is the same.

    Raises:
        ValueError: the sets of names differ.
    """
    student_names, teacher_names = class_names(student_config), class_names(teacher_config)
    if sorted(student_names) != sorted(teacher_names):
        raise ValueError(
            f"The student's labels are {', '.join(student_names)}; the teacher's are {', '.join(teacher_names)}. "
            "Classes are matched by name, never by position. Set `id2label` and `label2id` of both configurations to "
            "the same names, or use a teacher trained on the same labels."
        )
    order = [teacher_names.index(name) for name in student_names]
    return None if order == sorted(order) else order


def class_names(config: PreTrainedConfig) -> list[str]:
    """The names of a classifier's classes, in order.

    `id2label` names them, unless it holds nothing but `LABEL_0` and so on, which transformers puts
    there itself: some scripts set `label2id` alone.
    """
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    by_id = {int(index): str(name) for name, index in (config.label2id or {}).items()}
    if _is_generic(names) and sorted(by_id) == list(range(config.num_labels)):
        return [by_id[i] for i in range(config.num_labels)]
    return names


def _is_generic(names: list[str]) -> bool:
    return names == [f"LABEL_{i}" for i in range(len(names))]


def _restore_class_names(config: PreTrainedConfig, name_or_path: str, **kwargs: Any) -> None:
    """Name the classes as the checkpoint's file does: without `id2label` there, loading loses its `label2id`."""
    stored = config.get_config_dict(name_or_path, **kwargs)[0].get("label2id")
    if stored and sorted(stored.values()) == list(range(config.num_labels)) and _is_generic(class_names(config)):
        config.label2id = dict(stored)
        config.id2label = {index: name for name, index in stored.items()}


def answer(
    teacher: nn.Module, inputs: dict[str, Any], *, runs_head: bool, position_limit: int | None = None
) -> dict[str, Tensor]:
    """Run the teacher once, without gradients.

    Args:
        teacher: a frozen model.
        inputs: the batch without labels, as far as the teacher takes it.
        runs_head: whether its logits are wanted; otherwise the head does not run.
        position_limit: from `position_limit`.

    Returns:
        The head's outputs that end in "logits", by name.

    Raises:
        ValueError: a row is longer than the teacher's positions.
    """
    if teacher.training:
        teacher.eval()
    ids = inputs.get("input_ids")
    if ids is not None and position_limit is not None and ids.shape[1] > position_limit:
        raise ValueError(
            f"A batch is {ids.shape[1]} tokens long, but teacher `{type(teacher).__name__}` has {position_limit} "
            "positions. Shorten the rows (`--max_seq_length` in stock scripts), or use a teacher with more positions."
        )
    module = teacher if runs_head else unwrap_peft(teacher).base_model
    with torch.no_grad():
        outputs = module(**inputs, return_dict=True)
    return {name: value for name, value in outputs.items() if name.endswith("logits")}


def position_limit(model: nn.Module) -> int | None:
    """Longest row that learned absolute positions allow; None without such positions."""
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count from the padding id: those positions are no row's.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


def _check_head(name_or_path: str, config: PreTrainedConfig, head: str) -> None:
    """Tell a teacher of another task before its weights load."""
    architectures = config.architectures or []
    heads = {head_of_class(name) for name in architectures}
    if architectures and head not in heads:
        raise ValueError(
            f"Teacher `{name_or_path}` is a {', '.join(architectures)}, but the student needs a teacher with a {head} "
            "head. Fine-tune the teacher for this task first, or compare no logits: `--kd_logits_weight 0`."
        )


@contextmanager
def _replicated_under_zero3() -> Iterator[None]:
    """Keep DeepSpeed ZeRO-3 from partitioning the teacher: it is in no engine that would gather it again."""
    from transformers.integrations import deepspeed

    if not deepspeed.is_deepspeed_zero3_enabled():
        yield
        return
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)
