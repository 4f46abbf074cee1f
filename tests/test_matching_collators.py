"""Words for a teacher with another tokenizer: what it reads, and what is hidden from it."""

import re

import pytest
import tiny_tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_rows import LANGUAGES, STUDENT, TEXTS, corpus, left, masking, rows
from models import collate
from transformers import AutoTokenizer

from hf_kd.collators import DataCollatorForAttentionMatching, DataCollatorForHiddenMatching
from hf_kd.packing import pack_texts

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
TEACHERS = {name: tiny_tokenizers.TOKENIZERS[name]() for name in ("xlm_roberta", "roberta", "deberta_v2", "distilbert")}


def matched(teacher="xlm_roberta", collator=None, made=None, **more):
    wrapped = DataCollatorForAttentionMatching(collator or masking(), TEACHERS[teacher], languages=LANGUAGES, **more)
    return wrapped(rows() if made is None else made)


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("options", [{}, {"padding": "max_length", "max_length": 40}], ids=["ragged", "padded"])
def test_the_teacher_reads_the_same_words(teacher, side, options):
    student = left() if side == "left" else STUDENT
    batch = matched(teacher, masking(student, mlm=False), rows(student, **options))
    expected = TEACHERS[teacher]([text for _, text in TEXTS], padding=True, return_tensors="pt")
    assert torch.equal(batch["kd_teacher_input_ids"], expected["input_ids"])
    assert torch.equal(batch["kd_teacher_attention_mask"], expected["attention_mask"])
    for n, (_, text) in enumerate(TEXTS):
        for tokenizer, ids, words in (
            (student, batch["input_ids"][n], batch["kd_student_words"][n]),
            (TEACHERS[teacher], batch["kd_teacher_input_ids"][n], batch["kd_teacher_words"][n]),
        ):
            assert set(words.tolist()) == set(range(-1, len(text.split())))
            special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids)) & (ids != tokenizer.unk_token_id)
            assert (words[special] == -1).all()
            for number, word in enumerate(text.split()):
                plain = re.sub(r"\W", "", tokenizer.decode(ids[words == number])).lower()
                known = tokenizer.unk_token_id not in ids[words == number] and plain.isascii() and word.isascii()
                assert not known or plain == re.sub(r"\W", "", word).lower()


@quick
@given(st.integers(0, 10**6), st.sampled_from(list(TEACHERS)))
def test_the_teacher_cannot_peek_at_masked_words(seed, teacher):
    torch.manual_seed(seed)
    batch = matched(teacher, masking(mask_replace_prob=0.5, random_replace_prob=0.2))
    plain = matched(teacher, masking(mlm=False))
    for name in ("kd_student_words", "kd_teacher_words", "kd_teacher_attention_mask"):
        assert torch.equal(batch[name], plain[name]), "masks change what is read, and nothing else"
    mask = TEACHERS[teacher].mask_token_id
    is_changed = batch["input_ids"] != plain["input_ids"]
    for n in range(len(TEXTS)):
        hidden = set(batch["kd_student_words"][n][is_changed[n]].tolist()) - {-1}
        for one, other, word in zip(
            batch["kd_teacher_input_ids"][n], plain["kd_teacher_input_ids"][n], batch["kd_teacher_words"][n].tolist()
        ):
            assert one == (mask if word in hidden else other), "whole words, and no others"
    assert is_changed.any() and (batch["labels"] != -100).sum() > is_changed.sum(), "some labels are of tokens in sight"


def test_a_masked_blank_hides_no_special_token():
    student = tiny_tokenizers.deberta_v2()  # some of its tokens are a blank alone
    batch = matched(
        "roberta", masking(student, mlm_probability=0.9, mask_replace_prob=1, random_replace_prob=0), rows(student)
    )
    is_blank = (batch["kd_student_words"] == -1) & (batch["input_ids"] == student.mask_token_id)
    assert is_blank.any()
    ids = batch["kd_teacher_input_ids"]
    assert (ids[:, 0] == TEACHERS["roberta"].bos_token_id).all()
    assert ((ids == TEACHERS["roberta"].pad_token_id) == (batch["kd_teacher_attention_mask"] == 0)).all()


