"""Two tokenizers compared: which ids mean the same token, and whether both cut text alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import check_fast

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_NAMES = {"normalizer": "normalizer", "pre_tokenizer": "pre-tokenizer"}
_OWN = ("vocab", "merges", "unk_id")  # differ between a tokenizer and its trimmed form


def token_map(
    student_tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.int64]:
    """The teacher's id of each student token, by the token's string.

    Returns:
        Teacher ids by student id, -1 where the teacher lacks the token. Shape (V,), V one more than
        the student's highest id.
    """
    student, teacher = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    ids = np.full(max(student.values(), default=-1) + 1, -1, dtype=np.int64)
    for token, student_id in student.items():
        ids[student_id] = teacher.get(token, -1)
    return ids


def same_pipeline(student_tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Whether two tokenizers cut text alike where they know the same tokens.

    Normalizer, pre-tokenizer and the model's kind and settings are compared; vocabulary, scores,
    merges and added tokens are not.

    Returns:
        The first difference, as a phrase with the student's side first, or None.

    Raises:
        TypeError: a slow tokenizer.
    """
    check_fast(student_tokenizer)
    check_fast(teacher_tokenizer)
    student, teacher = (
        json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (student_tokenizer, teacher_tokenizer)
    )
    for key, name in _NAMES.items():
        if student[key] != teacher[key]:
            return f"{name}: {_show(student[key])}, not {_show(teacher[key])}"
    if student["model"]["type"] != teacher["model"]["type"]:
        return f"model: {student['model']['type']}, not {teacher['model']['type']}"
    for key in sorted((student["model"].keys() | teacher["model"].keys()) - set(_OWN)):
        ours, theirs = student["model"].get(key) or None, teacher["model"].get(key) or None  # "", false, 0: not set
        if ours != theirs:
            return f"model's {key}: {_show(ours)}, not {_show(theirs)}"
    return None


def _show(value: Any) -> str:
    """A component in a few words."""
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
