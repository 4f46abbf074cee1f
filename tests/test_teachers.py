"""Teachers loaded from a folder, and refused before anything trains."""

import json
import re

import models
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_kd import DistillationArguments, DistillationTrainer, load_teacher
from hf_kd.vocabulary.match import match_vocabularies


def tokenizer(words=60, order=1):
    """A word-level tokenizer over `words` words, numbered in ascending or descending order."""
    vocabulary = {name: index for index, name in enumerate(("<unk>", "<pad>", "<s>", "</s>", "<mask>"))}
    vocabulary |= {f"w{index}": 5 + position for position, index in enumerate(range(words)[::order])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.fixture
def folder(tmp_path):
    """A saved masked-LM teacher with its tokenizer."""
    models.model("bert", seed=1, vocab_size=70).save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_teacher_is_loaded_frozen_and_in_evaluation_mode(folder):
    teacher = load_teacher(str(folder), "masked_lm")
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert type(teacher).__name__ == "BertForMaskedLM"


def test_dtype(folder, tmp_path):
    models.model("bert").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert load_teacher(str(tmp_path / "half"), "masked_lm").dtype == torch.float32, "auto, on a CPU"
    assert load_teacher(str(tmp_path / "half"), "masked_lm", dtype="bfloat16").dtype == torch.bfloat16
    assert load_teacher(str(folder), "masked_lm", attn_implementation="eager").config._attn_implementation == "eager"


def test_a_teacher_of_another_task_is_refused_before_its_weights_load(folder):
    (folder / "model.safetensors").unlink()
    message = (
        f"Teacher `{folder}` is a BertForMaskedLM, but the student needs a teacher with a token_classification head"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_teacher(str(folder), "token_classification")


def test_a_teacher_whose_head_would_be_random_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForTokenClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="which would be random. Use a teacher trained for this task"):
        load_teacher(str(folder), "token_classification")
    encoder = load_teacher(str(folder), "token_classification", needs_head=False)
    assert type(encoder).__name__ == "BertModel"


def test_pickled_weights_are_refused(tmp_path):
    model = models.model("bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_teacher(str(tmp_path), "masked_lm")


def test_a_missing_teacher_is_named(tmp_path):
    with pytest.raises((OSError, ValueError), match="no-such-teacher"):
        load_teacher(str(tmp_path / "no-such-teacher"), "masked_lm")


def pair(student_size=70, teacher_size=70):
    return models.model("bert", vocab_size=student_size), models.model("bert", seed=1, vocab_size=teacher_size)


def test_equal_maps_may_have_padded_vocabularies(folder):
    assert match_vocabularies(*pair(65, 70), tokenizer(), str(folder)).compared == 65
    assert match_vocabularies(*pair(72, 70), tokenizer(), str(folder)).compared == 70


def test_equal_size_is_no_proof_of_an_equal_vocabulary(folder):
    match = match_vocabularies(*pair(65, 70), tokenizer(order=-1), str(folder))
    student, teacher = tokenizer(order=-1).get_vocab(), tokenizer().get_vocab()
    assert match.compared == 65 and match.student_columns is None
    assert match.teacher_ids.tolist() == [teacher[token] for token, _ in sorted(student.items(), key=lambda t: t[1])]


def test_tokens_that_the_teacher_lacks_are_not_compared_and_read_as_unknown(folder, heard):
    own = tokenizer()
    own.add_tokens(["<extra>"])
    match = match_vocabularies(*pair(66, 70), own, str(folder))
    assert match.compared == 65 and match.student_columns is None
    assert match.teacher_ids.tolist() == [*range(65), own.unk_token_id]
    assert "65 of the student's 66 tokens, the teacher having 70" in heard()
    assert "It lacks '<extra>': they are not compared, and it reads its unknown token there." in heard()


def test_a_teacher_that_lacks_too_much_is_refused(folder):
    with pytest.raises(ValueError) as caught:
        match_vocabularies(*pair(85, 70), tokenizer(words=80), str(folder))
    message = (
        f"Teacher `{folder}` lacks 20 of the student's 85 tokens (such as 'w60', 'w61', 'w62', 'w63', 'w64' and 15"
    )
    assert message in str(caught.value)


def test_tokenizers_that_cut_text_differently_are_refused(folder):
    own = tokenizer(order=-1)
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(ValueError, match=re.escape("cut text differently (pre-tokenizer: ")):
        match_vocabularies(*pair(65, 70), own, str(folder))


def test_a_teacher_without_a_tokenizer_is_compared_by_size_and_that_is_said(tmp_path, heard):
    models.model("bert", vocab_size=70).save_pretrained(tmp_path)
    assert match_vocabularies(*pair(), tokenizer(), str(tmp_path)).compared == 70
    (tmp_path / "tokenizer.json").write_text("{")
    assert match_vocabularies(*pair(), tokenizer(), str(tmp_path)).compared == 70
    for why in ("(none lies there)", "cannot be read"):
        assert f"No tokenizer can be read beside teacher `{tmp_path}`" in heard() and why in heard()


def test_without_tokenizers_sizes_must_agree():
    assert match_vocabularies(*pair(), None, None).compared == 70
    with pytest.raises(
        ValueError, match="vocabulary has 65 entries, the teacher's 70, and there are no two tokenizers"
    ):
        match_vocabularies(*pair(65, 70), None, None)


def test_a_padded_teacher_teaches(folder, tmp_path):
    """The teacher has 70 rows, the student 65: the common 65 are compared."""
    args = DistillationArguments(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(folder),
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    rows = models.rows(8)
    student = models.model("bert", vocab_size=65)
    run = DistillationTrainer(student, args, models.collate, rows, processing_class=tokenizer())
    run.train()
    assert run.distillation.shared_tokens.match.compared == 65


def test_layer_terms_need_no_head_of_the_teacher(folder, tmp_path):
    args = DistillationArguments(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(folder),
        kd_recipe="minilmv2",
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    student = models.model("bert", "token_classification", width=8, vocab_size=70)
    rows = models.rows(8, head="token_classification")
    run = DistillationTrainer(student, args, models.collate, rows, processing_class=tokenizer())
    assert type(run.teacher).__name__ == "BertModel"
    run.train()
    assert run.state.log_history[0]["kd_start_relation"] > 0
