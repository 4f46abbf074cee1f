"""Which layers a student keeps, and which it is compared with."""

import re

import models
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_kd.layer_maps import check_layer_map, check_student_layers, choose_student_layers, resolve_layer_map
from hf_kd.records import EMBEDDINGS, LayerPair
from hf_kd.students import build_student

counts = st.integers(1, 48)
quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def pairs(layer_map, student, teacher):
    return [tuple(pair) for pair in resolve_layer_map("kd_layer_map", layer_map, student, teacher)]


def refused(message, call, *args, **kwargs):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*args, **kwargs)


# ---- student layers ----


@pytest.mark.parametrize(
    "rule, student, teacher, expected, words",
    [
        ("uniform", 6, 12, (0, 2, 4, 7, 9, 11), "6 evenly spaced of 12"),  # DistilBERT's
        ("uniform", 4, 12, (0, 4, 7, 11), "4 evenly spaced of 12"),
        ("uniform", 3, 12, (0, 6, 11), "3 evenly spaced of 12"),
        ("uniform", 2, 5, (0, 4), "2 evenly spaced of 5"),
        ("uniform", 1, 12, (0,), "1 evenly spaced of 12"),
        ("uniform", 12, 12, tuple(range(12)), "12 evenly spaced of 12"),
        ("uniform", 12, 24, (0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23), "12 evenly spaced of 24"),
        ("first", 3, 12, (0, 1, 2), "first 3 of 12"),
        ("last", 3, 12, (9, 10, 11), "last 3 of 12"),
        ("0,3,5", None, 12, (0, 3, 5), "listed by hand"),
        ("0 3 5", 3, 6, (0, 3, 5), "listed by hand"),
        ("11", None, 12, (11,), "listed by hand"),
    ],
)
def test_student_layers(rule, student, teacher, expected, words):
    assert choose_student_layers(rule, student, teacher) == (expected, words)


@quick
@given(teacher=counts, student=counts, rule=st.sampled_from(["uniform", "first", "last"]))
def test_student_layers_ascend_within_the_teacher(teacher, student, rule):
    assume(student <= teacher)
    layers, _ = choose_student_layers(rule, student, teacher)
    assert len(layers) == student
    assert list(layers) == sorted(set(layers))
    assert 0 <= layers[0] and layers[-1] < teacher
    if rule == "uniform":
        assert layers[0] == 0
        assert student == 1 or layers[-1] == teacher - 1
        gaps = [later - earlier for earlier, later in zip(layers, layers[1:])]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_more_student_layers_than_the_teacher_has_are_refused():
    for rule in ("uniform", "first", "last"):
        message = "The student asks for 7 layers, but its teacher has 6 layers (0 to 5). Ask for fewer."
        refused(message, choose_student_layers, rule, 7, 6)
    message = "The student asks for layer 6, but its teacher has 6 layers (0 to 5). Ask for fewer."
    refused(message, choose_student_layers, "0,6", None, 6)
    message = (
        "The number of student layers is missing. Set `student_num_hidden_layers` (`hf-kd student`: "
        "`--num-hidden-layers`)."
    )
    refused(message, choose_student_layers, "uniform", None, 6)


@pytest.mark.parametrize(
    "rule, student",
    [("middle", 2), ("", 2), ("3,1", None), ("9,1", None), ("1,1", None), ("0,1", 3), ("uniform", 0), ("last", -1)],
    ids=str,
)
def test_layers_that_no_student_can_have_are_refused(rule, student):
    """By `build_student` too, which is called without `DistillationArguments`."""
    with pytest.raises(ValueError, match="student"):
        build_student(models.model(layers=6, width=4, heads=1), student, layers=rule)


@pytest.mark.parametrize("layers", ["middle", "0,x", "-1", "1.5", "", ","])
def test_student_layers_that_cannot_be_read_are_refused(layers):
    message = "it must be uniform, first, last, alternating or layers counted from 0 such as `0,3,5`."
    refused(f"`student_layers` is {layers!r}; {message}", check_student_layers, layers, None)


def test_student_layers_that_contradict_are_refused():
    for layers in ("3,1", "1,1"):
        message = f"`student_layers` is {layers!r}; layers must ascend, each once."
        refused(message, check_student_layers, layers, None)
    message = (
        "`student_layers` lists 2 layers but `student_num_hidden_layers` is 3. Drop `student_num_hidden_layers`, or "
        "make them agree."
    )
    refused(message, check_student_layers, "0,3", 3)
    for layers, count in (("uniform", 3), ("first", None), ("last", 1), ("0,3", None), ("0,3", 2)):
        check_student_layers(layers, count)


# ---- pairs ----


