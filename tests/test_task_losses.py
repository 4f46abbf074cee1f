"""The task's own loss against what transformers' heads return, on ragged batches in float64."""

import math

import pytest
import reference
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import check_gradient, close, draw

from hf_kd.losses import LOGITS_DIVERGENCES
from hf_kd.losses.combine import logits_term, task_term
from hf_kd.losses.task import sequence_loss, span_loss, token_cross_entropy
from hf_kd.positions import find_positions
from hf_kd.records import TERMS, Objective

PAD = 1
SPECIAL = torch.tensor([PAD, 2, 3])
LABELS = ("labels", "start_positions", "end_positions")
SHAPE = {"vocab_size": 24, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def model(cls, **settings):
    """A tiny model in double precision, its weights wide enough to be far from uniform."""
    torch.manual_seed(0)
    if cls is not hf.LlamaForCausalLM:
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    made = cls(cls.config_class(**SHAPE, max_position_embeddings=16, pad_token_id=PAD, **settings)).double().train()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5) if parameter.dim() > 1 else parameter.add_(0.1)
    return made


def batch(lengths=(7, 3, 1, 5), width=None):
    """Ragged rows of random ids."""
    generator = torch.Generator().manual_seed(7)
    width = width or max(lengths)
    ids = torch.randint(4, SHAPE["vocab_size"], (len(lengths), width), generator=generator)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.masked_fill(~real, PAD), "attention_mask": real.long()}


def token_labels(made, classes, unlabelled=0.4):
    """Labels of some real tokens: none of a row's is possible too."""
    generator = torch.Generator().manual_seed(8)
    labels = torch.randint(classes, made["input_ids"].shape, generator=generator)
    hidden = torch.rand(labels.shape, generator=generator) < unlabelled
    return labels.masked_fill(hidden | (made["attention_mask"] == 0), -100)


def ours(net, made, head, count=None, **settings):
    """The task term of a batch, from the logits of the labelled positions as the trainer selects them."""
    outputs = net(**{name: value for name, value in made.items() if name not in LABELS})
    logits = {name: value for name, value in outputs.items() if name.endswith("logits")}
    where = find_positions(made, head, SPECIAL, "masked")
    labels = {name: made[name] for name in LABELS if name in made}
    if head in ("masked_lm", "causal_lm"):
        logits, labels["targets"] = {"logits": logits["logits"][where.labelled]}, where.targets[where.labelled]
    elif head == "token_classification":
        labels["targets"] = where.targets
    count = where.counts()[0] if count is None else count
    return task_term(head, logits, labels, where, count, problem_type=net.config.problem_type, **settings)


def check_same(net, one, other, tolerance=1e-12):
    """Two losses are one, and so are the gradients of every parameter."""
    assert one.item() == pytest.approx(other.item(), rel=tolerance)
    assert other.item() > 0
    slopes = []
    for loss in (one, other):
        net.zero_grad()
        loss.backward()
        slopes.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    assert slopes[0].keys() == slopes[1].keys()
    largest = max(float(slope.abs().max()) for slope in slopes[1].values())
    assert largest > 1e-4
    for name, slope in slopes[0].items():
        assert float((slope - slopes[1][name]).abs().max()) <= tolerance * largest, name


# ---- against the heads of transformers ----


def test_masked_language_model():
    net, made = model(hf.BertForMaskedLM), batch()
    made["labels"] = token_labels(made, SHAPE["vocab_size"])
    check_same(net, ours(net, made, "masked_lm"), net(**made).loss)


def test_causal_language_model():
    net, made = model(hf.LlamaForCausalLM, num_key_value_heads=1), batch()
    made["labels"] = token_labels(made, SHAPE["vocab_size"])
    check_same(net, ours(net, made, "causal_lm"), net(**made).loss, 1e-5)  # transformers computes it in float32


def test_token_classifier():
    net, made = model(hf.BertForTokenClassification, num_labels=3), batch()
    made["labels"] = token_labels(made, 3)
    check_same(net, ours(net, made, "token_classification"), net(**made).loss)


