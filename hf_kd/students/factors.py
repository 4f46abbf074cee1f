"""Low-rank factors: the directions that a narrower student keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .families import axes_of, family_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

_ROWS = 16384


def residual_basis(teacher: PreTrainedModel, size: int) -> tuple[Tensor, float]:
    """The directions of the residual stream in which the word embeddings have most of their energy.

    They are the leading right singular vectors of the embedding matrix, found through its Gram
    matrix, so that nothing of the vocabulary's size is held. A layer norm takes the mean over all
    units away: the direction of that mean is kept and becomes the mean of the new units, so that the
    student's norms take away what the teacher's do.

    Args:
        teacher: its input embeddings are read.
        size: number of directions, d.

    Returns:
        The directions as rows, orthonormal, shape (d, D), and their share of the energy, 0 to 1.
    """
    gram = _embedding_gram(teacher)
    width = len(gram)
    mean = torch.full((width,), width**-0.5, dtype=torch.float64)
    centred = torch.eye(width, dtype=torch.float64) - mean.outer(mean)
    leading = torch.linalg.eigh(centred @ gram @ centred)[1][:, width - size + 1 :].flip(1)
    rows = torch.cat([mean[None], _signed(leading.T)])
    # The reflection that exchanges the first unit vector with the new units' mean.
    apart = -torch.full((size,), size**-0.5, dtype=torch.float64)
    apart[0] += 1.0
    length = apart.square().sum()
    if length > 0:
        rows -= 2.0 / length * apart.outer(apart @ rows)
    share = float((rows @ gram * rows).sum() / gram.trace())
    return rows.float(), share


def _embedding_gram(teacher: PreTrainedModel) -> Tensor:
    """The word embeddings' Gram matrix in the residual stream. Shape (D, D)."""
    embeddings = teacher.get_input_embeddings().weight.detach()
    width = embeddings.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(embeddings), _ROWS):
        block = embeddings[start : start + _ROWS].float()
        gram += (block.T @ block).double().cpu()
    for name, axes in axes_of(teacher, family_of(teacher.config)).items():
        if axes == ("hidden", "embedding"):
            projection = teacher.get_parameter(name).detach().double().cpu()
            gram = projection @ gram @ projection.T
    return gram


def query_key_factors(query: Tensor, key: Tensor, heads: Sequence[int], old: int, new: int) -> tuple[Tensor, Tensor]:
    """Mix each head's query and key units so that their products change least.

    The scores of a head are xᵀ Qᵀ K y; the best matrix of rank `new` is the truncated singular
    value decomposition of Qᵀ K.

    Args:
        query: all heads' query weights, biases last. Shape (heads × old, D + 1).
        key: all heads' key weights, biases last. Shape (heads × old, D + 1).
        heads: the heads to keep.
        old: units of a head.
        new: units of a head to keep.

    Returns:
        What query and key rows are multiplied by. Shape (kept heads × new, heads × old) each.
    """
    one, other = _blocks(len(query), heads, new), _blocks(len(key), heads, new)
    for slot, head in enumerate(heads):
        rows = slice(head * old, (head + 1) * old)
        left, right = _factors(query[rows].double(), key[rows].double(), new)
        one[slot * new : (slot + 1) * new, rows] = left.float()
        other[slot * new : (slot + 1) * new, rows] = right.float()
    return one, other


def context_factors(value: Tensor, context: Tensor, heads: Sequence[int], old: int, new: int) -> tuple[Tensor, Tensor]:
    """Mix each head's value units so that what the output projection makes of them changes least.

    Args:
        value: all heads' value weights, biases last. Shape (heads × old, D + 1).
        context: the output projection. Shape (D, heads × old).
        heads: the heads to keep.
        old: units of a head.
        new: units of a head to keep.

    Returns:
        What value rows and the projection's columns are multiplied by. Shape (kept heads × new,
        heads × old) each.
    """
    one, other = _blocks(len(value), heads, new), _blocks(len(value), heads, new)
    for slot, head in enumerate(heads):
        rows = slice(head * old, (head + 1) * old)
        left, right = _factors(value[rows].double(), context[:, rows].T.double(), new)
        one[slot * new : (slot + 1) * new, rows] = left.float()
        other[slot * new : (slot + 1) * new, rows] = right.float()
    return one, other


def _blocks(old: int, heads: Sequence[int], new: int) -> Tensor:
    return torch.zeros(len(heads) * new, old)


def _factors(one: Tensor, other: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Mixings L and R such that (L one)ᵀ (R other) is the best rank-`rank` form of oneᵀ other.

    With oneᵀ other = U S Vᵀ they are L = S^-½ Vᵀ otherᵀ and R = S^-½ Uᵀ oneᵀ. The product is never
    formed: U and V come from the small core between two orthogonal bases.
    """
    basis_one, core_one = torch.linalg.qr(one.T)
    basis_other, core_other = torch.linalg.qr(other.T)
    left, values, right = torch.linalg.svd(core_one @ core_other.T)
    rank_kept = min(rank, len(values))
    scale = values[:rank_kept].clamp_min(values[0] * 1e-12 + 1e-30).rsqrt()
    u, v = basis_one @ left[:, :rank_kept], basis_other @ right[:rank_kept].T
    sign = torch.sign(u[u.abs().argmax(0), torch.arange(rank_kept)])
    return (v * scale * sign).T @ other.T, (u * scale * sign).T @ one.T


def _signed(rows: Tensor) -> Tensor:
    """The rows with their largest entry positive, so that a machine's choice of sign does not matter."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * torch.sign(largest)
