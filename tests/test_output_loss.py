"""The fused output loss against loops and against the plain path: logits, `losses/logits.py`, `task_term`."""

import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import draw
from torch.nn import functional

from hf_kd.losses import LOGITS_DIVERGENCES
from hf_kd.losses.output import CHUNK_BYTES, OutputLayer, Workspace, output_loss
from hf_kd.losses.reduce import full_precision, share_of_mean
from hf_kd.losses.task import token_cross_entropy
from hf_kd.losses.tied import TiedGradient

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)

WEIGHTS = {"task_weight": 0.7, "logits_weight": 1.3}


def layer(positions, vocabulary, width, seed=0, bias=True, dtype=torch.float64):
    """An output layer with its input, every tensor a leaf with gradient."""
    tensors = [draw(positions, width, seed=seed), draw(vocabulary, width, seed=seed + 1, scale=1.0)]
    tensors += [draw(vocabulary, seed=seed + 2)] if bias else []
    return OutputLayer(*(tensor.to(dtype).requires_grad_() for tensor in tensors))


def labels(positions, vocabulary, seed=0, ignored=0.4):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, vocabulary, (positions,), generator=generator)
    return targets.masked_fill(torch.rand(positions, generator=generator) < ignored, -100)


def counts(targets, positions):
    """As if the optimizer step held other batches, too."""
    labelled = 0 if targets is None else int((targets != -100).sum())
    return {"task_count": torch.tensor(labelled + 3), "logits_count": torch.tensor(positions + 5)}


def plain(student, teacher, targets, *, columns=None, task_weight, logits_weight, task_count, logits_count, **options):
    """The same loss from full logits."""
    divergence = LOGITS_DIVERGENCES[options["divergence"]]
    logits = functional.linear(*student)
    total = torch.zeros((), dtype=full_precision(logits).dtype)
    if targets is not None:
        values = token_cross_entropy(logits, targets, label_smoothing=options.get("label_smoothing", 0.0))
        total = total + task_weight * share_of_mean(values, None, task_count)
    if teacher is not None:
        shared = logits[:, : len(teacher.matrix)] if columns is None else logits[:, columns]
        values = divergence(shared, functional.linear(*teacher), temperature=options["temperature"])
        total = total + logits_weight * share_of_mean(values, None, logits_count)
    return total


def fused(student, teacher, targets, *, columns=None, **options):
    return output_loss(student, teacher, targets, student_columns=columns, **options).total


def gradients(loss, student):
    wanted = [tensor for tensor in student if tensor is not None and tensor.requires_grad]
    return torch.autograd.grad(loss, wanted, allow_unused=True)


def assert_equal_losses(student, teacher, targets, tolerance=1e-5, **options):
    """Of the loss and each gradient; where the plain path itself loses digits, the fused one may lose as many."""
    found = fused(student, teacher, targets, **options)
    expected = plain(student, teacher, targets, **without_chunks(options))
    exact = plain(double(student), double(teacher), targets, **without_chunks(options))
    assert found.dtype == expected.dtype
    triples = [(found, expected, exact)]
    if expected.requires_grad:
        own = double(student)
        exact = plain(own, double(teacher), targets, **without_chunks(options))
        triples += zip(gradients(found, student), gradients(expected, student), gradients(exact, own))
    for one, other, truth in ([t if t is None else t.detach() for t in triple] for triple in triples):
        truth = torch.zeros_like(one).double() if truth is None else truth
        lost = 0.0 if other is None else float((other - truth).norm())
        assert float((one - truth).norm()) <= tolerance * max(float(truth.norm()), 1e-2) + 2 * lost


def double(layer):
    """The same layer in float64, every tensor a leaf."""
    if layer is None:
        return None
    return OutputLayer(*(None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in layer))


def without_chunks(options):
    return {name: value for name, value in options.items() if name not in ("chunk_bytes", "workspace")}


