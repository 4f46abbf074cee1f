"""What models make of masked held-out lines: the same masks for every model."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNMASKED = -100
_LOGITS_AT_ONCE = 32_000_000


@dataclass(frozen=True)
class MaskedLine:
    """One held-out line.

    Attributes:
        language: its language.
        input_ids: tokens, some of them the mask.
        labels: the masked tokens in their places, `UNMASKED` elsewhere.
    """

    language: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class LineScore:
    """How one model did on one line.

    Attributes:
        language: its language.
        masked: number of masked tokens.
        correct: how many of them the model ranked first.
        loss: sum of their cross-entropies, in nats.
    """

    language: str
    masked: int
    correct: int
    loss: float


@dataclass(frozen=True)
class Score:
    """How one model did on one language.

    Attributes:
        accuracy: share of masked tokens ranked first, 0 to 1.
        loss: mean cross-entropy of a masked token, in nats.
    """

    accuracy: float
    loss: float


def mask_lines(
    lines: Mapping[str, Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerBase, ratio: float, seed: int
) -> list[MaskedLine]:
    """Mask a share of every line's tokens, at least one; special tokens stay.

    Args:
        lines: token numbers of each line, by language.
        tokenizer: names the mask and the special tokens.
        ratio: share of tokens to mask, 0 to 1.
        seed: seed of the choice.
    """
    rng = random.Random(seed)
    special = set(tokenizer.all_special_ids)
    masked = []
    for language, of_language in lines.items():
        for ids in of_language:
            places = [place for place, token in enumerate(ids) if token not in special]
            if not places:
                continue
            chosen = set(rng.sample(places, max(1, round(ratio * len(places)))))
            masked.append(
                MaskedLine(
                    language,
                    tuple(tokenizer.mask_token_id if place in chosen else token for place, token in enumerate(ids)),
                    tuple(token if place in chosen else UNMASKED for place, token in enumerate(ids)),
                )
            )
    return masked


def write_lines(path: Path, lines: Sequence[MaskedLine]) -> None:
    """Write one JSON object a line, so that anyone can measure a model on the same masks."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(vars(line)) + "\n")


def score_lines(model: PreTrainedModel, lines: Sequence[MaskedLine], pad_token_id: int) -> list[LineScore]:
    """Let a model fill the masks of every line."""
    longest = max(len(line.input_ids) for line in lines)
    rows = max(1, min(64, _LOGITS_AT_ONCE // (longest * model.config.vocab_size)))
    scores = []
    for start in range(0, len(lines), rows):
        batch = lines[start : start + rows]
        labels = _pad([line.labels for line in batch], UNMASKED)
        chosen = labels != UNMASKED
        logits = _fill(model, batch, pad_token_id)[chosen].float()
        losses = torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="none")
        correct = logits.argmax(-1) == labels[chosen]
        counts = chosen.sum(1).tolist()
        for line, line_losses, line_correct in zip(batch, losses.split(counts), correct.split(counts), strict=True):
            scores.append(
                LineScore(line.language, len(line_losses), int(line_correct.sum()), float(line_losses.double().sum()))
            )
    return scores


def by_language(scores: Sequence[LineScore]) -> dict[str, Score]:
    """Sum up lines: every masked token of a language counts the same."""
    of_language: dict[str, list[LineScore]] = {}
    for score in scores:
        of_language.setdefault(score.language, []).append(score)
    return {
        language: Score(
            sum(score.correct for score in group) / sum(score.masked for score in group),
            sum(score.loss for score in group) / sum(score.masked for score in group),
        )
        for language, group in of_language.items()
    }


def count_masked(scores: Sequence[LineScore]) -> dict[str, int]:
    """Number of masked tokens by language."""
    counts: dict[str, int] = {}
    for score in scores:
        counts[score.language] = counts.get(score.language, 0) + score.masked
    return counts


def mean_score(scores: Mapping[str, Score]) -> Score:
    """The mean over languages: every language counts the same."""
    return Score(
        statistics.fmean(score.accuracy for score in scores.values()),
        statistics.fmean(score.loss for score in scores.values()),
    )


def gain_interval(better: Sequence[LineScore], worse: Sequence[LineScore], seed: int) -> tuple[float, float]:
    """How far the mean gain in accuracy hangs on the lines held out.

    Lines are drawn again and again, with replacement, within each language.

    Args:
        better: scores of the model expected to win.
        worse: scores of the other model on the same lines.
        seed: seed of the drawing.

    Returns:
        The middle 95 % of the resampled gains in mean accuracy, as shares of 1. It covers
        the choice of lines, not that of seeds.
    """
    rng = np.random.default_rng(seed)
    gains = np.zeros(1000)
    languages = sorted({score.language for score in better})
    for language in languages:
        pairs = [(one, other) for one, other in zip(better, worse, strict=True) if one.language == language]
        difference = np.array([one.correct - other.correct for one, other in pairs])
        masked = np.array([one.masked for one, _ in pairs])
        drawn = rng.integers(len(pairs), size=(len(gains), len(pairs)))
        gains += difference[drawn].sum(1) / masked[drawn].sum(1) / len(languages)
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(low), float(high)


def lines_per_second(
    models: Mapping[str, PreTrainedModel], lines: Sequence[MaskedLine], pad_token_id: int, rounds: int = 15
) -> dict[str, float]:
    """Median speed of each model on the same batch, the models taking turns.

    Args:
        models: models by name.
        lines: one batch.
        pad_token_id: fills short lines up.
        rounds: turns of each model, after one that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            _fill(model, lines, pad_token_id)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: len(lines) / statistics.median(times) for name, times in seconds.items()}


def _fill(model: PreTrainedModel, lines: Sequence[MaskedLine], pad_token_id: int) -> torch.Tensor:
    """Logits at every position, on the CPU. Shape (B, N, V)."""
    input_ids = _pad([line.input_ids for line in lines], pad_token_id)
    attention_mask = _pad([[1] * len(line.input_ids) for line in lines], 0)
    model.eval()
    with torch.inference_mode():
        outputs = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device))
    return outputs.logits.cpu()


def _pad(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