def test_with_originals_the_teacher_reads_everything():
    batch, plain = matched(keeps_original=True), matched(collator=masking(mlm=False))
    assert (batch["input_ids"] != plain["input_ids"]).any()
    assert torch.equal(batch["kd_teacher_input_ids"], plain["kd_teacher_input_ids"])
    assert torch.equal(batch["kd_original_input_ids"], plain["input_ids"])


def test_a_truncated_student_gives_the_teacher_no_more():
    made = rows(truncation=True, max_length=8)
    batch = matched(collator=masking(mlm=False), made=made)
    for n, (_, text) in enumerate(TEXTS):
        read = TEACHERS["xlm_roberta"].decode(batch["kd_teacher_input_ids"][n], skip_special_tokens=True)
        assert len(read) < len(text) - 5
        assert set(batch["kd_student_words"][n].tolist()) == set(batch["kd_teacher_words"][n].tolist())


def test_a_word_that_the_teacher_reads_in_part_is_left_out():
    whole = matched(collator=masking(mlm=False))
    for limit in (6, 9, 12, 15):
        batch = matched(collator=masking(mlm=False), teacher_max_length=limit)
        assert batch["kd_teacher_input_ids"].shape[1] == limit
        for cut, full, of_student in zip(
            batch["kd_teacher_words"], whole["kd_teacher_words"], batch["kd_student_words"]
        ):
            words = set(cut.tolist()) - {-1}
            for word in words:
                assert (cut == word).sum() == (full == word).sum()
            assert words == set(of_student.tolist()) - {-1} == set(range(len(words)))


def test_rows_without_text_are_decoded_and_that_is_said(heard):
    decoding = DataCollatorForHiddenMatching(masking(mlm=False), TEACHERS["roberta"], text_column="gone")
    batch = decoding(rows())
    assert "Rows hold no column `gone`: the teacher's text is decoded from the student's tokens" in heard()
    for ids, words in zip(batch["kd_teacher_input_ids"], batch["kd_student_words"]):
        assert len(set(words.tolist()) - {-1}) > 5 and TEACHERS["roberta"].mask_token_id not in ids
    packed = pack_texts(corpus(), STUDENT, LANGUAGES, 16)
    batch = decoding([packed[n] for n in range(len(packed))])
    is_special = torch.isin(batch["input_ids"], torch.tensor([STUDENT.cls_token_id, STUDENT.sep_token_id]))
    assert torch.equal(batch["kd_student_words"] == -1, is_special)


def test_tokenizers_that_cannot_match_are_refused():
    with pytest.raises(TypeError, match="the student's is none. Wrap a collator that has the"):
        DataCollatorForHiddenMatching(collate, STUDENT)
    with pytest.raises(TypeError, match="the teacher's is `str`, which is not."):
        DataCollatorForHiddenMatching(masking(), "bert")
    with pytest.raises(ValueError, match="`teacher_max_length` is 0; at least 1"):
        DataCollatorForHiddenMatching(masking(), STUDENT, teacher_max_length=0)
    gpt2 = tiny_tokenizers.gpt2()
    made = DataCollatorForHiddenMatching(masking(mlm=False), gpt2)(rows())
    assert (made["kd_teacher_input_ids"][made["kd_teacher_attention_mask"] == 0] == 0).all()
    with pytest.raises(ValueError, match="the teacher's `GPT2Tokenizer` has no mask token to hide them from it."):
        DataCollatorForHiddenMatching(masking(mlm_probability=0.9), gpt2)(rows())


@pytest.mark.real
def test_real_text_is_aligned_word_by_word(shared):
    teacher = AutoTokenizer.from_pretrained(shared / "models" / "afro-mini")
    for language in ("hau", "ibo", "kin", "swa", "yor", "eng"):
        with open(shared / "data" / "text" / f"{language}.txt", encoding="utf-8") as file:
            lines = [line.strip() for _, line in zip(range(200), file)]
        batch = DataCollatorForAttentionMatching(masking(mlm=False), teacher)(
            [{**STUDENT(t), "text": t} for t in lines]
        )
        for line, *sides in zip(lines, batch["kd_student_words"], batch["kd_teacher_words"]):
            words = [sorted(set(side.tolist()) - {-1}) for side in sides]
            assert words[0] == words[1] == list(range(len(words[0])))
            assert len(words[0]) >= 0.98 * len(line.split()) - 1, "hardly a word is lost"