# ---- against loops ----


@pytest.mark.parametrize("columns", [None, [0, 1, 2], [5, 1, 2]], ids=["all", "first", "some"])
@pytest.mark.parametrize("divergence", reference.LOGITS)
def test_loss_equals_the_loops(divergence, columns):
    student, whole = layer(5, 6, 3), layer(5, 6, 4, seed=10)
    kept = list(range(6)) if columns is None else columns
    teacher = OutputLayer(whole.states, whole.matrix[kept], whole.bias[kept])
    targets = torch.tensor([3, -100, 0, -100, 5])
    scores = [functional.linear(*side).tolist() for side in (student, teacher)]
    task = sum(reference.token_cross_entropy(row, int(y), 0.1) for row, y in zip(scores[0], targets)) / 7
    shared = [[row[column] for column in kept] for row in scores[0]]
    logits = sum(reference.LOGITS[divergence](one, other, 3.0) for one, other in zip(shared, scores[1])) / 9
    found = output_loss(
        student,
        teacher,
        targets,
        **WEIGHTS,
        task_count=torch.tensor(7),
        logits_count=torch.tensor(9),
        divergence=divergence,
        temperature=3.0,
        label_smoothing=0.1,
        student_columns=None if columns is None else torch.tensor(columns),
    )
    assert found.task.item() == pytest.approx(0.7 * task, rel=1e-12)
    assert found.logits.item() == pytest.approx(1.3 * logits, rel=1e-12)
    assert found.total.item() == pytest.approx(0.7 * task + 1.3 * logits, rel=1e-12)
    assert not (found.task.requires_grad or found.logits.requires_grad)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("divergence", LOGITS_DIVERGENCES)
def test_gradient_is_the_slope_of_the_loss(divergence, temperature):
    student, teacher, targets = layer(4, 5, 3), layer(4, 4, 2, seed=10), torch.tensor([3, -100, 0, 4])
    for columns in (None, torch.tensor([0, 2, 3, 4])):

        def loss(*tensors):
            options = {"divergence": divergence, "temperature": temperature, "label_smoothing": 0.1}
            options |= {"chunk_bytes": 200, "columns": columns}
            return 1.7 * fused(OutputLayer(*tensors), teacher, targets, **WEIGHTS, **counts(targets, 4), **options)

        assert torch.autograd.gradcheck(loss, tuple(student))


# ---- against the plain path ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@quick
@given(
    seed=st.integers(0, 10**6),
    positions=st.integers(0, 9),
    vocabulary=st.integers(1, 40),
    divergence=st.sampled_from(list(LOGITS_DIVERGENCES)),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    has_task=st.booleans(),
    has_teacher=st.booleans(),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    label_smoothing=st.sampled_from([0.0, 0.2]),
    chunk_bytes=st.sampled_from([1, 700, CHUNK_BYTES]),
    data=st.data(),
)
def test_fused_equals_plain(
    dtype, seed, positions, vocabulary, has_task, has_teacher, bias, ignored, data, divergence, **options
):
    student = layer(positions, vocabulary, 5, seed=seed, bias=bias, dtype=dtype)
    targets = labels(positions, vocabulary, seed, ignored) if has_task else None
    teacher = columns = None
    if has_teacher:
        kept = data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, unique=True).map(sorted))
        columns = torch.tensor(kept) if data.draw(st.booleans()) else None
        teacher = layer(positions, len(kept), 7, seed=seed + 50, bias=not bias, dtype=dtype)
    if not (has_task or has_teacher):
        return
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    options |= counts(targets, positions) | {"divergence": divergence, "columns": columns}
    assert_equal_losses(student, teacher, targets, tolerance, **WEIGHTS, **options)


