"""Students cut in width: out of a teacher that was made wider by hand, the student must come back."""

from dataclasses import replace

import pytest
import student_models as sm
import torch
from widening import widen

from hf_kd import build_student
from hf_kd.students import plan_student
from hf_kd.students.factors import context_factors, query_key_factors, residual_basis
from hf_kd.students.maps import AxisMap, transfer

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
ONE_OF_EACH = ("bert", "roberta", "distilbert", "electra", "modernbert", "deberta-own-keys", "deberta-conv")


def sizes(student, *names):
    """Arguments that ask for the student's sizes."""
    config = student.config
    fields = {"hidden_size": "hidden_size", "num_attention_heads": "num_attention_heads"}
    fields["intermediate_size"] = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
    return {name: getattr(config, fields[name]) for name in names or fields}


def assert_is(found, expected):
    """Weights and outputs agree."""
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
    sm.assert_same(sm.outputs(found), sm.outputs(expected), **CLOSE)


@pytest.mark.parametrize("wider_heads", [False, True], ids=["more-heads", "wider-heads"])
@pytest.mark.parametrize("variant", sm.ENCODERS)
def test_truncation_gives_the_student_back(variant, wider_heads):
    small = sm.make(variant)
    teacher, _ = widen(small, wider_heads=wider_heads)
    sm.assert_same(sm.outputs(teacher), sm.outputs(small), **CLOSE)
    found, plan = build_student(teacher, **sizes(small))
    assert_is(found, small)
    assert found.config.to_dict() == small.config.to_dict()
    assert plan.width_rule == "truncate"


@pytest.mark.parametrize("wider_heads", [False, True], ids=["more-heads", "wider-heads"])
def test_biases_of_modernbert_are_cut_too(wider_heads):
    small = sm.make("modernbert", norm_bias=True, attention_bias=True, mlp_bias=True)
    teacher, _ = widen(small, wider_heads=wider_heads)
    sm.assert_same(sm.outputs(teacher), sm.outputs(small), **CLOSE)
    assert_is(build_student(teacher, **sizes(small))[0], small)


@pytest.mark.parametrize("head", ["base", "sequence_classification", "token_classification", "question_answering"])
@pytest.mark.parametrize("variant", ONE_OF_EACH)
def test_every_head_is_truncated(variant, head):
    small = sm.make(variant, head)
    teacher, _ = widen(small)
    if head != "base":  # whose hidden states stand twice
        sm.assert_same(sm.outputs(teacher), sm.outputs(small), **CLOSE)
    found, _ = build_student(teacher, **sizes(small))
    assert_is(found, small)


@pytest.mark.parametrize("wider_heads", [False, True], ids=["more-heads", "wider-heads"])
@pytest.mark.parametrize("variant", sm.ENCODERS)
def test_importance_finds_the_neurons_and_heads_that_do_something(variant, wider_heads):
    small = sm.make(variant)
    teacher, layout = widen(small, wider_heads=wider_heads, shuffled=True)
    sm.assert_same(sm.outputs(teacher), sm.outputs(small), **CLOSE)
    plan = plan_student(teacher, **sizes(small), width="importance", sample=[sm.batch(rows=8)])
    for layer in range(sm.LAYERS):
        assert plan.ffn_units[layer] == tuple(layout.neurons.sort().values.tolist())
        assert plan.heads[layer] == tuple(layout.heads.sort().values.tolist())
        assert set(plan.query_units[layer]) == set(layout.queries.tolist())
        assert set(plan.value_units[layer]) == set(layout.values.tolist())
    # Both copies of a residual unit are equally active: either would do, one of each must be taken.
    live = tuple(layout.hidden[: small.config.hidden_size].tolist())
    found, _ = build_student(teacher, plan=replace(plan, hidden_units=live))
    sm.assert_same(sm.outputs(found), sm.outputs(small), **CLOSE)


