"""Teachers made from students by hand: wider, yet the same function. Knows nothing of `hf_kd`.

Every residual unit stands twice, so that norms divide by the same; what reads the stream reads the
first copy alone. New neurons and heads are written to nowhere. New units of a head have queries and
keys of zero, and the queries are larger, since scores are divided by a larger root.
"""

import copy
import re

import torch

_QUERY = re.compile(r"\.(query|q_lin|query_proj|pos_query_proj)\.")
_KEY = re.compile(r"\.(key|k_lin|key_proj|pos_key_proj)\.")
_VALUE = re.compile(r"\.(value|v_lin|value_proj)\.")
_QKV = re.compile(r"\.Wqkv\.")
_CONTEXT = re.compile(r"(attention\.output\.dense|out_lin|attn\.Wo)\.weight$")
_NEURONS = re.compile(r"\.(intermediate\.dense|lin1|Wi)\.")
_OF_NEURONS = re.compile(r"(\d\.output\.dense|lin2|mlp\.Wo)\.weight$")
_TABLE = re.compile(r"(word|position|token_type|rel)_embeddings\.weight$")
_LAST_NORM = re.compile(
    r"(transform\.LayerNorm|lm_head\.layer_norm|lm_head\.LayerNorm|vocab_layer_norm|^head\.norm|"
    r"generator_predictions\.LayerNorm)\."
)


class Layout:
    """Where the student's units lie among the teacher's: first in place, or shuffled."""

    def __init__(self, width, neurons, heads, size, *, wider_heads, shuffled, rotary, extra_neurons=10):
        def order(count):
            return torch.randperm(count) if shuffled else torch.arange(count)

        self.hidden = order(2 * width)
        self.neurons, self.all_neurons = order(neurons + extra_neurons)[:neurons], neurons + extra_neurons
        self.size = 2 * size if wider_heads else size
        self.all_heads = heads if wider_heads else 2 * heads
        self.heads = order(self.all_heads)[:heads]
        self.query_scale = (self.size / size) ** 0.5
        queries = values = torch.arange(size)
        if wider_heads:
            pairs = torch.arange(size // 2) * 2
            queries = torch.cat([pairs, pairs + size]) if rotary else order(self.size)[:size].sort().values
            values = order(self.size)[:size].sort().values
        self.queries = (self.heads[:, None] * self.size + queries).flatten()
        self.values = (self.heads[:, None] * self.size + values).flatten()


def widen(student, *, wider_heads=False, shuffled=False):
    """The teacher, and the layout of the student in it."""
    config = copy.deepcopy(student.config)
    modern, distil = config.model_type == "modernbert", config.model_type == "distilbert"
    width, heads = config.hidden_size, config.num_attention_heads
    neurons = config.hidden_dim if distil else config.intermediate_size
    layout = Layout(width, neurons, heads, width // heads, wider_heads=wider_heads, shuffled=shuffled, rotary=modern)
    setattr(config, "dim" if distil else "hidden_size", 2 * width)
    setattr(config, "hidden_dim" if distil else "intermediate_size", layout.all_neurons)
    setattr(config, "n_heads" if distil else "num_attention_heads", layout.all_heads)
    if getattr(config, "embedding_size", None) == width:
        config.embedding_size = 2 * width
    if hasattr(config, "pooler_hidden_size"):
        config.pooler_hidden_size = 2 * width
    teacher = type(student)(config).eval()
    with torch.no_grad():
        for (name, parameter), small in zip(teacher.named_parameters(), student.parameters(), strict=True):
            is_table = parameter is teacher.get_input_embeddings().weight  # which may go by the output's name
            name = "word_embeddings.weight" if is_table else name
            parameter.copy_(_widened(name, small, parameter.shape, layout))
    return teacher, layout


def _widened(name, small, shape, layout):
    if _QKV.search(name):
        thirds = zip(("query", "key", "value"), small.chunk(3))
        return torch.cat([_rows_of(f".{part}.", third, shape[0] // 3, layout) for part, third in thirds])
    if _QUERY.search(name) or _KEY.search(name) or _VALUE.search(name):
        return _rows_of(name, small, shape[0], layout)
    if _NEURONS.search(name):
        parts = small.chunk(2) if ".Wi." in name else (small,)
        made = []
        for part in parts:
            wide = torch.randn(layout.all_neurons, *part.shape[1:])
            wide[layout.neurons] = part
            made.append(wide)
        return _read(torch.cat(made), shape, layout)
    if _CONTEXT.search(name) or _OF_NEURONS.search(name):
        wide = torch.zeros(small.shape[0], shape[1])
        wide[:, layout.values if _CONTEXT.search(name) else layout.neurons] = small
        return _written(wide, shape, layout)
    if _TABLE.search(name):
        return small if small.shape == shape else _twice(small, layout, 1)
    if _LAST_NORM.search(name) and small.shape != shape:
        once = torch.zeros(shape)
        once[layout.hidden[: len(small)]] = small
        return once
    return _written(_read(small, shape, layout), shape, layout)


def _rows_of(name, small, rows, layout):
    is_value = bool(_VALUE.search(name))
    wide = torch.zeros(rows, *small.shape[1:])
    if is_value or layout.query_scale == 1.0:
        wide = torch.randn(wide.shape)
    wide[layout.values if is_value else layout.queries] = small * (layout.query_scale if _QUERY.search(name) else 1.0)
    return _read(wide, (rows, len(layout.hidden)), layout)


def _read(small, shape, layout):
    if small.dim() < 2 or small.shape[1] == shape[1]:
        return small
    wide = torch.zeros(small.shape[0], *shape[1:])
    wide[:, layout.hidden[: small.shape[1]]] = small
    return wide


def _written(small, shape, layout):
    return small if small.shape[0] == shape[0] else _twice(small, layout, 0)


def _twice(small, layout, axis):
    doubled = torch.cat([small, small], dim=axis)
    return torch.empty_like(doubled).index_copy_(axis, layout.hidden, doubled)
