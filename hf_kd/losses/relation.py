"""Relations between the query, key or value states of the positions of a row."""

import torch
from torch import Tensor

from .grouped import group_heads, sum_over_groups
from .reduce import full_precision


def relation_kl(student_states: Tensor, teacher_states: Tensor, key_mask: Tensor, *, relation_heads: int) -> Tensor:
    """KL(teacher ‖ student) of the self-attention relations, per position.

    The states of all attention heads are joined and split anew into `relation_heads`, so
    neither widths nor head counts need agree. A relation is the softmax over keys of the
    scaled dot product of the states with themselves.

    Args:
        student_states: query, key or value states, heads joined. Shape (B, N, Ds).
        teacher_states: the same of the teacher, detached here. Shape (B, N, Dt).
        key_mask: True where a position is no padding. Shape (B, N).
        relation_heads: divides Ds and Dt, ≥ 1.

    Returns:
        Divergence in nats, averaged over relation heads, unreduced over positions, float32 or
        wider. Shape (B, N).

    Raises:
        ValueError: `relation_heads` does not divide both widths.

    Source:
        MiniLMv2, Wang et al. (2021), arXiv:2012.15828, equations 5 to 8.
    """
    rows, positions, _ = student_states.shape
    states = [_split_heads(each, relation_heads) for each in (student_states, teacher_states.detach())]
    keys = key_mask.bool()[:, None, None, :]

    def kl(heads: slice, student: Tensor, teacher: Tensor) -> Tensor:
        own, other = (_log_relations(each[:, heads], keys) for each in (student, teacher))
        terms = other.exp() * (other - own)
        return torch.where(keys, terms, terms.new_zeros(())).sum(-1).sum(1)

    groups = group_heads(relation_heads, rows * positions**2 * states[0].itemsize)
    return sum_over_groups(kl, groups, *states) / relation_heads


def _split_heads(states: Tensor, relation_heads: int) -> Tensor:
    states = full_precision(states)
    rows, positions, width = states.shape
    if width % relation_heads:
        raise ValueError(
            f"{relation_heads} relation heads do not divide states of width {width}. Set `kd_relation_heads` to a "
            "common divisor of both models' query, key and value widths."
        )
    return states.view(rows, positions, relation_heads, width // relation_heads).transpose(1, 2)


def _log_relations(heads: Tensor, keys: Tensor) -> Tensor:
    with torch.autocast(heads.device.type, enabled=False):  # which would multiply in half precision again
        scores = heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
    # Finite, so that a row of padding alone gives no nan; its positions are never counted.
    scores = scores.masked_fill(~keys, torch.finfo(scores.dtype).min / 2)
    return torch.log_softmax(scores, dim=-1)
