"""Distances between hidden states of one width."""

import torch
from torch import Tensor

from .reduce import full_precision


def hidden_mse(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """Mean squared difference over the width, per position.

    Args:
        student_hidden: hidden states, projected if the widths differed. Shape (B, N, D).
        teacher_hidden: hidden states, detached here. Shape (B, N, D).

    Returns:
        Mean over D, unreduced over positions, float32 or wider. Shape (B, N).

    Raises:
        ValueError: shapes differ.

    Source:
        TinyBERT, Jiao et al. (2020), arXiv:1909.10351, equation 8.
    """
    student, teacher = _checked(student_hidden, teacher_hidden)
    return (student - teacher).square().mean(-1)


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """One minus the cosine of the angle between the hidden states, per position.

    Args:
        student_hidden: hidden states, projected if the widths differed. Shape (B, N, D).
        teacher_hidden: hidden states, detached here. Shape (B, N, D).

    Returns:
        From 0 to 2, unreduced, float32 or wider. Shape (B, N).

    Raises:
        ValueError: shapes differ.

    Source:
        DistilBERT, Sanh et al. (2019), arXiv:1910.01108, section 3.
    """
    student, teacher = _checked(student_hidden, teacher_hidden)
    return 1 - torch.cosine_similarity(student, teacher, dim=-1)


def hidden_normalized_mse(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """Squared Euclidean distance of the hidden states scaled to length 1, per position.

    Args:
        student_hidden: hidden states, projected if the widths differed. Shape (B, N, D).
        teacher_hidden: hidden states, detached here. Shape (B, N, D).

    Returns:
        From 0 to 4, summed over D, unreduced over positions, float32 or wider. Shape (B, N).

    Raises:
        ValueError: shapes differ.

    Source:
        Patient Knowledge Distillation, Sun et al. (2019), arXiv:1908.09355, equation 7.
    """
    student, teacher = _checked(student_hidden, teacher_hidden)
    unit = torch.nn.functional.normalize
    return (unit(student, dim=-1) - unit(teacher, dim=-1)).square().sum(-1)


def _checked(student_hidden: Tensor, teacher_hidden: Tensor) -> tuple[Tensor, Tensor]:
    if student_hidden.shape != teacher_hidden.shape:
        raise ValueError(
            f"Student hidden states have shape {tuple(student_hidden.shape)}, the teacher's "
            f"{tuple(teacher_hidden.shape)}. They must be equal: project the student's to the teacher's width."
        )
    return full_precision(student_hidden), full_precision(teacher_hidden.detach())
