"""Students cut from teachers: which layers, and that nothing else changes."""

import models
import pytest
import student_models as sm
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from hf_kd import build_student
from hf_kd.architecture import transformer_layers
from hf_kd.students import plan_student
from hf_kd.students.sizes import planned_sizes


def logits(model):
    return sm.outputs(model)[0]


@pytest.mark.parametrize(("variant", "head"), sm.EVERY)
def test_an_uncut_copy_answers_the_same_bit_for_bit(variant, head):
    teacher = sm.make(variant, head)
    before = sm.frozen(teacher)
    student, plan = build_student(teacher, 4)
    assert plan.kept_layers == (0, 1, 2, 3) and plan.teacher_layers == 4
    sm.assert_same(sm.outputs(student), sm.outputs(teacher))
    assert student.state_dict().keys() == teacher.state_dict().keys()
    memory = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not any(parameter.data_ptr() in memory for parameter in student.parameters())
    sm.assert_unchanged(teacher, before)


@pytest.mark.parametrize("variant", ["bert", "xlm-roberta", "electra", "modernbert", "deberta-v2", "qwen2"])
def test_a_checkpoint_of_two_matrices_keeps_both_whatever_its_configuration_says(variant, tmp_path):
    teacher = sm.make(variant, tie_word_embeddings=False)
    teacher.config.tie_word_embeddings = True
    sizes = planned_sizes(teacher, plan_student(teacher))
    student, _ = build_student(teacher)
    sm.assert_same(sm.outputs(student), sm.outputs(teacher))
    assert sizes.total == student.num_parameters() == teacher.num_parameters()
    assert teacher.config.tie_word_embeddings and not student.config.tie_word_embeddings
    student.save_pretrained(tmp_path)
    sm.assert_same(sm.outputs(type(student).from_pretrained(tmp_path)), sm.outputs(teacher))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["bert", "modernbert", "qwen3"])
def test_the_student_attends_as_its_teacher_does(variant, attention):
    teacher = sm.make(variant, attn_implementation=attention)
    student, _ = build_student(teacher)
    assert student.config._attn_implementation == attention
    sm.assert_same(sm.outputs(student), sm.outputs(teacher))


def skip(layer):
    """Let a layer hand on what it was given."""
    is_deberta = "Deberta" in type(layer).__name__
    layer.forward = lambda hidden, *args, **kwargs: (hidden, None) if is_deberta else hidden


@pytest.mark.parametrize("variant", [name for name in sm.VARIANTS if name != "deberta-conv"])
def test_a_student_equals_its_teacher_with_the_other_layers_skipped(variant):
    teacher = sm.make(variant)
    student, _ = build_student(teacher, layers="0,3")
    layers = transformer_layers(teacher)
    skip(layers[1])
    skip(layers[2])
    sm.assert_same(sm.outputs(student), sm.outputs(teacher))
    assert student.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("first", (0, 1)), ("last", (4, 5)), ("uniform", (0, 5)), ("alternating", (0, 2)), ("1, 4", (1, 4))],
)
@pytest.mark.parametrize("variant", ["roberta", "distilbert", "deberta-v2", "llama"])
def test_rules_take_their_layers(variant, rule, kept):
    teacher = sm.make(variant, num_hidden_layers=6)
    student, plan = build_student(teacher, 2, layers=rule)
    assert plan.kept_layers == kept and plan.sizes == {"num_hidden_layers": (6, 2)}
    for ours, number in zip(transformer_layers(student), kept, strict=True):
        theirs = transformer_layers(teacher)[number].state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def silence(layer):
    """Make a layer change nothing, by what it writes to the residual stream."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "Wo", "output.dense", "out_lin", "lin2")):
                parameter.zero_()


@pytest.mark.parametrize("variant", ["modernbert", "llama", "qwen2", "qwen3", "mistral"])
def test_layers_that_change_nothing_go_first(variant):
    teacher = sm.make(variant)
    for number in (1, 2):
        silence(transformer_layers(teacher)[number])
    teacher.train()
    before = sm.frozen(teacher)
    student, plan = build_student(teacher, 2, layers="importance", sample=[sm.batch(), sm.batch(seed=2)])
    assert plan.kept_layers == (0, 3) and "(0: " in plan.rule and plan.sample == "6 rows, 60 tokens"
    sm.assert_unchanged(teacher, before)
    sm.assert_same(sm.outputs(student), sm.outputs(teacher.eval()))


@pytest.mark.parametrize("variant", ["bert", "xlm-roberta", "distilbert", "electra", "deberta-v2", "deberta-conv"])
def test_layers_that_change_little_go_first(variant):
    teacher = sm.make(variant)
    with torch.no_grad():
        for name, parameter in teacher.base_model.named_parameters():
            if "norm" in name.lower():  # what a layer is given is normalised already, so that it can leave it alone
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for number in (1, 2):
        silence(transformer_layers(teacher)[number])
    student, plan = build_student(teacher, 2, layers="importance", sample=[sm.batch()])
    assert plan.kept_layers == (0, 3)
    if variant != "deberta-conv":
        sm.assert_same(sm.outputs(student), sm.outputs(teacher), atol=1e-4, rtol=1e-3)


def test_modernbert_without_its_first_layer_keeps_the_norm_that_the_first_lacks():
    better = 0
    for seed in range(4):
        teacher = sm.make("modernbert", seed=seed)
        before = sm.frozen(teacher)
        student, plan = build_student(teacher, 3, layers="last")
        assert "teacher layer 1 becomes the first, which has no `attn_norm`" in plan.notes[0]
        sm.assert_unchanged(teacher, before)
        skip(transformer_layers(teacher)[0])
        expected = logits(teacher)
        folded = (logits(student) - expected).square().mean()
        with torch.no_grad():
            transformer_layers(student)[0].attn.Wqkv.weight.copy_(transformer_layers(teacher)[1].attn.Wqkv.weight)
        better += bool(folded < (logits(student) - expected).square().mean() * 0.5)
    assert better == 4


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


@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_no_random_number_is_drawn(variant):
    teacher = sm.make(variant)
    small = {} if variant in sm.DECODERS else {"hidden_size": 8, "num_attention_heads": 2}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for rule in ("truncate", "svd", "importance"):
        _, plan = build_student(teacher, 2, width=rule, sample=[sm.batch()], **small)
        planned_sizes(teacher, plan)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_random_weights_follow_the_seed_and_have_the_planned_shape(variant):
    teacher = sm.make(variant)
    small = {} if variant in sm.DECODERS else {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    if variant == "distilbert":
        assert plan_student(teacher, 2, **small).sizes["hidden_dim"] == (24, 12)
    before = sm.frozen(teacher)
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(build_student(teacher, 2, weights="random", **small)[0])
    shaped, _ = build_student(teacher, 2, **small)
    states = [student.state_dict() for student in made]
    assert {n: v.shape for n, v in states[0].items()} == {n: v.shape for n, v in shaped.state_dict().items()}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert not any(p.std() > 0.1 for p in made[0].parameters() if p.dim() > 1), "nothing comes from the teacher"
    sm.assert_unchanged(teacher, before)


def test_the_student_is_no_copy_of_the_teachers_repository(tmp_path):
    models.model("bert").save_pretrained(tmp_path)
    student, _ = build_student(AutoModelForMaskedLM.from_pretrained(tmp_path), 2)
    assert student.name_or_path == ""
    student.save_pretrained(tmp_path / "student")
    assert str(tmp_path) not in (tmp_path / "student" / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path / "student").num_hidden_layers == 2