@pytest.mark.parametrize("divergence", LOGITS_DIVERGENCES)
def test_far_logits_stay_finite_and_equal(divergence):
    student, teacher = layer(6, 9, 3), layer(6, 9, 3, seed=5)
    student, teacher = (OutputLayer(x.states, x.matrix.detach() * 40, x.bias) for x in (student, teacher))
    options = {"divergence": divergence, "temperature": 1.0, **counts(None, 6), **WEIGHTS}
    assert_equal_losses(student, teacher, labels(6, 9), 1e-9, **options)


@pytest.mark.parametrize("divergence", LOGITS_DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_loses_no_more_than_the_plain_path(dtype, divergence):
    student, teacher = layer(32, 300, 24, dtype=torch.float32), layer(32, 300, 16, seed=5, dtype=torch.float32)
    targets, options = labels(32, 300), {"divergence": divergence, "temperature": 2.0, **WEIGHTS}
    options |= counts(targets, 32)
    exact = plain(student, teacher, targets, **options)
    with torch.autocast("cpu", dtype):
        rounded, found = plain(student, teacher, targets, **options), fused(student, teacher, targets, **options)
    assert found.dtype == torch.float32
    for one, other, truth in zip(
        (found, *gradients(found, student)),
        (rounded, *gradients(rounded, student)),
        (exact, *gradients(exact, student)),
    ):
        assert one.dtype == torch.float32
        assert (one - truth).norm() <= 1.5 * (other - truth).norm() + 1e-3 * truth.norm()


def test_float16_keeps_the_slopes_of_rare_tokens():
    """A probability of 1 / 200,000 over 1,000 positions is nothing to float16; the fused gradient has it."""
    student = layer(8, 5000, 4, bias=False, dtype=torch.float32)
    student = OutputLayer(student.states, (student.matrix * 1e-3).detach().requires_grad_())
    targets, options = labels(8, 5000, ignored=0), {"task_count": torch.tensor(10**5), "logits_count": torch.tensor(1)}
    exact = gradients(fused(student, None, targets, **options), student)
    with torch.autocast("cpu", torch.float16):
        found = gradients(fused(student, None, targets, **options), student)
    for one, other in zip(found, exact):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().median()))


def test_half_precision_weights_without_autocast():
    student = layer(6, 40, 5, bias=True, dtype=torch.bfloat16)
    teacher = layer(6, 40, 7, seed=5, dtype=torch.bfloat16)
    targets = labels(6, 40)
    options = {"divergence": "forward_kl", "temperature": 2.0, **WEIGHTS, **counts(targets, 6)}
    found, expected = fused(student, teacher, targets, **options), plain(student, teacher, targets, **options)
    assert found.item() == pytest.approx(expected.item(), rel=2e-2)
    for one, other in zip(gradients(found, student), gradients(expected, student)):
        assert one.dtype == torch.bfloat16
        assert (one - other).float().norm() <= 3e-2 * other.float().norm()


# ---- what is computed, and when ----


def test_frozen_tensors_get_no_gradient():
    targets, options = labels(6, 9), {**WEIGHTS, "task_count": torch.tensor(4), "logits_count": torch.tensor(6)}
    for trained in ((True, False, False), (False, True, False), (False, False, True)):
        student = OutputLayer(*(t.detach().requires_grad_(on) for t, on in zip(layer(6, 9, 3), trained)))
        teacher = layer(6, 9, 4, seed=5)
        fused(student, teacher, targets, **options).backward()
        assert [tensor.grad is not None for tensor in student] == list(trained)
        assert all(tensor.grad is None for tensor in teacher)
    with torch.no_grad():
        assert not fused(layer(6, 9, 3), layer(6, 9, 4, seed=5), targets, **options).requires_grad


def test_a_second_backward_pass_gives_the_same():
    student, targets = layer(6, 9, 3), labels(6, 9)
    loss = fused(student, None, targets, **counts(targets, 6))
    first = torch.autograd.grad(2.0 * loss, student, retain_graph=True)
    again = torch.autograd.grad(2.0 * loss, student)
    assert all(torch.equal(one, other) for one, other in zip(first, again))


