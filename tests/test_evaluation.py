"""The measures, each against a naive reference or another library."""

import copy
import json
import math
import socket

import evaluate
import models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from push_student import tokenizer
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as class_f1
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_kd.evaluation import bootstrap, classifiers, cost, labels, metrics, rows, summary, tokens, vocabulary
from hf_kd.evaluation.masking import UNMASKED, MaskedLine, mask_each, mask_lines, next_tokens
from hf_kd.measures import MAIN_MEASURES, MEASURES
from hf_kd.records import Estimate

TOKENIZER = tokenizer()


def lines(count=12, seed=3, language="sw"):
    ids = [row["input_ids"] for row in models.rows(count, seed=seed, head="sequence_classification")]
    return mask_lines({language: ids}, TOKENIZER, 0.3, seed)


# ---- masks ----


def test_masks_depend_on_nothing_but_the_line_and_the_seed():
    ids = [[2, *range(10, 30), 3]] * 3
    assert mask_lines({"sw": ids}, TOKENIZER, 0.3, "0 sw") == mask_lines({"sw": ids}, TOKENIZER, 0.3, "0 sw")
    assert mask_lines({"sw": ids}, TOKENIZER, 0.3, "0 sw") != mask_lines({"sw": ids}, TOKENIZER, 0.3, "1 sw")


def test_each_token_is_masked_alone():
    found = mask_each("sw", [2, 10, 11, 3], TOKENIZER)
    assert [line.input_ids for line in found] == [(2, 4, 11, 3), (2, 10, 4, 3)]
    assert [line.labels for line in found] == [(UNMASKED, 10, UNMASKED, UNMASKED), (UNMASKED, UNMASKED, 11, UNMASKED)]


def test_a_causal_model_is_asked_for_what_follows():
    (line,) = next_tokens({"sw": [[2, 10, 11, 3], [3]]}, TOKENIZER)
    assert line.labels == (10, 11, UNMASKED, UNMASKED)


# ---- tokens ----


