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
    share, so it stays below it by less than that row.

    A dataset is drawn in an order that depends on the seed and the language's name alone: a larger
    budget adds rows to those of a smaller one. All languages' rows are then shuffled together. A
    stream gives its first rows, in its own order, and languages alternate at random; shuffle it
    beforehand if its order matters. Its `state_dict` resumes exactly.

    Tokens are counted first, up to a language's share, or to its end where shares depend on what
    there is; a stream is therefore read twice.

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
        The dataset, blank rows left out, a `language` column set to the mapping's names, and the report.

    Raises:
        ValueError: an argument is out of range, a language is empty, or its share is too small for a row.
        TypeError: a corpus is of another type.
        FileNotFoundError: a file or folder is missing.

    Source:
        "equal": Limisiewicz et al. (2022), arXiv:2210.07135.
    """
    _check(rule, budget_tokens, alpha, redistribute)
    opened = open_corpora(corpora, streaming)
    sources = {language: _in_order(source, language, seed) for language, source in opened.items()}
    lengths, is_whole = {}, {}
    limit = None
    if rule == "equal" and budget_tokens is not None:  # nothing behind it can be drawn
        limit = budget_tokens if redistribute else budget_tokens // len(sources)
    for language, source in sources.items():
        lengths[language], is_whole[language] = row_lengths(source, language, tokenizer, column, limit)
    available = {language: int(found[found != BLANK].sum()) for language, found in lengths.items()}
    _check_present(available)
    budget = default_budget(rule, available) if budget_tokens is None else budget_tokens
    asked = shares(rule, available, budget, alpha)
    given = redistributed(available, budget) if redistribute else asked
    parts, draws = [], {}
    for language, source in sources.items():
        target = given[language] if rule == "alpha" else min(given[language], available[language])
        part, rows, tokens = _draw(source, language, lengths[language], target, seed, column)
        parts.append(part)
        rows_available = int((lengths[language] != BLANK).sum())
        known = (rows_available, available[language]) if is_whole[language] else (None, None)
        draws[language] = LanguageDraw(rows, tokens, asked[language], *known)
    report = BalanceReport(draws, rule, budget, alpha if rule == "alpha" else None, redistribute, seed)
    _say_short(report)
    return BalancedData(_join(parts, [draw.rows for draw in draws.values()], seed), report)


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
    source: Dataset | IterableDataset, language: str, lengths: NDArray[np.int64], target: int, seed: int, column: str
) -> tuple[Dataset | IterableDataset, int, int]:
    """Rows of one language with as many tokens as asked for, and the numbers of rows and tokens."""
    is_stream = isinstance(source, IterableDataset)
    present = np.flatnonzero(lengths != BLANK)
    full, rest = divmod(target, int(lengths[present].sum()))
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
    if is_stream:
        return _take(source, language, len(order), column, repeats=len(order) > len(present)), len(order), tokens
    return source.select(order), len(order), tokens


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


def _join(parts: list[Dataset | IterableDataset], rows: list[int], seed: int) -> Dataset | IterableDataset:
    total = sum(rows)
    if isinstance(parts[0], IterableDataset):
        return interleave_datasets(
            parts,
            probabilities=[count / total for count in rows],
            seed=seed,
            stopping_strategy="all_exhausted_without_replacement",
        )
    order = np.random.default_rng(seed).permutation(total)
    return concatenate_datasets(parts).select(order)


def _say_short(report: BalanceReport) -> None:
    for language in report.short:
        draw = report.languages[language]
        logger.warning(
            f"`{language}` has {draw.available_tokens:,} tokens, fewer than its share of {draw.asked_tokens:,}: all of "
            f"them are drawn, each once{', and what it lacks comes from the others' if report.redistributes else ''}."
        )
