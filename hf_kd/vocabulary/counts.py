"""How often each token occurs in a corpus: counted batch by batch, so that memory does not grow with it."""

from __future__ import annotations

import copy
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets.utils import tqdm

from .backend import check_fast, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

ONE_LANGUAGE = "corpus"
"""Stands for the language of texts that were given without one."""

_BATCH = 1000  # texts
_BLANKS = ("▁", "Ġ")  # a word's start alone
_FEATURES = Features(
    {
        "ids": [Value("int64")],
        "counts": [Value("int64")],
        "rows": Value("int64"),
        "characters": [Value("string")],
        "character_counts": [Value("int64")],
    }
)


@dataclass(frozen=True, eq=False)
class LanguageCounts:
    """What occurs in one language's texts.

    Attributes:
        counts: occurrences by token id, int64. Shape (V,), V one more than the highest id.
        rows: number of texts.
        characters: occurrences by character, as the tokenizer's normalizer leaves them.
    """

    counts: NDArray[np.int64]
    rows: int
    characters: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Number of token occurrences."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """What occurs in a corpus, by language.

    Attributes:
        languages: counts of each language; texts given without one are called "corpus".
        fingerprint: SHA-256 of the vocabulary that they were counted with, in hexadecimal.
    """

    languages: Mapping[str, LanguageCounts]
    fingerprint: str

    @property
    def counts(self) -> NDArray[np.int64]:
        """Occurrences by token id over all languages. Shape (V,)."""
        return np.sum([language.counts for language in self.languages.values()], axis=0)

    @property
    def rows(self) -> int:
        """Number of texts."""
        return sum(language.rows for language in self.languages.values())

    @property
    def tokens(self) -> int:
        """Number of token occurrences."""
        return sum(language.tokens for language in self.languages.values())

    @property
    def characters(self) -> Mapping[str, int]:
        """Occurrences by character over all languages."""
        return sum((Counter(language.characters) for language in self.languages.values()), Counter())


def count_tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: Any,
    *,
    num_proc: int = 1,
    column: str = "text",
) -> TokenCounts:
    """Count the tokens of a corpus, without the special tokens that a model's input gets.

    A corpus is a `Path` or several (UTF-8, one text a line), a `Dataset`, an `IterableDataset`
    (streamed), or any iterable of strings, which are texts and never file names. Files pass
    through a temporary folder. A bar shows progress; `datasets.disable_progress_bars()` hides it.

    Args:
        tokenizer: a fast tokenizer.
        texts: a corpus, or a mapping from language to corpus.
        num_proc: processes, for files and `Dataset`; streams are read by one.
        column: the column of a dataset that holds the texts.

    Raises:
        TypeError: a slow tokenizer, or something that is no corpus.
        ValueError: no text, no token that the tokenizer knows, a file that is not UTF-8, or no such
            column.
        FileNotFoundError: a file is missing.
    """
    check_fast(tokenizer)
    if isinstance(texts, (DatasetDict, IterableDatasetDict)):
        raise TypeError(
            f"`texts` is a {type(texts).__name__} with the splits {', '.join(map(repr, texts))}; one split is needed. "
            f"Pass `texts[{next(iter(texts), 'train')!r}]`, or a plain dict from language to dataset."
        )
    corpora = texts if isinstance(texts, Mapping) else {ONE_LANGUAGE: texts}
    if not corpora:
        raise ValueError("`texts` names no language. Give at least one, such as {'hau': [Path('hausa.txt')]}.")
    checked = {language: _corpus(corpus) for language, corpus in corpora.items()}
    size = max(tokenizer.get_vocab().values()) + 1
    tokenizer = copy.deepcopy(tokenizer)  # a call resets the backend's padding and truncation
    counted = {}
    for language, corpus in checked.items():
        tally = _Tally(size)
        for part in _parts(tokenizer, corpus, num_proc, column, f"Counting tokens ({language})"):
            tally.add(part)
        counted[language] = tally.result()
        _check(tokenizer, counted[language], language)
    return TokenCounts(counted, fingerprint(tokenizer))


class _Tally:
    """A running sum of batches' counts."""

    def __init__(self, size: int) -> None:
        self._counts = np.zeros(size, dtype=np.int64)
        self._rows = 0
        self._characters: Counter[str] = Counter()

    def add(self, part: Mapping[str, Any]) -> None:
        self._counts[part["ids"]] += np.asarray(part["counts"], dtype=np.int64)  # the ids of a part are distinct
        self._rows += part["rows"]
        self._characters.update(dict(zip(part["characters"], part["character_counts"], strict=True)))

    def result(self) -> LanguageCounts:
        self._counts.setflags(write=False)
        return LanguageCounts(self._counts, self._rows, dict(self._characters))


