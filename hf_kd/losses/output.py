"""Task loss and logit divergence from hidden states: the output layer, its losses and their
gradients in chunks of positions, so that no full logits matrix is ever held.

With a vocabulary of 250,000 the output layer is most of a step's work and nearly all of its
memory. Each chunk's logits are computed, turned into their gradient in place, and multiplied
back at once: the forward pass leaves gradients of the size of the layer, nothing of the size
of positions times vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .output_rows import Rows, rows_loss
from .tied import TiedGradient

IGNORED = -100

CHUNK_BYTES = 256 * 2**20
"""Memory for the logits of one chunk of positions, of student and teacher together."""

_CACHE_BYTES = 4 * 2**20
"""Logits that a processor's cache holds beside what is computed from them."""

_TILE_ROWS = 16384
"""Rows of the output matrix converted to half precision at a time."""


class OutputLayer(NamedTuple):
    """What enters an output layer, and the layer.

    Attributes:
        states: last hidden states of the compared positions. Shape (S, D).
        matrix: output matrix. Shape (V, D).
        bias: added to the logits, or None. Shape (V,).
    """

    states: Tensor
    matrix: Tensor
    bias: Tensor | None = None


class OutputLoss(NamedTuple):
    """The loss, with its gradient, and the two weighted terms that sum to it, detached. Shape () each."""

    total: Tensor
    task: Tensor
    logits: Tensor


class Workspace:
    """Buffers that one call leaves to the next: fresh memory of this size is slow to come by."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A buffer without content, the name's former one if that is large enough. Shape (rows, columns)."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < rows * columns or (buffer.dtype, buffer.device) != (dtype, like.device):
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = torch.empty(rows * columns, dtype=dtype, device=like.device)
        return buffer[: rows * columns].view(rows, columns)


def output_loss(
    student: OutputLayer,
    teacher: OutputLayer | None,
    targets: Tensor | None,
    *,
    task_weight: float = 1.0,
    logits_weight: float = 1.0,
    task_count: Tensor,
    logits_count: Tensor,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    student_columns: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    workspace: Workspace | None = None,
    tied: TiedGradient | None = None,
) -> OutputLoss:
    """What `task_term` and `logits_term` make of both models' logits, without the logits.

    Matrices are multiplied in autocast's format, or else the matrix's own; softmax and loss are
    computed in float32 or wider. The same inputs give the same bits.

    Args:
        student: gradients reach all three of its tensors.
        teacher: detached here; None without divergence.
        targets: token ids, −100 where there is none; None without task loss. Shape (S,).
        task_weight: factor of the task term in the total.
        logits_weight: factor of the divergence in the total.
        task_count: labelled positions of the whole optimizer step. Shape ().
        logits_count: compared positions of the whole optimizer step. Shape ().
        divergence: name in `hf_kd.losses.LOGITS_DIVERGENCES`.
        temperature: dimensionless, > 0.
        label_smoothing: share of the target spread over all columns, 0 to 1.
        student_columns: the student's column for each row of the teacher's matrix; None for its
            first ones. The divergence is between the distributions over these columns
            alone; the task sees all. Shape (K,).
        chunk_bytes: memory for logits, ≥ 1; one position is computed at least.
        workspace: buffers kept from call to call; None to make them anew.
        tied: takes the matrix's gradient in place of the matrix, whose embedding lookup hands it on.

    Returns:
        The loss and its terms: weighted shares of the mean over the counts.

    Raises:
        ValueError: the temperature is not above 0, or the teacher has columns that the student lacks.
    """
    if temperature <= 0:
        raise ValueError(f"The temperature is {temperature}; it divides the logits and must be above 0.")
    shared = 0 if teacher is None else len(teacher.matrix)
    if shared > len(student.matrix) or (student_columns is not None and len(student_columns) != shared):
        raise ValueError(
            f"The teacher's output matrix has {shared:,} rows for {len(student.matrix):,} student columns. Give it one "
            "row for each column that both models have."
        )
    dtype = _matmul_dtype(student)
    wide = torch.promote_types(dtype, torch.float32)
    plan = _Plan(
        teacher=None if teacher is None else OutputLayer(*(t if t is None else t.detach() for t in teacher)),
        targets=targets,
        weights=(task_weight, logits_weight),
        counts=tuple(count.clamp(min=1).to(student.states.device, wide) for count in (task_count, logits_count)),
        divergence=divergence,
        temperature=temperature,
        label_smoothing=label_smoothing,
        columns=student_columns,
        chunk_bytes=chunk_bytes,
        workspace=Workspace() if workspace is None else workspace,
        dtype=dtype,
        teacher_dtype=dtype if teacher is None else _matmul_dtype(teacher),
        wide=wide,
        differentiates=torch.is_grad_enabled(),
        tied=tied,
    )
    matrix = student.matrix if tied is None else student.matrix.detach()
    total, task, logits = _OutputLoss.apply(student.states, matrix, student.bias, plan)
    return OutputLoss(total, task, logits)


@dataclass(frozen=True)
class _Plan:
    """All that the loss depends on but the student."""

    teacher: OutputLayer | None
    targets: Tensor | None
    weights: tuple[float, float]
    counts: tuple[Tensor, ...]
    divergence: str
    temperature: float
    label_smoothing: float
    columns: Tensor | None
    chunk_bytes: int
    workspace: Workspace
    dtype: torch.dtype
    teacher_dtype: torch.dtype
    wide: torch.dtype
    differentiates: bool
    tied: TiedGradient | None


class _OutputLoss(torch.autograd.Function):
    """The gradients are computed with the loss, whose logits would have to be computed again for them."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, matrix: Tensor, bias: Tensor | None, plan: _Plan) -> tuple[Tensor, ...]:
        by_states, by_matrix, by_bias, _ = ctx.needs_input_grad
        needs = by_states, by_matrix or plan.tied is not None, by_bias
        ctx.plan, ctx.needs = plan, tuple(plan.differentiates and needed for needed in needs)
        ctx.save_for_backward(states, matrix, bias)
        task, logits, ctx.gradients = _run(OutputLayer(states, matrix, bias), plan, ctx.needs)
        ctx.mark_non_differentiable(task, logits)
        return task + logits, task, logits

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope: Tensor, *others: Tensor) -> tuple[Any, ...]:
        student = OutputLayer(*ctx.saved_tensors)
        # They are handed out, and may be changed there: a second backward pass computes its own.
        gradients, ctx.gradients = ctx.gradients or _run(student, ctx.plan, ctx.needs)[2], None
        by_states, by_matrix, by_bias = (
            None if gradient is None else gradient.mul_(slope.to(gradient.dtype)).to(own.dtype)
            for gradient, own in zip(gradients, student)
        )
        if ctx.plan.tied is not None and by_matrix is not None:
            ctx.plan.tied.put(by_matrix)
            by_matrix = None
        return by_states, by_matrix, by_bias, None