def naive(model, line):
    """One line, one place at a time, from the definition."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([line.input_ids])).logits[0].double()
    for place, label in enumerate(line.labels):
        if label != UNMASKED:
            shares = logits[place].exp() / logits[place].exp().sum()
            yield shares, label


def test_statistics_are_those_of_the_definition():
    teacher, student = models.model(seed=1, spread=4.0), models.model(seed=2, layers=2, spread=4.0)
    asked = lines()
    readers = [tokens.Reader(model, models.PAD) for model in (teacher, student)]
    of_teacher, of_students = tokens.score_group(readers[0], {"s": readers[1]}, asked)
    assert (tokens.score_lines(readers[1], asked)["nats"] == of_students["s"]["nats"]).all()
    for row, line in enumerate(asked):
        wanted = dict.fromkeys(("items", "correct", "nats", "agree1", "agree5", "kl"), 0.0)
        for (own, label), (theirs, _) in zip(naive(student, line), naive(teacher, line), strict=True):
            wanted["items"] += 1
            wanted["correct"] += int(own.argmax()) == label
            wanted["nats"] -= math.log(own[label])
            wanted["agree1"] += int(own.argmax()) == int(theirs.argmax())
            wanted["agree5"] += int(theirs.argmax()) in own.sort(descending=True).indices[:5].tolist()
            wanted["kl"] += sum(float(t * (math.log(t) - math.log(s))) for t, s in zip(theirs, own, strict=True))
        for name, value in wanted.items():
            assert of_students["s"][name][row] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert of_teacher["nats"].sum() != of_students["s"]["nats"].sum()


def test_a_model_agrees_with_itself():
    model = tokens.Reader(models.model(seed=1, spread=4.0), models.PAD)
    of_teacher, of_students = tokens.score_group(model, {"same": model}, lines())
    found = summary.summarise("fill-mask", "sw", "", of_students["same"], of_teacher, [0]).report
    assert found.fidelity["top1_agreement"] == Estimate(1.0, 1.0, 1.0)
    assert found.fidelity["kl"].value == pytest.approx(0, abs=1e-9)
    assert found.retention["masked_accuracy"].value == 1 and found.student == found.teacher


def test_what_a_teacher_rules_out_adds_nothing():
    own, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -math.inf]])
    assert float(tokens.fidelity_statistics(own, theirs)["kl"]) == pytest.approx(math.log(2))


def test_perplexities():
    statistics = {"items": np.array([2.0, 2.0]), "correct": np.ones(2), "nats": np.array([1.0, 3.0])}
    statistics |= {name: np.ones(2) for name in ("agree1", "kl", "compared")}
    alone = {"alone_items": np.array([3.0, 0.0]), "alone_nats": np.array([6.0, 0.0])}
    found = summary.summarise("fill-mask", "sw", "", statistics | alone, statistics | alone, [0]).report
    assert found.student["masked_perplexity"].value == pytest.approx(math.e)
    assert found.student["pseudo_perplexity"].value == pytest.approx(math.exp(2))
    assert "masked_perplexity" not in found.retention and found.items == 4


# ---- other vocabularies ----


def trimmed(teacher, kept):
    """The teacher with some of its tokens, in another order, and a tokenizer for them."""
    words = sorted(TOKENIZER.get_vocab(), key=TOKENIZER.get_vocab().get)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    own = {words[number]: place for place, number in enumerate(kept)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(own, unk_token="[UNK]")), **names)
    student = copy.deepcopy(teacher)
    student.resize_token_embeddings(len(kept))
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight[kept])
        student.cls.predictions.bias.copy_(teacher.cls.predictions.bias[kept])
    return student, made


def test_a_smaller_vocabulary_is_compared_on_the_tokens_shared():
    teacher = models.model(seed=1, spread=4.0)
    kept = [3, 4, 0, 2, 1, *range(40, 9, -1)]
    student, own = trimmed(teacher, kept)
    of_student, of_teacher = vocabulary.share_columns(own, TOKENIZER, "s")
    asked = mask_lines({"sw": [[3, *range(5, 25), 0]] * 4}, own, 0.3, 1)
    readers = tokens.Reader(teacher, models.PAD, of_teacher), tokens.Reader(student, own.pad_token_id, of_student)
    found, of_students = tokens.score_group(readers[0], {"s": readers[1]}, asked)
    assert of_students["s"]["kl"].sum() == pytest.approx(0, abs=1e-6)
    assert of_students["s"]["agree1"].sum() == of_students["s"]["items"].sum()
    np.testing.assert_allclose(of_students["s"]["nats"], found["nats"], rtol=1e-5)
    for row, line in enumerate(asked):
        in_teachers = [kept[token] for token in line.input_ids]
        with torch.no_grad():
            logits = teacher.eval()(input_ids=torch.tensor([in_teachers])).logits[0][:, kept].log_softmax(-1)
        nats = -sum(float(logits[place, label]) for place, label in enumerate(line.labels) if label != UNMASKED)
        assert found["nats"][row] == pytest.approx(nats, rel=1e-4)


def test_the_same_vocabulary_needs_no_matching_and_a_foreign_one_is_refused():
    assert vocabulary.share_columns(TOKENIZER, tokenizer(), "s") is None
    _, own = trimmed(models.model(seed=1), [0, 1, 2, 3, 4, 10])
    with pytest.raises(ValueError, match=r"Student `s` has 58 tokens that its teacher lacks \(first: 'w5', number 5\)"):
        vocabulary.share_columns(TOKENIZER, own, "s")


# ---- bootstrap ----


def test_the_interval_of_a_share_is_that_of_the_binomial():
    correct = np.array([1.0] * 300 + [0.0] * 700)
    found = bootstrap.estimate(bootstrap.ratio("correct", "items"), {"correct": correct, "items": np.ones(1000)}, 7)
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert found.value == 0.3
    assert found.low == pytest.approx(0.3 - spread, abs=0.004) and found.high == pytest.approx(0.3 + spread, abs=0.004)


def test_the_interval_hangs_on_the_seed_alone():
    rng = np.random.default_rng(0)
    statistics = {"correct": rng.integers(0, 3, 50).astype(float), "items": np.full(50, 3.0)}
    measure = bootstrap.ratio("correct", "items")
    assert bootstrap.estimate(measure, statistics, 1) == bootstrap.estimate(measure, statistics, 1)
    assert bootstrap.estimate(measure, statistics, 1) != bootstrap.estimate(measure, statistics, 2)
    draws = bootstrap.draw_rows(50, 1, 20)
    assert draws.shape == (20, 50) and (draws.sum(1) == 50).all()
    sums = bootstrap.resample(statistics, draws)
    np.testing.assert_allclose(sums["correct"], [(row * statistics["correct"]).sum() for row in draws])


def test_an_undefined_measure_has_no_interval():
    nothing = {"correct": np.zeros(4), "items": np.array([1.0, 0, 0, 0])}
    assert bootstrap.estimate(bootstrap.ratio("correct", "items"), nothing) == Estimate(0.0)


def test_the_mean_of_languages_counts_each_the_same():
    def language(name, correct, count):
        statistics = {"items": np.ones(count), "correct": np.full(count, float(correct)), "nats": np.ones(count)}
        statistics |= {name: np.ones(count) for name in ("agree1", "agree5", "kl", "compared")}
        return summary.summarise("fill-mask", name, "", statistics, statistics | {"correct": np.ones(count)}, [0])

    found = summary.average([language("a", 1, 10), language("b", 0, 90)])
    assert found.student["masked_accuracy"] == Estimate(0.5, 0.5, 0.5)
    assert found.retention["masked_accuracy"].value == 0.5
    assert (found.language, found.rows) == ("mean of 2 languages", 100)
    assert summary.average([language("a", 1, 10)]) is None


# ---- labels ----


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_class_scores_are_those_of_scikit_learn(pairs):
    predicted, gold = zip(*pairs)
    sums = {"confusion": labels.confusion_rows(predicted, gold, 4).sum(0)}
    assert float(labels.accuracy(sums)) == pytest.approx(accuracy_score(gold, predicted))
    assert float(labels.macro_f1(sums)) == pytest.approx(class_f1(gold, predicted, average="macro"))
    assert float(labels.weighted_f1(sums)) == pytest.approx(class_f1(gold, predicted, average="weighted"))


TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_entity_scores_are_those_of_seqeval(sentences):
    predicted = [[one for one, _ in pairs] for pairs in sentences]
    gold = [[other for _, other in pairs] for pairs in sentences]
    found = metrics.EntityScores()._compute(predicted, gold)
    assert found["entity_f1"] == pytest.approx(f1_score(gold, predicted))
    assert found["entity_precision"] == pytest.approx(precision_score(gold, predicted))
    assert found["entity_recall"] == pytest.approx(recall_score(gold, predicted))


def named(model, names):
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return model


def test_a_tagger_is_scored_by_word_and_its_classes_by_name():
    names = ["O", "B-PER", "I-PER"]
    teacher = named(models.model("bert", "token_classification", seed=1, num_labels=3, spread=4.0), names)
    student = named(models.model("bert", "token_classification", seed=1, num_labels=3, spread=4.0), names[::-1])
    with torch.no_grad():  # the same answers in another order
        student.classifier.weight.copy_(student.classifier.weight.flip(0))
        student.classifier.bias.copy_(student.classifier.bias.flip(0))
    labellers = [classifiers.Labeller(model, TOKENIZER, 6) for model in (teacher, student)]
    data = [(["w10", "w11", "w12"], ["B-PER", "I-PER", "O"]), ([f"w{n}" for n in range(20, 30)], ["B-PER"] * 10)]
    of_teacher, of_students = classifiers.score_words(labellers[0], {"s": labellers[1]}, data)
    found = summary.summarise("token-classification", "sw", "", of_students["s"], of_teacher, [0]).report
    assert found.fidelity["top1_agreement"].value == 1 and found.fidelity["kl"].value == pytest.approx(0, abs=1e-6)
    assert of_students["s"]["compared"].tolist() == [3, 6], "words that were cut off are not compared"
    assert of_students["s"]["wanted"].tolist() == [1, 10] and found.unit == "entities"
    logits = teacher.eval()(**TOKENIZER([data[0][0]], is_split_into_words=True, return_tensors="pt")).logits[0]
    predicted = [names[number] for number in logits.argmax(-1).tolist()]
    assert (of_teacher["right"][0], of_teacher["found"][0]) == labels.entity_counts(predicted, data[0][1])[:2]


def test_a_classifier_is_scored_and_unknown_labels_are_refused():
    names = ["negative", "positive"]
    teacher, student = (
        named(models.model("bert", "sequence_classification", seed=seed, num_labels=2, spread=4.0), names)
        for seed in (1, 2)
    )
    labellers = [classifiers.Labeller(model, TOKENIZER, 20) for model in (teacher, student)]
    data = [(f"w{n} w{n + 9}", names[n % 2]) for n in range(10, 40)]
    of_teacher, of_students = classifiers.score_texts(labellers[0], {"s": labellers[1]}, data)
    found = summary.summarise("text-classification", "sw", "", of_students["s"], of_teacher, [0]).report
    right = 0
    for text, label in data:
        with torch.no_grad():
            right += int(student.eval()(**TOKENIZER(text, return_tensors="pt")).logits.argmax()) == names.index(label)
    assert found.student["accuracy"].value == right / 30 and "top5_agreement" not in found.fidelity
    with pytest.raises(ValueError, match="The data hold label 'mixed'; the teacher's are negative, positive"):
        classifiers.score_texts(labellers[0], {}, [("w10", "mixed")])
    named(student, ["bad", "good"])
    with pytest.raises(ValueError, match="Classes are matched by name"):
        classifiers.score_texts(labellers[0], {"s": labellers[1]}, data)


# ---- rows ----


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.txt", "", "fill-mask", "is empty"),
        ("a.txt", b"\xff\xfe", "fill-mask", "is not UTF-8"),
        ("a.txt", "x", "text-classification", "is plain text, but text-classification needs labels"),
        ("a.jsonl", '{"text": "x"}', "text-classification", "has no `label`, which text-classification needs"),
        ("a.jsonl", "{", "fill-mask", "is no JSON"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": []}', "token-classification", "has 1 tokens and 0 tags"),
    ],
)
def test_rows_that_will_not_do(name, content, task, message, tmp_path):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        rows.read_rows("sw", file, task, 10, 0)
    with pytest.raises(ValueError, match=r"does not exist. Pass --data sw=FILE"):
        rows.read_rows("sw", tmp_path / "absent.txt", task, 10, 0)


def test_rows_are_sampled_in_order(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"line {n:03}"}) + "\n" for n in range(100)))
    found = rows.read_rows("sw", file, "fill-mask", 10, 0)
    assert found == rows.read_rows("sw", file, "fill-mask", 10, 0) and len(found.rows) == 10
    assert list(found.rows) == sorted(found.rows) and found.rows != rows.read_rows("sw", file, "fill-mask", 10, 1).rows


# ---- cost ----


def test_costs_are_counted_and_timed_at_the_shapes_stated(tmp_path):
    teacher, student = models.model(seed=1), models.model(seed=2, layers=1)
    student.save_pretrained(tmp_path)
    found = cost.measure_costs(
        {"t": teacher, "s": student}, {"s": tmp_path}, shapes=((1, 8), (2, 16), (1, 999)), rounds=3
    )
    assert found["s"].parameters == student.num_parameters() < found["t"].parameters
    assert found["s"].file_megabytes == (tmp_path / "model.safetensors").stat().st_size / 1e6
    assert found["t"].file_megabytes is None
    for one in found.values():
        assert [(timing.rows, timing.tokens) for timing in one.timings] == [(1, 8), (2, 16)], "999 is too long"
        for timing in one.timings:
            milliseconds = timing.milliseconds
            assert 0 < milliseconds.low <= milliseconds.value <= milliseconds.high and timing.peak_megabytes is None
            assert timing.rows_a_second == pytest.approx(1e3 * timing.rows / milliseconds.value)


# ---- names, and `evaluate` ----


def test_every_measure_has_a_name_and_every_task_a_main_measure():
    for task, of_task in summary.QUALITY.items():
        assert set(of_task) <= set(MEASURES) and MAIN_MEASURES[task] in of_task and task in summary.UNITS
        assert not MEASURES[MAIN_MEASURES[task]].is_loss
    assert set(summary.FIDELITY) <= set(MEASURES)
    assert MEASURES["kl"].show(None) == "not measured" and MEASURES["kl"].show(Estimate(0.123456)) == "0.123"


def test_modules_of_evaluate_combine():
    both = evaluate.combine([metrics.ClassificationScores(), metrics.TopOneAgreement()])
    found = both.compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert found["accuracy"] == found["top1_agreement"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx(class_f1([0, 1, 0], [0, 1, 1], average="macro"))
    asked = metrics.MaskedAccuracy().compute(predictions=[5, 6, 7], references=[5, UNMASKED, 8])
    assert asked == {"masked_accuracy": 0.5}
    tagged = metrics.EntityScores().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "B-LOC"]])
    assert tagged["entity_f1"] == pytest.approx(2 / 3)


def test_the_modules_need_no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = evaluate.combine([metrics.MaskedAccuracy(), metrics.TopOneAgreement()])
    assert found.compute(predictions=[1], references=[1]) == {"masked_accuracy": 1.0, "top1_agreement": 1.0}


def test_masked_lines_are_plain():
    assert vars(MaskedLine("sw", (1,), (2,))) == {"language": "sw", "input_ids": (1,), "labels": (2,)}
