"""What classifiers and taggers make of labelled rows, alone and beside their teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..teachers import align_labels, class_names
from . import labels
from .tokens import Statistics, fidelity_statistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROWS_AT_ONCE = 32
_OUTSIDE = "O"


@dataclass(frozen=True)
class Labeller:
    """A model that labels texts or words, with its own tokenizer.

    Attributes:
        model: the model.
        tokenizer: its tokenizer; a fast one to label words.
        longest: longest row, in tokens; the rest is cut off.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    longest: int

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return class_names(self.model.config)


def score_texts(
    teacher: Labeller, students: Mapping[str, Labeller], rows: Sequence[tuple[str, Any]]
) -> tuple[Statistics, dict[str, Statistics]]:
    """Classify texts: statistics of the teacher, and of each student with its likeness to the teacher.

    Raises:
        ValueError: a label is no class of the teacher, or a student has other classes.
    """
    names = teacher.names
    gold = [_class_number(label, names) for _, label in rows]
    texts = [text for text, _ in rows]
    expected = _classify(teacher, texts)
    found = {}
    for name, student in students.items():
        logits = _classify(student, texts)[:, _order(teacher, student)]
        likeness = {key: value.numpy() for key, value in fidelity_statistics(logits, expected).items()}
        found[name] = _confusion(logits, gold) | likeness
    return _confusion(expected, gold), found


def score_words(
    teacher: Labeller, students: Mapping[str, Labeller], rows: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> tuple[Statistics, dict[str, Statistics]]:
    """Tag words: statistics of the teacher, and of each student with its likeness to the teacher.

    Words beyond a model's longest row count as tagged O, and are not compared.
    """
    names = teacher.names
    sentences = [list(words) for words, _ in rows]
    gold = [_tags(tags, names) for _, tags in rows]
    expected = _tag(teacher, sentences)
    found = {}
    for name, student in students.items():
        order = _order(teacher, student)
        answers = [logits[:, order] for logits in _tag(student, sentences)]
        found[name] = _entity_rows(answers, gold, names) | _word_likeness(answers, expected)
    return _entity_rows(expected, gold, names), found


def _classify(labeller: Labeller, texts: Sequence[str]) -> Tensor:
    """Logits of each text. Shape (rows, classes)."""
    parts = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        batch = _encode(labeller, texts[start : start + _ROWS_AT_ONCE])
        with torch.inference_mode():
            parts.append(labeller.model.eval()(**batch).logits.float().cpu())
    return torch.cat(parts)


def _tag(labeller: Labeller, sentences: Sequence[Sequence[str]]) -> list[Tensor]:
    """Logits of each word, at its first token; nan for words that were cut off. Shape (words, classes) each."""
    if not labeller.tokenizer.is_fast:
        raise ValueError("Words are found again by a fast tokenizer alone. Save the model with one (tokenizer.json).")
    found = []
    for start in range(0, len(sentences), _ROWS_AT_ONCE):
        rows = sentences[start : start + _ROWS_AT_ONCE]
        batch = _encode(labeller, [list(words) for words in rows], is_split_into_words=True)
        with torch.inference_mode():
            logits = labeller.model.eval()(**batch).logits.float().cpu()
        for place, words in enumerate(rows):
            of_words = torch.full((len(words), logits.shape[-1]), float("nan"))
            for token, word in reversed(list(enumerate(batch.word_ids(place)))):
                if word is not None:
                    of_words[word] = logits[place, token]
            found.append(of_words)
    return found


def _encode(labeller: Labeller, batch: Sequence[Any], **more: Any) -> Any:
    encoded = labeller.tokenizer(
        list(batch), truncation=True, max_length=labeller.longest, padding=True, return_tensors="pt", **more
    )
    return encoded.to(labeller.model.device)


def _order(teacher: Labeller, student: Labeller) -> list[int]:
    """The student's class for each of the teacher's, by name."""
    order = align_labels(teacher.model.config, student.model.config)
    return list(range(len(teacher.names))) if order is None else order


def _class_number(label: Any, names: Sequence[str]) -> int:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names) and str(label) not in names:
        return label
    if str(label) in names:
        return list(names).index(str(label))
    raise ValueError(f"The data hold label {label!r}; the teacher's are {', '.join(names)}. Use the same names.")


def _tags(tags: Sequence[Any], names: Sequence[str]) -> list[str]:
    return [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else str(tag) for tag in tags]


def _confusion(logits: Tensor, gold: Sequence[int]) -> Statistics:
    predicted = logits.argmax(-1).tolist()
    return {"confusion": labels.confusion_rows(predicted, gold, logits.shape[-1]), "items": np.ones(len(gold))}


def _entity_rows(answers: Sequence[Tensor], gold: Sequence[Sequence[str]], names: Sequence[str]) -> Statistics:
    counts = []
    for logits, tags in zip(answers, gold, strict=True):
        cut_off = logits.isnan().any(-1).tolist()
        chosen = logits.nan_to_num().argmax(-1).tolist()
        predicted = [_OUTSIDE if gone else names[number] for number, gone in zip(chosen, cut_off, strict=True)]
        counts.append(labels.entity_counts(predicted, tags))
    right, found, wanted = np.asarray(counts, dtype=np.float64).T
    return {"right": right, "found": found, "wanted": wanted, "items": wanted}


def _word_likeness(answers: Sequence[Tensor], expected: Sequence[Tensor]) -> Statistics:
    rows: list[dict[str, float]] = []
    for own, others in zip(answers, expected, strict=True):
        both = ~(own.isnan().any(-1) | others.isnan().any(-1))
        likeness = fidelity_statistics(own[both], others[both])
        rows.append({name: float(values.sum()) for name, values in likeness.items()})
    return {name: _column(rows, name) for name in rows[0]}


def _column(rows: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    return np.asarray([row[name] for row in rows])
