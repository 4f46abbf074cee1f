"""Batches of one language: what they hold, on one process and on several."""

import datasets
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from hf_kd.samplers import LanguageGroupedSampler

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
languages = st.lists(st.sampled_from(["eng", "hau", "swa", "yor"]), min_size=1, max_size=60)


def batches(sampler):
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


@quick
@given(languages, st.integers(1, 9), st.integers(0, 99), st.integers(0, 9))
def test_every_row_comes_once_and_few_batches_are_mixed(rows, size, seed, epoch):
    sampler = LanguageGroupedSampler(rows, size, seed=seed)
    sampler.set_epoch(epoch)
    made = batches(sampler)
    assert sorted(row for batch in made for row in batch) == list(range(len(rows))) and len(sampler) == len(rows)
    mixed = [number for number, batch in enumerate(made) if len({rows[row] for row in batch}) > 1]
    assert len(mixed) <= len(set(rows)) and all(number >= len(made) - len(set(rows)) for number in mixed), "at the end"


@quick
@given(languages, st.integers(1, 9), st.integers(0, 99))
def test_without_the_rest_every_batch_holds_one_language(rows, size, seed):
    sampler = LanguageGroupedSampler(rows, size, seed=seed, drop_last=True)
    made = batches(sampler)
    assert all(len(batch) == size and len({rows[row] for row in batch}) == 1 for batch in made)
    order = [row for batch in made for row in batch]
    assert len(order) == len(set(order)) == len(sampler)
    assert len(rows) - len(order) <= len(set(rows)) * (size - 1)


def test_seed_and_epoch_decide_the_order():
    rows = ["eng", "hau", "swa"] * 40

    def order(seed, epoch):
        torch.rand(1)  # the global state has no part in it
        sampler = LanguageGroupedSampler(rows, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_languages_come_in_turn_at_random():
    rows = ["eng"] * 400 + ["hau"] * 400
    first = [rows[batch[0]] for batch in batches(LanguageGroupedSampler(rows, 8))]
    assert 0.25 < sum(one != other for one, other in zip(first, first[1:])) / len(first) < 0.75


def test_a_column_of_a_dataset_will_do():
    rows = datasets.Dataset.from_dict({"language": ["eng", "hau"] * 20})
    assert sorted(LanguageGroupedSampler(rows["language"], 4)) == list(range(40))


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_the_batches(processes, drop_last):
    rows = ["eng"] * 50 + ["hau"] * 23 + ["swa"] * 31
    sampler = LanguageGroupedSampler(rows, 4, seed=1, drop_last=drop_last)
    shards = [
        list(BatchSamplerShard(BatchSampler(sampler, 4, drop_last=False), processes, process, even_batches=True))
        for process in range(processes)
    ]
    assert len({len(shard) for shard in shards}) == 1
    steps = [batch for step in zip(*shards, strict=True) for batch in step]
    plain = batches(sampler)
    assert steps[: len(plain)][:-1] == plain[:-1], "the batches in turn; accelerate fills up the last step"
    assert {row for batch in steps for row in batch} == set(list(sampler)), "no row is lost"
    full = sum(rows.count(name) // 4 for name in set(rows))
    assert all(len({rows[row] for row in batch}) == 1 for batch in steps[:full])
    assert any(
        rows[one[0]] != rows[other[0]] for one, other in zip(*shards[:2], strict=True)
    ), "a step may hold several"


def test_accelerate_sets_the_epoch_and_resumes():
    rows = torch.arange(24)
    sampler = LanguageGroupedSampler([int(row) % 3 for row in rows], 4, seed=2)
    loader = prepare_data_loader(DataLoader(rows, batch_size=4, sampler=sampler), put_on_device=False)
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append([batch.tolist() for batch in loader])
        sampler.set_epoch(epoch)
        assert [row for batch in epochs[-1] for row in batch] == list(sampler)
    assert epochs[0] != epochs[1]
    loader.set_epoch(1)
    assert [batch.tolist() for batch in skip_first_batches(loader, 2)] == epochs[1][2:]


def test_what_cannot_be_grouped_is_refused():
    with pytest.raises(ValueError, match="`batch_size` is 0; a batch holds at least 1 row."):
        LanguageGroupedSampler(["eng"], 0)
    with pytest.raises(ValueError, match="Row 1 has no language, so it cannot be grouped by it. Fill the column"):
        LanguageGroupedSampler(["eng", None], 2)
    with pytest.raises(ValueError, match="There is no row to group by language."):
        LanguageGroupedSampler([], 2)
