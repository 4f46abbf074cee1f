"""What to keep of a teacher: decided first, carried out by `build`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..architecture import text_config, transformer_layers, unwrap_peft
from ..layer_maps import choose_student_layers
from ..plans import StudentPlan
from .factors import residual_basis
from .families import DEPTH, WIDTH, Family, axes_of, family_of, head_size, layer_number, require_cut, unnamed_parameters
from .importance import Sample, UnitScores, describe_sample, layer_importance, unit_importance

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WIDTH_RULES = ("truncate", "svd", "importance")


def plan_student(
    teacher: PreTrainedModel,
    num_hidden_layers: int | None = None,
    *,
    layers: str | Sequence[int] = "uniform",
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    width: str = "truncate",
    weights: str = "teacher",
    sample: Sample | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> StudentPlan:
    """Decide which layers and units of a teacher a student keeps. Nothing is built.

    Args:
        teacher: a model of a supported family; one on the meta device will do unless something
            is measured.
        num_hidden_layers: layers of the student; None for all, or with a list.
        layers: `uniform` (evenly spaced, first and last included), `first`, `last`, `alternating`
            (every second, from the first), `importance` (those whose removal disturbs the last
            hidden state most), or teacher layers counted from 0, such as "0,3,5".
        hidden_size: width of the student; None for the teacher's.
        intermediate_size: its FFN width; None for the teacher's.
        num_attention_heads: its attention heads; None for the teacher's.
        width: `truncate` (the first units and heads), `svd` (hidden: the directions with most of
            the embeddings' energy; heads: the best low-rank form; neurons and heads: the largest
            weights), `importance` (the most active units, neurons and heads on the sample).
        weights: `teacher`, or `random` for the shape alone.
        sample: batches that importance is measured on; see `sample_batches`.
        progress: wraps long iterations, such as a progress bar.

    Returns:
        The plan.

    Raises:
        ValueError: the family is not supported, a size does not fit or is larger than the
            teacher's, or importance is asked for without a sample.

    Source:
        The Privileged Students (arXiv:2406.16524) and its replication (arXiv:2505.16956) for depth
        and truncation; Minitron (arXiv:2407.14679) for importance.
    """
    if unwrap_peft(teacher) is not teacher:
        raise ValueError(
            "The teacher to cut a student from is a peft model, whose adapter would be lost. Merge it first: "
            "`model = model.merge_and_unload()`."
        )
    config = text_config(teacher)
    family = family_of(config)
    require_cut(family, config, DEPTH)
    layers = layers if isinstance(layers, str) else ",".join(map(str, layers))
    sample = None if sample is None else list(sample)
    if weights not in ("teacher", "random"):
        raise ValueError(f"`weights` is {weights!r}; it must be `teacher` or `random`.")
    if width not in WIDTH_RULES:
        raise ValueError(f"`width` is {width!r}; it must be one of {', '.join(WIDTH_RULES)}.")
    sizes = _sizes(config, family, hidden_size, intermediate_size, num_attention_heads)
    measures = layers == "importance" or (width == "importance" and bool(sizes) and weights == "teacher")
    if measures and sample is None:
        raise ValueError(
            "Importance is measured on text, but no sample was given. Give `sample=sample_batches(tokenizer, texts)` "
            "(`--text FILE...` on the command line), or choose another rule."
        )
    if measures and not sum(int(batch["attention_mask"].sum()) for batch in sample or ()):
        raise ValueError(
            "The sample for measuring importance holds no token. Give text of the languages that the student is for."
        )
    count = len(transformer_layers(teacher))
    if layers == "importance" and sample is not None:
        kept, rule = _important_layers(teacher, num_hidden_layers, sample, progress)
    elif num_hidden_layers is None and layers == "uniform":
        kept, rule = tuple(range(count)), "all"
    else:
        kept, rule = choose_student_layers(layers, num_hidden_layers, count)
    if len(kept) != count:
        sizes = {"num_hidden_layers": (count, len(kept)), **sizes}
    plan = StudentPlan(
        count,
        kept,
        rule,
        sizes=sizes,
        weights=weights,
        sample=describe_sample(sample) if measures and sample is not None else None,
    )
    if weights == "random" or not set(sizes) - {"num_hidden_layers"}:
        return _with_notes(plan, family)
    require_cut(family, config, WIDTH)
    require_named(teacher, family)
    return _with_notes(_with_units(plan, teacher, family, width, sample), family)


def layer_prefix(model: PreTrainedModel) -> str:
    """The name of the model's list of layers, with a dot."""
    layers = transformer_layers(model)
    return next(name for name, module in model.named_modules() if module is layers) + "."