@pytest.mark.parametrize("variant", ONE_OF_EACH)
def test_importance_keeps_the_residual_units_that_the_layers_find_active(variant):
    teacher = sm.make(variant)
    quiet = [0, 1, 2, 3, 6, 9, 10, 12]
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "norm" in name.lower() and parameter.shape == (16,):
                parameter[quiet] *= 0.01
    plan = plan_student(teacher, hidden_size=8, num_attention_heads=2, width="importance", sample=[sm.batch()])
    assert plan.hidden_units == tuple(sorted(set(range(16)) - set(quiet)))


@pytest.mark.parametrize("variant", ONE_OF_EACH)
@pytest.mark.parametrize("rule", ["svd", "importance"])
def test_neurons_alone_can_be_cut(variant, rule):
    small = sm.make(variant)
    wide, layout = widen(small, shuffled=True)
    found, plan = build_student(wide, **sizes(small, "intermediate_size"), width=rule, sample=[sm.batch()])
    assert plan.ffn_units == (tuple(layout.neurons.sort().values.tolist()),) * sm.LAYERS
    assert plan.hidden_units is plan.heads is None and plan.mixed == ()
    sm.assert_same(sm.outputs(found), sm.outputs(small), **CLOSE)


@pytest.mark.parametrize("rule", ["truncate", "svd", "importance"])
@pytest.mark.parametrize("variant", sm.ENCODERS)
def test_the_teachers_own_sizes_are_no_cut(variant, rule):
    teacher = sm.make(variant)
    student, plan = build_student(teacher, **sizes(teacher), width=rule)
    assert plan.width_rule is None and plan.sizes == {}
    sm.assert_same(sm.outputs(student), sm.outputs(teacher))


def test_a_rotary_head_halved_in_size_keeps_its_frequencies():
    small = sm.make("modernbert", hidden_size=32)
    teacher, _ = widen(small, wider_heads=True)
    found, plan = build_student(teacher, **sizes(small))
    assert plan.query_units[0][:8] == (0, 2, 4, 6, 8, 10, 12, 14)
    for layer_type in ("full_attention", "sliding_attention"):
        ours, theirs = (dict(m.named_buffers())[f"model.rotary_emb.{layer_type}_inv_freq"] for m in (found, teacher))
        torch.testing.assert_close(ours, theirs[::2])


def test_other_sizes_of_a_rotary_head_keep_whole_pairs_each_once():
    teacher = sm.make("modernbert", hidden_size=48, num_attention_heads=4)
    plan = plan_student(teacher, hidden_size=32, num_attention_heads=4)
    first = plan.query_units[0][:8]
    assert [unit + 6 for unit in first[:4]] == list(first[4:]) and len(set(first)) == 8


def heads_of(rank, count=3, size=8, width=20):
    generator = torch.Generator().manual_seed(rank)
    made = []
    for _ in range(count):
        left, right = torch.randn(size, rank, generator=generator), torch.randn(rank, width, generator=generator)
        made.append(left @ right)
    return torch.cat(made)


@pytest.mark.parametrize("factors", [query_key_factors, context_factors])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_factors_of_heads_are_the_best_of_their_rank(factors, rank):
    one, other = heads_of(8), heads_of(7)
    second = other.T if factors is context_factors else other
    left, right = factors(one, second, (0, 2), 8, rank)
    assert left.shape == right.shape == (2 * rank, 24)
    for slot, head in enumerate((0, 2)):
        rows, new = slice(8 * head, 8 * head + 8), slice(slot * rank, (slot + 1) * rank)
        product = one[rows].double().T @ other[rows].double()
        found = (left[new].double() @ one.double()).T @ (right[new].double() @ other.double())
        values = torch.linalg.svdvals(product)
        error = (found - product).norm()
        torch.testing.assert_close(error, values[rank:8].norm(), atol=2e-5 * float(values[0]), rtol=1e-4)
        assert not left[new, : 8 * head].any() and not left[new, 8 * head + 8 :].any()


