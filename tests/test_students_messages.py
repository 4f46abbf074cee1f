"""What cannot be cut is refused in one clear message, and the teacher is left as it was."""

import re
from dataclasses import replace

import models
import pytest
import student_models as sm
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from hf_kd import build_student
from hf_kd.architecture import transformer_layers
from hf_kd.students import plan_student, sample_batches

NO_SAMPLE = "Importance is measured on text, but no sample was given. Give `sample=sample_batches(tokenizer, texts)`"
SUPPORTED = "Supported: bert, roberta, xlm-roberta, camembert, distilbert, electra, modernbert, deberta-v2, llama,"


def refused(teacher, message, *, error=ValueError, **choices):
    """The message is given, and the teacher is not changed."""
    teacher.train()
    before = sm.frozen(teacher)
    with pytest.raises(error, match=re.escape(message)):
        build_student(teacher, **choices)
    sm.assert_unchanged(teacher, before)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"num_hidden_layers": 5}, "The student asks for 5 layers, but its teacher has 4 layers (0 to 3)"),
        ({"layers": "0,7"}, "The student asks for layer 7, but its teacher has 4 layers (0 to 3)"),
        ({"layers": "first"}, "Set `student_num_hidden_layers`"),
        ({"num_hidden_layers": 0}, "a student needs 1 layer or more"),
        ({"num_hidden_layers": 5, "layers": "importance", "sample": [sm.batch()]}, "The student asks for 5 layers"),
        ({"layers": "importance", "sample": [sm.batch()]}, "The number of student layers is missing."),
        ({"num_hidden_layers": 3, "layers": "alternating"}, "The student asks for 3 alternating layers"),
        ({"layers": "middle"}, "it must be uniform, first, last, alternating or layers counted from 0"),
        (
            {"hidden_size": 20},
            "The student's `hidden_size` is to be 20, but its teacher has 16. A cut only makes smaller: ask for 1 to "
            "16.",
        ),
        ({"hidden_size": 0}, "The student's `hidden_size` is to be 0, but its teacher has 16."),
        ({"intermediate_size": 25}, "The student's `intermediate_size` is to be 25, but its teacher has 24."),
        ({"num_attention_heads": 8}, "The student's `num_attention_heads` is to be 8, but its teacher has 4."),
        (
            {"hidden_size": 8, "num_attention_heads": 3},
            "3 attention heads do not divide a hidden size of 8. Use a number of heads that does (1, 2, 4), or another "
            "hidden size.",
        ),
        ({"hidden_size": 10}, "4 attention heads do not divide a hidden size of 10."),
        (
            {"num_attention_heads": 2},
            "A hidden size of 16 with 2 attention heads makes heads of 8 units, but the teacher's have 4, so there is "
            "nothing to copy for the rest. Use at least 4 heads.",
        ),
        ({"num_hidden_layers": 2, "layers": "importance"}, NO_SAMPLE),
        ({"hidden_size": 8, "width": "importance"}, NO_SAMPLE),
        (
            {"hidden_size": 8, "width": "importance", "sample": []},
            "The sample for measuring importance holds no token.",
        ),
        (
            {
                "num_hidden_layers": 2,
                "layers": "importance",
                "sample": [sm.batch() | {"attention_mask": torch.zeros(3, 12)}],
            },
            "The sample for measuring importance holds no token.",
        ),
        ({"width": "random"}, "`width` is 'random'; it must be one of truncate, svd, importance."),
        ({"weights": "fresh"}, "`weights` is 'fresh'; it must be `teacher` or `random`."),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, message):
    refused(sm.make("bert"), message, **choices)


def test_heads_must_turn_in_pairs():
    refused(
        sm.make("modernbert"),
        "Heads of 3 units cannot be rotated in pairs, as `modernbert` does. Choose `hidden_size` and "
        "`num_attention_heads` so that their ratio is even.",
        hidden_size=12,
    )


@pytest.mark.parametrize("variant", ["electra", "deberta-own-keys"])
def test_the_projection_of_the_embeddings_must_stay(variant):
    teacher = sm.make(variant, embedding_size=8)
    refused(teacher, "A hidden size of 8 equals the embedding size", hidden_size=8, num_attention_heads=2)


@pytest.mark.parametrize("asked", [{"hidden_size": 8}, {"intermediate_size": 8}, {"num_attention_heads": 2}])
@pytest.mark.parametrize("variant", sm.DECODERS)
def test_the_width_of_decoders_is_left_whole(variant, asked):
    kind = sm.make(variant).config.model_type
    message = f"The width of a `{kind}` model cannot be cut, only its depth and vocabulary. Leave it whole, or take a"
    refused(sm.make(variant), message, **asked)


def test_unsupported_families_are_named():
    albert = hf.AlbertForMaskedLM(
        hf.AlbertConfig(hidden_size=16, num_attention_heads=2, embedding_size=8, vocab_size=9)
    )
    refused(albert, "`albert` model, which shares one layer's weights over all its layers. " + SUPPORTED)
    gpt = hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=16, n_head=2, n_layer=2, vocab_size=9, bos_token_id=0, eos_token_id=0)
    )
    refused(gpt, "No student can be cut from a `gpt2` model, which is not known here. " + SUPPORTED)
    mpnet = hf.MPNetForMaskedLM(
        hf.MPNetConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, vocab_size=9)
    )
    refused(mpnet, "No student can be cut from a `mpnet` model", num_hidden_layers=1)


