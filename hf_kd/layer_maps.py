"""Layer choices: which teacher layers a student keeps, and which it is compared with.

Layers are counted from 0. `embeddings` stands for the embedding output.
"""

from __future__ import annotations

from .records import EMBEDDINGS, LayerPair

STUDENT_LAYER_RULES = ("uniform", "first", "last", "alternating")


def check_layer_map(name: str, layer_map: str, *, embeddings_allowed: bool) -> None:
    """Refuse a layer map that cannot be read, whatever the models.

    Raises:
        ValueError: an item is neither `last`, `uniform`, `embeddings` nor `student:teacher`.
    """
    items = _items(layer_map)
    if not items:
        raise ValueError(f"`{name}` is empty. Use `last`, `uniform`, or pairs such as `0:3,1:7`.")
    for item in items:
        if item == "embeddings" and not embeddings_allowed:
            raise ValueError(f"`{name}` holds `embeddings`, which only hidden states have. Take it out.")
        if item not in ("last", "uniform", "embeddings") and _pair(item) is None:
            raise ValueError(
                f"`{name}` holds {item!r}; each item must be `last`, `uniform`, `embeddings` or a pair "
                "`student:teacher` of layers counted from 0, such as `0:3,1:7,2:11`."
            )


def resolve_layer_map(name: str, layer_map: str, student_layers: int, teacher_layers: int) -> tuple[LayerPair, ...]:
    """Turn a layer map into pairs for two models.

    `uniform` pairs student layer s of S with teacher layer round((s + 1) · L / S) − 1, so
    that the last layers meet and, where S divides L, layer m of the student learns from
    layer m · L / S of the teacher.

    Args:
        name: the argument, for messages.
        layer_map: such as "last", "uniform", "embeddings,uniform" or "0:3,1:7".
        student_layers: number of layers of the student.
        teacher_layers: number of layers of the teacher.

    Returns:
        Pairs in ascending order, each once.

    Raises:
        ValueError: a layer does not exist, or two pairs cross.

    Source:
        TinyBERT (Jiao et al. 2020, arXiv:1909.10351), section 3.1, for `uniform`.
    """
    pairs: set[LayerPair] = set()
    for item in _items(layer_map):
        if item == "last":
            pairs.add(LayerPair(student_layers - 1, teacher_layers - 1))
        elif item == "uniform":
            pairs.update(_uniform_pairs(student_layers, teacher_layers))
        elif item == "embeddings":
            pairs.add(LayerPair(EMBEDDINGS, EMBEDDINGS))
        else:
            pair = _pair(item)
            if pair is None:
                raise ValueError(f"`{name}` holds {item!r}, which is no pair `student:teacher`.")
            pairs.add(pair)
    for pair in pairs:
        for who, layer, count in (("student", pair.student, student_layers), ("teacher", pair.teacher, teacher_layers)):
            if layer >= count:
                raise ValueError(
                    f"`{name}` asks for {who} layer {layer}; the {who} has layers 0 to {count - 1}. "
                    "Pick from those, or use `uniform`."
                )
    ordered = tuple(sorted(pairs))
    for one, other in zip(ordered, ordered[1:]):
        if other.teacher < one.teacher:
            raise ValueError(
                f"`{name}` crosses: pair {one} and pair {other} reverse the order of the layers. "
                "A deeper student layer must learn from a deeper teacher layer."
            )
    return ordered


def check_student_layers(student_layers: str, num_hidden_layers: int | None) -> None:
    """Refuse a `student_layers` value that cannot be read.

    Raises:
        ValueError: neither a rule nor a list of layers, a list of another length than asked, or no
            layer at all.
    """
    if num_hidden_layers is not None and num_hidden_layers < 1:
        raise ValueError(f"`student_num_hidden_layers` is {num_hidden_layers}; a student needs 1 layer or more.")
    if student_layers in STUDENT_LAYER_RULES:
        return
    layers = _layer_list(student_layers)
    if layers is None:
        raise ValueError(
            f"`student_layers` is {student_layers!r}; it must be {', '.join(STUDENT_LAYER_RULES)} or layers counted "
            "from 0 such as `0,3,5`."
        )
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"`student_layers` is {student_layers!r}; layers must ascend, each once.")
    if num_hidden_layers is not None and num_hidden_layers != len(layers):
        raise ValueError(
            f"`student_layers` lists {len(layers)} layers but `student_num_hidden_layers` is {num_hidden_layers}. "
            "Drop `student_num_hidden_layers`, or make them agree."
        )