CLASSIFIERS = {
    "single": ("single_label_classification", 3, torch.tensor([2, 0, 1, 1])),
    "inferred_single": (None, 3, torch.tensor([2, 0, 1, 1])),
    "inferred_column": (None, 3, torch.tensor([[2], [0], [1], [1]])),
    "single_column": ("single_label_classification", 3, torch.tensor([[2], [0], [1], [1]])),
    "partly_unlabelled": ("single_label_classification", 3, torch.tensor([2, -100, 1, -100])),
    "multi": ("multi_label_classification", 3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    "inferred_multi": (None, 3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])),
    "regression": ("regression", 1, torch.tensor([0.5, -2.0, 3.0, 0.0])),
    "inferred_regression": (None, 1, torch.tensor([0.5, -2.0, 3.0, 0.0])),
    "regression_column": ("regression", 1, torch.tensor([[0.5], [-2.0], [3.0], [0.0]])),
    "several_values": ("regression", 2, torch.tensor([[0.5, 1.0], [-2.0, 3.0], [3.0, 0.0], [0.0, 0.0]])),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_sequence_classifier(case):
    problem_type, classes, labels = CLASSIFIERS[case]
    net = model(hf.BertForSequenceClassification, num_labels=classes, problem_type=problem_type)
    made = batch() | {"labels": labels.double() if labels.is_floating_point() else labels}
    loss = ours(net, made, "sequence_classification")
    assert net.config.problem_type == problem_type  # inferring it leaves the configuration alone
    check_same(net, loss, net(**made).loss)


def spans(made, start, end):
    return made | {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}


def test_question_answerer():
    net = model(hf.BertForQuestionAnswering)
    made = spans(batch((6, 6, 6)), [0, 2, 5], [1, 2, 5])
    check_same(net, ours(net, made, "question_answering"), net(**made).loss)


def test_question_answerer_on_ragged_rows_is_the_mean_of_each_row_alone():
    """transformers lets padding compete for the answer, so its loss of a row depends on its neighbours' lengths."""
    net, lengths, start, end = model(hf.BertForQuestionAnswering), (7, 3, 1, 5), [3, 0, 0, 4], [6, 2, 0, 4]
    alone = []
    for row, length in enumerate(lengths):
        one = {name: value[row : row + 1, :length] for name, value in batch().items()}
        alone.append(net(**spans(one, start[row : row + 1], end[row : row + 1])).loss)
    made = spans(batch(), start, end)
    check_same(net, ours(net, made, "question_answering"), torch.stack(alone).mean())
    wider = spans(batch(width=12), start, end)
    wider["input_ids"][:, :7] = made["input_ids"]
    close(ours(net, wider, "question_answering"), [torch.stack(alone).mean().item()])


def test_answers_beyond_the_row_are_ignored():
    net = model(hf.BertForQuestionAnswering)
    made = spans(batch((6, 6, 6)), [0, 6, 5], [1, 9, 5])
    check_same(net, ours(net, made, "question_answering"), net(**made).loss)


def test_answers_in_a_column_count_as_in_a_row():
    """transformers takes start and end positions of shape (B, 1) too."""
    net, made = model(hf.BertForQuestionAnswering), batch((6, 6, 6))
    column = spans(made, [[0], [2], [5]], [[1], [2], [5]])
    check_same(net, ours(net, column, "question_answering"), net(**column).loss)


@pytest.mark.parametrize("head", ["masked_lm", "causal_lm"])
def test_label_smoothing_is_the_trainers(head):
    cls = hf.BertForMaskedLM if head == "masked_lm" else hf.LlamaForCausalLM
    net, made = model(cls), batch()
    made["labels"] = token_labels(made, SHAPE["vocab_size"])
    outputs = net(input_ids=made["input_ids"], attention_mask=made["attention_mask"])
    smooth = hf.trainer_pt_utils.LabelSmoother(epsilon=0.1)
    theirs = smooth(outputs, made["labels"], shift_labels=head == "causal_lm")
    check_same(net, ours(net, made, head, label_smoothing=0.1), theirs, 1e-5)  # it sums in float32


def test_a_batch_without_labels_costs_nothing():
    net, made = model(hf.BertForMaskedLM), batch()
    made["labels"] = torch.full_like(made["input_ids"], -100)
    loss = ours(net, made, "masked_lm")
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


