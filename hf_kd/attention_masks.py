"""Which positions may attend to which, from what an attention kernel was given."""

import torch
from torch import Tensor, nn


def allowed_pairs(
    module: nn.Module, scores: Tensor, attention_mask: Tensor | None, sliding_window: int | None
) -> Tensor | None:
    """Which (query, key) pairs may attend, from any kernel's mask. Broadcasts to `scores`; None for all."""
    if attention_mask is not None and attention_mask.dim() == 4:
        attention_mask = attention_mask[..., : scores.shape[-1]]
        if attention_mask.dtype == torch.bool:
            return attention_mask
        return attention_mask > torch.finfo(attention_mask.dtype).min / 2
    allowed = None
    if attention_mask is not None:  # flash attention: padding alone, shape (B, N)
        allowed = attention_mask[:, None, None, :].bool()
    if getattr(module, "is_causal", False):
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        allowed = causal if allowed is None else allowed & causal
    if sliding_window is not None:  # flash attention again: other masks hold the window already
        near = _distance(scores) < sliding_window
        allowed = near if allowed is None else allowed & near
    return allowed


def _distance(scores: Tensor) -> Tensor:
    """Distance between query and key positions. Shape (N, N)."""
    positions = torch.arange(scores.shape[-1], device=scores.device)
    return (positions[:, None] - positions[None, :]).abs()
