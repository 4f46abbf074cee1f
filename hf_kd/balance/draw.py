"""Draw rows from each language until it has given its tokens."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, interleave_datasets
from transformers.utils import logging

from ..languages import LANGUAGE_COLUMN
from .report import BalanceReport, LanguageDraw
from .shares import RULES, default_budget, redistributed, shares
from .sources import BLANK, is_present, open_corpora, row_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)


class BalancedData(NamedTuple):
    """A dataset of many languages, and what was drawn for it."""

    dataset: Dataset | IterableDataset
    report: BalanceReport


def balance_languages(
    corpora: Any,
    rule: str = "equal",
    *,
    budget_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    alpha: float = 0.3,
    redistribute: bool = False,
    seed: int = 0,
    column: str = "text",
    streaming: bool = False,
) -> BalancedData:
    """One dataset of many languages, with a `language` column, sampled by their sizes in tokens.

    Rules: "equal" gives each language the same share of the budget and repeats no row; one with less
    gives all it has, and a warning says so. "alpha" gives shares in proportion to n^alpha of its n
    tokens, and repeats a language whose share exceeds what it has, pass after pass. "none" keeps the
    proportions. Rows stay whole: a language gives rows up to the first one that would exceed its
    share, so it stays below it by less than that row. `hf_kd.balance` tells of order and streams.

    Args:
        corpora: a folder of LANG.txt, or a mapping from language to a text file (UTF-8, a text a line),
            a list of files, a `Dataset` or an `IterableDataset`. One stream makes all streams.
        rule: one of `RULES`.
        budget_tokens: tokens in all. None: the largest budget for which no language is short ("equal"),
            else as many as there are.
        tokenizer: counts the tokens; not needed for datasets with `input_ids`. Special tokens that a
            model's input gets are not counted in texts.
        alpha: exponent of "alpha", 0 to 1.
        redistribute: for "equal", whether what short languages lack is drawn from the others.
        seed: of the draw and the order, ≥ 0.
        column: the column that holds the texts.
        streaming: whether text files are read as streams.

    Returns:
        The dataset, blank rows left out, its `language` set to the mapping's names, and the report.

    Raises:
        ValueError: an argument is out of range, a language is empty, or its share is too small for a row.
        TypeError: a corpus is of another type.
        FileNotFoundError: a file or folder is missing.
    """
    _check(rule, budget_tokens, alpha, redistribute)
    sources = {name: _in_order(source, name, seed) for name, source in open_corpora(corpora, streaming).items()}
    limit = _limit(rule, budget_tokens, redistribute, len(sources))
    sizes = {name: _Size(*row_lengths(source, name, tokenizer, column, limit)) for name, source in sources.items()}
    available = {name: size.tokens for name, size in sizes.items()}
    _check_present(available)
    budget = default_budget(rule, available) if budget_tokens is None else budget_tokens
    asked = shares(rule, available, budget, alpha)
    given = redistributed(available, budget) if redistribute else asked
    repeats = rule == "alpha"
    parts = {
        name: _draw(source, name, sizes[name], given[name], seed, column, repeats) for name, source in sources.items()
    }
    draws = {name: LanguageDraw(*part[1:], asked[name], *sizes[name].known) for name, part in parts.items()}
    report = BalanceReport(draws, rule, budget, alpha if repeats else None, redistribute, seed)
    _say_short(report)
    return BalancedData(_join(list(parts.values()), seed), report)


class _Size(NamedTuple):
    """How long a language's rows are, and whether all of them were read."""

    lengths: NDArray[np.int64]
    is_whole: bool

    @property
    def present(self) -> NDArray[np.int64]:
        """Places of the rows that are not blank."""
        return np.flatnonzero(self.lengths != BLANK)

    @property
    def tokens(self) -> int:
        return int(self.lengths[self.present].sum())

    @property
    def known(self) -> tuple[int | None, int | None]:
        """Rows and tokens that the language has."""
        return (len(self.present), self.tokens) if self.is_whole else (None, None)


class _Part(NamedTuple):
    """What one language gives."""

    dataset: Dataset | IterableDataset
    rows: int
    tokens: int


