"""Upstream's example scripts, two import lines added, distil: each runs in a process of its own.

Set HF_KD_STOCK_SCRIPTS to a folder laid out as transformers' examples/pytorch. The scripts are not part of this
repository. About ten seconds a run on a CPU.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import stock_helpers as stock
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from hf_kd import trim_vocabulary

pytestmark = [
    pytest.mark.stock,
    pytest.mark.skipif(
        stock.ENVIRONMENT not in os.environ,
        reason=f"needs upstream's example scripts: set {stock.ENVIRONMENT} to transformers' examples/pytorch",
    ),
]

METRICS = {
    "run_mlm.py": "eval_accuracy",
    "run_clm.py": "eval_accuracy",
    "run_ner.py": "eval_f1",
    "run_glue.py": "eval_accuracy",
    "run_classification.py": "eval_accuracy",
    "run_qa.py": "eval_exact_match",
}
LENGTHS = {
    "run_clm.py": ["--block_size", 32],
    "run_mlm.py": ["--max_seq_length", 32],
    "run_qa.py": ["--max_seq_length", stock.SEQUENCE_TOKENS, "--doc_stride", 16],
}
LABELS = {"run_ner.py": stock.TAGS, "run_glue.py": ("0", "1", "2"), "run_classification.py": ("0", "1", "2")}
STEPS = 4


def distil(folder: Path, script: str, *flags: object, data: list[str] | None = None) -> Path:
    """Run a script with the two lines in `folder`, where its models already are; returns what it saved."""
    stock.write_metrics(folder)
    data = data or stock.write_data(script, folder)
    arguments = [
        *("--output_dir", "saved", "--do_train", "--do_eval", "--max_steps", STEPS, "--logging_steps", 1),
        *("--use_cpu", "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2),
        *LENGTHS.get(script, ["--max_seq_length", stock.SEQUENCE_TOKENS]),
        *data,
        *flags,
    ]
    run = stock.run_script(stock.copy_script(script, folder), arguments)
    assert run.returncode == 0, run.stderr[run.stderr.rfind("Traceback") :]
    return folder / "saved"


def save_pair(folder: Path, script: str, *, family: str = "bert", width: int = 32) -> list[str]:
    """Save a two-layer teacher with the script's head and a one-layer student; returns the flags naming them."""
    pretrained = AutoModelForCausalLM if script == "run_clm.py" else AutoModelForMaskedLM
    stock.save_model(pretrained, folder / "student", family=family, layers=1, width=width, seed=1)
    stock.save_model(stock.HEADS[script], folder / "teacher", family=family, labels=LABELS.get(script))
    return ["--model_name_or_path", "student", "--teacher_model_name_or_path", "teacher"]


