"""Which tokens student and teacher share, by their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Columns:
    """How one model's token numbers map to the shared columns.

    Attributes:
        own: the model's number of each shared column. Shape (columns,).
        place_of: column of each number that a line may hold; -1 for none. Shape (highest number + 1,).
        of_line: the model's number of each number that a line may hold. Shape (highest number + 1,).
    """

    own: Tensor
    place_of: Tensor
    of_line: Tensor

    def translate(self, ids: Sequence[int]) -> tuple[int, ...]:
        """A line's numbers in the model's own."""
        return tuple(self.of_line[torch.tensor(ids)].tolist())


def share_columns(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str
) -> tuple[Columns, Columns] | None:
    """Match the student's tokens to the teacher's.

    Lines are written in the student's tokens; both models are asked about those alone.

    Args:
        student: the student's tokenizer.
        teacher: the teacher's.
        name: what to call the student in errors.

    Returns:
        The student's columns and the teacher's; None where both number their tokens alike.

    Raises:
        ValueError: the student has tokens that the teacher lacks.
    """
    own, theirs = student.get_vocab(), teacher.get_vocab()
    if own == theirs:
        return None
    lacking = sorted(set(own) - set(theirs), key=lambda token: own[token])
    if lacking:
        raise ValueError(
            f"Student `{name}` has {len(lacking):,} tokens that its teacher lacks (first: {lacking[0]!r}, number "
            f"{own[lacking[0]]}), so their answers cannot be compared token by token. Compare students whose tokens "
            "are the teacher's or some of them, or compare on a task with labels."
        )
    tokens = sorted(own, key=lambda token: own[token])
    numbers = torch.tensor([own[token] for token in tokens])
    place_of = torch.full((int(numbers.max()) + 1,), -1)
    place_of[numbers] = torch.arange(len(tokens))
    of_line = torch.zeros_like(place_of)
    of_line[numbers] = torch.tensor([theirs[token] for token in tokens])
    return (
        Columns(numbers, place_of, torch.arange(len(place_of))),
        Columns(torch.tensor([theirs[token] for token in tokens]), place_of, of_line),
    )
