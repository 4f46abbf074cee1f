"""What language models make of hidden or following tokens, alone and beside their teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .masking import UNMASKED, MaskedLine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .vocabulary import Columns

_LOGITS_AT_ONCE = 32_000_000
_FIRST_CHOICES = 5

Statistics = dict[str, NDArray[np.float64]]
"""What each row adds to the sums that measures are made of. Shape (rows,) each."""


@dataclass(frozen=True)
class Reader:
    """A model that reads lines written in the student's tokens.

    Attributes:
        model: the model.
        pad_token_id: fills short lines up, in the model's own numbers.
        columns: how the lines' numbers map to the model's; None where they are the same.
    """

    model: PreTrainedModel
    pad_token_id: int
    columns: Columns | None = None


def answer_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Right or wrong, and how surprised, at each position.

    Args:
        logits: raw scores. Shape (S, V).
        targets: the right tokens. Shape (S,).

    Returns:
        `items` (ones), `correct` (0 or 1) and `nats` (cross-entropy), float64. Shape (S,) each.
    """
    nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    correct = logits.argmax(-1) == targets
    return {"items": torch.ones_like(nats).double(), "correct": correct.double(), "nats": nats.double()}


def fidelity_statistics(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, Tensor]:
    """How alike two models answer at each position, right or wrong.

    Args:
        student_logits: raw scores. Shape (S, V).
        teacher_logits: raw scores over the same tokens or classes. Shape (S, V).

    Returns:
        `compared` (ones), `agree1` (same first choice), `agree5` (the teacher's first choice is among
        the student's first five; absent with five columns or fewer) and `kl`, KL(teacher ‖ student)
        in nats, float64. Shape (S,) each.
    """
    log_student, log_teacher = student_logits.float().log_softmax(-1), teacher_logits.float().log_softmax(-1)
    favourite = log_teacher.argmax(-1)
    found = {"agree1": (log_student.argmax(-1) == favourite).double()}
    if log_student.shape[-1] > _FIRST_CHOICES:
        choices = log_student.topk(_FIRST_CHOICES, dim=-1).indices
        found["agree5"] = (choices == favourite[:, None]).any(-1).double()
    # A column that the teacher rules out adds nothing, whatever the student says of it.
    shares = log_teacher.exp()
    apart = torch.where(shares > 0, log_teacher - log_student, 0.0)
    found["kl"] = (shares * apart).double().sum(-1)
    found["compared"] = torch.ones_like(found["kl"])
    return found


def score_lines(reader: Reader, lines: Sequence[MaskedLine]) -> Statistics:
    """What one model makes of lines; one row of statistics a line, in their order."""
    return score_group(reader, {}, lines)[0]


def score_group(
    teacher: Reader, students: Mapping[str, Reader], lines: Sequence[MaskedLine]
) -> tuple[Statistics, dict[str, Statistics]]:
    """What a teacher and its students make of the same lines, the teacher asked once.

    Returns:
        The teacher's statistics; each student's, those of likeness to the teacher among them.
    """
    batches: list[tuple[Sequence[int], dict[str, Tensor], dict[str, dict[str, Tensor]]]] = []
    for chosen in _batches(lines, [teacher, *students.values()]):
        batch = [lines[place] for place in chosen]
        labels = _pad([line.labels for line in batch], UNMASKED)
        asked = labels != UNMASKED
        rows = asked.nonzero()[:, 0]
        expected = _answer(teacher, batch, asked)
        own = _by_row(answer_statistics(expected, _targets(teacher, labels[asked])), rows, len(batch))
        of_students = {}
        for name, student in students.items():
            logits = _answer(student, batch, asked)
            found = answer_statistics(logits, _targets(student, labels[asked]))
            shared = min(logits.shape[-1], expected.shape[-1])  # beyond, one of them is padded
            found |= fidelity_statistics(logits[:, :shared], expected[:, :shared])
            of_students[name] = _by_row(found, rows, len(batch))
        batches.append((chosen, own, of_students))
    order = np.argsort(np.concatenate([np.asarray(chosen) for chosen, _, _ in batches]))
    return _join([own for _, own, _ in batches], order), {
        name: _join([of_students[name] for _, _, of_students in batches], order) for name in students
    }


def fill(model: PreTrainedModel, lines: Sequence[MaskedLine], pad_token_id: int) -> Tensor:
    """Logits at every position, on the CPU. Shape (B, N, V)."""
    input_ids = _pad([line.input_ids for line in lines], pad_token_id)
    attention_mask = _pad([[1] * len(line.input_ids) for line in lines], 0)
    model.eval()
    with torch.inference_mode():
        outputs = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device))
    return outputs.logits.cpu()


def _answer(reader: Reader, lines: Sequence[MaskedLine], asked: Tensor) -> Tensor:
    """Logits over the shared columns at the positions asked. Shape (S, V)."""
    if reader.columns is None:
        return fill(reader.model, lines, reader.pad_token_id)[asked].float()
    own = [MaskedLine(line.language, reader.columns.translate(line.input_ids), line.labels) for line in lines]
    return fill(reader.model, own, reader.pad_token_id)[asked][:, reader.columns.own].float()


def _targets(reader: Reader, labels: Tensor) -> Tensor:
    return labels if reader.columns is None else reader.columns.place_of[labels]


def _batches(lines: Sequence[MaskedLine], readers: Sequence[Reader]) -> list[list[int]]:
    """Places of lines, those of about one length together, as many as fit."""
    widest = max(reader.model.config.get_text_config().vocab_size for reader in readers)
    by_length = sorted(range(len(lines)), key=lambda place: (-len(lines[place].input_ids), place))
    batches = []
    while by_length:
        longest = len(lines[by_length[0]].input_ids)
        rows = max(1, min(64, _LOGITS_AT_ONCE // (longest * widest)))
        batches.append(by_length[:rows])
        by_length = by_length[rows:]
    return batches


def _by_row(statistics: Mapping[str, Tensor], rows: Tensor, count: int) -> dict[str, Tensor]:
    return {
        name: torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values) for name, values in statistics.items()
    }


def _join(parts: Sequence[Mapping[str, Tensor]], order: NDArray[np.intp]) -> Statistics:
    return {name: torch.cat([part[name] for part in parts]).numpy()[order] for name in parts[0]}


def _pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