def _corpus(corpus: Any) -> Any:
    """The corpus, files as a checked list of paths."""
    if isinstance(corpus, (Dataset, IterableDataset)):
        return corpus
    if isinstance(corpus, str):
        raise TypeError(
            f"`texts` is the string {corpus[:40]!r}; a corpus is needed. Pass `[Path(...)]` for a file, or a list of "
            "texts."
        )
    if isinstance(corpus, os.PathLike):
        corpus = [corpus]
    if not isinstance(corpus, Iterable):
        raise TypeError(
            f"`texts` is of type `{type(corpus).__name__}`; needed are paths, a dataset, or an iterable of strings."
        )
    if not isinstance(corpus, (list, tuple)):
        return corpus
    if not any(isinstance(entry, os.PathLike) for entry in corpus):
        if corpus and isinstance(corpus[0], str) and len(corpus[0]) < 256 and os.path.isfile(corpus[0]):
            raise TypeError(
                f"`texts` holds the string {corpus[0]!r}, which is a file's name; strings are taken as texts. Pass "
                f"`Path({corpus[0]!r})`."
            )
        return corpus
    for entry in corpus:
        if not isinstance(entry, os.PathLike):
            raise TypeError(f"`texts` mixes paths with `{type(entry).__name__}`. Pass paths only, or texts only.")
        _check_file(Path(entry))
    return _Files(tuple(map(Path, corpus)))


@dataclass(frozen=True)
class _Files:
    """Readable UTF-8 files of one text a line."""

    paths: tuple[Path, ...]


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"Text file `{path}` does not exist. Give a UTF-8 file with one text a line.")
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"Text file `{path}` is not UTF-8: {error.reason} in line {number}. Convert it, for example with "
                    "`iconv -t utf-8`."
                ) from error


def _parts(
    tokenizer: PreTrainedTokenizerBase, corpus: Any, num_proc: int, column: str, title: str
) -> Iterator[Mapping[str, Any]]:
    """The counts of each batch of a corpus."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(corpus, _Files):
            column = "text"
            corpus = Dataset.from_generator(
                _lines,
                gen_kwargs={"paths": corpus.paths},
                cache_dir=folder,
                features=Features({column: Value("string")}),
            )
        if isinstance(corpus, Dataset):
            yield from _mapped_parts(tokenizer, corpus, num_proc, column, title, folder)
            return
        batches = _column_batches(corpus, column) if isinstance(corpus, IterableDataset) else _batches(corpus)
        with tqdm(desc=title, unit=" texts") as bar:
            for batch in batches:
                part = _count(batch, tokenizer)
                bar.update(len(batch))
                yield {name: value[0] for name, value in part.items()}


def _lines(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in paths:
        with open(path, encoding="utf-8-sig") as file:
            for line in file:
                yield {"text": line.rstrip("\n")}


def _mapped_parts(
    tokenizer: PreTrainedTokenizerBase, dataset: Dataset, num_proc: int, column: str, title: str, folder: str
) -> Iterator[Mapping[str, Any]]:
    _check_column(dataset.column_names, column)
    if len(dataset) == 0:
        return
    mapped = dataset.with_format(None).map(
        _count,
        batched=True,
        batch_size=_BATCH,
        input_columns=[column],
        remove_columns=dataset.column_names,
        fn_kwargs={"tokenizer": tokenizer},
        features=_FEATURES,
        num_proc=min(num_proc, len(dataset)) if num_proc > 1 else None,
        cache_file_name=os.path.join(folder, "counts.arrow"),
        load_from_cache_file=False,
        new_fingerprint="hf_kd_token_counts",  # hashing a tokenizer takes longer than counting a small corpus
        desc=title,
    )
    yield from mapped


def _check_column(columns: list[str] | None, column: str) -> None:
    if columns is not None and column not in columns:
        raise ValueError(
            f"The dataset has the columns {', '.join(map(repr, columns))}, but no {column!r}. Name the one that holds "
            "the texts with `column`."
        )


def _column_batches(dataset: IterableDataset, column: str) -> Iterator[list[str]]:
    for batch in dataset.iter(batch_size=_BATCH):
        _check_column(list(batch), column)
        yield batch[column]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _count(texts: Sequence[str | None], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
    """One batch's counts, as a batch of one row. A text that is None is passed over."""
    present = [text for text in texts if text is not None]
    for text in present:
        if not isinstance(text, str):
            raise TypeError(f"A text of the corpus is of type `{type(text).__name__}`; texts are strings.")
    encoded = []
    if present:
        encoded = tokenizer(
            present,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    ids, counts = np.unique(np.fromiter((i for row in encoded for i in row), dtype=np.int64), return_counts=True)
    normalizer = tokenizer.backend_tokenizer.normalizer
    characters: Counter[str] = Counter()
    for text in present:
        characters.update(text if normalizer is None else normalizer.normalize_str(text))
    return {
        "ids": [ids.tolist()],
        "counts": [counts.tolist()],
        "rows": [len(present)],
        "characters": [list(characters)],
        "character_counts": [list(characters.values())],
    }


def _check(tokenizer: PreTrainedTokenizerBase, counted: LanguageCounts, language: str) -> None:
    which = "The corpus" if language == ONE_LANGUAGE else f"The corpus of `{language}`"
    if counted.tokens == 0:
        raise ValueError(
            f"{which} is empty: {counted.rows} texts without a single token. Give text of the language to keep."
        )
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    blank = [tokenizer.get_vocab()[token] for token in _BLANKS if token in tokenizer.get_vocab()]
    if counted.counts[unknown] and counted.counts[[unknown, *blank]].sum() == counted.tokens:
        raise ValueError(
            f"{which} has no token that the tokenizer knows: all {counted.tokens} are `{tokenizer.unk_token}` or "
            "blanks. Check the language, its script and the files' encoding."
        )
