"""Which positions count, for every head, against a plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast

from hf_kd.architecture import HEADS, LANGUAGE_MODEL_HEADS
from hf_kd.positions import find_positions, special_token_ids

PAD, CLS, SEP, MASK = 1, 2, 3, 4
SPECIAL = torch.tensor([PAD, CLS, SEP])
TOKEN_HEADS = (*LANGUAGE_MODEL_HEADS, "token_classification")

IDS = torch.tensor([[CLS, 10, MASK, 12, SEP], [CLS, 13, SEP, PAD, PAD], [PAD, PAD, CLS, 14, SEP]])
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
LABELS = torch.tensor([[-100, -100, 11, 12, -100], [-100, 13, -100, -100, -100], [-100] * 5])
TOKENS = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]).bool()
NOWHERE = torch.zeros(3, 5, dtype=torch.bool)


def find(head, positions="masked", special=SPECIAL, **batch):
    return find_positions(batch, head, special, positions)


def same(found, expected):
    assert found.dtype == torch.bool
    assert found.tolist() == torch.as_tensor(expected).bool().tolist()


# ---- tokens: neither padding nor special ----


@pytest.mark.parametrize("head", HEADS)
def test_tokens_are_neither_padding_nor_special(head):
    found = find(head, input_ids=IDS, attention_mask=REAL)
    same(found.tokens, TOKENS)  # the mask token stands for text
    same(found.padding_free, REAL)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_mask_every_position_is_real(head):
    found = find(head, input_ids=IDS)
    same(found.padding_free, ~NOWHERE)
    same(found.tokens, TOKENS)  # the padding token is special
    found = find(head, input_ids=IDS, attention_mask=torch.ones(3, 1, 5, 5))
    same(found.padding_free, ~NOWHERE)  # a mask of pairs says nothing of padding


@pytest.mark.parametrize("head", HEADS)
def test_without_ids_only_the_mask_tells(head):
    embeddings = torch.zeros(3, 5, 8)
    found = find(head, inputs_embeds=embeddings, attention_mask=REAL)
    same(found.tokens, REAL)
    same(found.padding_free, REAL)
    found = find(head, inputs_embeds=embeddings)
    same(found.tokens, ~NOWHERE)
    same(found.padding_free, ~NOWHERE)


def test_without_special_ids_every_real_position_is_a_token():
    same(find("masked_lm", special=torch.tensor([]), input_ids=IDS, attention_mask=REAL).tokens, REAL)


# ---- labels ----


@pytest.mark.parametrize("head", ["masked_lm", "token_classification"])
def test_labels_count_where_they_stand(head):
    """A masked language model is never shifted."""
    found = find(head, input_ids=IDS, attention_mask=REAL, labels=LABELS)
    same(found.labelled, LABELS != -100)
    same(found.compared, LABELS != -100)
    assert torch.equal(found.targets, LABELS)
    assert found.counts().tolist() == [3, 3, 5]


def test_a_causal_label_is_predicted_one_position_earlier():
    found = find("causal_lm", input_ids=IDS, attention_mask=REAL, labels=LABELS)
    assert found.targets.tolist() == [[-100, 11, 12, -100, -100], [13, -100, -100, -100, -100], [-100] * 5]
    same(found.labelled, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0] * 5])
    first = torch.tensor([[10, 11, 12, 13, 14]])
    found = find("causal_lm", input_ids=IDS[:1], labels=first)
    assert found.targets.tolist() == [[11, 12, 13, 14, -100]]  # the first label has no position before it


@pytest.mark.parametrize("head", TOKEN_HEADS)
def test_all_positions_are_the_labelled_and_every_token(head):
    labels = LABELS.clone()
    labels[0, 4] = 3  # on a special token
    batch = {"input_ids": IDS, "attention_mask": REAL, "labels": labels}
    found = find(head, "all", **batch)
    same(found.compared, found.labelled | TOKENS)
    same(found.labelled, find(head, **batch).labelled)
    assert found.counts().tolist() == [4, int((found.labelled | TOKENS).sum()), 5]


@pytest.mark.parametrize("head", TOKEN_HEADS)
def test_without_labels_only_tokens_are_compared(head):
    for positions, expected in (("masked", NOWHERE), ("all", TOKENS)):
        found = find(head, positions, input_ids=IDS, attention_mask=REAL)
        same(found.labelled, NOWHERE)
        same(found.compared, expected)
        assert found.targets.tolist() == [[-100] * 5] * 3


@pytest.mark.parametrize(
    "labels, expected",
    [
        (torch.tensor([2, -100, 0]), [1, 0, 1]),
        (torch.tensor([0.5, -100.0, 0.0]), [1, 1, 1]),  # a number, not the mark
        (torch.tensor([[1, 0], [0, 0], [1, 1]]), [1, 1, 1]),
        (None, [0, 0, 0]),
    ],
    ids=["classes", "regression", "flags", "none"],
)
def test_rows_of_a_sequence_classifier(labels, expected):
    batch = {"input_ids": IDS, "attention_mask": REAL} | ({} if labels is None else {"labels": labels})
    for positions in ("masked", "all"):
        found = find("sequence_classification", positions, **batch)
        same(found.labelled, expected)
        same(found.compared, [1, 1, 1])
        assert found.counts().tolist() == [sum(expected), 3, 5]


def test_rows_of_a_question_answerer():
    batch = {"input_ids": IDS, "attention_mask": REAL}
    found = find("question_answering", **batch)
    same(found.labelled, [0, 0, 0])
    same(found.compared, [1, 1, 1])
    spans = {"start_positions": torch.tensor([0, 4, 2]), "end_positions": torch.tensor([4, 5, 3])}
    found = find("question_answering", **batch, **spans)
    same(found.labelled, [1, 0, 1])  # the second answer ends beyond the row
    assert found.targets is None
    assert found.counts().tolist() == [2, 3, 5]


# ---- against a plain loop ----


def looped(ids, real, labels, head, positions):
    """Sets of (row, position), found one by one."""
    tokens, labelled, targets = set(), set(), {}
    for row in range(len(ids)):
        for n in range(len(ids[row])):
            if real[row][n] and ids[row][n] not in (PAD, CLS, SEP):
                tokens.add((row, n))
            shift = 1 if head == "causal_lm" else 0
            if n + shift < len(ids[row]) and labels[row][n + shift] != -100:
                labelled.add((row, n))
                targets[row, n] = labels[row][n + shift]
    return tokens, labelled, labelled if positions == "masked" else labelled | tokens, targets


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data(), st.sampled_from(TOKEN_HEADS), st.sampled_from(["masked", "all"]))
def test_positions_equal_the_loop(data, head, positions):
    rows, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))

    def table(values):
        return data.draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=rows, max_size=rows))

    ids, real = table(st.integers(0, 8)), table(st.integers(0, 1))
    labels = table(st.sampled_from([-100, 0, 1, 7]))
    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real), "labels": torch.tensor(labels)}
    found = find_positions(batch, head, SPECIAL, positions)
    tokens, labelled, compared, targets = looped(ids, real, labels, head, positions)
    for mask, expected in ((found.tokens, tokens), (found.labelled, labelled), (found.compared, compared)):
        assert {tuple(place) for place in mask.nonzero().tolist()} == expected
    assert {place: int(found.targets[place]) for place in targets} == targets
    assert found.counts().tolist() == [len(labelled), len(compared), len(tokens)]


# ---- special token ids ----


def tokenizer(**special):
    words = {token: index for index, token in enumerate(("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "<s>", "word"))}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), **special)


def test_mask_and_unknown_tokens_are_text():
    names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    full = tokenizer(**{f"{name}_token": token for name, token in names.items()})
    assert sorted(full.all_special_ids) == [0, 1, 2, 3, 4]
    assert special_token_ids(full, BertConfig()) == [1, 2, 3]


def test_special_ids_of_the_configuration_count_too():
    config = LlamaConfig(pad_token_id=None, bos_token_id=5, eos_token_id=[6, 7])
    assert special_token_ids(None, config) == [5, 6, 7]
    assert special_token_ids(tokenizer(cls_token="[CLS]"), config) == [2, 5, 6, 7]
    assert special_token_ids(None, object()) == []


def test_a_mask_token_that_the_configuration_names_is_still_text():
    full = tokenizer(mask_token="[MASK]", unk_token="[UNK]", pad_token="[PAD]")
    assert special_token_ids(full, LlamaConfig(pad_token_id=1, bos_token_id=4, eos_token_id=0)) == [1]
