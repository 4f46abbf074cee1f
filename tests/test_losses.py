"""Each loss against loops written from its paper, and what `combine` makes of them."""

import re

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import check_gradient, chunks, close, draw, gradient

from hf_kd.losses import ATTENTION_DISTANCES, HIDDEN_DISTANCES, LOGITS_DIVERGENCES, relation_kl
from hf_kd.losses.combine import combine, task_term
from hf_kd.losses.reduce import share_of_mean
from hf_kd.positions import find_positions
from hf_kd.records import EMBEDDINGS, LAYER_TERMS, TERMS, LayerPair, Objective, Signal

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
PAIRS = {
    "attention": (LayerPair(0, 1), LayerPair(1, 3)),
    "hidden": (LayerPair(EMBEDDINGS, EMBEDDINGS), LayerPair(1, 3)),
    "relation": (LayerPair(1, 3),),
}

seeds = st.integers(0, 10**6)
quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def refused(message, call, *args, **kwargs):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(*args, **kwargs)


def maps(*shape, keys, seed=0):
    """Attention probabilities, 0 for padding. Shape of `shape`, keys last."""
    allowed = keys[:, None, :] if len(shape) == 3 else keys[:, None, None, :]
    scores = draw(*shape, seed=seed).masked_fill(~allowed, -1e9)
    return torch.softmax(scores, -1) * allowed


KEYS = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
"""Full, padded on the right, padded on the left, padding alone."""


# ---- divergences of logits ----


@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
@quick
@given(
    seed=seeds,
    temperature=st.sampled_from(TEMPERATURES),
    shape=st.sampled_from([(1, 2), (4, 7), (2, 3, 5), (1, 1), (0, 4)]),
    kind=st.sampled_from(["plain", "extreme", "equal"]),
)
def test_divergence_equals_the_loops(name, seed, temperature, shape, kind):
    student, teacher = draw(*shape, seed=seed), draw(*shape, seed=seed + 1)
    if kind == "extreme":
        student, teacher = student.sign() * 80, teacher.sign() * 80
    if kind == "equal":
        student = torch.ones_like(student)
    found = LOGITS_DIVERGENCES[name](student, teacher, temperature=temperature)
    assert found.shape == shape[:-1] and found.dtype == torch.float64
    close(found, reference.per_position(reference.LOGITS[name], student, teacher, temperature=temperature))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
def test_gradient_of_divergence_is_the_slope_of_the_loops(name, temperature):
    student, teacher = draw(5, seed=1), draw(5, seed=2)
    check_gradient(
        lambda point: LOGITS_DIVERGENCES[name](point, teacher, temperature=temperature),
        lambda flat: reference.LOGITS[name](flat, teacher.tolist(), temperature),
        student,
    )


@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
def test_gradient_keeps_its_scale_at_every_temperature(name):
    student, teacher = draw(64, 20, seed=1, scale=1.0), draw(64, 20, seed=2, scale=1.0)
    norms = [
        float(gradient(lambda x, t=t: LOGITS_DIVERGENCES[name](x, teacher, temperature=t), student).norm())
        for t in (1.0, 2.0, 4.0)
    ]
    assert max(norms) < 2.5 * min(norms)  # without the square of the temperature: 10 times and more


@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
def test_unequal_vocabularies_and_wrong_temperatures_are_refused(name):
    loss = LOGITS_DIVERGENCES[name]
    message = (
        "Student logits have shape (2, 3), teacher logits (2, 4). They are compared id by id and must have one shape: "
        "align the vocabularies first."
    )
    refused(message, loss, torch.zeros(2, 3), torch.zeros(2, 4))
    for temperature in (0, -1.5):
        message = f"The temperature is {temperature}; it divides the logits and must be above 0."
        refused(message, loss, torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)


# ---- distances of layers ----


@pytest.mark.parametrize("name", HIDDEN_DISTANCES)
@quick
@given(seed=seeds, shape=st.sampled_from([(2, 3, 4), (1, 1, 6), (1, 2, 1), (0, 3, 4)]))
def test_hidden_distance_equals_the_loops(name, seed, shape):
    student, teacher = draw(*shape, seed=seed), draw(*shape, seed=seed + 1)
    found = HIDDEN_DISTANCES[name](student, teacher)
    assert found.shape == shape[:2]
    close(found, reference.per_position(reference.HIDDEN[name], student, teacher))


@pytest.mark.parametrize("name", HIDDEN_DISTANCES)
def test_gradient_of_hidden_distance_is_the_slope_of_the_loops(name):
    student, teacher = draw(1, 1, 5, seed=1), draw(1, 1, 5, seed=2)
    check_gradient(
        lambda point: HIDDEN_DISTANCES[name](point, teacher),
        lambda flat: reference.HIDDEN[name](flat, teacher.view(-1).tolist()),
        student,
    )