def choose_student_layers(
    student_layers: str, num_hidden_layers: int | None, teacher_layers: int
) -> tuple[tuple[int, ...], str]:
    """Choose the teacher layers that become the student's.

    `uniform` takes layers round(s · (L − 1) / (S − 1)): evenly spaced, the first and the
    last included. For 12 → 6 that is 0, 2, 4, 7, 9, 11, DistilBERT's choice. One layer
    alone is the first. `alternating` takes every second layer: 0, 2, 4 and so on.

    Args:
        student_layers: `uniform`, `first`, `last`, `alternating` or a list such as "0,3,5".
        num_hidden_layers: layers of the student; may be None with a list.
        teacher_layers: layers of the teacher.

    Returns:
        The layers, ascending, and the rule in words.

    Raises:
        ValueError: more layers than the teacher has, or a layer that it lacks.

    Source:
        DistilBERT (Sanh et al. 2019, arXiv:1910.01108), initialisation, for `uniform`.
    """
    check_student_layers(student_layers, num_hidden_layers)
    listed = None if student_layers in STUDENT_LAYER_RULES else _layer_list(student_layers)
    count = len(listed) if listed is not None else num_hidden_layers
    if count is None:
        raise ValueError(
            "The number of student layers is missing. Set `student_num_hidden_layers` (`hf-kd student`: "
            "`--num-hidden-layers`)."
        )
    if count > teacher_layers or (listed is not None and listed[-1] >= teacher_layers):
        raise ValueError(
            f"The student asks for {f'layer {listed[-1]}' if listed else f'{count} layers'}, but its teacher has "
            f"{teacher_layers} layers (0 to {teacher_layers - 1}). Ask for fewer."
        )
    if listed is not None:
        return listed, "listed by hand"
    if student_layers == "first":
        return tuple(range(count)), f"first {count} of {teacher_layers}"
    if student_layers == "last":
        return tuple(range(teacher_layers - count, teacher_layers)), f"last {count} of {teacher_layers}"
    if student_layers == "alternating":
        if 2 * count - 1 > teacher_layers:
            raise ValueError(
                f"The student asks for {count} alternating layers, but its teacher has {teacher_layers} layers, every "
                f"second of which makes {(teacher_layers + 1) // 2}. Ask for fewer, or use `uniform`."
            )
        return tuple(range(0, 2 * count, 2)), f"every second of {teacher_layers}, the first {count}"
    step = (teacher_layers - 1) / (count - 1) if count > 1 else 0
    return tuple(_round(layer * step) for layer in range(count)), f"{count} evenly spaced of {teacher_layers}"


def _uniform_pairs(student_layers: int, teacher_layers: int) -> list[LayerPair]:
    step = teacher_layers / student_layers
    return [LayerPair(layer, max(_round((layer + 1) * step) - 1, 0)) for layer in range(student_layers)]


def _round(value: float) -> int:
    """Round half up: Python's own rounding to even would space the layers unevenly."""
    return int(value + 0.5)


def _items(layer_map: str) -> list[str]:
    return [item for item in layer_map.replace(",", " ").split() if item]


def _pair(item: str) -> LayerPair | None:
    student, separator, teacher = item.partition(":")
    if separator and student.isdecimal() and teacher.isdecimal():
        return LayerPair(int(student), int(teacher))
    return None


def _layer_list(text: str) -> tuple[int, ...] | None:
    items = _items(text)
    return tuple(int(item) for item in items) if items and all(item.isdecimal() for item in items) else None
