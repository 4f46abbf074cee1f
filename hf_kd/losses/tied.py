"""One gradient for a matrix that is both input embedding and output layer.

Autograd would make a second gradient of the whole matrix for the few rows that were looked
up, and add the two: memory of the matrix's size, and several passes over it. Here the output
layer's gradient waits for the lookup, which adds its rows to it and hands it on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class TiedGradient:
    """Where the output layer leaves its gradient for the lookup of the same forward pass."""

    def __init__(self) -> None:
        self._gradient: Tensor | None = None

    def look_up(self, ids: Tensor, matrix: Tensor, padding_id: int | None) -> Tensor:
        """Rows of the matrix, without gradient for the padding's. Shape (*ids, D)."""
        states: Tensor = _LookUp.apply(matrix, ids, padding_id, self)
        return states

    def put(self, gradient: Tensor) -> None:
        """Leave the gradient, during a backward pass that will reach the lookup. Shape (V, D)."""
        self._gradient = gradient
        torch.autograd.Variable._execution_engine.queue_callback(self._require_taken)

    def take(self) -> Tensor | None:
        """The gradient left, or None."""
        gradient, self._gradient = self._gradient, None
        return gradient

    def _require_taken(self) -> None:
        if self.take() is not None:
            raise RuntimeError(
                "The backward pass did not reach the student's input embedding, whose weight is also that of its "
                "output layer, and would lose a part of its gradient. Set `--kd_output_chunk_megabytes 0`."
            )


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, ids: Tensor, padding_id: int | None, tied: TiedGradient) -> Tensor:
        ctx.tied, ctx.padding_id, ctx.like = tied, padding_id, (matrix.shape, matrix.dtype, matrix.device)
        ctx.save_for_backward(ids)
        return functional.embedding(ids, matrix)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (ids,) = ctx.saved_tensors
        shape, dtype, device = ctx.like
        gradient = ctx.tied.take()
        if gradient is None:
            gradient = torch.zeros(shape, dtype=dtype, device=device)
        if ctx.padding_id is not None:
            slope = slope.masked_fill((ids == ctx.padding_id).unsqueeze(-1), 0.0)
        gradient.index_add_(0, ids.flatten(), slope.flatten(0, -2).to(dtype))
        return gradient, None, None, None
