"""From a plan to what happens to each axis of each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..architecture import text_config
from .factors import context_factors, query_key_factors, residual_basis
from .families import axes_of, family_of, head_size, layer_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..plans import StudentPlan

_ROWS = 4096  # rows of a large matrix that are held twice at a time


@dataclass(frozen=True)
class AxisMap:
    """What becomes of one axis: units are picked, or mixed.

    Attributes:
        picked: the source unit of each new unit. Shape (new,).
        mixing: each new unit as a sum of source units. Shape (new, old). Exactly one of the two is given.
        scale: factor of the result.
    """

    picked: Tensor | None = None
    mixing: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class StudentMaps:
    """The axis maps of a whole student. An axis without a map is left as it is.

    Attributes:
        shared: by axis, for what all layers have in common.
        layers: by axis, for each layer of the student.
        norm_scale: factor of every norm's weight.
    """

    shared: dict[str, AxisMap] = field(default_factory=dict)
    layers: tuple[dict[str, AxisMap], ...] = ()
    norm_scale: float = 1.0

    def of(self, axis: str, layer: int | None) -> AxisMap | None:
        """The map of an axis in a layer of the student, or outside the layers."""
        own = self.layers[layer].get(axis) if layer is not None else None
        return own if own is not None else self.shared.get(axis)


def student_maps(plan: StudentPlan, teacher: PreTrainedModel, prefix: str) -> StudentMaps:
    """The maps that carry out a plan.

    Args:
        plan: what is kept.
        teacher: where the mixing of a singular value decomposition is computed.
        prefix: name of the teacher's list of layers, with a dot.
    """
    config = text_config(teacher)
    shared: dict[str, AxisMap] = {}
    norm_scale = 1.0
    if plan.kept_ids is not None:
        shared["vocab"] = AxisMap(torch.tensor(plan.kept_ids))
        shift = moved_padding(plan, config.pad_token_id)
        if shift:
            shared["position"] = AxisMap(torch.arange(shift, config.max_position_embeddings))
    if plan.hidden_units is not None:
        shared["hidden"] = AxisMap(torch.tensor(plan.hidden_units))
    elif "hidden" in plan.mixed:
        basis, kept = residual_basis(teacher, plan.sizes["hidden_size"][1])
        shared["hidden"] = AxisMap(mixing=basis)
        # A norm divides by the root mean square, which the discarded directions had a share in.
        norm_scale = float((basis.shape[1] / basis.shape[0] * kept) ** 0.5)
    if "hidden" in shared:
        shared["norm"] = shared["hidden"]
    layers = tuple(_layer_maps(plan, teacher, prefix, slot) for slot in range(len(plan.kept_layers)))
    return StudentMaps(shared, layers, norm_scale)


def moved_padding(plan: StudentPlan, pad_token_id: int | None) -> int:
    """By how much the padding id falls, and with it the position numbers of RoBERTa's kin."""
    if plan.kept_ids is None or pad_token_id is None or pad_token_id not in plan.kept_ids:
        return 0
    return pad_token_id - plan.kept_ids.index(pad_token_id)


def transfer(target: Tensor, source: Tensor, maps: Sequence[AxisMap | None]) -> None:
    """Write `source`, cut along its axes, into `target`, never holding a large matrix twice.

    Args:
        target: the student's parameter, written in place.
        source: the teacher's, of any dtype.
        maps: one for each axis.
    """
    first = maps[0]
    if first is not None and first.mixing is not None:
        mixed = (first.mixing @ source.flatten(1).to(first.mixing.dtype)).view(-1, *source.shape[1:])
        target.copy_(_along_others(mixed, maps) * first.scale)
        return
    for start in range(0, len(target), _ROWS):
        stop = min(start + _ROWS, len(target))
        if first is None or first.picked is None:
            block = source[start:stop]
        else:
            block = source[first.picked[start:stop]]
        block = _along_others(block, maps)
        if first is not None and first.scale != 1.0:
            block = block * first.scale
        target[start:stop].copy_(block)


