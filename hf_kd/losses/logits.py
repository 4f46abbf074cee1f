"""Divergences between the output distributions of student and teacher."""

import math

import torch
from torch import Tensor

from .reduce import full_precision


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence KL(teacher ‖ student), per position.

    Both distributions are softened by `temperature`; the result is multiplied by
    temperature² so that gradients keep their scale.

    Args:
        student_logits: raw scores. Shape (..., V).
        teacher_logits: raw scores, detached here. Shape (..., V).
        temperature: dimensionless, > 0.

    Returns:
        Divergence in nats, unreduced, float32 or wider. Shape (...).

    Raises:
        ValueError: shapes differ, or temperature ≤ 0.

    Source:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531, section 2.

    Example:
        >>> x = torch.zeros(1, 2, 3)
        >>> forward_kl(x, x)
        tensor([[0., 0.]])
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    return _kl(teacher, student) * temperature**2


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence KL(student ‖ teacher), per position, times temperature².

    Args:
        student_logits: raw scores. Shape (..., V).
        teacher_logits: raw scores, detached here. Shape (..., V).
        temperature: dimensionless, > 0.

    Returns:
        Divergence in nats, unreduced, float32 or wider. Shape (...).

    Raises:
        ValueError: shapes differ, or temperature ≤ 0.

    Source:
        MiniLLM, Gu et al. (2024), arXiv:2306.08543, section 2.1, on given text instead of samples.
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    return _kl(student, teacher) * temperature**2


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence, per position, times temperature².

    The mean of the KL divergences of both distributions from their even mixture.

    Args:
        student_logits: raw scores. Shape (..., V).
        teacher_logits: raw scores, detached here. Shape (..., V).
        temperature: dimensionless, > 0.

    Returns:
        Divergence in nats, from 0 to ln 2 before the factor, unreduced, float32 or wider. Shape (...).

    Raises:
        ValueError: shapes differ, or temperature ≤ 0.

    Source:
        Lin (1991), Divergence measures based on the Shannon entropy, equation 4.1 with even weights.
    """
    student, teacher = _log_probabilities(student_logits, teacher_logits, temperature)
    mixture = torch.logaddexp(student, teacher) - math.log(2)
    return (_kl(student, mixture) + _kl(teacher, mixture)) / 2 * temperature**2


def logits_mse(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean squared difference of the raw logits, per position.

    Dividing both by a temperature and multiplying by its square changes nothing, so
    `temperature` is only checked.

    Args:
        student_logits: raw scores. Shape (..., V).
        teacher_logits: raw scores, detached here. Shape (..., V).
        temperature: dimensionless, > 0.

    Returns:
        Mean over V, unreduced over positions, float32 or wider. Shape (...).

    Raises:
        ValueError: shapes differ, or temperature ≤ 0.

    Source:
        The Privileged Students, Wibowo, Solorio & Aji (2024), arXiv:2406.16524.
    """
    _check(student_logits, teacher_logits, temperature)
    return (full_precision(student_logits) - full_precision(teacher_logits.detach())).square().mean(-1)


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    _check(student_logits, teacher_logits, temperature)
    student = torch.log_softmax(full_precision(student_logits) / temperature, dim=-1)
    teacher = torch.log_softmax(full_precision(teacher_logits.detach()) / temperature, dim=-1)
    return student, teacher


def _kl(log_target: Tensor, log_other: Tensor) -> Tensor:
    return (log_target.exp() * (log_target - log_other)).sum(-1)


def _check(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"The temperature is {temperature}; it divides the logits and must be above 0.")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Student logits have shape {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)}. "
            "They are compared id by id and must have one shape: align the vocabularies first."
        )
