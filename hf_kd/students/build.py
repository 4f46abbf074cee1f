"""Students built by a plan, with weights copied."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.utils import logging

from ..architecture import text_config, transformer_layers, unwrap_peft
from ..plans import StudentPlan, TrimPlan
from .families import DEPTH, VOCABULARY, WIDTH, Family, axes_of, family_of, layer_number, require_cut
from .maps import StudentMaps, moved_padding, student_maps, transfer, transfer_vector
from .plan import layer_prefix, plan_student, require_named

logger = logging.get_logger(__name__)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

_THIRDS = ("query", "key", "value")


def build_student(
    teacher: PreTrainedModel,
    num_hidden_layers: int | None = None,
    *,
    plan: StudentPlan | None = None,
    **choices: Any,
) -> tuple[PreTrainedModel, StudentPlan]:
    """Build a student out of a teacher, by a plan or by what a plan is made of.

    The student has the teacher's class and head, its own memory and float32 weights. What is not
    cut is copied bit for bit. The teacher is not changed.

    Args:
        teacher: a model of a supported family, not wrapped by peft.
        num_hidden_layers: layers of the student; None for all, or with a list.
        plan: from `plan_student`; None to make one from the other arguments.
        choices: further arguments of `plan_student`: `layers`, `hidden_size`,
            `intermediate_size`, `num_attention_heads`, `width`, `weights`, `sample`.

    Returns:
        The student, in evaluation mode as `from_pretrained` gives it, and the plan it was built by.

    Raises:
        ValueError: what is asked for cannot be cut from this teacher, or the plan is for another.
        TypeError: both a plan and choices are given.

    Source:
        The Privileged Students, Wibowo, Solorio & Aji (2024), arXiv:2406.16524.
    """
    if plan is None:
        plan = plan_student(teacher, num_hidden_layers, **choices)
    elif num_hidden_layers is not None or choices:
        raise TypeError("Both a plan and what a plan is made of were given. Give one of the two.")
    return _build(teacher, plan), plan


def trim_model(model: PreTrainedModel, trim: TrimPlan) -> PreTrainedModel:
    """A copy of a model that knows only some tokens, renumbered in their order.

    Args:
        model: a model of a supported family.
        trim: from `plan_trim`, made with the model's own tokenizer.

    Returns:
        The smaller model, in evaluation mode and the model's own dtype. Its logits equal the
        model's on the kept tokens.

    Raises:
        ValueError: the plan names ids that the model lacks, or drops one that its configuration
            needs.

    Source:
        Load What You Need, Abdaoui et al. (2020), arXiv:2010.05609.
    """
    layers = len(transformer_layers(model))
    return _build(model, StudentPlan(layers, tuple(range(layers)), "all", trim=trim), keep_dtype=True)


def student_config(config: PreTrainedConfig, plan: StudentPlan) -> PreTrainedConfig:
    """The student's configuration.

    Raises:
        ValueError: the plan is for a teacher of other sizes.
    """
    cut = copy.deepcopy(config)
    family = family_of(config)
    for name, value in vars(config).items():
        a_layer_each = "layer" in name or name == "attention_window"
        if isinstance(value, list) and len(value) == plan.teacher_layers and a_layer_each:
            setattr(cut, name, [value[layer] for layer in plan.kept_layers])
    cut.num_hidden_layers = len(plan.kept_layers)
    for name, (old, new) in plan.sizes.items():
        if name == "head_size":  # follows from the others
            if getattr(config, "attention_head_size", None):
                cut.attention_head_size = new
            continue
        if getattr(config, name, None) != old:
            raise ValueError(
                f"The plan is for a teacher whose `{name}` is {old}; this one's is {getattr(config, name, None)}. "
                "Make a plan for this teacher."
            )
        setattr(cut, name, new)
        for follower in family.follows_hidden if name == "hidden_size" else ():
            if hasattr(config, follower):
                setattr(cut, follower, new)
        if name == "hidden_size" and getattr(config, "embedding_size", None) == old:
            cut.embedding_size = new
    if plan.kept_ids is not None:
        _renumber(cut, config, plan.kept_ids)
        if "position" in {axis for axes in family.axes.values() for axis in axes}:
            cut.max_position_embeddings = config.max_position_embeddings - moved_padding(plan, config.pad_token_id)
    cut._name_or_path = ""  # the student is no copy of that repository
    return cut


def follow_ties(config: PreTrainedConfig, teacher: PreTrainedModel) -> PreTrainedConfig:
    """Let the configuration say so where the teacher's input and output embeddings are two matrices.

    `from_pretrained` leaves both of a checkpoint that holds both, whatever its configuration says.
    """
    output, words = teacher.get_output_embeddings(), teacher.get_input_embeddings().weight
    if output is not None and output.weight.shape == words.shape and output.weight is not words:
        config.tie_word_embeddings = False
    return config


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


def _build(teacher: PreTrainedModel, plan: StudentPlan, *, keep_dtype: bool = False) -> PreTrainedModel:
    if unwrap_peft(teacher) is not teacher:
        raise ValueError(
            "The model to cut is a peft model, whose adapter would be lost. Merge it first: "
            "`model = model.merge_and_unload()`."
        )
    config = text_config(teacher)
    family = family_of(config)
    _check_plan(plan, teacher, family)
    small = follow_ties(student_config(teacher.config, plan), teacher)
    if plan.weights == "random":
        student = type(teacher)(small).float()
    else:
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: no random number is owed to them
            student = type(teacher)(small).float()
        if keep_dtype:  # of the weights alone: rotary frequencies stay in float32, as `from_pretrained` leaves them
            for parameter in student.parameters():
                parameter.data = parameter.data.to(teacher.dtype)
        with torch.no_grad():
            _copy_weights(student, teacher, plan, family)
    if getattr(teacher, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(teacher.generation_config)
        if plan.kept_ids is not None:
            _renumber(student.generation_config, teacher.generation_config, plan.kept_ids)
    return student.eval()


def _check_plan(plan: StudentPlan, teacher: PreTrainedModel, family: Family) -> None:
    config = text_config(teacher)
    layers = len(transformer_layers(teacher))
    require_cut(family, config, DEPTH)
    if getattr(teacher, "quantization_method", None) is not None or any(p.is_meta for p in teacher.parameters()):
        raise ValueError(
            f"The weights of `{type(teacher).__name__}` are quantised or not loaded, so they cannot be copied as "
            "numbers. Load the teacher without quantisation, weights included."
        )
    if plan.teacher_layers != layers:
        raise ValueError(
            f"The plan is for a teacher of {plan.teacher_layers} layers; this one has {layers}. Make a plan for this "
            "teacher."
        )
    if list(plan.kept_layers) != sorted(set(plan.kept_layers)) or not set(plan.kept_layers) <= set(range(layers)):
        raise ValueError(
            f"The plan keeps the layers {', '.join(map(str, plan.kept_layers))}; they must ascend from 0 to "
            f"{layers - 1}, each once. Make a plan for this teacher."
        )
    if set(plan.sizes) - {"num_hidden_layers"}:
        require_cut(family, config, WIDTH)
        if plan.weights == "teacher":
            require_named(teacher, family)
    if plan.kept_ids is None:
        return
    require_cut(family, config, VOCABULARY)
    ids = plan.kept_ids
    if not ids or list(ids) != sorted(set(ids)) or ids[0] < 0 or ids[-1] >= config.vocab_size:
        raise ValueError(
            f"The token ids to keep must ascend from 0 to {config.vocab_size - 1}, each once; there are {len(ids)}"
            + (f", from {min(ids)} to {max(ids)}." if ids else ".")
            + " Make the plan with this model's own tokenizer."
        )


def _copy_weights(student: PreTrainedModel, teacher: PreTrainedModel, plan: StudentPlan, family: Family) -> None:
    prefix = layer_prefix(teacher)
    maps = student_maps(plan, teacher, prefix)
    axes = axes_of(teacher, family)
    sources = teacher.state_dict()
    folded = _folded_norm(teacher, plan, family, prefix)
    own = {name for name, _ in _own_tensors(student)}
    kept = [f"{prefix}{layer}." for layer in plan.kept_layers]
    inner = {name.removeprefix(prefix).partition(".")[2] for name in own if name.startswith(prefix)}
    folds = set() if family.first_layer_lacks is None else {f"{family.first_layer_lacks[0]}.weight"}
    lost = []
    for name, _ in _own_tensors(teacher):
        within = next((name.removeprefix(start) for start in kept if name.startswith(start)), None)
        if name.startswith(prefix) and (within is None or within in inner | folds):
            continue
        if name not in own:
            lost.append(name)
    if lost:
        raise ValueError(
            f"`{type(teacher).__name__}` has {len(lost)} weights that its class does not make (first: {lost[0]}), so "
            "that the student would lack them. Add them in the class, or cut the model without them."
        )
    for name, target in _own_tensors(student):
        slot = layer_number(name, prefix)
        origin = name
        if slot is not None:
            origin = f"{prefix}{plan.kept_layers[slot]}.{name.removeprefix(f'{prefix}{slot}.')}"
        source = sources.get(origin)
        if source is None:
            raise ValueError(
                f"The student has a weight that its teacher lacks: {name} (from {origin}). Keep the teacher's first "
                "layer first, as `uniform` does."
            )
        if slot == 0 and folded is not None and name.removeprefix(f"{prefix}0.") == folded[0]:
            source = source * folded[1]
        source = source.to(target.device)
        _copy_one(target, source, axes.get(origin, ("*",) * source.dim()), maps, slot, name)


def _copy_one(
    target: Tensor, source: Tensor, axes: tuple[str, ...], maps: StudentMaps, slot: int | None, name: str
) -> None:
    """Write one parameter, whose query, key and value thirds are cut apart."""
    if axes and axes[0] == "qkv":
        for third, goal, origin in zip(_THIRDS, target.chunk(3), source.chunk(3), strict=True):
            _copy_one(goal, origin, (third, *axes[1:]), maps, slot, name)
        return
    found = [maps.of(axis, slot) for axis in axes]
    if not any(found):
        target.copy_(source)
    elif len(axes) == 1:
        squared = axes[0] == "norm" and name.endswith("weight")
        transfer_vector(target, source, found[0], squared=squared, scale=maps.norm_scale)
    else:
        transfer(target, source, found)


def _own_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, each once where tied, and saved buffers."""
    saved = model.state_dict(keep_vars=True)
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    return [*model.named_parameters(), *buffers]


