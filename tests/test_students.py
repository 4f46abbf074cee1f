"""Students cut from teachers: which layers, and that nothing else changes."""

import re

import models
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForMaskedLM

from hf_kd import build_student
from hf_kd.architecture import transformer_layers

FAMILIES = (*models.MASKED, *models.CAUSAL)


def logits(model):
    batch = models.collate(models.rows(4))
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_an_uncut_copy_gives_the_same_logits_bit_for_bit(family):
    teacher = models.model(family, spread=3.0).eval()
    student, plan = build_student(teacher, 4)
    assert plan.kept_layers == (0, 1, 2, 3) and plan.teacher_layers == 4
    assert torch.equal(logits(student), logits(teacher))
    memory = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not any(parameter.data_ptr() in memory for parameter in student.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_build_student_equals_the_teacher_with_its_other_layers_skipped(family, tmp_path):
    teacher = models.model(family, layers=4, spread=3.0).eval()
    student, _ = build_student(teacher, layers="0,3")
    layers = transformer_layers(teacher)
    for skipped in (layers[1], layers[2]):
        if family == "deberta_v2":
            skipped.forward = lambda hidden, *args, **kwargs: (hidden, None)
        else:
            skipped.forward = lambda hidden, *args, **kwargs: hidden
    expected = logits(teacher)
    torch.testing.assert_close(logits(student), expected, atol=0, rtol=0)
    student.save_pretrained(tmp_path)
    auto = type(student)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert torch.equal(logits(loaded.eval()), logits(student))
    assert loaded.config.num_hidden_layers == 2


def test_lists_of_one_entry_a_layer_are_cut_alike():
    teacher = models.model("modernbert", layers=4)
    assert teacher.config.layer_types[0] != teacher.config.layer_types[1]
    student, _ = build_student(teacher, layers="0,3")
    assert student.config.layer_types == [teacher.config.layer_types[0], teacher.config.layer_types[3]]
    assert len(teacher.config.layer_types) == 4, "the teacher's configuration is not touched"


def test_half_precision_teachers_give_float32_students():
    teacher = models.model("bert").to(torch.bfloat16)
    student, _ = build_student(teacher, 2)
    assert student.dtype == torch.float32 and teacher.dtype == torch.bfloat16


def test_no_random_number_is_drawn():
    teacher = models.model("bert")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_student(teacher, 2)
    assert torch.equal(torch.rand(3), expected)


def test_the_student_is_no_copy_of_the_teachers_repository(tmp_path):
    models.model("bert").save_pretrained(tmp_path)
    student, _ = build_student(AutoModelForMaskedLM.from_pretrained(tmp_path), 2)
    assert student.name_or_path == ""
    student.save_pretrained(tmp_path / "student")
    assert str(tmp_path) not in (tmp_path / "student" / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path / "student").num_hidden_layers == 2


@pytest.mark.parametrize(
    ("number", "layers", "message"),
    [
        (5, "uniform", "The student asks for 5 layers, but its teacher has 4 layers (0 to 3)"),
        (None, "0,7", "The student asks for layer 7, but its teacher has 4 layers (0 to 3)"),
        (None, "first", "Set `student_num_hidden_layers`"),
    ],
)
def test_layers_that_do_not_exist_are_refused(number, layers, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_student(models.model("bert"), number, layers=layers)


def test_adapters_must_be_merged_first():
    adapted = get_peft_model(models.model("bert"), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match=re.escape("model = model.merge_and_unload()")):
        build_student(adapted, 2)