@pytest.mark.parametrize("heads", [(), (3,)], ids=["head_mean", "per_head"])
@pytest.mark.parametrize("name", ATTENTION_DISTANCES)
@quick
@given(seed=seeds)
def test_attention_distance_equals_the_loops(name, heads, seed):
    shape = (4, *heads, 4, 4)
    student, teacher = maps(*shape, keys=KEYS, seed=seed), maps(*shape, keys=KEYS, seed=seed + 1)
    if name == "mse" and seed % 2:  # scores, too, may be compared: any number, also at padding
        student, teacher = draw(*shape, seed=seed), draw(*shape, seed=seed + 1)
    found = ATTENTION_DISTANCES[name](student, teacher, KEYS)
    assert found.shape == (4, 4)
    triples = zip(student.tolist(), teacher.tolist(), KEYS.tolist(), strict=True)
    expected = [reference.attention_rows(reference.ATTENTION[name], *triple) for triple in triples]
    close(found, [value for row in expected for value in row])


@pytest.mark.parametrize("name", ATTENTION_DISTANCES)
def test_gradient_of_attention_distance_is_the_slope_of_the_loops(name):
    keys = KEYS[1:2]
    student, teacher = maps(1, 4, 4, keys=keys, seed=1), maps(1, 4, 4, keys=keys, seed=2)
    loops = reference.ATTENTION[name]
    check_gradient(
        lambda point: ATTENTION_DISTANCES[name](point, teacher, keys),
        lambda flat: sum(reference.attention_rows(loops, chunks(flat, 4), teacher[0].tolist(), keys[0].tolist())),
        student,
    )


@pytest.mark.parametrize("relation_heads", [1, 2, 4])
@quick
@given(seed=seeds)
def test_relation_equals_the_loops_whatever_the_widths(relation_heads, seed):
    student, teacher = draw(4, 4, 8, seed=seed, scale=1.0), draw(4, 4, 12, seed=seed + 1, scale=1.0)
    found = relation_kl(student, teacher, KEYS, relation_heads=relation_heads)
    triples = zip(student.tolist(), teacher.tolist(), KEYS.tolist(), strict=True)
    expected = [reference.relation_kl(*triple, relation_heads) for triple in triples]
    close(found, [value for row in expected for value in row])


def test_gradient_of_relation_is_the_slope_of_the_loops():
    student, teacher, keys = draw(1, 4, 4, seed=1), draw(1, 4, 6, seed=2), KEYS[2:3]
    check_gradient(
        lambda point: relation_kl(point, teacher, keys, relation_heads=2),
        lambda flat: sum(reference.relation_kl(chunks(flat, 4), teacher[0].tolist(), keys[0].tolist(), 2)),
        student,
    )


def test_layers_of_unequal_shape_are_refused():
    keys = torch.ones(1, 2)
    message = "(1, 2, 3), the teacher's (1, 2, 4). They must be equal: project the student's to the teacher's width."
    for loss in HIDDEN_DISTANCES.values():
        refused(f"Student hidden states have shape {message}", loss, torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    message = "Student attention has shape (1, 3, 2, 2), the teacher's (1, 4, 2, 2). Compare head means"
    for loss in ATTENTION_DISTANCES.values():
        refused(message, loss, torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2), keys)
    message = "3 relation heads do not divide states of width 8. Set `kd_relation_heads` to a common divisor"
    refused(message, relation_kl, torch.zeros(1, 2, 6), torch.zeros(1, 2, 8), keys, relation_heads=3)


# ---- what holds for every loss ----


def _cases():
    for name, loss in LOGITS_DIVERGENCES.items():
        for temperature in TEMPERATURES:
            yield f"{name}-{temperature:g}", lambda s, t, f=loss, x=temperature: f(s, t, temperature=x), "states"
    for name, loss in HIDDEN_DISTANCES.items():
        yield f"hidden_{name}", loss, "states"
    for name, loss in ATTENTION_DISTANCES.items():
        yield f"attention_{name}", lambda s, t, f=loss: f(s, t, KEYS), "maps"
    yield "relation", lambda s, t: relation_kl(s, t, KEYS, relation_heads=2), "states"


every_loss = pytest.mark.parametrize("loss, kind", [pytest.param(f, kind, id=name) for name, f, kind in _cases()])


def _inputs(kind):
    if kind == "maps":
        return maps(4, 3, 4, 4, keys=KEYS, seed=1), maps(4, 3, 4, 4, keys=KEYS, seed=2)
    return draw(4, 4, 8, seed=1), draw(4, 4, 8, seed=2)