def _folded_norm(teacher: PreTrainedModel, plan: StudentPlan, family: Family, prefix: str) -> tuple[str, Tensor] | None:
    """What the matrix that reads the first layer's missing norm is multiplied by, column by column.

    The embeddings' own norm has already made the input's root mean square that of its weights.
    """
    if family.first_layer_lacks is None or plan.kept_layers[0] == 0:
        return None
    norm, reader = family.first_layer_lacks
    weights: Mapping[str, Tensor] = dict(teacher.named_parameters())
    axes = family.axes
    embeddings_norm = next(name for name in axes if name.startswith("embeddings.") and axes[name] == ("norm",))
    base = prefix.removesuffix("layers.")
    spread = weights[f"{base}{embeddings_norm}.weight"].float().square().mean().sqrt()
    return f"{reader}.weight", weights[f"{prefix}{plan.kept_layers[0]}.{norm}.weight"].float() / spread


def _renumber(target: Any, source: Any, kept_ids: tuple[int, ...]) -> None:
    """Give every `*_token_id` its new number, and the vocabulary its new size."""
    new = {old: rank for rank, old in enumerate(kept_ids)}
    if hasattr(target, "vocab_size"):
        target.vocab_size = len(kept_ids)
    for name, value in vars(source).items():
        if not name.endswith(("_token_id", "_token_ids")) or value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(index, int) and index in new for index in ids):
            raise ValueError(
                f"The configuration's `{name}` is {value}, which is not among the {len(kept_ids):,} tokens to keep. "
                "Keep that token, or correct the configuration."
            )
        setattr(target, name, [new[index] for index in ids] if isinstance(value, list) else new[value])
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if getattr(source, name, None):
            setattr(target, name, [new[index] for index in getattr(source, name) if index in new])
    if getattr(source, "bad_words_ids", None):
        target.bad_words_ids = [
            [new[index] for index in word] for word in source.bad_words_ids if set(word) <= set(new)
        ]
