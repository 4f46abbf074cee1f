"""Collators that carry what matching needs, around the collator that a script already has.

They add tensors to its batch, none of which the student reads:

- `kd_language`: number of each row's language, shape (B,), or of each token's, shape (B, N).
- `kd_original_input_ids`: the row before masking, padded as the student's. Shape (B, N).
- `kd_teacher_input_ids`, `kd_teacher_attention_mask`: the text in the teacher's tokens. Shape (B, M).
- `kd_student_words`, `kd_teacher_words`: number of the word that a token belongs to, counted in each
  row from 0; -1 for special tokens, padding, and words that one side lacks. Shapes (B, N), (B, M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.utils import logging

from .languages import LANGUAGE_COLUMN, NO_LANGUAGE, TOKEN_LANGUAGES_COLUMN, check_languages, language_numbers
from .word_alignment import NO_WORD, Spans, align_words, covered, decoded_spans, shared_words, strip_blanks, text_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

LANGUAGE = "kd_language"
ORIGINAL = "kd_original_input_ids"
TEACHER_IDS = "kd_teacher_input_ids"
TEACHER_MASK = "kd_teacher_attention_mask"
STUDENT_WORDS = "kd_student_words"
TEACHER_WORDS = "kd_teacher_words"

Row = Mapping[str, Any]


class DataCollatorForDistillation:
    """Any collator, and what a distillation needs beside its batch.

    Nothing random is drawn here: the wrapped collator masks as it would alone. It can be pickled if
    the wrapped collator can. Columns of strings never reach a collator that has a tokenizer, whose
    padding would fail on them; one without gets them all, but for the language.

    Args:
        collator: makes the student's batch from a list of rows.
        languages: names of the languages; a row's number is its place among them. Empty: rows carry
            no language, unless their tokens do.
        language_column: the column that names each row's language.
        keeps_original: whether to keep the row as it was before masking.

    Raises:
        TypeError: `collator` cannot be called.
    """

    def __init__(
        self,
        collator: Callable[..., Any],
        *,
        languages: Sequence[str] = (),
        language_column: str = LANGUAGE_COLUMN,
        keeps_original: bool = False,
    ) -> None:
        if not callable(collator):
            raise TypeError(
                f"`collator` is of type `{type(collator).__name__}`; a function from rows to a batch is needed. Pass "
                "the script's own, such as `DataCollatorForLanguageModeling(tokenizer)`."
            )
        self.collator = collator
        self.languages = check_languages(languages)
        self.language_column = language_column
        self.keeps_original = keeps_original

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The wrapped collator's tokenizer, if it has one."""
        return getattr(self.collator, "tokenizer", None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the dataset that are read here, and that the Trainer must not remove."""
        return (self.language_column, TOKEN_LANGUAGES_COLUMN)

    def __call__(self, features: Sequence[Any], **options: Any) -> Any:
        """Make a batch.

        Args:
            features: the rows.
            options: passed on, such as `return_tensors`, which must be "pt".

        Raises:
            ValueError: a language is unknown, or the batch's rows or tokens are not those given.
        """
        rows = [row for row in features if isinstance(row, Mapping)]
        if len(rows) < len(features):  # bare lists of ids hold no columns
            if self.languages or self.keeps_original:
                raise ValueError(
                    f"Rows are of type `{type(features[0]).__name__}`; columns by name are needed to carry languages "
                    "and originals. Give rows as dicts."
                )
            return self.collator(features, **options)
        originals = [_ids(row) for row in rows]  # before a collator that masks in place sees them
        batch = self.collator(self._visible(rows), **options)
        if rows:
            self._add(batch, rows, originals)
        return batch

    def _add(self, batch: Any, rows: Sequence[Row], originals: Sequence[list[int] | None]) -> None:
        """Put what is carried into the batch."""
        language = self._languages(rows, batch)
        if language is not None:
            batch[LANGUAGE] = language
        if self.keeps_original:
            batch[ORIGINAL] = self._original(originals, batch)

    def _visible(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The rows as the wrapped collator gets them."""
        hidden = set(self.columns)
        if self.tokenizer is not None:
            hidden |= {name for row in rows for name, value in row.items() if value is None or _is_text(value)}
        return [{name: value for name, value in row.items() if name not in hidden} for row in rows]

    def _languages(self, rows: Sequence[Row], batch: Mapping[str, Any]) -> Tensor | None:
        if TOKEN_LANGUAGES_COLUMN in rows[0]:
            numbers = [_list(row[TOKEN_LANGUAGES_COLUMN]) for row in rows]
            for row, own in zip(rows, numbers, strict=True):
                if len(own) != len(row["input_ids"]):
                    raise ValueError(
                        f"A row has {len(own)} `{TOKEN_LANGUAGES_COLUMN}` for {len(row['input_ids'])} `input_ids`; "
                        "each token needs one. Cut both columns alike."
                    )
            known = len(self.languages)
            highest = max((number for row in numbers for number in row), default=NO_LANGUAGE)
            if known and highest >= known:
                raise ValueError(
                    f"Column `{TOKEN_LANGUAGES_COLUMN}` holds the number {highest}, but {known} languages are known: "
                    f"{', '.join(f'`{name}`' for name in self.languages)}. Pack with the same `languages`."
                )
            return _fill(numbers, batch, NO_LANGUAGE, self.tokenizer, TOKEN_LANGUAGES_COLUMN)
        if not self.languages:
            return None
        if all(self.language_column not in row for row in rows):
            raise ValueError(
                f"Rows have the columns {', '.join(f'`{name}`' for name in rows[0])}, but no `{self.language_column}` "
                f"that names their language, and no `{TOKEN_LANGUAGES_COLUMN}`. Keep the column through "
                "preprocessing; packed text needs `hf_kd.packing.tokenize_with_languages`."
            )
        ids = batch.get("input_ids")
        if isinstance(ids, Tensor) and len(ids) != len(rows):
            raise ValueError(
                f"The wrapped collator made {len(ids)} rows of {len(rows)}, so their languages have no place in its "
                "batch. Wrap a collator that keeps rows apart, such as one that pads."
            )
        values = [row.get(self.language_column) for row in rows]
        return torch.tensor(language_numbers(values, self.languages, self.language_column))

    def _original(self, originals: Sequence[list[int] | None], batch: Mapping[str, Any]) -> Tensor:
        if any(ids is None for ids in originals):
            raise ValueError("Rows have no `input_ids`, which `keeps_original` keeps. Tokenize the dataset first.")
        return _fill([ids for ids in originals if ids is not None], batch, None, self.tokenizer, "input_ids")


class DataCollatorForHiddenMatching(DataCollatorForDistillation):
    """Carries the text in the tokens of a teacher with another tokenizer, and the words of both.

    A word is a stretch of text without blanks; see `hf_kd.word_alignment`. The teacher reads the text
    that the student's tokens cover. Where the student's token was changed by the wrapped collator
    (masked, or replaced at random), the teacher's tokens of the whole word are masked, so that it
    knows no more than the student; with `keeps_original` it reads everything.

    A row's text is its `text_column`; rows without one (packed, pre-split) are decoded from their ids,
    word by word, and a warning says so once. `hf_kd.words.pool_words` makes hidden states comparable.

    Args:
        collator: makes the student's batch; its `tokenizer` is the student's, and fast.
        teacher_tokenizer: the teacher's tokenizer, fast.
        text_column: the column that holds each row's text: one text, not a pair.
        teacher_max_length: tokens that the teacher reads at most; None for the tokenizer's own limit.
        settings: further arguments of `DataCollatorForDistillation`.

    Raises:
        TypeError: a tokenizer is missing or slow.
        ValueError: `teacher_max_length` < 1.
    """

    def __init__(
        self,
        collator: Callable[..., Any],
        teacher_tokenizer: PreTrainedTokenizerBase,
        *,
        text_column: str = "text",
        teacher_max_length: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(collator, **settings)
        for whose, tokenizer in (("student", self.tokenizer), ("teacher", teacher_tokenizer)):
            if not getattr(tokenizer, "is_fast", False):
                saw = "none" if tokenizer is None else f"`{type(tokenizer).__name__}`, which is not"
                raise TypeError(
                    f"Words are found with fast tokenizers; the {whose}'s is {saw}. Wrap a collator that has the "
                    "student's tokenizer as `tokenizer`, and pass the teacher's, both from "
                    "`AutoTokenizer.from_pretrained`."
                )
        if teacher_max_length is not None and teacher_max_length < 1:
            raise ValueError(f"`teacher_max_length` is {teacher_max_length}; at least 1 token is needed. Use 128, say.")
        self.teacher_tokenizer = teacher_tokenizer
        self.text_column = text_column
        self.teacher_max_length = teacher_max_length

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the dataset that are read here, and that the Trainer must not remove."""
        return (*super().columns, self.text_column)

    def _add(self, batch: Any, rows: Sequence[Row], originals: Sequence[list[int] | None]) -> None:
        super()._add(batch, rows, originals)
        original = self._original(originals, batch)
        texts, student_spans = self._read(rows, [ids for ids in originals if ids is not None])
        ids, teacher_spans, whole_spans = self._encode(texts)
        aligned = [
            align_words(text, student, teacher)
            for text, student, teacher in zip(texts, student_spans, teacher_spans, strict=True)
        ]
        teacher_ids = pad_rows(ids, self._padding_id())
        teacher_words = pad_rows([teacher for _, teacher, _ in aligned], NO_WORD)
        if not self.keeps_original:
            words = _fill([student for student, _, _ in aligned], batch, NO_WORD, self.tokenizer, "input_ids")
            self._hide(teacher_ids, teacher_words, words, batch["input_ids"] != original)
        shared = [
            shared_words(student, teacher, _whole(words, spans, whole))
            for (student, teacher, words), spans, whole in zip(aligned, teacher_spans, whole_spans, strict=True)
        ]
        batch[TEACHER_IDS] = teacher_ids
        batch[TEACHER_MASK] = pad_rows([[1] * len(row) for row in ids], 0)
        batch[STUDENT_WORDS] = _fill([one for one, _ in shared], batch, NO_WORD, self.tokenizer, "input_ids")
        batch[TEACHER_WORDS] = pad_rows([other for _, other in shared], NO_WORD)

    def _read(self, rows: Sequence[Row], originals: Sequence[list[int]]) -> tuple[list[str], list[Spans]]:
        """The text that each row's tokens cover, and where they lie in it."""
        texts, spans = [], []
        for row, ids in zip(rows, originals, strict=True):
            text = row.get(self.text_column)
            if isinstance(text, str):
                text, found = covered(text, text_spans(self.tokenizer, ids, text))
            else:
                logger.warning_once(
                    f"Rows hold no column `{self.text_column}`: the teacher's text is decoded from the student's "
                    "tokens, word by word, and need not be the text as it was written."
                )
                text, found = decoded_spans(self.tokenizer, ids, self.teacher_tokenizer.unk_token or "")
            texts.append(text)
            spans.append(found)
        return texts, spans

    def _encode(self, texts: list[str]) -> tuple[list[list[int]], list[Spans], list[Spans]]:
        """Texts in the teacher's tokens, their spans, and the spans that they would have if nothing were cut."""
        encoded = self.teacher_tokenizer(texts, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        limit = self.teacher_max_length or self.teacher_tokenizer.model_max_length
        whole = [strip_blanks(text, row) for text, row in zip(texts, offsets, strict=True)]
        spans = list(whole)
        for place, text in enumerate(texts):
            if len(ids[place]) > limit:
                cut = self.teacher_tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
                ids[place], spans[place] = cut["input_ids"], strip_blanks(text, cut["offset_mapping"])
        return ids, spans, whole

    def _padding_id(self) -> int:
        pad = self.teacher_tokenizer.pad_token_id
        return 0 if pad is None else pad  # hidden by the attention mask

    def _hide(self, teacher_ids: Tensor, teacher_words: Tensor, words: Tensor, is_changed: Tensor) -> None:
        """Mask in the teacher's input the words of which the student's tokens were changed. In place."""
        for row in is_changed.any(dim=1).nonzero().flatten().tolist():
            hidden = words[row][is_changed[row]]
            is_hidden = torch.isin(teacher_words[row], hidden[hidden != NO_WORD])
            if not is_hidden.any():
                continue
            mask = self.teacher_tokenizer.mask_token_id
            if mask is None:
                raise ValueError(
                    "The student's input has masked words, but the teacher's "
                    f"`{type(self.teacher_tokenizer).__name__}` has no mask token to hide them from it. Use a masked "
                    "teacher, or `keeps_original=True`, with which it reads them."
                )
            teacher_ids[row, is_hidden] = mask


class DataCollatorForAttentionMatching(DataCollatorForHiddenMatching):
    """The same for attention maps: `hf_kd.words.aggregate_attention` takes its word numbers."""


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of numbers, padded on the right. Shape (B, longest), int64."""
    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def _whole(words: Sequence[tuple[int, int]], spans: Spans, whole: Spans) -> list[bool]:
    """Which words the teacher reads to their end; where its text is cut, it may be within a word."""
    if len(spans) == len(whole):
        return [True] * len(words)
    read, there = ([span[0] for span in side if span is not None] for side in (spans, whole))
    return [sum(s <= one < e for one in read) == sum(s <= one < e for one in there) for s, e in words]


def _is_text(value: Any) -> bool:
    """Whether a column's value is a string, or a list of them, such as the words of a pre-split text."""
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str))


def _list(values: Any) -> list[int]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _ids(row: Row) -> list[int] | None:
    return _list(row["input_ids"]) if "input_ids" in row else None


def _fill(
    rows: Sequence[Sequence[int]], batch: Mapping[str, Any], value: int | None, tokenizer: Any, column: str
) -> Tensor:
    """One number a token, placed as the batch's tokens are; what is padding there is `value`, or stays."""
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != len(rows) or ids.shape[1] < max(map(len, rows)):
        saw = f"`input_ids` of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else "no tensor `input_ids`"
        raise ValueError(
            f"The wrapped collator made {saw} of {len(rows)} rows of up to {max(map(len, rows))} tokens, so column "
            f"`{column}` has no place in its batch. Wrap a collator that pads each row, with `return_tensors='pt'`."
        )
    filled = ids.clone() if value is None else torch.full_like(ids, value, dtype=torch.long)
    is_left = _pads_left(batch, tokenizer)
    for place, row in enumerate(rows):
        start = ids.shape[1] - len(row) if is_left else 0
        filled[place, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
    return filled


def _pads_left(batch: Mapping[str, Any], tokenizer: Any) -> bool:
    """Which side is padded: the tokenizer's, or else the one where attention masks begin with 0."""
    if tokenizer is not None:
        return getattr(tokenizer, "padding_side", "right") == "left"
    mask = batch.get("attention_mask")
    return mask is not None and bool(((mask[:, 0] == 0) & (mask[:, -1] != 0)).any())