@every_loss
def test_equal_inputs_cost_nothing(loss, kind):
    student, teacher = _inputs(kind)
    assert loss(student, student.clone()).abs().max() < 1e-14
    assert loss(student.float(), student.float()).abs().max() < 1e-6
    assert loss(student, teacher).max() > 1e-3


@every_loss
def test_half_precision_is_computed_in_full(loss, kind):
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = (states.to(dtype) for states in _inputs(kind))
        found = loss(student, teacher)
        assert found.dtype == torch.float32
        close(found, loss(student.double(), teacher.double()).view(-1).tolist(), 1e-5)


@every_loss
def test_autocast_changes_nothing(loss, kind):
    student, teacher = (states.float() for states in _inputs(kind))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    assert torch.equal(found, loss(student, teacher))  # a training loop of one's own may run under autocast


@every_loss
def test_teacher_gets_no_gradient_and_padding_no_nan(loss, kind):
    student, teacher = _inputs(kind)
    values = loss(student.requires_grad_(), teacher.requires_grad_())
    values.sum().backward()
    assert teacher.grad is None
    assert values.isfinite().all() and student.grad.isfinite().all()  # the last row is padding alone


def test_an_empty_selection_costs_nothing():
    for loss in LOGITS_DIVERGENCES.values():
        student = torch.zeros(0, 5, requires_grad=True)
        share = share_of_mean(loss(student, torch.zeros(0, 5)), None, torch.tensor(0))
        share.backward()
        assert share == 0 and student.grad.shape == (0, 5)


@quick
@given(seed=seeds, count=st.integers(0, 9))
def test_share_of_mean_equals_the_loop(seed, count):
    values, mask = draw(2, 3, seed=seed), draw(2, 3, seed=seed + 1) > 0
    expected = reference.share_of_mean(values.view(-1).tolist(), mask.view(-1).tolist(), max(count, 1))
    close(share_of_mean(values, mask, torch.tensor(count)), [expected])
    values[~mask] = torch.nan
    close(share_of_mean(values, mask, torch.tensor(count)), [expected])


# ---- combine ----

LENGTHS = (6, 4, 3)
CLASSES = 5


def objective(positions="masked", **weights):
    how = ("forward_kl", "head_mean", "probabilities", "mse", "mse")
    return Objective(None, {term: weights.get(term, 0.0) for term in TERMS}, 2.0, *how, positions, 2, {})


def content(row, seed, nudge=0.0):
    """What a model says about one row without padding; `nudge` moves its special first and last position."""
    length = LENGTHS[row]
    made = {("logits", 0): draw(length, CLASSES, seed=seed + row)}
    for layer in (EMBEDDINGS, 0, 1, 3):
        made["hidden", layer] = draw(length, 4, seed=seed + row + 10 * layer)
        made["attention", layer] = torch.softmax(draw(length, length, seed=seed + row + 10 * layer + 1), -1)
    for states in made.values():
        states[0] += nudge
        states[-1] += nudge
    for part in range(3):  # query, key and value; those of special positions are keys of every relation
        made["relation", part] = draw(length, 4, seed=seed + row + 100 + part)
    return made


def pad(rows, width, left, filler, square):
    """Rows of (n, D), or (n, n) if square, as one tensor, full of `filler` where there is no row."""
    padded = torch.full((len(rows), width, width if square else rows[0].shape[1]), filler, dtype=torch.float64)
    for index, row in enumerate(rows):
        there = slice(width - len(row), width) if left else slice(0, len(row))
        padded[(index, there, there) if square else (index, there)] = row
    return padded


def scene(rows=(0, 1, 2), *, width=6, left=False, filler=0.0, nudge=0.0, positions="masked", scale=1.0):
    """What two models say about a ragged batch, and where its terms count."""
    ids, real, labels = (torch.full((len(rows), width), value) for value in (1, 0, -100))
    for index, row in enumerate(rows):
        there = slice(width - LENGTHS[row], width) if left else slice(0, LENGTHS[row])
        ids[index, there] = torch.tensor([2, *range(10, 8 + LENGTHS[row]), 3])
        real[index, there] = 1
        labels[index, there] = torch.tensor([-100, 4, *[-100, 1, 2][: LENGTHS[row] - 3], -100])
    batch = {"input_ids": ids, "attention_mask": real, "labels": labels}
    where = find_positions(batch, "masked_lm", torch.tensor([1, 2, 3]), positions)
    signals = []
    for seed, factor in ((1, scale), (1000, 1.0)):
        made = [content(row, seed, nudge) for row in rows]
        padded = {key: pad([m[key] for m in made], width, left, filler, key[0] == "attention") for key in made[0]}
        padded = {key: states * factor for key, states in padded.items()}
        hidden = {layer: states for (kind, layer), states in padded.items() if kind == "hidden"}
        if seed == 1:
            hidden = {index: hidden[pair.student] for index, pair in enumerate(PAIRS["hidden"])}
        relation = tuple(padded["relation", part] for part in range(3))
        attention = {layer: states for (kind, layer), states in padded.items() if kind == "attention"}
        logits = {"logits": padded["logits", 0][where.compared]}
        signals.append(Signal(logits, hidden, attention, {1: relation, 3: relation}))
    return *signals, where