def require_named(teacher: PreTrainedModel, family: Family) -> None:
    """Refuse a width cut of a model with parameters that the family's table does not describe.

    Raises:
        ValueError: it has some, such as those of a head of one's own or of a grouped convolution.
    """
    unnamed = unnamed_parameters(teacher, family)
    if unnamed:
        raise ValueError(
            f"`{type(teacher).__name__}` has {len(unnamed)} parameters that no width cut knows how to cut (first: "
            f"{unnamed[0]}). Cut its depth alone, or take a teacher with a standard head."
        )
    width = text_config(teacher).hidden_size
    parameters = dict(unwrap_peft(teacher).named_parameters())
    for name, axes in axes_of(teacher, family).items():
        for axis, size in zip(axes, parameters[name].shape if name in parameters else ()):
            if axis == "hidden" and size != width:
                raise ValueError(
                    f"`{name}` joins {size} units where the residual stream has {width}, as grouped convolutions do, "
                    "which no width cut knows how to cut. Cut the depth alone, or take another teacher."
                )


def _sizes(
    config: PreTrainedConfig, family: Family, hidden_size: int | None, ffn: int | None, heads: int | None
) -> dict[str, tuple[int, int]]:
    """The sizes that change, checked."""
    asked = {"hidden_size": hidden_size, family.ffn_field: ffn, "num_attention_heads": heads}
    sizes = {}
    for name, wanted in asked.items():
        size = getattr(config, name)
        if wanted is None or wanted == size:
            continue
        if not 1 <= wanted < size:
            raise ValueError(
                f"The student's `{name}` is to be {wanted}, but its teacher has {size}. A cut only makes smaller: "
                f"ask for 1 to {size}."
            )
        sizes[name] = (size, wanted)
    if sizes:
        require_cut(family, config, WIDTH)
    new_hidden = sizes.get("hidden_size", (0, config.hidden_size))[1]
    new_heads = sizes.get("num_attention_heads", (0, config.num_attention_heads))[1]
    old_size = head_size(config)
    new_size = new_hidden // new_heads
    if new_hidden % new_heads:
        fitting = [h for h in range(1, config.num_attention_heads + 1) if new_hidden % h == 0]
        raise ValueError(
            f"{new_heads} attention heads do not divide a hidden size of {new_hidden}. Use a number of heads that "
            f"does ({', '.join(map(str, fitting))}), or another hidden size."
        )
    if new_size > old_size:
        raise ValueError(
            f"A hidden size of {new_hidden} with {new_heads} attention heads makes heads of {new_size} units, but the "
            f"teacher's have {old_size}, so there is nothing to copy for the rest. Use at least "
            f"{-(-new_hidden // old_size)} heads."
        )
    if new_size != old_size:
        if family.rotary and new_size % 2:
            raise ValueError(
                f"Heads of {new_size} units cannot be rotated in pairs, as `{config.model_type}` does. Choose "
                "`hidden_size` and `num_attention_heads` so that their ratio is even."
            )
        sizes["head_size"] = (old_size, new_size)
    embedding = getattr(config, "embedding_size", None)
    if embedding is not None and embedding != config.hidden_size and embedding == new_hidden:
        raise ValueError(
            f"A hidden size of {new_hidden} equals the embedding size, and then `{config.model_type}` has no "
            "projection between the two, which this teacher has. Choose another hidden size."
        )
    return sizes


def _important_layers(
    teacher: PreTrainedModel, count: int | None, sample: Sample, progress: Callable[[Iterable[Any]], Iterable[Any]]
) -> tuple[tuple[int, ...], str]:
    total = len(transformer_layers(teacher))
    choose_student_layers("uniform", count, total)  # refuses a wrong number before anything is measured
    scores = layer_importance(teacher, sample, progress=progress)
    kept = sorted(sorted(range(total), key=lambda layer: -scores[layer])[: count or total])
    shown = ", ".join(f"{layer}: {score:.3g}" for layer, score in enumerate(scores))
    return tuple(kept), f"the {len(kept)} of {total} whose removal disturbs the last hidden state most ({shown})"