@pytest.mark.parametrize("kept", [2, 4, 6])
def test_heads_of_a_lower_rank_lose_nothing_and_stay_small(kept):
    one, other = heads_of(2, count=1), heads_of(2, count=1, width=20) * 0.5
    left, right = query_key_factors(one, other, (0,), 8, kept)
    ours, theirs = torch.zeros(kept, 20), torch.zeros(kept, 20)
    transfer(ours, one, [AxisMap(mixing=left), None])
    transfer(theirs, other, [AxisMap(mixing=right), None])
    torch.testing.assert_close(ours.T @ theirs, one.T @ other, atol=1e-3, rtol=1e-3)
    assert ours.abs().max() < 2 * (one.T @ other).abs().max().sqrt() * 3


def test_heads_of_nothing_give_nothing():
    nothing = torch.zeros(8, 20)
    for one, other in ((nothing, nothing), (heads_of(8, count=1), nothing), (nothing, heads_of(8, count=1))):
        left, right = query_key_factors(one, other, (0,), 8, 4)
        assert torch.isfinite(left).all() and torch.isfinite(right).all()
        assert ((left @ one).abs().max() < 1e-3) or ((right @ other).abs().max() < 1e-3)


@pytest.mark.parametrize("variant", sm.ENCODERS)
def test_the_residual_basis_is_that_of_the_embeddings(variant):
    teacher = sm.make(variant)
    embeddings = teacher.get_input_embeddings().weight.detach().double()
    projection = next(
        (p for n, p in teacher.named_parameters() if "embed_proj.w" in n or "embeddings_project.w" in n), None
    )
    if projection is not None:
        embeddings = embeddings @ projection.detach().double().T
    mean = torch.full((1, embeddings.shape[1]), embeddings.shape[1] ** -0.5, dtype=torch.float64)
    vectors = torch.linalg.svd(embeddings - embeddings @ mean.T @ mean, full_matrices=False)[2]
    expected = torch.cat([mean, vectors[:3]])
    basis, share = residual_basis(teacher, 4)
    basis = basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(4).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis.T @ basis, expected.T @ expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(basis.sum(0) / 2, mean[0], atol=1e-5, rtol=0)
    kept = (embeddings @ expected.T).square().sum() / embeddings.square().sum()
    assert share == pytest.approx(float(kept), rel=1e-5)


def test_a_layer_norm_of_the_kept_directions_is_the_teachers():
    basis, _ = residual_basis(sm.make("bert"), 8)
    states = torch.randn(5, 8) @ basis
    whole = torch.nn.functional.layer_norm(states, states.shape[-1:])
    kept = torch.nn.functional.layer_norm(states @ basis.T, (8,))
    torch.testing.assert_close(kept * 2**0.5, whole @ basis.T, atol=1e-3, rtol=1e-3)


def test_embeddings_of_few_dimensions_lose_nothing():
    teacher = sm.make("bert")
    embeddings = teacher.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.copy_(torch.randn(sm.VOCABULARY, 7) @ torch.randn(7, 16))
    student, plan = build_student(teacher, hidden_size=8, num_attention_heads=2, width="svd")
    assert plan.mixed == ("hidden",) and "100.0%" in plan.notes[0]
    ours = student.get_input_embeddings().weight
    torch.testing.assert_close(ours @ ours.T, embeddings @ embeddings.T, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_svd_finds_what_wider_heads_do(variant):
    small = sm.make(variant)
    teacher, layout = widen(small, wider_heads=True, shuffled=True)
    plan = plan_student(teacher, **sizes(small), width="svd")
    assert plan.mixed == (("hidden", "value") if variant == "modernbert" else ("hidden", "query", "value"))
    live = tuple(layout.hidden[:16].tolist())
    plan = replace(plan, hidden_units=live, mixed=tuple(axis for axis in plan.mixed if axis != "hidden"))
    found, _ = build_student(teacher, plan=plan)
    sm.assert_same(sm.outputs(found), sm.outputs(small), atol=1e-3, rtol=1e-3)
