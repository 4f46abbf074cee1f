"""Which tokens of two tokenizers make up the same words of a text.

A word is a stretch of characters without blanks; in scripts that are written without blanks, a
character. Words that one token of either tokenizer spans are joined, so that every token lies in one
word alone.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenizers import models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_WORD = -1
"""The word of special tokens, padding, and words that one side lacks."""

Spans = list[tuple[int, int] | None]
"""First character and the one after the last of each token; None for a token without text."""

# Thai, Lao, Myanmar, Khmer, kana, CJK.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_WORD_STARTS = ("▁", "Ġ")


def text_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> Spans:
    """Where each token of a row lies in the text that it was made of.

    Args:
        tokenizer: the fast tokenizer that made the row.
        ids: the row, with or without special tokens, perhaps truncated or padded. Shape (N,).
        text: its text.

    Raises:
        ValueError: the tokenizer makes other ids of the text.
    """
    for special in (True, False):
        encoded = tokenizer(
            text,
            add_special_tokens=special,
            truncation=True,
            max_length=max(len(ids), 1),
            return_offsets_mapping=True,
            verbose=False,
        )
        found, spans = encoded["input_ids"], strip_blanks(text, encoded["offset_mapping"])
        padding = [tokenizer.pad_token_id] * (len(ids) - len(found))
        if [*found, *padding] == list(ids):
            return [*spans, *[None] * len(padding)]
        if [*padding, *found] == list(ids):
            return [*[None] * len(padding), *spans]
    raise ValueError(
        f"A row of {len(ids)} tokens is not what `{type(tokenizer).__name__}` makes of its text ({text[:40]!r}...), "
        "so its words cannot be found. Tokenize the text column alone with the student's tokenizer, or drop the text: "
        "words are then found by decoding the ids."
    )


def strip_blanks(text: str, offsets: Sequence[tuple[int, int]]) -> Spans:
    """The tokens' spans without the blanks around their characters; tokenizers differ in whose these are."""
    spans = Spans()
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        spans.append((start, end) if start < end else None)
    return spans


def decoded_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], unknown: str = "") -> tuple[str, Spans]:
    """A text that reads as the tokens do, and where each of them lies in it: word by word, a blank between.

    Args:
        tokenizer: the fast tokenizer that made the row.
        ids: the row. Shape (N,).
        unknown: stands for an unknown token; empty for the tokenizer's own.

    Returns:
        The text without special tokens, and each token's word as its span.

    Raises:
        ValueError: the tokenizer cannot decode.
    """
    backend = tokenizer.backend_tokenizer
    if backend.decoder is None and not isinstance(backend.model, models.WordLevel):
        raise ValueError(
            f"`{type(tokenizer).__name__}` has no decoder, so the text of its tokens cannot be read back. Keep the "
            "dataset's text column, or set `tokenizer.backend_tokenizer.decoder`."
        )
    text, spans = "", Spans()
    textless = _textless(tokenizer)
    for group in _words_of(tokenizer, ids):
        word = ""
        if group[0] not in textless:
            word = tokenizer.decode(group, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()
        if unknown and tokenizer.unk_token_id in group and group[0] not in textless:
            word = word.replace(tokenizer.unk_token, unknown)
        if not word:
            spans += [None] * len(group)
            continue
        start = len(text) + bool(text)
        text = f"{text} {word}" if text else word
        spans += [(start, len(text))] * len(group)
    return text, spans


def covered(text: str, spans: Spans) -> tuple[str, Spans]:
    """The part of a text that its tokens cover, and the spans in it: less than all after truncation."""
    present = [span for span in spans if span is not None]
    if not present:
        return "", spans
    first, last = min(start for start, _ in present), max(end for _, end in present)
    return text[first:last], [None if span is None else (span[0] - first, span[1] - first) for span in spans]


def align_words(text: str, student: Spans, teacher: Spans) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Number the words of a text, and give each token the number of its word.

    Args:
        text: what both tokenizers read.
        student: spans of the student's tokens. Shape (N,).
        teacher: spans of the teacher's tokens. Shape (M,).

    Returns:
        The word of each student token, that of each teacher token (-1 for none), and the words' spans.
    """
    units = [match.span() for match in _WORD.finditer(text)]
    starts = [start for start, _ in units]
    touched = [[_units_of(starts, span) for span in side] for side in (student, teacher)]
    joined = [False] * len(units)  # whether a unit belongs to the word of the one before
    for side in touched:
        for touch in side:
            if touch is not None:
                joined[touch[0] + 1 : touch[1] + 1] = [True] * (touch[1] - touch[0])
    numbers, words = [], list[tuple[int, int]]()
    for unit, is_joined in zip(units, joined, strict=True):
        if is_joined:
            words[-1] = (words[-1][0], unit[1])
        else:
            words.append(unit)
        numbers.append(len(words) - 1)
    of_student, of_teacher = ([NO_WORD if t is None else numbers[t[0]] for t in side] for side in touched)
    return of_student, of_teacher, words


def shared_words(
    student: Sequence[int], teacher: Sequence[int], is_whole: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """Number anew, from 0, the words that both sides have and that are whole; -1 for all others.

    Args:
        student: word of each student token. Shape (N,).
        teacher: word of each teacher token. Shape (M,).
        is_whole: whether a word's text was read to its end. Shape (words,).
    """
    both = sorted(word for word in set(student) & set(teacher) if word != NO_WORD and is_whole[word])
    number = {word: place for place, word in enumerate(both)}
    return [number.get(word, NO_WORD) for word in student], [number.get(word, NO_WORD) for word in teacher]


def _units_of(starts: Sequence[int], span: tuple[int, int] | None) -> tuple[int, int] | None:
    """First and last unit that a span touches."""
    return None if span is None else (bisect_right(starts, span[0]) - 1, bisect_right(starts, span[1] - 1) - 1)


def _textless(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens; the unknown token stands for text, unless it is another one too, as in GPT-2 and CLIP."""
    others = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "sep", "pad", "cls", "mask")}
    return set(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - others)


def _words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> Iterator[list[int]]:
    """The ids, word by word; a special token is by itself."""
    model = tokenizer.backend_tokenizer.model
    prefix = getattr(model, "continuing_subword_prefix", None)
    suffix = getattr(model, "end_of_word_suffix", None)
    textless = _textless(tokenizer)
    group, previous = list[int](), ""
    for token_id, token in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        if isinstance(model, models.WordLevel):
            starts = True
        elif suffix:
            starts = previous.endswith(suffix)
        elif prefix:
            starts = not token.startswith(prefix)
        else:
            starts = token.startswith(_WORD_STARTS)
        if group and (starts or token_id in textless or group[0] in textless):
            yield group
            group = []
        group.append(token_id)
        previous = token
    if group:
        yield group