def _check(rule: str, budget_tokens: int | None, alpha: float, redistribute: bool) -> None:
    if rule not in RULES:
        raise ValueError(f"`rule` is {rule!r}; possible are {', '.join(map(repr, RULES))}. Choose one.")
    if budget_tokens is not None and budget_tokens < 1:
        raise ValueError(f"`budget_tokens` is {budget_tokens}; at least 1 is needed. Leave it out for all there is.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` is {alpha}; 0 (all languages alike) to 1 (as they are) is possible. XLM-R's is 0.3.")
    if redistribute and rule != "equal":
        raise ValueError(
            f"`redistribute` is set, but by `rule` {rule!r} no language can be short. Drop it, or use 'equal'."
        )


def _limit(rule: str, budget_tokens: int | None, redistribute: bool, count: int) -> int | None:
    """Tokens of a language behind which nothing can be drawn, so that they need not be counted."""
    if rule != "equal" or budget_tokens is None:
        return None
    return budget_tokens if redistribute else budget_tokens // count


def _check_present(available: Mapping[str, int]) -> None:
    empty = [language for language, tokens in available.items() if tokens == 0]
    if empty:
        raise ValueError(
            f"There is no text of {', '.join(f'`{name}`' for name in empty)}: not a single token. Check the corpus, or "
            "leave the language out."
        )


def _in_order(source: Dataset | IterableDataset, language: str, seed: int) -> Dataset | IterableDataset:
    """A dataset with its language, shuffled; a stream as it is."""
    if isinstance(source, IterableDataset):
        return source
    if LANGUAGE_COLUMN in source.column_names:
        source = source.remove_columns(LANGUAGE_COLUMN)
    named = source.add_column(LANGUAGE_COLUMN, [language] * len(source))
    return named.select(_generator(seed, language, 0).permutation(len(source)))


def _draw(
    source: Dataset | IterableDataset,
    language: str,
    size: _Size,
    target: int,
    seed: int,
    column: str,
    repeats: bool,
) -> _Part:
    """Rows of one language with as many tokens as asked for, or all of them unless they may be repeated."""
    is_stream = isinstance(source, IterableDataset)
    present, lengths = size.present, size.lengths
    full, rest = divmod(target if repeats else min(target, size.tokens), size.tokens)
    order, tokens = list[int](), 0
    for number in range(full + (rest > 0)):
        is_ordered = is_stream or number == 0
        one_pass = present if is_ordered else _generator(seed, language, number).permutation(present)
        if number == full:
            reached = np.cumsum(lengths[one_pass])
            one_pass = one_pass[: int(np.searchsorted(reached, rest, side="right"))]
        order.extend(one_pass.tolist())
        tokens += int(lengths[one_pass].sum())
    if not order:
        raise ValueError(
            f"The share of `{language}` is {target} tokens, which is less than its first row has. Raise "
            "`budget_tokens`, or split its texts into shorter rows."
        )
    drawn = (
        _take(source, language, len(order), column, len(order) > len(present)) if is_stream else source.select(order)
    )
    return _Part(drawn, len(order), tokens)


def _generator(seed: int, language: str, number: int) -> np.random.Generator:
    """Random numbers of one pass over a language; Python's own hash of a string changes with the process."""
    return np.random.default_rng([seed, zlib.crc32(language.encode()), number])


def _take(source: IterableDataset, language: str, rows: int, column: str, repeats: bool) -> IterableDataset:
    """The first rows of a stream that are not blank, with their language."""
    present = source.filter(is_present, fn_kwargs={"column": column})
    if repeats:
        present = present.repeat(None)
    features = source.features and Features({**source.features, LANGUAGE_COLUMN: Value("string")})
    return present.take(rows).map(_with_language, fn_kwargs={"language": language}, features=features)


def _with_language(row: dict[str, Any], language: str) -> dict[str, Any]:
    return {**row, LANGUAGE_COLUMN: language}


def _join(parts: list[_Part], seed: int) -> Dataset | IterableDataset:
    total = sum(part.rows for part in parts)
    datasets = [part.dataset for part in parts]
    if isinstance(datasets[0], IterableDataset):
        return interleave_datasets(
            datasets,
            probabilities=[part.rows / total for part in parts],
            seed=seed,
            stopping_strategy="all_exhausted_without_replacement",
        )
    return concatenate_datasets(datasets).select(np.random.default_rng(seed).permutation(total))


def _say_short(report: BalanceReport) -> None:
    for language in report.short:
        draw = report.languages[language]
        logger.warning(
            f"`{language}` has {draw.available_tokens:,} tokens, fewer than its share of {draw.asked_tokens:,}: all of "
            f"them are drawn, each once{', and what it lacks comes from the others' if report.redistributes else ''}."
        )
