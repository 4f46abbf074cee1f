"""The losses as the papers write them: loops over positions, classes and heads, one Python float at a time.

Nothing here is taken from `hf_kd`, and no loss is vectorised: arguments are nested lists of
floats. Read it beside the papers, not beside `hf_kd.losses`. What compares the two is below.
"""

import math

import pytest
import torch


def softmax(scores):
    """exp(x_i) / Σ_j exp(x_j), without a shift: scores up to ±700 fit a double."""
    powers = [math.exp(score) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def kl(target, other):
    """Σ_i target_i · ln(target_i / other_i); a class that the target never gives adds 0."""
    total = 0.0
    for p, q in zip(target, other, strict=True):
        if p > 0:
            total += p * (math.log(p) - math.log(q))
    return total


def _soften(logits, temperature):
    return softmax([logit / temperature for logit in logits])


def forward_kl(student, teacher, temperature):
    """T² KL(teacher ‖ student) of one position: Hinton et al. 2015, section 2."""
    return temperature**2 * kl(_soften(teacher, temperature), _soften(student, temperature))


def reverse_kl(student, teacher, temperature):
    """T² KL(student ‖ teacher) of one position."""
    return temperature**2 * kl(_soften(student, temperature), _soften(teacher, temperature))


def jensen_shannon(student, teacher, temperature):
    """T² times the mean KL of both distributions from their even mixture: Lin 1991, equation 4.1."""
    one, other = _soften(student, temperature), _soften(teacher, temperature)
    mixture = [(p + q) / 2 for p, q in zip(one, other, strict=True)]
    return temperature**2 * (kl(one, mixture) + kl(other, mixture)) / 2


def logits_mse(student, teacher, temperature):
    """Mean squared difference of the logits of one position; T² (x/T − y/T)² is (x − y)² at any T."""
    squares = [(temperature * (x / temperature - y / temperature)) ** 2 for x, y in zip(student, teacher)]
    return sum(squares) / len(squares)


def hidden_mse(student, teacher):
    """Mean squared difference over the width: TinyBERT, equation 8."""
    return sum((x - y) ** 2 for x, y in zip(student, teacher)) / len(student)


def _length(vector):
    return math.sqrt(sum(x * x for x in vector))


def hidden_cosine(student, teacher):
    """1 − cos of the angle: DistilBERT, section 3."""
    product = sum(x * y for x, y in zip(student, teacher))
    return 1 - product / (_length(student) * _length(teacher))


def hidden_normalized_mse(student, teacher):
    """‖ x/‖x‖ − y/‖y‖ ‖²: Patient-KD, equation 7."""
    one, other = _length(student), _length(teacher)
    return sum((x / one - y / other) ** 2 for x, y in zip(student, teacher))


def attention_mse(student, teacher, keys):
    """Mean squared difference of one query's attention over the keys that are no padding."""
    squares = [(x - y) ** 2 for x, y, is_key in zip(student, teacher, keys) if is_key]
    return sum(squares) / len(squares) if squares else 0.0


def attention_kl(student, teacher, keys):
    """KL(teacher ‖ student) of one query's attention over the keys that are no padding: MiniLM."""
    real = [(x, y) for x, y, is_key in zip(student, teacher, keys) if is_key]
    return kl([y for _, y in real], [x for x, _ in real])


def attention_rows(loss, student, teacher, keys):
    """One value a query. Maps are [query][key], or [head][query][key], whose values are averaged over heads."""
    if isinstance(student[0][0], list):
        heads = [attention_rows(loss, one, other, keys) for one, other in zip(student, teacher, strict=True)]
        return [sum(values) / len(values) for values in zip(*heads)]
    return [loss(one, other, keys) for one, other in zip(student, teacher, strict=True)]


def attention_probabilities(query, key, keys):
    """softmax(q · k / √d) of one head over the keys that are no padding. [query][key]."""
    maps = []
    for q in query:
        scores = [sum(x * y for x, y in zip(q, k)) / math.sqrt(len(q)) for k in key]
        real = iter(softmax([score for score, is_key in zip(scores, keys) if is_key]))
        maps.append([next(real) if is_key else 0.0 for is_key in keys])
    return maps


def relation_kl(student, teacher, keys, relation_heads):
    """KL of the relations of one row, one value a position: MiniLMv2, equations 5 to 8.

    States are [position][width]; each relation head takes an even share of the width. A row
    of padding alone has no relation: 0.
    """
    if not any(keys):
        return [0.0] * len(student)
    values = [0.0] * len(student)
    for head in range(relation_heads):
        relations = []
        for states in (student, teacher):
            width = len(states[0]) // relation_heads
            share = [state[head * width : (head + 1) * width] for state in states]
            relations.append(attention_probabilities(share, share, keys))
        for position, (one, other) in enumerate(zip(*relations)):
            values[position] += kl(other, one) / relation_heads
    return values


def token_cross_entropy(logits, target, label_smoothing=0.0):
    """−ln p(target), and as much of the mean −ln p over all classes as the smoothing says; 0 without a target."""
    if target == -100:
        return 0.0
    surprises = [-math.log(p) for p in softmax(logits)]
    return (1 - label_smoothing) * surprises[target] + label_smoothing * sum(surprises) / len(surprises)


def regression_loss(logits, values):
    return sum((x - y) ** 2 for x, y in zip(logits, values, strict=True)) / len(logits)


def multi_label_loss(logits, flags):
    """Mean over classes of −ln p(flag), p the logistic function of the logit."""
    total = 0.0
    for logit, flag in zip(logits, flags, strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= math.log(p) if flag else math.log(1 - p)
    return total / len(logits)


def span_loss(start_logits, end_logits, start, end, real):
    """Mean of start and end of one row, among its real tokens."""
    total = 0.0
    for logits, target in ((start_logits, start), (end_logits, end)):
        kept = [logit for logit, is_real in zip(logits, real) if is_real]
        total += token_cross_entropy(kept, sum(real[:target]))
    return total / 2


def share_of_mean(values, counted, count):
    """Sum over the counted positions, divided by the positions of the whole step; 0 of 0 is 0."""
    total = 0.0
    for value, is_counted in zip(values, counted, strict=True):
        if is_counted:
            total += value
    return total / count if count else 0.0


def pooled_words(hidden, words, count):
    """Mean state of each word's tokens; `hidden` is a list of states, `words` a number a token, -1 for none."""
    pooled = []
    for word in range(count):
        members = [state for state, number in zip(hidden, words, strict=True) if number == word]
        width = len(hidden[0])
        pooled.append([sum(state[i] for state in members) / len(members) if members else 0.0 for i in range(width)])
    return pooled


def word_attention(attention, words, count):
    """What word goes to what word: over the attending tokens the mean, over the attended ones the sum."""
    maps = []
    for source in range(count):
        attending = [place for place, number in enumerate(words) if number == source]
        row = []
        for target in range(count):
            attended = [place for place, number in enumerate(words) if number == target]
            sums = [sum(attention[one][other] for other in attended) for one in attending]
            row.append(sum(sums) / len(sums) if sums else 0.0)
        maps.append(row)
    return maps


def joined_words(text, student, teacher):
    """Words of a text as groups of characters, and the group of each token's first one.

    Neighbours without a blank between them belong together, and so do all that one token spans.
    """
    neighbours = {place: set() for place, character in enumerate(text) if not character.isspace()}
    spans = [(place, place + 2) for place in neighbours if place + 1 in neighbours]
    spans += [span for span in (*student, *teacher) if span is not None]
    for start, end in spans:
        inside = [place for place in range(start, end) if place in neighbours]
        for place in inside:
            neighbours[place].update(inside)
    group, count = {}, 0
    for first in neighbours:
        if first in group:
            continue
        waiting = [first]
        while waiting:
            place = waiting.pop()
            if place not in group:
                group[place] = count
                waiting.extend(neighbours[place])
        count += 1
    return [[-1 if span is None else group[span[0]] for span in side] for side in (student, teacher)]


def per_position(loss, student, teacher, **settings):
    """A loss of single positions on tensors of any leading axes, as a flat list."""
    rows = (states.detach().reshape(-1, states.shape[-1]).tolist() for states in (student, teacher))
    return [loss(one, other, **settings) for one, other in zip(*rows, strict=True)]


def slope(function, point, step=1e-5):
    """Gradient of a function of a flat list of floats, by central differences."""
    found = []
    for index in range(len(point)):
        sides = []
        for sign in (1, -1):
            moved = list(point)
            moved[index] += sign * step
            sides.append(function(moved))
        found.append((sides[0] - sides[1]) / (2 * step))
    return found


LOGITS = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jensen_shannon": jensen_shannon, "mse": logits_mse}
HIDDEN = {"mse": hidden_mse, "cosine": hidden_cosine, "normalized_mse": hidden_normalized_mse}
ATTENTION = {"mse": attention_mse, "kl": attention_kl}


def chunks(flat, width):
    """A flat list as a list of rows."""
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def draw(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def close(found, expected, tolerance=1e-12):
    """Whether a tensor of any shape holds the numbers of a flat list."""
    assert found.isfinite().all()
    assert found.reshape(-1).tolist() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def gradient(loss, point):
    point = point.clone().requires_grad_()
    loss(point).sum().backward()
    return point.grad


def check_gradient(loss, looped, point):
    """Autograd against the slope of the loops, and against the slope of the loss itself."""
    close(gradient(loss, point), slope(looped, point.view(-1).tolist()), 1e-6)
    assert torch.autograd.gradcheck(loss, point.clone().requires_grad_())