def report(what, objective, counts=None):
    student, teacher, where = what
    counts = where.counts() if counts is None else counts
    targets = {"targets": where.targets[where.compared]}
    task = task_term("masked_lm", student.outputs, targets, where, counts[0]) if objective.uses("task") else None
    return combine(objective, PAIRS, student, teacher, where, counts, task)


EVERY = {"task": 1.5, "logits": 0.5, "attention": 3.0, "hidden": 0.25, "relation": 2.0}


def looped_terms(positions):
    """Every weighted term of the whole scene, from its rows without padding."""
    sums, counts = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0)
    for row, length in enumerate(LENGTHS):
        student, teacher = ({k: v.tolist() for k, v in content(row, seed).items()} for seed in (1, 1000))
        labels = [-100, 4, *[-100, 1, 2][: length - 3], -100]
        everything = [True] * length
        for n in range(length):
            is_text = 0 < n < length - 1
            if labels[n] != -100:
                sums["task"] += reference.token_cross_entropy(student["logits", 0][n], labels[n])
                counts["task"] += 1
            if labels[n] != -100 or (positions == "all" and is_text):
                sums["logits"] += reference.forward_kl(student["logits", 0][n], teacher["logits", 0][n], 2.0)
                counts["logits"] += 1
            if is_text:
                for one, other in PAIRS["attention"]:
                    pair = student["attention", one][n], teacher["attention", other][n]
                    sums["attention"] += reference.attention_mse(*pair, everything)
                for one, other in PAIRS["hidden"]:
                    sums["hidden"] += reference.hidden_mse(student["hidden", one][n], teacher["hidden", other][n])
                for part in range(3):
                    pair = student["relation", part], teacher["relation", part]
                    sums["relation"] += reference.relation_kl(*pair, everything, 2)[n]
                for term in LAYER_TERMS:
                    counts[term] += 1
    return {term: EVERY[term] * sums[term] / counts[term] for term in TERMS}


@pytest.mark.parametrize("positions", ["masked", "all"])
@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("width", [6, 9])
def test_terms_equal_the_loops_over_rows_without_padding(positions, left, width):
    found = report(scene(width=width, left=left, positions=positions), objective(positions, **EVERY))
    expected = looped_terms(positions)
    assert {name: float(value) for name, value in found.terms.items()} == pytest.approx(expected, rel=1e-12)
    assert float(found.total) == pytest.approx(sum(expected.values()), rel=1e-12)
    assert not any(value.requires_grad for value in found.terms.values())


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
def test_padding_and_special_positions_never_enter(left):
    terms = objective(task=1.0, logits=1.0, attention=1.0, hidden=1.0, relation=1.0)
    before = report(scene(width=8, left=left), terms)
    for change in ({"filler": 50.0}, {"filler": torch.nan}, {"nudge": 3.0}):
        assert torch.equal(report(scene(width=8, left=left, **change), terms).total, before.total), change


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_0_is_left_out(term):
    kept = {name: weight for name, weight in EVERY.items() if name != term}
    found, whole = report(scene(), objective(**kept)), report(scene(), objective(**EVERY))
    assert set(found.terms) == set(kept)
    assert float(found.total) == pytest.approx(float(whole.total - whole.terms[term]), rel=1e-12)


@pytest.mark.parametrize("rows", [((0,), (1, 2)), ((0, 1), (2,)), ((0,), (1,), (2,))], ids=str)
def test_parts_of_a_batch_sum_to_the_whole(rows):
    """Uneven parts, each padded to its own width: the loss and its gradient are those of the whole."""

    def loss_and_slope(rows, counts):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        width = max(LENGTHS[row] for row in rows)
        loss = report(scene(rows, width=width, positions="all", scale=scale), objective("all", **EVERY), counts).total
        loss.backward()
        return torch.stack([loss.detach(), scale.grad])

    counts = scene(positions="all")[2].counts()
    whole = loss_and_slope((0, 1, 2), counts)
    assert torch.stack([loss_and_slope(part, counts) for part in rows]).sum(0).tolist() == pytest.approx(whole.tolist())
    assert loss_and_slope((0, 1, 2) * 4, counts * 4).tolist() == pytest.approx(whole.tolist())
