"""Students cut from teachers, with weights copied."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging

from .architecture import transformer_layers, unwrap_peft
from .layer_maps import choose_student_layers
from .records import StudentPlan

logger = logging.get_logger(__name__)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


def cut_student(
    teacher: PreTrainedModel, num_hidden_layers: int | None = None, *, layers: str = "uniform"
) -> tuple[PreTrainedModel, StudentPlan]:
    """Build a student from some of a teacher's layers; everything else is copied whole.

    The student has the teacher's class, vocabulary, width and head, its own memory, and
    float32 weights. The teacher is not changed.

    Args:
        teacher: any supported model, not wrapped by peft.
        num_hidden_layers: layers of the student, from 1 to the teacher's; may be None with a list.
        layers: `uniform` (evenly spaced, first and last included), `first`, `last`, or teacher
            layers counted from 0, such as "0,3,5".

    Returns:
        The student, in evaluation mode as `from_pretrained` gives it, and the plan it was cut by.

    Raises:
        ValueError: more layers than the teacher has, a teacher whose layers cannot be cut, or a
            peft model.

    Source:
        The Privileged Students, Wibowo, Solorio & Aji (2024), arXiv:2406.16524; DistilBERT, Sanh et
        al. (2019), arXiv:1910.01108, for the default layers.
    """
    if unwrap_peft(teacher) is not teacher:
        raise ValueError(
            "The teacher to cut a student from is a peft model, whose adapter would be lost. Merge it first: "
            "`model = model.merge_and_unload()`."
        )
    teacher_layers = transformer_layers(teacher)
    kept, rule = choose_student_layers(layers, num_hidden_layers, len(teacher_layers))
    config = _cut_config(teacher.config, kept, len(teacher_layers))
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: no random number is owed to them
        student = type(teacher)(config).float()
    _copy_weights(student, teacher, kept)
    if getattr(teacher, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval(), StudentPlan(len(teacher_layers), kept, rule)


def use_master_weights(student: nn.Module) -> None:
    """Train a half-precision checkpoint in float32: an update smaller than half precision's step would be lost."""
    halves = (torch.float16, torch.bfloat16)
    quantized = getattr(student, "quantization_method", None) is not None
    if quantized or not any(p.dtype in halves for p in student.parameters() if p.requires_grad):
        return
    logger.warning(
        f"The student's checkpoint is in {next(p.dtype for p in student.parameters() if p.dtype in halves)}. It is "
        "trained with float32 weights, since half-precision weights lose small updates; use --bf16 or --fp16 for speed."
    )
    student.float()


def _cut_config(config: PreTrainedConfig, kept: tuple[int, ...], teacher_layers: int) -> PreTrainedConfig:
    """A copy of the configuration for the kept layers; lists of one entry a layer are cut alike."""
    cut = copy.deepcopy(config)
    for name, value in vars(config).items():
        a_layer_each = "layer" in name or name == "attention_window"
        if isinstance(value, list) and len(value) == teacher_layers and a_layer_each:
            setattr(cut, name, [value[layer] for layer in kept])
    cut.num_hidden_layers = len(kept)
    cut._name_or_path = ""  # the student is no copy of that repository
    return cut


def _copy_weights(student: PreTrainedModel, teacher: PreTrainedModel, kept: tuple[int, ...]) -> None:
    for slot, (layer, source) in enumerate(
        zip(transformer_layers(student), (transformer_layers(teacher)[i] for i in kept), strict=True)
    ):
        differing = set(layer.state_dict()) ^ set(source.state_dict())
        if differing:
            raise ValueError(
                f"Layer {kept[slot]} of `{type(teacher).__name__}` cannot become layer {slot} of the student: only one "
                f"of them has {', '.join(sorted(differing))}. Keep the teacher's first layer first, as "
                "`student_layers uniform` does."
            )
    prefix = next(name for name, module in teacher.named_modules() if module is transformer_layers(teacher)) + "."
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix):
            layer, _, rest = name.removeprefix(prefix).partition(".")
            if int(layer) not in kept:
                continue
            name = f"{prefix}{kept.index(int(layer))}.{rest}"
        weights[name] = tensor
    student.load_state_dict(weights, strict=True)