def _run(
    student: OutputLayer, plan: _Plan, needs: tuple[bool, ...]
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Both weighted terms and, as far as needed, the gradient of their sum by states, matrix and bias."""
    states, matrix, bias = student
    positions, vocabulary = len(states), len(matrix)
    task = states.new_zeros(positions, dtype=plan.wide)
    logits = torch.zeros_like(task)
    gradients = tuple(
        torch.empty(tensor.shape, dtype=plan.wide, device=states.device) if needed and tensor is not None else None
        for tensor, needed in zip(student, needs)
    )
    with torch.autocast(states.device.type, enabled=False):
        for chunk in _chunks(plan, positions, vocabulary, states.device):
            slopes = _chunk_loss(student, plan, chunk, task, logits)
            if any(needs):
                _multiply_back(student, plan, chunk, slopes, gradients)
    if not positions:
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
    terms = [
        weight * (values.sum() / count) for values, weight, count in zip((task, logits), plan.weights, plan.counts)
    ]
    return terms[0], terms[1], gradients


def _chunks(plan: _Plan, positions: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Even shares of the positions whose logits fit the memory given."""
    shared = 0 if plan.teacher is None else len(plan.teacher.matrix)
    columns = vocabulary + shared
    if device.type != "cpu":  # there, all rows of a chunk are worked on at once
        columns += 2 * max(shared, vocabulary if shared == 0 else 0)
    most = max(1, plan.chunk_bytes // (columns * plan.wide.itemsize))
    size = -(-positions // max(1, -(-positions // most)))
    return (slice(start, min(start + size, positions)) for start in range(0, positions, size or 1))


def _chunk_loss(student: OutputLayer, plan: _Plan, chunk: slice, task: Tensor, logits: Tensor) -> Tensor:
    """Write the chunk's values into `task` and `logits`. Returns the slope of the loss by its logits. Shape (C, V)."""
    states, rows = student.states[chunk], chunk.stop - chunk.start
    space = plan.workspace
    own = space.take("student", rows, len(student.matrix), states, plan.wide)
    _compute_logits(own, student._replace(states=states), plan.dtype)
    other = None
    if plan.teacher is not None:
        other = space.take("teacher", rows, len(plan.teacher.matrix), states, plan.wide)
        _compute_logits(other, plan.teacher._replace(states=plan.teacher.states[chunk]), plan.teacher_dtype)
    wanted = own if other is None else other
    step = max(1, _CACHE_BYTES // (own.shape[1] * own.itemsize)) if own.device.type == "cpu" else rows
    scratch = tuple(space.take(name, min(step, rows), wanted.shape[1], own, plan.wide) for name in ("one", "two"))
    targets = None if plan.targets is None else plan.targets[chunk]
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        whole = slice(chunk.start + part.start, chunk.start + part.stop)
        count = part.stop - part.start
        buffers = scratch[0][:count], scratch[1][:count]
        labels = None if targets is None else targets[part]
        values = _rows(student, plan, own[part], other if other is None else other[part], labels, buffers)
        for kept, found in zip((task, logits), values):
            if found is not None:
                kept[whole] = found
    return own


def _rows(
    student: OutputLayer,
    plan: _Plan,
    own: Tensor,
    other: Tensor | None,
    targets: Tensor | None,
    scratch: tuple[Tensor, Tensor],
) -> tuple[Tensor | None, Tensor | None]:
    """Values of a few positions whose logits, still without bias, become the loss's slope."""
    if student.bias is not None:
        own.add_(student.bias)
    if other is not None and plan.teacher is not None and plan.teacher.bias is not None:
        other.add_(plan.teacher.bias)
    labelled = None if targets is None else targets != IGNORED
    if labelled is not None and own.device.type == "cpu" and not labelled.any():
        labelled = None  # on an accelerator the question would wait for the answer
    factors = [weight / count for weight, count in zip(plan.weights, plan.counts)]
    rows = Rows(
        own,
        other,
        None if labelled is None or targets is None else targets.where(labelled, 0).unsqueeze(1),
        factors[0] if labelled is None else (factors[0] * labelled).unsqueeze(1),
        factors[1],
        plan.columns,
        scratch,
    )
    task, logits = rows_loss(rows, plan.divergence, plan.temperature, plan.label_smoothing)
    return task if task is None or labelled is None else task.where(labelled, 0.0), logits


def _compute_logits(out: Tensor, layer: OutputLayer, dtype: torch.dtype) -> None:
    """Logits without bias, which is added where it costs no pass over memory."""
    states = layer.states.to(dtype)
    if out.dtype == dtype == layer.matrix.dtype:
        torch.mm(states, layer.matrix.t(), out=out)
        return
    for tile in _tiles(len(layer.matrix)):
        out[:, tile] = states @ layer.matrix[tile].to(dtype).t()


def _multiply_back(
    student: OutputLayer,
    plan: _Plan,
    chunk: slice,
    slopes: Tensor,
    gradients: tuple[Tensor | None, ...],
) -> None:
    """Add the chunk's share to the gradients of states, matrix and bias."""
    by_states, by_matrix, by_bias = gradients
    is_first, matrix = chunk.start == 0, student.matrix
    states = student.states[chunk].to(plan.dtype)
    if by_bias is not None:
        by_bias.copy_(slopes.sum(0)) if is_first else by_bias.add_(slopes.sum(0))
    if slopes.dtype == plan.dtype == matrix.dtype:
        if by_states is not None:
            torch.mm(slopes, matrix, out=by_states[chunk])
        if by_matrix is not None:
            torch.mm(slopes.t(), states, out=by_matrix) if is_first else by_matrix.addmm_(slopes.t(), states)
        return
    # Slopes of a probability of 1 / 250,000 are below what float16 can hold; bfloat16 reaches as far as float32.
    greatest = slopes.abs().amax().clamp(min=torch.finfo(slopes.dtype).tiny) if plan.dtype == torch.float16 else None
    if by_states is not None:
        by_states[chunk] = 0
    for tile in _tiles(len(matrix)):
        share = (slopes[:, tile] if greatest is None else slopes[:, tile] / greatest).to(plan.dtype)
        if by_states is not None:
            by_states[chunk].add_(_scaled(share @ matrix[tile].to(plan.dtype), greatest, plan.wide))
        if by_matrix is not None:
            product = _scaled(share.t() @ states, greatest, plan.wide)
            by_matrix[tile].copy_(product) if is_first else by_matrix[tile].add_(product)


def _scaled(product: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    return product if factor is None else product.to(dtype).mul_(factor)


def _tiles(rows: int) -> Iterator[slice]:
    return (slice(start, start + _TILE_ROWS) for start in range(0, rows, _TILE_ROWS))


def _matmul_dtype(layer: OutputLayer) -> torch.dtype:
    """The format that `torch.nn.functional.linear` would multiply in."""
    kind = layer.states.device.type
    if layer.states.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return layer.matrix.dtype