def test_adapters_must_be_merged_first():
    adapted = get_peft_model(models.model("bert"), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match=re.escape("model = model.merge_and_unload()")):
        build_student(adapted, 2)
    plan = plan_student(models.model("bert"), 2)
    with pytest.raises(ValueError, match=re.escape("model = model.merge_and_unload()")):
        build_student(adapted, plan=plan)


@pytest.mark.parametrize(
    ("other", "asked", "message"),
    [
        ({"num_hidden_layers": 6}, {"num_hidden_layers": 2}, "for a teacher of 4 layers; this one has 6."),
        (
            {"hidden_size": 32},
            {"hidden_size": 8, "num_attention_heads": 2},
            "whose `hidden_size` is 16; this one's is 32.",
        ),
        ({"intermediate_size": 30}, {"intermediate_size": 8}, "whose `intermediate_size` is 24; this one's is 30."),
        (
            {"num_attention_heads": 2},
            {"hidden_size": 8, "num_attention_heads": 2},
            "`num_attention_heads` is 4; this one's is 2.",
        ),
    ],
)
def test_a_plan_for_another_teacher_is_refused(other, asked, message):
    plan = plan_student(sm.make("bert"), **asked)
    refused(sm.make("bert", **other), message, plan=plan)


def test_a_plan_for_another_family_is_refused():
    plan = plan_student(sm.make("bert"), hidden_size=8, num_attention_heads=2, intermediate_size=10)
    refused(sm.make("llama"), "The width of a `llama` model cannot be cut", plan=plan)


def test_a_plan_of_layers_that_are_not_there_is_refused():
    plan = plan_student(sm.make("bert"), 2)
    for layers, shown in (((0, 9), "0, 9"), ((2, 1), "2, 1"), ((-1, 1), "-1, 1")):
        message = f"The plan keeps the layers {shown}; they must ascend from 0 to 3, each once."
        refused(sm.make("bert"), message, plan=replace(plan, kept_layers=layers))


def test_a_plan_and_choices_are_one_too_many():
    teacher = sm.make("bert")
    message = "Both a plan and what a plan is made of were given. Give one of the two."
    refused(teacher, message, error=TypeError, plan=plan_student(teacher, 2), num_hidden_layers=2)
    refused(teacher, message, error=TypeError, plan=plan_student(teacher, 2), layers="first")


class OwnHead(hf.BertForMaskedLM):
    """A class with a head of its own."""

    def __init__(self, config):
        super().__init__(config)
        self.my_head = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()


def test_a_head_of_ones_own_keeps_its_width():
    teacher = OwnHead(sm.make("bert").config).eval()
    student, _ = build_student(teacher, 2)
    assert torch.equal(student.my_head.weight, teacher.my_head.weight)
    message = "`OwnHead` has 2 parameters that no width cut knows how to cut (first: my_head.weight). Cut its depth"
    refused(teacher, message, hidden_size=8, num_attention_heads=2)
    plan = plan_student(sm.make("bert"), hidden_size=8, num_attention_heads=2)
    refused(teacher, message, plan=plan)


def test_a_grouped_convolution_keeps_its_width():
    teacher = sm.make("deberta-conv", conv_groups=2)
    message = (
        "`deberta.encoder.conv.conv.weight` joins 8 units where the residual stream has 16, as grouped convolutions"
    )
    refused(teacher, message, hidden_size=8, num_attention_heads=2)
    assert build_student(teacher, 2)[1].kept_layers == (0, 3)


def test_weights_hung_on_a_model_are_not_lost_in_silence():
    teacher = sm.make("bert")
    teacher.my_head = torch.nn.Linear(16, 3)
    refused(teacher, "`BertForMaskedLM` has 2 weights that its class does not make (first: my_head.weight)", layers="0")


def test_a_sample_needs_text():
    message = "The sample for measuring importance holds no text. Give text of the languages that the student is for."
    for texts in ([], ["", "  \n"]):
        with pytest.raises(ValueError, match=re.escape(message)):
            sample_batches(None, texts)


def test_hooks_and_modes_come_back_after_a_failure():
    teacher = sm.make("bert").train()
    transformer_layers(teacher)[1].eval()
    before = sm.frozen(teacher)
    outside = [sm.batch() | {"input_ids": torch.full((3, 12), sm.VOCABULARY)}]
    for choices in ({"layers": "importance"}, {"width": "importance", "hidden_size": 8, "num_attention_heads": 2}):
        with pytest.raises(IndexError):
            build_student(teacher, 2, sample=outside, **choices)
        sm.assert_unchanged(teacher, before)
        build_student(teacher, 2, sample=[sm.batch()], **choices)
        sm.assert_unchanged(teacher, before)
