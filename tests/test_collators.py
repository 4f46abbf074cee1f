"""What wrapped collators carry, and that they still make the same batch."""

import functools
import pickle
import re
from itertools import chain

import datasets
import pytest
import tiny_tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_rows import LANGUAGES, STUDENT, TEXTS, corpus, left, masking, rows, without
from models import collate
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)

from hf_kd.collators import (
    DataCollatorForAttentionMatching,
    DataCollatorForDistillation,
    DataCollatorForHiddenMatching,
)
from hf_kd.packing import group_texts, pack_texts, tokenize_with_languages

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def in_place(features):
    """A collator that masks the rows that it is given."""
    for row in features:
        row["input_ids"][1] = STUDENT.mask_token_id
    return collate(features)


def labelled(made):
    return [{**row, "labels": list(range(len(row["input_ids"])))} for row in made]


COLLATORS = {
    "masked": lambda: (masking(), rows()),
    "masked, padded to 8": lambda: (masking(pad_to_multiple_of=8), rows()),
    "masked, own seed": lambda: (masking(seed=3), rows(return_special_tokens_mask=True)),
    "whole words": lambda: (
        masking(whole_word_mask=True, mask_replace_prob=1.0, random_replace_prob=0.0),
        rows(return_offsets_mapping=True, padding="max_length", max_length=40),
    ),
    "causal": lambda: (masking(mlm=False), rows()),
    "left": lambda: (masking(left()), rows()),
    "padding": lambda: (DataCollatorWithPadding(STUDENT), [{**row, "label": 1} for row in rows()]),
    "tokens": lambda: (DataCollatorForTokenClassification(STUDENT), labelled(rows())),
    "default": lambda: (default_data_collator, rows(padding="max_length", max_length=40)),
    "function": lambda: (collate, without(rows(), "text")),
}


@pytest.mark.parametrize("case", COLLATORS)
def test_the_batch_is_the_wrapped_collators(case):
    collator, made = COLLATORS[case]()
    torch.manual_seed(5)
    expected = collator(without(made, "text", "language"))
    collator, made = COLLATORS[case]()
    wrapped = DataCollatorForDistillation(collator, languages=LANGUAGES, keeps_original=True)
    torch.manual_seed(5)
    batch = dict(wrapped(made))
    assert batch.pop("kd_language").tolist() == [1, 2, 0] * 3
    original = batch.pop("kd_original_input_ids")
    same(batch, dict(expected))
    assert original.shape == batch["input_ids"].shape
    for row, ids, padded in zip(made, original, batch["input_ids"]):
        length, width = len(row["input_ids"]), len(padded)
        start = width - length if case == "left" else 0
        assert ids[start : start + length].tolist() == row["input_ids"]
        outside = torch.ones(width, dtype=torch.bool)
        outside[start : start + length] = False
        assert torch.equal(ids[outside], padded[outside]), "padding as in the student's"


def test_the_tokenizer_is_the_wrapped_ones():
    assert DataCollatorForDistillation(masking()).tokenizer is STUDENT
    assert DataCollatorForDistillation(collate).tokenizer is None
    assert DataCollatorForDistillation(collate).columns == ("language", "language_ids")
    assert DataCollatorForAttentionMatching(masking(), STUDENT, text_column="line").columns[-1] == "line"


def test_a_function_without_a_tokenizer_gets_its_strings():
    def reads_text(features):
        return collate([dict(STUDENT(row["text"])) for row in features])

    batch = DataCollatorForDistillation(reads_text, languages=LANGUAGES)(without(rows(), "input_ids"))
    assert batch["kd_language"].tolist() == [1, 2, 0] * 3


def test_no_strings_reach_a_tokenizer():
    made = [{**row, "words": row["text"].split(), "note": None if n else "first"} for n, row in enumerate(rows())]
    batch = DataCollatorForDistillation(masking(mlm=False), languages=LANGUAGES)(made)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "kd_language"}


def test_originals_are_kept_from_a_collator_that_masks_in_place():
    made = without(rows(), "text")
    expected = [list(row["input_ids"]) for row in made]
    batch = DataCollatorForDistillation(in_place, keeps_original=True)(made)
    assert (batch["input_ids"][:, 1] == STUDENT.mask_token_id).all()
    assert [ids[: len(row)].tolist() for ids, row in zip(batch["kd_original_input_ids"], expected)] == expected


def test_bare_rows_pass_through():
    made = [row["input_ids"] for row in rows()]
    batch = DataCollatorForDistillation(masking(mlm=False))(made)
    same(dict(batch), dict(masking(mlm=False)(made)))
    with pytest.raises(ValueError, match="Rows are of type `list`; columns by name are needed"):
        DataCollatorForDistillation(masking(), languages=LANGUAGES)(made)


@pytest.mark.parametrize("kind", [DataCollatorForDistillation, DataCollatorForHiddenMatching])
def test_workers_make_the_same_batches(kind):
    more = {} if kind is DataCollatorForDistillation else {"teacher_tokenizer": tiny_tokenizers.xlm_roberta()}
    collator = pickle.loads(pickle.dumps(kind(masking(mlm=False), languages=LANGUAGES, **more)))
    load = functools.partial(DataLoader, rows(), batch_size=4, collate_fn=collator)
    for found, expected in zip(load(num_workers=2), load(), strict=True):
        same(dict(found), dict(expected))


# ---- languages ----