def transfer_vector(target: Tensor, source: Tensor, axis_map: AxisMap | None, *, squared: bool, scale: float) -> None:
    """`transfer` for a vector, such as a bias or a norm's weight.

    Args:
        target: the student's. Shape (new,).
        source: the teacher's. Shape (old,).
        axis_map: of its axis.
        squared: whether it scales units, so that mixing acts on a diagonal matrix.
        scale: factor of the result where units are mixed.
    """
    if axis_map is None:
        target.copy_(source)
    elif axis_map.mixing is None:
        target.copy_(source[axis_map.picked] * axis_map.scale if axis_map.scale != 1.0 else source[axis_map.picked])
    else:
        mixing = axis_map.mixing.square() if squared else axis_map.mixing
        target.copy_(mixing @ source.to(mixing.dtype) * (scale if squared else axis_map.scale))


def _along_others(block: Tensor, maps: Sequence[AxisMap | None]) -> Tensor:
    for axis, axis_map in enumerate(maps[1:], start=1):
        if axis_map is None:
            continue
        if axis_map.picked is not None:
            block = block.index_select(axis, axis_map.picked)
        elif axis_map.mixing is not None:
            block = torch.tensordot(block.to(axis_map.mixing.dtype), axis_map.mixing, dims=([axis], [1]))
            block = block.movedim(-1, axis)
    return block


def _layer_maps(plan: StudentPlan, teacher: PreTrainedModel, prefix: str, slot: int) -> dict[str, AxisMap]:
    maps: dict[str, AxisMap] = {}
    config = text_config(teacher)
    if plan.ffn_units is not None:
        ffn = torch.tensor(plan.ffn_units[slot])
        old = plan.sizes[family_of(config).ffn_field][0]
        maps |= {"ffn": AxisMap(ffn), "glu": AxisMap(torch.cat([ffn, ffn + old]))}
    if plan.heads is None:
        return maps
    heads, size = plan.heads[slot], head_size(config)
    query_size = plan.sizes.get("head_size", (size, size))[1]
    # Scores are divided by the root of the head size: the queries make up for a smaller divisor.
    scale = (query_size / size) ** 0.5
    weights = _attention_weights(teacher, prefix, plan.kept_layers[slot])
    if plan.query_units is not None:
        units = torch.tensor(plan.query_units[slot])
        maps |= {"query": AxisMap(units, scale=scale), "key": AxisMap(units)}
    elif "query" in plan.mixed:
        query, key = query_key_factors(weights["query"], weights["key"], heads, size, query_size)
        maps |= {"query": AxisMap(mixing=query, scale=scale), "key": AxisMap(mixing=key)}
    if plan.value_units is not None:
        units = torch.tensor(plan.value_units[slot])
        maps |= {"value": AxisMap(units), "context": AxisMap(units)}
    elif "value" in plan.mixed:
        value, context = context_factors(weights["value"], weights["context"], heads, size, query_size)
        maps |= {"value": AxisMap(mixing=value), "context": AxisMap(mixing=context)}
    return maps


def _attention_weights(teacher: PreTrainedModel, prefix: str, layer: int) -> dict[str, Tensor]:
    """Query, key, value (each with its bias as a last column) and output matrices of one layer."""
    axes = axes_of(teacher, family_of(text_config(teacher)))
    found: dict[str, Tensor] = {}
    parameters = dict(teacher.named_parameters())
    for name, parameter in parameters.items():
        if layer_number(name, prefix) != layer or parameter.dim() != 2 or ".pos_" in name:
            continue
        bias = parameters.get(name.removesuffix("weight") + "bias")
        for axis in ("query", "key", "value"):
            if axes[name][0] in (axis, "qkv"):
                rows = slice(None)
                if axes[name][0] == "qkv":
                    third = len(parameter) // 3
                    start = ("query", "key", "value").index(axis) * third
                    rows = slice(start, start + third)
                columns = [parameter[rows]] if bias is None else [parameter[rows], bias[rows, None]]
                found[axis] = torch.cat(columns, dim=1).detach().float().cpu()
        if axes[name][1] == "context":
            found["context"] = parameter.detach().float().cpu()
    return found