def _with_units(
    plan: StudentPlan, teacher: PreTrainedModel, family: Family, rule: str, sample: Sample | None
) -> StudentPlan:
    """Add the units that a narrower student keeps."""
    config = text_config(teacher)
    prefix = layer_prefix(teacher)
    scores = None
    if rule == "importance" and sample is not None:
        scores = unit_importance(teacher, family, sample, prefix)
    elif rule == "svd":
        scores = _weight_scores(teacher, family, prefix, plan.kept_layers)
    mixed: list[str] = []
    notes: list[str] = []
    changes: dict[str, Any] = {}
    if "hidden_size" in plan.sizes:
        if rule == "svd":
            mixed.append("hidden")
            share = residual_basis(teacher, plan.sizes["hidden_size"][1])[1]
            notes.append(f"the kept directions of the residual stream hold {share:.1%} of the embeddings' energy")
        else:
            changes["hidden_units"] = _best(
                None if scores is None else scores.hidden, config.hidden_size, plan.sizes["hidden_size"][1]
            )
    if family.ffn_field in plan.sizes:
        old, new = plan.sizes[family.ffn_field]
        changes["ffn_units"] = tuple(
            _best(None if scores is None else scores.ffn[layer], old, new) for layer in plan.kept_layers
        )
    if "num_attention_heads" in plan.sizes or "head_size" in plan.sizes:
        changes |= _heads(plan, config, family, rule, scores, mixed)
    return replace(plan, width_rule=rule, mixed=tuple(mixed), notes=(*plan.notes, *notes), **changes)


def _heads(
    plan: StudentPlan,
    config: PreTrainedConfig,
    family: Family,
    rule: str,
    scores: UnitScores | None,
    mixed: list[str],
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The kept heads of each layer, and the units kept of each head."""
    old, new = plan.sizes.get("head_size", (head_size(config),) * 2)
    count = config.num_attention_heads
    kept = plan.sizes.get("num_attention_heads", (count, count))[1]
    heads, query, value = [], [], []
    mixes = rule == "svd" and old != new
    if mixes:
        mixed.extend(["value"] if family.rotary else ["query", "value"])
    for layer in plan.kept_layers:
        context = None if scores is None else scores.context[layer].view(count, old)
        heads.append(_best(None if context is None else context.sum(1), count, kept))
        queries, values = [], []
        for head in heads[-1]:
            of_queries = scores.query[layer].view(count, old)[head] if scores is not None and scores.query else None
            picked = _rotary_units(old, new) if family.rotary else _best(of_queries, old, new)
            queries += [head * old + unit for unit in picked]
            values += [head * old + unit for unit in _best(None if context is None else context[head], old, new)]
        query.append(tuple(queries))
        value.append(tuple(values))
    units = {"heads": tuple(heads)}
    if not mixes or family.rotary:
        units["query_units"] = tuple(query)
    if not mixes:
        units["value_units"] = tuple(value)
    return units


def _rotary_units(old: int, new: int) -> tuple[int, ...]:
    """Pairs of rotated units whose frequencies are nearest to those of a smaller head.

    Pair j of a head of d units turns with base^(-2j / d): pair j of the smaller head turns as pair
    j · old / new of the larger.
    """
    pairs = [min(round(pair * old / new), old // 2 - 1) for pair in range(new // 2)]
    return tuple([*pairs, *(pair + old // 2 for pair in pairs)])


def _best(scores: Tensor | None, old: int, new: int) -> tuple[int, ...]:
    """The `new` units with the highest scores, ascending; the first ones without scores."""
    if scores is None:
        return tuple(range(new))
    order = torch.sort(scores, descending=True, stable=True).indices[:new]
    return tuple(sorted(order.tolist()))


def _weight_scores(teacher: PreTrainedModel, family: Family, prefix: str, kept: Sequence[int]) -> UnitScores:
    """Neurons by the product of what they read and write; value units likewise."""
    reads: dict[tuple[str, int], Tensor] = {}
    writes: dict[tuple[str, int], Tensor] = {}
    axes = axes_of(teacher, family)
    for name, parameter in teacher.named_parameters():
        layer = layer_number(name, prefix)
        if layer is None or layer not in kept or parameter.dim() != 2:
            continue
        weight = parameter.detach().float()
        if axes[name][0] in ("ffn", "value"):
            reads[axes[name][0], layer] = weight.norm(dim=1)
        elif axes[name][0] == "glu":
            reads["ffn", layer] = weight.norm(dim=1).view(2, -1).prod(0)
        elif axes[name][0] == "qkv":
            reads["value", layer] = weight.norm(dim=1).chunk(3)[2]
        if axes[name][1] in ("ffn", "context"):
            writes[axes[name][1], layer] = weight.norm(dim=0)
    return UnitScores(
        torch.zeros(0),
        {layer: reads["ffn", layer] * writes["ffn", layer] for layer in kept},
        {},
        {layer: (reads["value", layer] * writes["context", layer]).square() for layer in kept},
    )


def _with_notes(plan: StudentPlan, family: Family) -> StudentPlan:
    if family.first_layer_lacks is None or plan.kept_layers[0] == 0 or plan.weights == "random":
        return plan
    note = (
        f"teacher layer {plan.kept_layers[0]} becomes the first, which has no `{family.first_layer_lacks[0]}`: that "
        "norm's weight is folded into the matrix that reads it"
    )
    return replace(plan, notes=(*plan.notes, note))
