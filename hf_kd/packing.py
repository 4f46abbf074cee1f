"""Packed text that keeps its languages.

Packing joins texts and cuts them into chunks of one length, so a chunk may hold several languages,
and a column that names the language of a text is lost. Here every token carries its language's
number instead, in a column that packing treats like any other list:

    languages = ("hau", "swa", "yor")
    dataset = dataset.map(
        tokenize_with_languages,
        batched=True,
        remove_columns=dataset.column_names,
        fn_kwargs={"tokenizer": tokenizer, "languages": languages},
    )
    dataset = dataset.map(group_texts, batched=True)  # a stock script's own, unchanged

`pack_texts` does both steps. `DataCollatorForDistillation` reads the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from .languages import LANGUAGE_COLUMN, TOKEN_LANGUAGES_COLUMN, check_languages, language_numbers

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase


def tokenize_with_languages(
    examples: Mapping[str, Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    languages: Sequence[str],
    *,
    text_column: str = "text",
    language_column: str = LANGUAGE_COLUMN,
    **options: Any,
) -> dict[str, list[Any]]:
    """Tokenize a batch of texts and number the language of each token. For `Dataset.map(batched=True)`.

    Args:
        examples: a batch of rows, as lists by column.
        tokenizer: the student's tokenizer.
        languages: names of the languages; a token gets its language's place among them.
        text_column: the column that holds the texts.
        language_column: the column that names each text's language.
        options: further arguments of the tokenizer, such as `truncation` and `max_length`.

    Returns:
        The tokenizer's columns, `special_tokens_mask` and `language_ids`: lists of one length in a row.
        A text's special tokens count as its language.

    Raises:
        ValueError: a column is missing, or a language is None or not among `languages`.
    """
    for column in (text_column, language_column):
        if column not in examples:
            raise ValueError(
                f"The dataset has the columns {', '.join(f'`{name}`' for name in examples)}, but no `{column}`. Name "
                "the ones that hold texts and languages with `text_column` and `language_column`."
            )
    numbers = language_numbers(examples[language_column], languages, language_column)
    encoded = tokenizer(list(examples[text_column]), return_special_tokens_mask=True, **options)
    rows = [[number] * len(ids) for number, ids in zip(numbers, encoded["input_ids"], strict=True)]
    return {**encoded, TOKEN_LANGUAGES_COLUMN: rows}


def group_texts(examples: Mapping[str, Sequence[Sequence[int]]], length_tokens: int) -> dict[str, list[list[int]]]:
    """Join the rows of a batch and cut them into chunks of one length, as the stock scripts do.

    Args:
        examples: a batch of rows of lists, by column.
        length_tokens: tokens in a chunk, > 0; what is left at the end of the batch is dropped.
    """
    joined = {column: list(chain.from_iterable(rows)) for column, rows in examples.items()}
    total = len(next(iter(joined.values()), [])) // length_tokens * length_tokens
    return {
        column: [values[start : start + length_tokens] for start in range(0, total, length_tokens)]
        for column, values in joined.items()
    }


def pack_texts(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    languages: Sequence[str],
    length_tokens: int,
    *,
    text_column: str = "text",
    language_column: str = LANGUAGE_COLUMN,
) -> Dataset | IterableDataset:
    """Tokenize a dataset and pack it, every token with the number of its language.

    Args:
        dataset: rows of one text and its language.
        tokenizer: the student's tokenizer.
        languages: names of the languages, in the order of their numbers.
        length_tokens: tokens in a chunk, special tokens among them, > 0.
        text_column: the column that holds the texts.
        language_column: the column that names each text's language.

    Returns:
        Chunks with `input_ids`, `attention_mask`, `special_tokens_mask` and `language_ids`. Texts are
        joined a thousand at a time; what does not fill a chunk at the end of each thousand is dropped.

    Raises:
        ValueError: `length_tokens` < 1, a column is missing, or a language is not among `languages`.
    """
    if length_tokens < 1:
        raise ValueError(f"`length_tokens` is {length_tokens}; a chunk holds at least 1 token. Use 128, say.")
    settings = {"tokenizer": tokenizer, "languages": check_languages(languages)}
    settings |= {"text_column": text_column, "language_column": language_column}
    columns = dataset.column_names or [text_column, language_column]
    # Chunks are longer than the model's limit only before they are cut: no cause to warn.
    tokenized = dataset.map(
        tokenize_with_languages, batched=True, remove_columns=columns, fn_kwargs={**settings, "verbose": False}
    )
    return tokenized.map(group_texts, batched=True, fn_kwargs={"length_tokens": length_tokens})
