"""A student's ids in its teacher's vocabulary, and whether both cut text alike."""

import re

import numpy as np
import pytest
import transformers as hf
from tiny_tokenizers import LINES, TEXT, TOKENIZERS, bert, general_unigram, gpt2, llama, qwen2, roberta, xlm_roberta
from tokenizers import normalizers, pre_tokenizers

from hf_kd.vocabulary import count_tokens, plan_trim, same_pipeline, token_map, trim_tokenizer


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_trimmed_student_knows_its_teachers_ids(kind):
    teacher = TOKENIZERS[kind]()
    plan = plan_trim(teacher, count_tokens(teacher, LINES["hau"]), coverage=0.9)
    student = trim_tokenizer(teacher, plan)
    ids = token_map(student, teacher)
    assert ids.dtype == np.int64 and ids.tolist() == list(plan.kept_ids)
    assert same_pipeline(student, teacher) is None
    back = token_map(teacher, student)
    assert (back[list(plan.kept_ids)] == np.arange(plan.size)).all()
    assert (back >= 0).sum() == plan.size


def test_tokens_that_the_teacher_lacks_are_minus_one():
    student, teacher = gpt2(), roberta()
    student.add_tokens(["Naijá"])
    ids = token_map(student, teacher)
    assert ids.shape == (len(student),) and ids[student.convert_tokens_to_ids("Naijá")] == -1
    for student_id, teacher_id in enumerate(ids.tolist()):
        token = student.convert_ids_to_tokens(student_id)
        assert teacher_id == teacher.get_vocab().get(token, -1)
    encoded = student(TEXT[0], add_special_tokens=False)["input_ids"]
    assert ids[encoded].tolist() == teacher(TEXT[0], add_special_tokens=False)["input_ids"]


def test_the_first_difference_is_told():
    assert same_pipeline(gpt2(), roberta()) is None
    assert same_pipeline(bert(), bert()) is None
    cased = bert()
    cased.backend_tokenizer.normalizer = normalizers.NFC()
    assert same_pipeline(cased, bert()).startswith('normalizer: {"type": "NFC"}, not {"type": "BertNormalizer"')
    assert same_pipeline(gpt2(), bert()).startswith('normalizer: none, not {"type": "BertNormalizer"')
    split = gpt2()
    split.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert same_pipeline(split, gpt2()).startswith('pre-tokenizer: {"type": "Whitespace"}, not {"type": "ByteLevel"')
    unigram, byte_pairs = xlm_roberta(), llama()
    byte_pairs.backend_tokenizer.pre_tokenizer = unigram.backend_tokenizer.pre_tokenizer
    assert same_pipeline(unigram, byte_pairs) == "model: Unigram, not BPE"
    whole = TOKENIZERS["bpe_ignoring_merges"]()
    assert same_pipeline(whole, roberta()) == "model's ignore_merges: true, not none"
    assert len(same_pipeline(qwen2(), general_unigram())) < 250


def test_slow_tokenizers_are_refused():
    with pytest.raises(TypeError, match=re.escape("`ByT5Tokenizer` is a slow (Python) tokenizer; a fast one")):
        same_pipeline(hf.ByT5Tokenizer(), gpt2())
