"""Sums, counts and masks: the only place that averages.

A term of a batch is the sum of its values over the positions compared, divided by the
number of such positions in *all* micro-batches of the optimizer step on *all* processes.
Summed over micro-batches and processes, that is the mean over the whole batch, however it
was split.
"""

import torch
from torch import Tensor

FAR_BELOW = -1e9
"""A score that no softmax sees; finite, so that 0 times a difference of two is 0, not nan."""


def full_precision(values: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay. Same shape."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def share_of_mean(values: Tensor, mask: Tensor | None, count: Tensor) -> Tensor:
    """This batch's share of the mean over `count` positions.

    Args:
        values: unreduced values. Any shape.
        mask: which values count, or None for all. Shape of `values`.
        count: positions in the whole optimizer step; 0 is taken for 1, so that a step
            without positions adds 0. Shape ().

    Returns:
        sum of the masked values / count. Shape ().
    """
    if mask is not None:
        # `where`, not a product: a value that is not finite must not reach the sum through a zero.
        values = torch.where(mask, values, values.new_zeros(()))
    return values.sum() / count.clamp(min=1)