@pytest.mark.parametrize(
    "value, saw", [("swa", "`swa`"), (None, "no value"), (3, "3")], ids=["unknown", "missing", "number"]
)
def test_an_unknown_language_is_named(value, saw):
    made = rows()
    made[2]["language"] = value
    message = f"Column `language` has a row with {saw}, but the languages known are `eng`, `hau`, `yor`. Correct the"
    with pytest.raises(ValueError, match=re.escape(message)):
        DataCollatorForDistillation(masking(), languages=LANGUAGES)(made)


REFUSED = {
    "no column": (
        lambda: DataCollatorForDistillation(masking(), languages=LANGUAGES)(without(rows(), "language")),
        "Rows have the columns `input_ids`, `token_type_ids`, `attention_mask`, `text`, but no `language` that names",
    ),
    "flattened": (
        lambda: DataCollatorForDistillation(DataCollatorWithFlattening(), keeps_original=True)(without(rows(), "text")),
        "The wrapped collator made `input_ids` of shape (1, ",
    ),
    "joined": (
        lambda: DataCollatorForDistillation(DataCollatorWithFlattening(), languages=LANGUAGES)(without(rows(), "text")),
        "The wrapped collator made 1 rows of 9, so their languages have no place in its batch.",
    ),
    "no ids": (
        lambda: DataCollatorForDistillation(list, keeps_original=True)([{"pixels": 1}]),
        "Rows have no `input_ids`, which `keeps_original` keeps.",
    ),
    "twice": (
        lambda: DataCollatorForDistillation(collate, languages=["a", "b", "a"]),
        "`languages` names a more than once",
    ),
    "uneven": (
        lambda: DataCollatorForDistillation(collate)([{"input_ids": [1, 2], "language_ids": [0]}]),
        "A row has 1 `language_ids` for 2 `input_ids`; each token needs one.",
    ),
    "beyond": (
        lambda: DataCollatorForDistillation(collate, languages=["aa"])([{"input_ids": [1], "language_ids": [1]}]),
        "Column `language_ids` holds the number 1, but 1 languages are known: `aa`. Pack with the same `languages`.",
    ),
    "length": (lambda: pack_texts(datasets.Dataset.from_dict({}), STUDENT, ["a"], 0), "`length_tokens` is 0; a chunk"),
    "packing": (
        lambda: tokenize_with_languages({"text": ["x"]}, STUDENT, ["aa"]),
        "The dataset has the columns `text`, but no `language`.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_what_is_no_collator_is_refused():
    with pytest.raises(TypeError, match="`collator` is of type `dict`; a function from rows to a batch is needed."):
        DataCollatorForDistillation({})
    with pytest.raises(
        TypeError, match=re.escape("`languages` is the string 'hau'; names are needed. Pass `('hau',)`.")
    ):
        DataCollatorForDistillation(collate, languages="hau")


@quick
@given(st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=9), min_size=1, max_size=5), st.booleans())
def test_token_languages_lie_where_the_tokens_do(languages, pads_left):
    made = [{"input_ids": [100 + n for n in row], "language_ids": row} for row in languages]
    tokenizer = left() if pads_left else STUDENT
    batch = DataCollatorForDistillation(DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4))(made)
    assert torch.equal(batch["kd_language"], torch.where(batch["attention_mask"] == 1, batch["input_ids"] - 100, -1))


def test_left_padding_without_a_tokenizer_is_recognised():
    def pads_left(features):
        return {name: value.flip(1) for name, value in collate(features).items()}

    made = [{"input_ids": [5, 6], "attention_mask": [1, 1], "language_ids": [0, 1]}]
    made += [{"input_ids": [7, 8, 9], "attention_mask": [1, 1, 1], "language_ids": [2, 2, 2]}]
    batch = DataCollatorForDistillation(pads_left)(made)
    assert batch["kd_language"].tolist() == [[-1, 0, 1], [2, 2, 2]]


# ---- packing ----


def stock_group_texts(examples, max_seq_length=16):
    """The stock scripts' own: https://github.com/huggingface/transformers, examples/pytorch."""
    concatenated = {k: list(chain(*examples[k])) for k in examples}
    total = (len(concatenated[list(examples)[0]]) // max_seq_length) * max_seq_length
    return {k: [t[i : i + max_seq_length] for i in range(0, total, max_seq_length)] for k, t in concatenated.items()}


def test_packed_rows_know_each_tokens_language():
    expected = [(i, LANGUAGES.index(name)) for name, text in TEXTS for i in STUDENT(text)["input_ids"]]
    tokenized = corpus().map(
        tokenize_with_languages,
        batched=True,
        remove_columns=["text", "language"],
        fn_kwargs={"tokenizer": STUDENT, "languages": LANGUAGES},
    )
    packed = tokenized.map(stock_group_texts, batched=True)
    assert set(packed.column_names) >= {"input_ids", "attention_mask", "special_tokens_mask", "language_ids"}
    assert packed[:] == tokenized.map(group_texts, batched=True, fn_kwargs={"length_tokens": 16})[:]
    assert packed[:] == pack_texts(corpus(), STUDENT, LANGUAGES, 16)[:]
    assert packed[:]["input_ids"] == list(
        pack_texts(corpus().to_iterable_dataset(), STUDENT, LANGUAGES, 16).take(99)["input_ids"]
    )
    found = [pair for row in packed for pair in zip(row["input_ids"], row["language_ids"])]
    assert found == expected[: len(expected) // 16 * 16]
    batch = DataCollatorForDistillation(masking(), languages=LANGUAGES)([packed[n] for n in range(len(packed))])
    assert batch["kd_language"].flatten().tolist() == [language for _, language in found]
    assert "language_ids" not in batch and any(len(row.unique()) > 1 for row in batch["kd_language"])