# ---- against the loops ----


@quick
@given(seed=st.integers(0, 10**6), smoothing=st.sampled_from([0.0, 0.1, 1.0]), scale=st.sampled_from([1.0, 60.0]))
def test_cross_entropy_equals_the_loops(seed, smoothing, scale):
    logits = draw(6, 4, seed=seed, scale=scale).clamp(-80, 80)
    targets = torch.tensor([0, 1, -100, 3, 2, -100])
    pairs = zip(logits.tolist(), targets.tolist(), strict=True)
    expected = [reference.token_cross_entropy(*pair, smoothing) for pair in pairs]
    close(token_cross_entropy(logits, targets, label_smoothing=smoothing), expected)
    halves = token_cross_entropy(logits.half(), targets, label_smoothing=smoothing)
    assert halves.dtype == torch.float32


@quick
@given(seed=st.integers(0, 10**6))
def test_sequence_and_span_losses_equal_the_loops(seed):
    logits, values = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1)
    rows = list(zip(logits.tolist(), values.tolist()))
    close(sequence_loss(logits, values, "regression"), [reference.regression_loss(*row) for row in rows])
    flags = (values > 0).double()
    expected = [reference.multi_label_loss(*row) for row in zip(logits.tolist(), flags.tolist())]
    close(sequence_loss(logits, flags, "multi_label_classification"), expected)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()  # left padding too
    start, end = [0, 1, 2], [3, 0, 3]
    outputs = {"start_logits": logits, "end_logits": values}
    found = span_loss(outputs, spans({}, start, end), real)
    rows = zip(logits.tolist(), values.tolist(), start, end, real.tolist())
    close(found, [reference.span_loss(*row) for row in rows])


def test_a_side_of_the_answer_beyond_the_row_costs_nothing():
    logits, real = draw(1, 4, seed=1), torch.ones(1, 4, dtype=torch.bool)
    outputs = {"start_logits": logits, "end_logits": logits}
    half = reference.token_cross_entropy(logits[0].tolist(), 2) / 2
    close(span_loss(outputs, spans({}, [4], [2]), real), [half])
    close(span_loss(outputs, spans({}, [2], [40]), real), [half])


def test_gradient_of_cross_entropy_is_the_slope_of_the_loops():
    check_gradient(
        lambda point: token_cross_entropy(point, torch.tensor([2]), label_smoothing=0.2),
        lambda flat: reference.token_cross_entropy(flat, 2, 0.2),
        draw(1, 5, seed=3),
    )


# ---- the logits term of a question answerer: distributions over the positions of a row ----

ROWS = (6, 2, 4)


def answers(name, width, dtype=torch.float64):
    """The logits term of the same ragged rows, padded to a width."""
    where = find_positions(batch(ROWS, width), "question_answering", SPECIAL, "masked")
    how = (name, "head_mean", "probabilities", "mse", "mse", "masked", None, {})
    filler = torch.full((3, width - 6), 9.0)
    student, teacher = (
        {
            "start_logits": torch.cat([draw(3, 6, seed=seed), filler], 1).to(dtype),
            "end_logits": torch.cat([draw(3, 6, seed=seed + 1), filler], 1).to(dtype),
        }
        for seed in (1, 11)
    )
    return logits_term(Objective(None, dict.fromkeys(TERMS, 1.0), 2.0, *how), student, teacher, where, torch.tensor(3))


@pytest.mark.parametrize("width", [6, 9])
@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
def test_answer_divergence_is_that_of_the_real_tokens(name, width):
    expected = 0.0
    for side in (0, 1):
        for length, *pair in zip(ROWS, draw(3, 6, seed=1 + side).tolist(), draw(3, 6, seed=11 + side).tolist()):
            expected += reference.LOGITS[name](*(logits[:length] for logits in pair), 2.0) / 6
    assert float(answers(name, width)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOGITS_DIVERGENCES)
def test_answer_divergence_of_half_precision_logits(name, dtype):
    """A teacher in half precision, or one under autocast, gives such logits."""
    found = answers(name, 6, dtype)
    assert found.dtype == torch.float32
    assert math.isclose(float(found), float(answers(name, 6)), rel_tol=0.05)
