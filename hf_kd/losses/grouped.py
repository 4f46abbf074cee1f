"""Sums over groups of heads that never hold more than one group.

Attention maps and relations take heads × tokens × tokens of memory, and autograd would keep
them all until the backward pass. Here each group is computed, added up and forgotten; the
backward pass computes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP_BYTES = 32 * 2**20
"""Memory for the maps of one group of heads; one head is computed at least."""


def group_heads(heads: int, bytes_a_head: int) -> list[slice]:
    """Even groups of heads whose maps fit `GROUP_BYTES`."""
    most = max(1, GROUP_BYTES // max(1, bytes_a_head))
    size = -(-heads // max(1, -(-heads // most)))
    return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]


def sum_over_groups(function: Callable[..., Tensor], groups: list[slice], *tensors: Tensor) -> Tensor:
    """function(group, *tensors), summed over the groups. Gradients reach the tensors.

    Args:
        function: what is summed: pure, of one shape for every group.
        groups: its first argument, in turn.
        tensors: its further arguments.
    """
    total: Tensor = _Sum.apply(function, groups, *tensors)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], groups: list[slice], *tensors: Tensor) -> Tensor:
        ctx.function, ctx.groups = function, groups
        ctx.save_for_backward(*tensors)
        kind = tensors[0].device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        total = function(groups[0], *tensors)
        for group in groups[1:]:
            total += function(group, *tensors)
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        tensors = [tensor.detach().requires_grad_(wanted) for tensor, wanted in zip(ctx.saved_tensors, needed)]
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        kind, dtype, is_on = ctx.autocast
        for group in ctx.groups:
            with torch.enable_grad(), torch.autocast(kind, dtype, enabled=is_on):
                value = ctx.function(group, *tensors)
            torch.autograd.backward(value, slope, inputs=wanted)
        return (None, None, *(tensor.grad for tensor in tensors))
