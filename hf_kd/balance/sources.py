"""Where the text of each language comes from, and how long its rows are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.utils import tqdm

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

IDS = "input_ids"
BLANK = -1
"""Stands for the length of a row without text."""

_BATCH = 1000  # rows


def open_corpora(corpora: Any, streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """One dataset a language, ordered by name, all map-style or all streams.

    Args:
        corpora: a folder of LANG.txt, or a mapping from language to a text file, several, or a dataset.
        streaming: whether to read text files as streams.

    Raises:
        TypeError: something else.
        FileNotFoundError: a folder or file is missing.
        ValueError: no language.
    """
    if isinstance(corpora, (str, os.PathLike)):
        corpora = _folder(Path(corpora))
    if isinstance(corpora, (DatasetDict, IterableDatasetDict)) or not isinstance(corpora, Mapping):
        raise TypeError(
            f"`corpora` is of type `{type(corpora).__name__}`; needed is a folder of LANG.txt, or a plain dict from "
            "language to text file or dataset, such as {'hau': 'hausa.txt'}."
        )
    if not corpora:
        raise ValueError("`corpora` names no language. Give at least one, such as {'hau': 'hausa.txt'}.")
    opened = {language: _open(language, corpora[language], streaming) for language in sorted(corpora)}
    if any(isinstance(source, IterableDataset) for source in opened.values()):
        return {
            language: source.to_iterable_dataset() if isinstance(source, Dataset) else source
            for language, source in opened.items()
        }
    return opened


def row_lengths(
    source: Dataset | IterableDataset,
    language: str,
    tokenizer: PreTrainedTokenizerBase | None,
    column: str,
    limit_tokens: int | None = None,
) -> tuple[NDArray[np.int64], bool]:
    """Tokens of each row, special tokens that a model's input gets not counted.

    Args:
        source: the language's rows; `input_ids` are counted if there are any, else its texts.
        language: its name.
        tokenizer: counts the tokens of texts.
        column: the column that holds the texts.
        limit_tokens: stop reading once there are more; None for never.

    Returns:
        The lengths, `BLANK` for blank rows, shape (rows,), and whether all rows were read.

    Raises:
        ValueError: there is no such column, or no tokenizer to count with.
    """
    lengths, total = list[int](), 0
    rows = len(source) if isinstance(source, Dataset) else None
    with tqdm(desc=f"Counting tokens ({language})", unit=" rows", total=rows) as bar:
        for batch in source.with_format(None).iter(batch_size=_BATCH):
            found = _batch_lengths(batch, language, tokenizer, column)
            lengths += found
            total += sum(length for length in found if length != BLANK)
            bar.update(len(found))
            if limit_tokens is not None and total > limit_tokens:
                return np.array(lengths, dtype=np.int64), False
    return np.array(lengths, dtype=np.int64), True


def is_present(row: Mapping[str, Any], column: str) -> bool:
    """Whether a stream's row is not blank."""
    return bool(row[IDS]) if IDS in row else bool(row[column] and not row[column].isspace())


def _batch_lengths(
    batch: Mapping[str, Sequence[Any]], language: str, tokenizer: PreTrainedTokenizerBase | None, column: str
) -> list[int]:
    if IDS in batch:
        return [len(ids) if ids else BLANK for ids in batch[IDS]]
    if column not in batch:
        raise ValueError(
            f"The dataset of `{language}` has the columns {', '.join(f'`{name}`' for name in batch)}, but neither "
            f"`{IDS}` nor `{column}`. Name the one that holds the texts with `column`."
        )
    if tokenizer is None:
        raise ValueError(
            f"Sizes are counted in tokens, and the dataset of `{language}` is not tokenized. Pass the student's "
            "`tokenizer`."
        )
    texts = [text if text and not text.isspace() else None for text in batch[column]]
    encoded = tokenizer(
        [text or "" for text in texts], add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return [BLANK if text is None else len(ids) for text, ids in zip(texts, encoded[IDS], strict=True)]


def _folder(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Folder `{folder}` does not exist. Give one that holds a UTF-8 file LANG.txt for each language."
        )
    found = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if not found:
        raise ValueError(f"Folder `{folder}` holds no *.txt. Name the files by language, such as `hau.txt`.")
    return found


def _open(language: str, corpus: Any, streaming: bool) -> Dataset | IterableDataset:
    if isinstance(corpus, (Dataset, IterableDataset)):
        return corpus
    if isinstance(corpus, (DatasetDict, IterableDatasetDict)):
        raise TypeError(
            f"The corpus of `{language}` is a {type(corpus).__name__} with the splits {', '.join(map(repr, corpus))}; "
            f"one split is needed. Pass `corpus[{next(iter(corpus), 'train')!r}]`."
        )
    paths = [corpus] if isinstance(corpus, (str, os.PathLike)) else corpus
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise TypeError(
            f"The corpus of `{language}` is of type `{type(corpus).__name__}`; needed is a text file, a list of them, "
            "or a dataset."
        )
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"Text file `{path}` of `{language}` does not exist. Give a UTF-8 file.")
    files = [os.fspath(path) for path in paths]
    return load_dataset("text", data_files={"train": files}, split="train", streaming=streaming, encoding="utf-8-sig")
