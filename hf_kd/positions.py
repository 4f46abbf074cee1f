"""Which positions of a batch each term counts.

Computed from the batch alone, so that the numbers of a whole optimizer step are known
before its first forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""The label that marks a position without one."""


@dataclass(frozen=True)
class Positions:
    """Where the terms of one batch look.

    Attributes:
        labelled: where the task loss counts. Shape (B, N) for tokens, (B,) for rows.
        compared: where logits are compared. Shape of `labelled`.
        tokens: real tokens, neither padding nor special: where layers are compared. Shape (B, N).
        padding_free: real and special tokens: keys that may be attended to. Shape (B, N).
        targets: the label of each position, moved to where it is predicted. Shape of `labelled`;
            None for heads that keep their labels by name.
    """

    labelled: Tensor
    compared: Tensor
    tokens: Tensor
    padding_free: Tensor
    targets: Tensor | None

    def counts(self) -> Tensor:
        """Numbers of labelled positions, compared positions and real tokens. Shape (3,), int64."""
        return torch.stack([self.labelled.sum(), self.compared.sum(), self.tokens.sum()])


def find_positions(batch: Mapping[str, Tensor], head: str, special_ids: Tensor, positions: str) -> Positions:
    """Find the positions that count in a batch.

    Args:
        batch: what the collator made: `input_ids`, `attention_mask`, labels.
        head: one of `architecture.HEADS`.
        special_ids: token ids that are no text, the mask token not among them. Shape (any,).
        positions: "masked" (those with a label) or "all" (every real token too).

    Returns:
        The positions. A causal head's label of position n is predicted at n − 1.
    """
    padding_free, tokens = _tokens(batch, special_ids)
    labels = batch.get("labels")
    if head == "question_answering":
        everything = torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        labelled = ~everything
        if "start_positions" in batch:
            # A span that does not lie in the row's tokens has no position to be predicted at.
            labelled = _inside(batch["start_positions"], padding_free) & _inside(batch["end_positions"], padding_free)
        return Positions(labelled, everything, tokens, padding_free, None)
    if head == "sequence_classification":
        everything = torch.ones(tokens.shape[0], dtype=torch.bool, device=tokens.device)
        if labels is None:
            labelled = ~everything
        else:
            is_class = not labels.is_floating_point() and labels.dim() == 1
            labelled = labels != IGNORED if is_class else everything
        return Positions(labelled, everything, tokens, padding_free, labels)
    targets = torch.full_like(tokens, IGNORED, dtype=torch.long) if labels is None else labels
    if head == "causal_lm":
        targets = torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], IGNORED)], dim=1)
    labelled = targets != IGNORED
    compared = labelled if positions == "masked" else labelled | tokens
    return Positions(labelled, compared, tokens, padding_free, targets)


def special_token_ids(tokenizer: object | None, config: object) -> list[int]:
    """Ids of tokens that are no text: those the tokenizer and the configuration name.

    The mask token is left out, since a masked position stands for text, and so is the
    unknown token, which does too.
    """
    ids = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")]
    flattened = {i for value in ids for i in (value if isinstance(value, (list, tuple)) else [value])}
    flattened |= set(getattr(tokenizer, "all_special_ids", ()))
    text = {getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "unk")}
    return sorted(i for i in flattened - text if i is not None)


def _inside(answers: Tensor, padding_free: Tensor) -> Tensor:
    """Whether each row's answer is one of its tokens. Shape (B,)."""
    answers = answers.view(-1)
    last = padding_free.shape[1] - 1
    in_row = (answers >= 0) & (answers <= last)
    return in_row & padding_free.gather(1, answers.clamp(0, last).unsqueeze(1)).squeeze(1)


def _tokens(batch: Mapping[str, Tensor], special_ids: Tensor) -> tuple[Tensor, Tensor]:
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if mask is not None and mask.dim() != 2:
        mask = None
    if mask is None and ids is None:
        embeddings = batch["inputs_embeds"]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
    padding_free = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    if ids is None or special_ids.numel() == 0:
        return padding_free, padding_free
    return padding_free, padding_free & ~torch.isin(ids, special_ids.to(ids.device))