def test_the_same_bits_run_to_run_and_whatever_lies_in_the_workspace():
    student, teacher = layer(50, 400, 8, dtype=torch.float32), layer(50, 400, 12, seed=5, dtype=torch.float32)
    targets, space = labels(50, 400), Workspace()
    runs = []
    for fill in (0.0, torch.nan, 7.0):
        for buffer in space._buffers.values():
            buffer.fill_(fill)
        options = {"chunk_bytes": 20_000, "workspace": space, **counts(targets, 50)}
        loss = fused(student, teacher, targets, **options)
        runs.append((loss.detach(), *gradients(loss, student)))
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0]))


def test_wrong_settings_are_refused():
    student, options = layer(3, 6, 4), counts(None, 3)
    with pytest.raises(ValueError, match="The temperature is 0; it divides the logits and must be above 0"):
        output_loss(student, None, None, temperature=0, **options)
    message = "The teacher's output matrix has 7 rows for 6 student columns. Give it one row for each column"
    with pytest.raises(ValueError, match=message):
        output_loss(student, layer(3, 7, 4), None, **options)


# ---- one gradient for a tied matrix ----


@pytest.mark.parametrize("padding_id", [None, 3])
def test_a_tied_matrix_gets_the_sum_of_both_gradients(padding_id):
    matrix = draw(9, 4).requires_grad_()
    ids, targets = torch.tensor([[1, 3, 1], [8, 0, 3]]), torch.tensor([2, -100, 3, 4, 1, 1])
    shared, found = TiedGradient(), []
    for tied in (None, shared):
        if tied is None:
            states = functional.embedding(ids, matrix, padding_id)
        else:
            states = tied.look_up(ids, matrix, padding_id)
        student = OutputLayer(states.flatten(0, 1).tanh(), matrix)
        loss = 3.0 * output_loss(student, None, targets, tied=tied, **counts(targets, 6)).total
        found.append(torch.autograd.grad(loss, matrix, retain_graph=True)[0])
    torch.testing.assert_close(found[1], found[0])
    assert torch.equal(torch.autograd.grad(loss, matrix)[0], found[1]), "a second backward pass"


def test_a_gradient_that_no_lookup_takes_is_not_lost_in_silence():
    student, targets = layer(3, 6, 4), labels(3, 6, ignored=0.0)
    loss = output_loss(student, None, targets, tied=TiedGradient(), **counts(targets, 3)).total
    with pytest.raises(RuntimeError, match="did not reach the student's input embedding"):
        loss.backward()


# ---- memory ----


def peak_bytes(call):
    """Most bytes that tensors made in the call held at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert math.isfinite(float(kept)) and events
    return most


def test_memory_does_not_grow_with_the_positions():
    vocabulary, peaks = 3000, {}
    for compute in (fused, plain):
        for positions in (1024, 8192):
            student = layer(positions, vocabulary, 8, dtype=torch.float32)
            teacher = OutputLayer(*(t.detach() for t in layer(positions, vocabulary, 8, seed=5, dtype=torch.float32)))
            targets = labels(positions, vocabulary)
            options = {"divergence": "forward_kl", "temperature": 2.0, **WEIGHTS, **counts(targets, positions)}
            options |= {"chunk_bytes": 4 * 2**20} if compute is fused else {}

            def step(student=student, teacher=teacher, targets=targets, compute=compute, options=options):
                loss = compute(student, teacher, targets, **options)
                loss.backward()
                return loss.detach()

            peaks[compute, positions] = peak_bytes(step)
    assert peaks[fused, 8192] < 1.2 * peaks[fused, 1024]
    assert peaks[fused, 1024] < 2 * (4 * 2**20 + 4 * vocabulary * 8)
    assert peaks[plain, 8192] > 6 * peaks[plain, 1024], "a measure that shows no growth proves nothing"
