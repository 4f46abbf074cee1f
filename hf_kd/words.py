"""Hidden states and attention maps by word, so that two tokenizers' can be compared.

Axes: B rows, N tokens, W words, D width, A heads. Tokens are given their words by number, counted in
each row from 0, -1 for those of none; see `hf_kd.word_alignment`. Sums are taken in float32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .losses.reduce import full_precision


def word_mask(words: Tensor, word_count: int | None = None) -> Tensor:
    """Which words each row has.

    Args:
        words: word of each token, -1 for none. Shape (B, N).
        word_count: W, at least one more than the highest number; None for just that.

    Returns:
        Whether any token belongs to the word. Shape (B, W), bool.

    Raises:
        ValueError: `words` has another shape, a number below -1, or one that is `word_count` or more.
    """
    return _counts(words, word_count) > 0


def pool_words(hidden: Tensor, words: Tensor, word_count: int | None = None) -> Tensor:
    """Mean hidden state of each word's tokens.

    Args:
        hidden: hidden states. Shape (B, N, D).
        words: word of each token, -1 for none. Shape (B, N).
        word_count: W; None for one more than the highest number.

    Returns:
        Means; 0 for words that a row lacks, which `word_mask` tells. Shape (B, W, D).

    Raises:
        ValueError: shapes do not fit, or a number is out of range.

    Example:
        >>> pool_words(torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[0, 0, 1]]))
        tensor([[[2.],
                 [5.]]])
    """
    counts = _counts(words, word_count)
    if hidden.dim() != 3 or hidden.shape[:2] != words.shape:
        raise ValueError(
            f"Hidden states have shape {tuple(hidden.shape)}, words {tuple(words.shape)}; (B, N, D) and (B, N) of the "
            "same tokens are needed. Give each model its own words."
        )
    hidden = full_precision(hidden)
    index = _slots(words, counts)
    sums = hidden.new_zeros(len(words), counts.shape[1] + 1, hidden.shape[2])
    sums = sums.scatter_add(1, index.unsqueeze(-1).expand_as(hidden), hidden)
    return sums[:, :-1] / counts.clamp(min=1).unsqueeze(-1)


def aggregate_attention(attention: Tensor, words: Tensor, word_count: int | None = None) -> Tensor:
    """Attention from word to word: summed over the attended tokens, averaged over the attending ones.

    A word's row sums to the mean of what its tokens' rows sum to over the tokens of all words: to 1
    less what goes to special tokens.

    Args:
        attention: attention probabilities, with or without heads. Shape (B, N, N) or (B, A, N, N).
        words: word of each token, -1 for none. Shape (B, N).
        word_count: W; None for one more than the highest number.

    Returns:
        The maps; 0 for words that a row lacks. Shape (B, W, W) or (B, A, W, W).

    Raises:
        ValueError: shapes do not fit, or a number is out of range.

    Example:
        >>> attention = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.0, 0.5, 0.5]]])
        >>> aggregate_attention(attention, torch.tensor([[0, 0, 1]]))
        tensor([[[0.5250, 0.4750],
                 [0.5000, 0.5000]]])
    """
    counts = _counts(words, word_count)
    tokens = words.shape[1]
    if attention.dim() not in (3, 4) or len(attention) != len(words) or attention.shape[-2:] != (tokens, tokens):
        raise ValueError(
            f"Attention has shape {tuple(attention.shape)}, words {tuple(words.shape)}; (B, N, N) or (B, A, N, N) and "
            "(B, N) of the same tokens are needed. Give each model its own words."
        )
    attention = full_precision(attention)
    membership = attention.new_zeros(len(words), tokens, counts.shape[1] + 1)
    membership = membership.scatter(2, _slots(words, counts).unsqueeze(-1), 1.0)[..., :-1]
    averaging = (membership / counts.clamp(min=1).unsqueeze(1)).transpose(1, 2)
    if attention.dim() == 4:
        membership, averaging = membership.unsqueeze(1), averaging.unsqueeze(1)
    with torch.autocast(attention.device.type, enabled=False):  # which would multiply in half precision again
        return averaging @ attention @ membership


def _slots(words: Tensor, counts: Tensor) -> Tensor:
    """Tokens without a word go to a slot of their own, behind the last word. Shape (B, N)."""
    return torch.where(words < 0, counts.shape[1], words)


def _counts(words: Tensor, word_count: int | None) -> Tensor:
    """Tokens of each word. Shape (B, W)."""
    if words.dim() != 2 or words.is_floating_point():
        raise ValueError(
            f"`words` has shape {tuple(words.shape)} and type {words.dtype}; integers of shape (B, N) are needed. Take "
            "`kd_student_words` or `kd_teacher_words` of the batch."
        )
    lowest, highest = (int(words.min()), int(words.max())) if words.numel() else (-1, -1)
    most = highest + 1 if word_count is None else word_count
    if lowest < -1 or highest >= most:
        raise ValueError(
            f"`words` holds numbers from {lowest} to {highest}; -1 for none and 0 to {most - 1} are possible. Number "
            "the words of both models alike, and give the larger count."
        )
    slots = torch.where(words < 0, most, words).long()
    ones = torch.ones_like(slots)
    return torch.zeros(len(words), most + 1, dtype=torch.long, device=words.device).scatter_add(1, slots, ones)[:, :-1]