@pytest.mark.parametrize(
    "student, teacher, expected",
    [
        (6, 12, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        (4, 12, [(0, 2), (1, 5), (2, 8), (3, 11)]),  # TinyBERT's
        (2, 5, [(0, 2), (1, 4)]),
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (1, 12, [(0, 11)]),
        (3, 2, [(0, 0), (1, 0), (2, 1)]),
    ],
)
def test_uniform_pairs(student, teacher, expected):
    assert pairs("uniform", student, teacher) == expected


@pytest.mark.parametrize(
    "layer_map, expected",
    [
        ("last", [(5, 11)]),
        ("embeddings", [(EMBEDDINGS, EMBEDDINGS)]),
        ("embeddings,last", [(EMBEDDINGS, EMBEDDINGS), (5, 11)]),
        ("0:3,1:7", [(0, 3), (1, 7)]),
        ("1:7 0:3", [(0, 3), (1, 7)]),
        ("last,5:11", [(5, 11)]),
        ("0:0,last", [(0, 0), (5, 11)]),
        ("0:0,0:1", [(0, 0), (0, 1)]),
        ("uniform,last", [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
    ],
)
def test_layer_maps(layer_map, expected):
    check_layer_map("kd_layer_map", layer_map, embeddings_allowed=True)
    assert pairs(layer_map, 6, 12) == expected


@quick
@given(student=counts, teacher=counts)
def test_uniform_pairs_ascend_and_the_last_layers_meet(student, teacher):
    found = pairs("uniform", student, teacher)
    assert [layer for layer, _ in found] == list(range(student))
    taught = [layer for _, layer in found]
    assert taught == sorted(taught) and 0 <= taught[0]
    assert found[-1] == (student - 1, teacher - 1)
    assert pairs("last", student, teacher) == [found[-1]]
    if student <= teacher:
        assert len(set(taught)) == student
    if teacher % student == 0:  # layer m of the student learns from layer m · L / S, both counted from 1
        assert taught == [(layer + 1) * teacher // student - 1 for layer in range(student)]


@quick
@given(typed=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_typed_pairs_come_back_in_order_or_cross(typed):
    layer_map = ",".join(f"{student}:{teacher}" for student, teacher in typed)
    crosses = any(a < c and b > d for a, b in typed for c, d in typed)
    if crosses:
        with pytest.raises(ValueError, match="^`kd_layer_map` crosses: pair "):
            pairs(layer_map, 10, 10)
    else:
        assert pairs(layer_map, 10, 10) == sorted(set(typed))


@pytest.mark.parametrize(
    "layer_map, message",
    [
        ("", "`kd_layer_map` is empty. Use `last`, `uniform`, or pairs such as `0:3,1:7`."),
        (" , ", "`kd_layer_map` is empty. Use `last`, `uniform`, or pairs such as `0:3,1:7`."),
        *(
            (
                item,
                f"`kd_layer_map` holds {item!r}; each item must be `last`, `uniform`, `embeddings` or a pair "
                "`student:teacher` of layers counted from 0, such as `0:3,1:7,2:11`.",
            )
            for item in ("middle", "3", "0:", ":3", "0:x", "-1:3", "0:3:5", "0.5:1", "Last")
        ),
    ],
)
def test_maps_that_cannot_be_read_are_refused(layer_map, message):
    refused(message, check_layer_map, "kd_layer_map", layer_map, embeddings_allowed=True)


def test_only_hidden_states_have_embeddings():
    message = "`kd_attention_layer_map` holds `embeddings`, which only hidden states have. Take it out."
    refused(message, check_layer_map, "kd_attention_layer_map", "embeddings,last", embeddings_allowed=False)


def test_pairs_that_the_models_lack_are_refused():
    for layer_map, who, layer, last in (("6:11", "student", 6, 5), ("5:12", "teacher", 12, 11)):
        message = (
            f"`kd_layer_map` asks for {who} layer {layer}; the {who} has layers 0 to {last}. Pick from those, or use "
            "`uniform`."
        )
        refused(message, pairs, layer_map, 6, 12)
    message = (
        "`kd_layer_map` crosses: pair 0:5 and pair 1:3 reverse the order of the layers. A deeper student layer must "
        "learn from a deeper teacher layer."
    )
    refused(message, pairs, "1:3,0:5", 6, 12)
    refused("`kd_layer_map` holds 'middle', which is no pair `student:teacher`.", pairs, "middle", 6, 12)


def test_pairs_are_written_as_they_are_typed():
    assert str(LayerPair(0, 3)) == "0:3"
    assert str(LayerPair(EMBEDDINGS, EMBEDDINGS)) == "embeddings"
    assert pairs(str(LayerPair(0, 3)), 6, 12) == [(0, 3)]
