"""Task loss and divergence of a few positions, and their gradient, in place of their logits.

Works on as many rows of logits as fit the processor's cache, so that the many passes over
them read and write no memory. Every function here overwrites what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = list[tuple[Tensor, Tensor | float]]
"""A gradient as a sum of products: tensors of shape (R, K) and their factors of shape (R, 1)."""


@dataclass(frozen=True)
class Rows:
    """Logits of some positions, to be overwritten, and what is counted of them.

    Attributes:
        student: raw scores. Shape (R, V).
        teacher: raw scores of the shared columns; None without divergence. Shape (R, K).
        targets: token ids, 0 where there is none; None without task loss. Shape (R, 1).
        task_factors: factor of each task value in the loss, 0 where there is no target. Shape (R, 1).
        logits_factor: factor of each divergence in the loss. Shape ().
        columns: the student's columns that the teacher has, None for the first K. Shape (K,).
        scratch: two buffers. Shape (R, K) each; the student's shape without teacher.
    """

    student: Tensor
    teacher: Tensor | None
    targets: Tensor | None
    task_factors: Tensor
    logits_factor: Tensor
    columns: Tensor | None
    scratch: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Softened:
    """exp((x − greatest) / temperature), its sum and `greatest`. Shapes (R, K), (R, 1), (R, 1)."""

    powers: Tensor
    total: Tensor
    greatest: Tensor


def rows_loss(
    rows: Rows, divergence: str, temperature: float, label_smoothing: float
) -> tuple[Tensor | None, Tensor | None]:
    """Task values and divergences of the rows; `rows.student` becomes the loss's gradient.

    Args:
        rows: the logits, overwritten.
        divergence: name in `hf_kd.losses.LOGITS_DIVERGENCES`.
        temperature: dimensionless, > 0.
        label_smoothing: share of the target spread over all columns, 0 to 1.

    Returns:
        Nats, unreduced, the task's not yet 0 where there is no target; None for a term that is
        absent. Shape (R,) each.
    """
    logits, softened, divergences = rows.student, None, None
    parts: Parts = []
    if rows.teacher is not None:
        shared = _shared(logits, rows)
        divergences, parts, softened = DIVERGENCES[divergence](shared, rows.teacher, temperature, rows.scratch)
        parts = [(tensor, rows.logits_factor * factor) for tensor, factor in parts]
    shares_all = rows.columns is None and rows.scratch[0].shape == logits.shape
    if rows.targets is None:
        if parts and shares_all:
            _write(logits, parts)
        else:
            _add(logits.zero_(), parts, rows)
        return None, divergences
    values = _task(rows, softened if shares_all else None, temperature, label_smoothing)
    _add(logits, parts, rows)
    return values, divergences


def _task(rows: Rows, softened: _Softened | None, temperature: float, label_smoothing: float) -> Tensor:
    """Cross-entropy of each row; its gradient takes the place of the logits."""
    logits, targets, factors = rows.student, rows.targets, rows.task_factors
    assert targets is not None
    at_target = logits.gather(1, targets)
    mean = logits.mean(1, keepdim=True) if label_smoothing else None
    greatest = logits.amax(1, keepdim=True) if softened is None else softened.greatest
    if softened is not None and temperature == 1:
        logits.copy_(softened.powers)
    elif softened is not None and temperature == 2:
        torch.mul(softened.powers, softened.powers, out=logits)
    else:
        logits.sub_(greatest).exp_()
    total = logits.sum(1, keepdim=True)
    log_total = greatest + total.log()
    values = log_total - at_target
    logits.mul_(factors / total)
    if mean is not None:
        values = (1 - label_smoothing) * values + label_smoothing * (log_total - mean)
        logits.sub_(factors * (label_smoothing / logits.shape[1]))
    # One target a row: no sum is needed, and `scatter_` is deterministic everywhere.
    logits.scatter_(1, targets, logits.gather(1, targets) - factors * (1 - label_smoothing))
    return values.squeeze(1)


def _shared(logits: Tensor, rows: Rows) -> Tensor:
    assert rows.teacher is not None
    return logits[:, : rows.teacher.shape[1]] if rows.columns is None else logits[:, rows.columns]


def _write(logits: Tensor, parts: Parts) -> None:
    tensor, factor = parts[0]
    torch.mul(tensor, factor, out=logits)
    for tensor, factor in parts[1:]:
        logits.addcmul_(tensor, factor)


def _add(logits: Tensor, parts: Parts, rows: Rows) -> None:
    if not parts:
        return
    if rows.columns is None:
        logits = logits[:, : parts[0][0].shape[1]]
        for tensor, factor in parts:
            logits.addcmul_(tensor, factor)
    else:
        gradient = sum((tensor * factor for tensor, factor in parts[1:]), parts[0][0] * parts[0][1])
        logits[:, rows.columns] += gradient


# ---- divergences: (values, gradient as parts, the student's powers if left whole) ----

_Divergence = Callable[[Tensor, Tensor, float, tuple[Tensor, Tensor]], tuple[Tensor, Parts, _Softened | None]]


def _soften(logits: Tensor, temperature: float, out: Tensor) -> _Softened:
    greatest = logits.amax(1, keepdim=True)
    torch.add(greatest / -temperature, logits, alpha=1 / temperature, out=out)
    out.exp_()
    return _Softened(out, out.sum(1, keepdim=True), greatest)


def _log_ratio_offset(student: _Softened, teacher: _Softened, temperature: float) -> Tensor:
    """log-sum-exp of the student's softened logits minus that of the teacher's. Shape (R, 1)."""
    return (student.greatest - teacher.greatest) / temperature + student.total.log() - teacher.total.log()


def _forward_kl(
    logits: Tensor, target: Tensor, temperature: float, scratch: tuple[Tensor, Tensor]
) -> tuple[Tensor, Parts, _Softened]:
    student, teacher = _soften(logits, temperature, scratch[0]), _soften(target, temperature, scratch[1])
    mean_gap = target.sub_(logits).mul_(teacher.powers).sum(1, keepdim=True) / teacher.total / temperature
    values = (mean_gap + _log_ratio_offset(student, teacher, temperature)) * temperature**2
    parts: Parts = [(student.powers, temperature / student.total), (teacher.powers, -temperature / teacher.total)]
    return values.squeeze(1), parts, student


def _reverse_kl(
    logits: Tensor, target: Tensor, temperature: float, scratch: tuple[Tensor, Tensor]
) -> tuple[Tensor, Parts, _Softened]:
    student, teacher = _soften(logits, temperature, scratch[0]), _soften(target, temperature, scratch[1])
    gap, product = torch.sub(logits, target, out=target), scratch[1]
    mean_gap = torch.mul(gap, student.powers, out=product).sum(1, keepdim=True) / student.total
    values = (mean_gap / temperature - _log_ratio_offset(student, teacher, temperature)) * temperature**2
    gap.sub_(mean_gap).mul_(student.powers)
    return values.squeeze(1), [(gap, 1 / student.total)], student


def _jensen_shannon(
    logits: Tensor, target: Tensor, temperature: float, scratch: tuple[Tensor, Tensor]
) -> tuple[Tensor, Parts, None]:
    student, teacher = _soften(logits, temperature, scratch[0]), _soften(target, temperature, scratch[1])
    log_student = torch.log_softmax(logits / temperature, 1)
    log_teacher = target.mul_(1 / temperature).sub_(teacher.greatest / temperature + teacher.total.log())
    one, other = student.powers.div_(student.total), teacher.powers.div_(teacher.total)
    # Both probabilities may be too small for the format; then neither adds anything.
    log_mixture = (one + other).div_(2).clamp_(min=torch.finfo(one.dtype).tiny).log_()
    log_student.sub_(log_mixture)
    mean = (one * log_student).sum(1, keepdim=True)
    values = (mean.squeeze(1) + other.mul_(log_teacher.sub_(log_mixture)).sum(1)) / 2 * temperature**2
    return values, [(log_student.sub_(mean).mul_(one), temperature / 2)], None


def _mse(
    logits: Tensor, target: Tensor, temperature: float, scratch: tuple[Tensor, Tensor]
) -> tuple[Tensor, Parts, None]:
    gap = torch.sub(logits, target, out=target)
    values = torch.mul(gap, gap, out=scratch[0]).mean(1)
    return values, [(gap, 2 / gap.shape[1])], None


DIVERGENCES: dict[str, _Divergence] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "mse": _mse,
}
