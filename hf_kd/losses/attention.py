"""Distances between attention maps, head by head or averaged over heads."""

import torch
from torch import Tensor

from .reduce import full_precision


def attention_mse(student_attention: Tensor, teacher_attention: Tensor, key_mask: Tensor) -> Tensor:
    """Mean squared difference over the keys, per query.

    Head means have one shape whatever the head counts; this is the "simplified attention
    matching" of AfroXLMR-Comet. Maps per head are averaged over heads afterwards.

    Args:
        student_attention: probabilities or scores. Shape (B, N, N) or (B, A, N, N).
        teacher_attention: the same of the teacher, detached here. Same shape.
        key_mask: True where a key is no padding. Shape (B, N).

    Returns:
        Unreduced over queries, float32 or wider. Shape (B, N).

    Raises:
        ValueError: shapes differ.

    Source:
        AfroXLMR-Comet, Raju et al. (2025), arXiv:2502.18020; TinyBERT, Jiao et al. (2020),
        arXiv:1909.10351, equation 7, for maps per head.
    """
    student, teacher, keys = _checked(student_attention, teacher_attention, key_mask)
    squares = torch.where(keys, (student - teacher).square(), student.new_zeros(()))
    return _over_heads(squares.sum(-1) / keys.sum(-1).clamp(min=1))


def attention_kl(student_attention: Tensor, teacher_attention: Tensor, key_mask: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(teacher ‖ student) over the keys, per query.

    Args:
        student_attention: probabilities. Shape (B, N, N) or (B, A, N, N).
        teacher_attention: probabilities, detached here. Same shape.
        key_mask: True where a key is no padding. Shape (B, N).

    Returns:
        Divergence in nats, averaged over heads, unreduced over queries, float32 or wider. Shape (B, N).

    Raises:
        ValueError: shapes differ.

    Source:
        MiniLM, Wang et al. (2020), arXiv:2002.10957, equation 4.
    """
    student, teacher, keys = _checked(student_attention, teacher_attention, key_mask)
    tiny = torch.finfo(student.dtype).tiny
    terms = teacher * (teacher.clamp(min=tiny).log() - student.clamp(min=tiny).log())
    return _over_heads(torch.where(keys, terms, terms.new_zeros(())).sum(-1))


def _over_heads(values: Tensor) -> Tensor:
    return values.mean(1) if values.dim() == 3 else values


def _checked(student_attention: Tensor, teacher_attention: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if student_attention.shape != teacher_attention.shape:
        raise ValueError(
            f"Student attention has shape {tuple(student_attention.shape)}, the teacher's "
            f"{tuple(teacher_attention.shape)}. Compare head means, or models of one head count."
        )
    keys = key_mask.bool()[:, None, :] if student_attention.dim() == 3 else key_mask.bool()[:, None, None, :]
    return full_precision(student_attention), full_precision(teacher_attention.detach()), keys
