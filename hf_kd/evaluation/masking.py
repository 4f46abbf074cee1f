"""Lines with hidden tokens: the same masks for every model, and for every run of the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNMASKED = -100
"""Stands where nothing is asked; the label that transformers ignores."""


@dataclass(frozen=True)
class MaskedLine:
    """One held-out line.

    Attributes:
        language: its language.
        input_ids: tokens, some of them the mask.
        labels: what is asked at each place, `UNMASKED` where nothing is.
    """

    language: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def mask_lines(
    lines: Mapping[str, Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerBase, ratio: float, seed: int | str
) -> list[MaskedLine]:
    """Mask a share of every line's tokens, at least one; special tokens stay.

    Args:
        lines: token numbers of each line, by language.
        tokenizer: names the mask and the special tokens.
        ratio: share of tokens to mask, 0 to 1.
        seed: seed of the choice.
    """
    rng = random.Random(seed)
    masked = []
    for language, of_language in lines.items():
        for ids in of_language:
            places = _maskable(ids, tokenizer)
            if places:
                chosen = set(rng.sample(places, max(1, round(ratio * len(places)))))
                masked.append(_hide(language, ids, chosen, tokenizer))
    return masked


def mask_each(language: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[MaskedLine]:
    """One line for each of its tokens, that token alone masked: what pseudo-perplexity is made of.

    Source:
        Masked Language Model Scoring, Salazar et al. (2020), arXiv:1910.14659, section 2.
    """
    return [_hide(language, ids, {place}, tokenizer) for place in _maskable(ids, tokenizer)]


def next_tokens(lines: Mapping[str, Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> list[MaskedLine]:
    """Lines for a causal model: at each place the token that follows, special tokens aside."""
    special = set(tokenizer.all_special_ids)
    asked = []
    for language, of_language in lines.items():
        for ids in of_language:
            labels = tuple(UNMASKED if token in special else token for token in ids[1:]) + (UNMASKED,)
            if any(label != UNMASKED for label in labels):
                asked.append(MaskedLine(language, tuple(ids), labels))
    return asked


def write_lines(path: Path, lines: Sequence[MaskedLine]) -> None:
    """Write one JSON object a line, so that anyone can measure a model on the same masks."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(vars(line)) + "\n")


def _maskable(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    special = set(tokenizer.all_special_ids)
    return [place for place, token in enumerate(ids) if token not in special]


def _hide(language: str, ids: Sequence[int], chosen: set[int], tokenizer: PreTrainedTokenizerBase) -> MaskedLine:
    return MaskedLine(
        language,
        tuple(tokenizer.mask_token_id if place in chosen else token for place, token in enumerate(ids)),
        tuple(token if place in chosen else UNMASKED for place, token in enumerate(ids)),
    )
