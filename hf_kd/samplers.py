"""Batches of one language each, so that one teacher serves a whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class LanguageGroupedSampler(Sampler[int]):
    """Row numbers in an order in which every batch holds one language.

    Rows are shuffled within their language and cut into full batches, and these are shuffled. What
    does not fill a batch is left over, fewer than `batch_size` rows of a language: these rows come
    last, language by language, in batches that may hold several languages; with `drop_last` they are
    left out instead, and every batch holds one language. No row comes twice. Batches of several
    languages are at most as many as there are languages.

    This is a sampler of rows and not of batches, since the Trainer takes one, and since accelerate
    hands batches to processes in turn, which needs batches of one size. Each process makes the same
    order; the processes' batches of a step may differ in language. With one seed and epoch the order
    is always the same, so that a resumed run goes on with the rows that are left.

    Args:
        languages: language of each row, such as the dataset's `language` column.
        batch_size: rows of a batch as the data loader makes them: of one process, > 0.
        seed: of the order.
        drop_last: whether rows that do not fill a batch are left out.

    Raises:
        ValueError: `batch_size` < 1, no row, or a row without a language.

    Source:
        The grouping is ours; transformers' `LengthGroupedSampler` is its pattern.
    """

    def __init__(
        self, languages: Sequence[str | int], batch_size: int, *, seed: int = 0, drop_last: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}; a batch holds at least 1 row. Give that of one process.")
        groups: dict[str | int, list[int]] = {}
        for row, language in enumerate(languages):
            if language is None:
                raise ValueError(
                    f"Row {row} has no language, so it cannot be grouped by it. Fill the column, or filter the row out."
                )
            groups.setdefault(language, []).append(row)
        if not groups:
            raise ValueError("There is no row to group by language. Check the dataset.")
        self._groups = [torch.tensor(rows) for rows in groups.values()]
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0; accelerate's data loaders do so."""
        self.epoch = epoch

    def __len__(self) -> int:
        size = self.batch_size if self.drop_last else 1
        return sum(len(rows) // size * size for rows in self._groups)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        batches, rest = list[torch.Tensor](), list[torch.Tensor]()
        for rows in self._groups:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            full = len(rows) // self.batch_size * self.batch_size
            batches += shuffled[:full].split(self.batch_size) if full else []
            rest.append(shuffled[full:])
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place].tolist()
        if not self.drop_last:
            for place in torch.randperm(len(rest), generator=generator).tolist():
                yield from rest[place].tolist()