def training_log(saved: Path) -> list[dict[str, float]]:
    history = json.loads((saved / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def terms_of(entry: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name.startswith("kd_")}


def check_saved(saved: Path, script: str, *, layers: int = 1, terms: tuple[str, ...] = ("task", "logits")) -> None:
    """The student loads cleanly, was evaluated, logged its terms, and has a card."""
    student, loading = stock.HEADS[script].from_pretrained(saved, output_loading_info=True)
    assert not any(loading.values()), loading
    assert student.config.num_hidden_layers == layers
    assert not any("kd_" in name for name in load_file(saved / "model.safetensors"))

    results = json.loads((saved / "all_results.json").read_text())
    finite = [METRICS[script], "train_loss"] + (["eval_loss"] if script != "run_qa.py" else [])
    for name in finite:  # run_qa.py evaluates without labels, so without a loss
        assert math.isfinite(results[name]), (name, results)

    entries = training_log(saved)
    assert len(entries) == STEPS
    for entry in entries:
        assert set(terms_of(entry)) == {f"kd_{term}" for term in terms}
        assert sum(terms_of(entry).values()) == pytest.approx(entry["loss"], rel=1e-3, abs=2e-4)

    card = (saved / "README.md").read_text()
    assert card.startswith("---\n")
    assert str(saved.parent) not in card


@pytest.mark.parametrize("script", sorted(METRICS))
def test_script_distils_with_two_lines(script: str, tmp_path: Path) -> None:
    flags = save_pair(tmp_path, script, family="gpt2" if script == "run_clm.py" else "bert")
    check_saved(distil(tmp_path, script, *flags), script)


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_run_mlm_distils_other_families(family: str, tmp_path: Path) -> None:
    flags = save_pair(tmp_path, "run_mlm.py", family=family)
    check_saved(distil(tmp_path, "run_mlm.py", *flags, "--line_by_line"), "run_mlm.py")


def test_run_mlm_follows_a_recipe(tmp_path: Path) -> None:
    flags = save_pair(tmp_path, "run_mlm.py")
    saved = distil(tmp_path, "run_mlm.py", *flags, "--kd_recipe", "comet")
    check_saved(saved, "run_mlm.py", terms=("logits", "attention"))


@pytest.mark.parametrize("script", ["run_mlm.py", "run_ner.py", "run_glue.py"])
def test_script_cuts_the_student_from_the_model_it_is_given(script: str, tmp_path: Path) -> None:
    stock.save_model(stock.HEADS[script], tmp_path / "teacher", labels=LABELS.get(script))
    saved = distil(tmp_path, script, "--model_name_or_path", "teacher", "--student_num_hidden_layers", 1)
    check_saved(saved, script)
    assert stock.HEADS[script].from_pretrained(tmp_path / "teacher").config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("script", "family"), [("run_mlm.py", "bert"), ("run_mlm.py", "xlm-roberta"), ("run_ner.py", "bert")]
)
def test_a_trimmed_student_learns_from_the_whole_teacher(script: str, family: str, tmp_path: Path) -> None:
    """No flag says that the vocabularies differ; a trimmed copy of the teacher starts without any distance to it."""
    stock.save_model(stock.HEADS[script], tmp_path / "teacher", family=family, labels=LABELS.get(script))
    teacher = stock.HEADS[script].from_pretrained(tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    student, small, plan = trim_vocabulary(teacher, tokenizer, stock.sentences(40), coverage=1.0)
    assert plan.size < len(tokenizer)
    student.config.hidden_dropout_prob = student.config.attention_probs_dropout_prob = 0.0
    student.save_pretrained(tmp_path / "student")
    small.save_pretrained(tmp_path / "student")
    flags = ["--model_name_or_path", "student", "--teacher_model_name_or_path", "teacher"]
    saved = distil(tmp_path, script, *flags)
    check_saved(saved, script, layers=2)
    history = json.loads((saved / "trainer_state.json").read_text())["log_history"]
    start = next(entry for entry in history if "kd_start_logits" in entry)
    assert start["kd_start_logits"] < 1e-3 * start["kd_start_logits_uniform"]


def test_run_mlm_without_a_teacher_trains_as_before(tmp_path: Path) -> None:
    save_pair(tmp_path, "run_mlm.py")
    saved = distil(tmp_path, "run_mlm.py", "--model_name_or_path", "student")
    assert not any(terms_of(entry) for entry in training_log(saved))


def test_run_ner_resumes_exactly(tmp_path: Path) -> None:
    """Not run_mlm: its collator masks one batch ahead of the saved random state, here as in the stock Trainer."""
    flags = [*save_pair(tmp_path, "run_ner.py", width=16), "--kd_hidden_weight", 1, "--save_steps", 2]
    whole = training_log(distil(tmp_path, "run_ner.py", *flags))
    (tmp_path / "saved").rename(tmp_path / "first")
    resumed = distil(tmp_path, "run_ner.py", *flags, "--resume_from_checkpoint", "first/checkpoint-2")
    check_saved(resumed, "run_ner.py", terms=("task", "logits", "hidden"))
    for before, after in zip(whole[2:], training_log(resumed)[2:], strict=True):
        assert terms_of(after) == pytest.approx(terms_of(before), rel=1e-5)


def test_run_glue_matches_labels_by_name(tmp_path: Path) -> None:
    """A teacher with its classes in another order teaches the very same thing."""
    logs = []
    for names in (("negative", "positive"), ("positive", "negative")):
        folder = tmp_path / names[0]
        folder.mkdir()
        flags = save_pair(folder, "run_glue.py")
        stock.save_model(stock.HEADS["run_glue.py"], folder / "teacher", labels=names)
        if names[0] == "positive":
            _flip_classifier(folder / "teacher" / "model.safetensors")
        saved = distil(folder, "run_glue.py", *flags, data=stock.write_glue(folder))
        check_saved(saved, "run_glue.py")
        logs.append(training_log(saved))
    for straight, flipped in zip(*logs, strict=True):
        assert terms_of(flipped) == pytest.approx(terms_of(straight), rel=1e-5)


@pytest.mark.parametrize("data", ["csv", "sst2"])
def test_run_glue_learns_from_a_teacher_it_fine_tuned(data: str, tmp_path: Path) -> None:
    """Under transformers 5 the script saves its names in `label2id` alone, and two names not even there."""
    flags = stock.write_glue(tmp_path) if data == "sst2" else stock.write_data("run_glue.py", tmp_path)
    stock.save_model(AutoModelForMaskedLM, tmp_path / "pretrained")
    distil(tmp_path, "run_glue.py", "--model_name_or_path", "pretrained", data=flags).rename(tmp_path / "teacher")
    stock.save_model(AutoModelForMaskedLM, tmp_path / "student", layers=1, seed=1)
    models = ["--model_name_or_path", "student", "--teacher_model_name_or_path", "teacher"]
    check_saved(distil(tmp_path, "run_glue.py", *models, data=flags), "run_glue.py")


def _flip_classifier(path: Path) -> None:
    weights = load_file(path)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = torch.flip(weights[name], dims=(0,)).contiguous()
    save_file(weights, path, metadata={"format": "pt"})
