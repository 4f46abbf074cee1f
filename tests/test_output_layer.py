"""Training through the fused output loss equals training through full logits, and leaves no trace."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import models
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from hf_kd import DistillationArguments, DistillationTrainer
from hf_kd.distillation import Distillation
from hf_kd.losses.output import CHUNK_BYTES

FAMILIES = (*models.MASKED, *models.CAUSAL)
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
TERMS = {"kd_attention_weight": 10.0, "kd_hidden_weight": 1.0, "kd_layer_map": "last"}


def distillation(student, teacher, folder, chunk=CHUNK_BYTES, **settings):
    args = DistillationArguments(output_dir=str(folder), teacher_model_name_or_path="here", **settings)
    return Distillation(
        student, teacher, args.objective(), label_smoothing=args.label_smoothing_factor, output_chunk_bytes=chunk
    )


def pair(family, tied=True, width=8, double=True):
    student = models.model(family, seed=2, layers=2, width=width, tie_word_embeddings=tied)
    teacher = models.model(family, seed=1, spread=3.0)
    return (student.double(), teacher.double()) if double else (student, teacher)


def batch_for(student):
    return models.collate(models.rows(8, head="causal_lm" if "CausalLM" in type(student).__name__ else "masked_lm"))


def one_step(student, teacher, batch, folder, chunk, **settings):
    """Terms, total and gradients of one batch, and whether it was fused."""
    run = distillation(student, teacher, folder, chunk, **settings)
    student.zero_grad()
    with run.attached():
        report, outputs = run.loss(student.train(), batch)
        report.total.backward()
        uniform = run.uniform_reference(batch)
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    return report, gradients, uniform, outputs, run


def assert_same(one, other):
    assert list(one[0].terms) == list(other[0].terms)
    torch.testing.assert_close(one[0].total, other[0].total, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dict(one[0].terms), dict(other[0].terms), rtol=1e-10, atol=1e-12)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        torch.testing.assert_close(one[1][name], gradient, rtol=1e-8, atol=1e-12, msg=name)
    assert (one[2] is None and other[2] is None) or one[2] == pytest.approx(other[2], rel=1e-6)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_fused_and_equals_its_full_logits(family, tied, tmp_path):
    student, teacher = pair(family, tied)
    batch = batch_for(student)
    for settings in ({}, {"kd_positions": "all", "label_smoothing_factor": 0.1, **TERMS}):
        runs = [one_step(student, teacher, batch, tmp_path, chunk, **settings) for chunk in (3000, 0)]
        assert_same(*runs)
        assert [run[4].is_fused for run in runs] == [True, False]
        assert ["logits" in run[3] for run in runs] == [False, True]


@pytest.mark.parametrize("terms", [{"kd_task_weight": 0.0, "kd_positions": "all"}, {"kd_logits_weight": 0.0, **TERMS}])
def test_one_term_alone_equals_its_full_logits(terms, tmp_path):
    student, teacher = pair("bert")
    runs = [one_step(student, teacher, batch_for(student), tmp_path, chunk, **terms) for chunk in (CHUNK_BYTES, 0)]
    assert_same(*runs)
    assert runs[0][4].is_fused


def test_a_batch_without_labels_trains_nothing_and_is_finite(tmp_path):
    student, teacher = pair("xlm_roberta")
    batch = batch_for(student)
    batch["labels"][:] = -100
    report, gradients, *_ = one_step(student, teacher, batch, tmp_path, CHUNK_BYTES)
    assert report.total.item() == 0
    assert gradients and all(not gradient.any() for gradient in gradients.values())


def test_no_full_logits_are_made(tmp_path, monkeypatch):
    student, teacher = pair("bert")
    shapes = []
    matmul = torch.mm

    def spy(one, other, out=None):
        shapes.append((one.shape[0], other.shape[1]))
        return matmul(one, other, out=out)

    monkeypatch.setattr(torch, "mm", spy)
    batch = batch_for(student)
    one_step(student, teacher, batch, tmp_path, 5 * 128 * 8, kd_positions="all")
    compared = int((batch["attention_mask"].sum(1)).sum())
    assert compared > 50
    assert max(rows for rows, columns in shapes if columns == 64) == 5, "chunks of five positions"


# ---- models whose output layer cannot be fused ----


def test_an_adapter_on_the_output_layer_is_computed_at_once(tmp_path, heard):
    student, teacher = pair("llama", tied=False, width=16, double=False)
    student = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    hf.utils.logging.warning_once.cache_clear()
    run = one_step(student, teacher, batch_for(student.get_base_model()), tmp_path, CHUNK_BYTES)[4]
    assert not run.is_fused
    message = "logits of the student (`LlamaForCausalLM`) do not come straight from a plain linear layer"
    assert heard().count(message) == 1


def test_an_adapter_below_the_output_layer_is_fused(tmp_path):
    student, teacher = pair("llama", tied=False, width=16)
    student = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj"])).double()
    batch = batch_for(student.get_base_model())
    runs = [one_step(student, teacher, batch, tmp_path, chunk) for chunk in (CHUNK_BYTES, 0)]
    assert_same(*runs)
    assert runs[0][4].is_fused


def test_capped_logits_are_computed_at_once(tmp_path, heard):
    config = hf.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=4, final_logit_softcapping=2.0, pad_token_id=1)
    student = hf.Gemma2ForCausalLM._from_config(config, attn_implementation="eager")
    teacher = models.model("llama")
    hf.utils.logging.warning_once.cache_clear()
    assert not distillation(student, teacher, tmp_path).is_fused
    assert "logits of the student (`Gemma2ForCausalLM`)" in heard()
    assert not distillation(teacher, student, tmp_path).is_fused
    assert "logits of the teacher (`Gemma2ForCausalLM`)" in heard()


def test_a_student_that_changes_its_logits_in_training_alone_is_refused(tmp_path):
    student, teacher = pair("bert")
    run = distillation(student, teacher, tmp_path)
    plain = type(student).forward

    def scaled(self, **inputs):
        output = plain(self, **inputs)
        output["logits"] = output["logits"] * 2
        return output

    student.forward = scaled.__get__(student)
    with run.attached(), pytest.raises(ValueError, match="`--kd_output_chunk_megabytes 0`"):
        run.loss(student, batch_for(student))


# ---- engines; two processes under DDP: test_equivalence.py ----


@pytest.mark.slow
def test_a_student_sharded_by_fsdp_gets_the_gradients_of_full_logits(tmp_path):
    root = Path(__file__).parents[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(root / "tests" / "sharded.py"), str(tmp_path / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for tied in (True, False):
        fused, plain = found[f"{tied} 3000"], found[f"{tied} 0"]
        assert (fused.pop("fused"), plain.pop("fused")) == (True, False)
        assert fused == pytest.approx(plain, rel=1e-9)


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(tmp_path):
    student, teacher = pair("bert")
    batch, run = batch_for(student), distillation(student, teacher, tmp_path)
    with run.attached():
        eager = run.loss(student, batch)[0].total
        compiled = run.loss(torch.compile(student), batch)[0].total
    torch.testing.assert_close(compiled, eager)


# ---- the teacher ----


def test_a_teacher_whose_logits_are_not_compared_stops_at_the_last_layer_needed(tmp_path):
    student, teacher = pair("bert")
    ran = []
    for index, layer in enumerate(teacher.bert.encoder.layer):
        layer.register_forward_hook(lambda *args, index=index: ran.append(index))
    settings = {"kd_attention_weight": 1.0, "kd_hidden_weight": 1.0, "kd_layer_map": "0:1"}
    for logits_weight, expected in ((0.0, [0, 1]), (1.0, [0, 1, 2, 3])):
        run = distillation(student, teacher, tmp_path, kd_logits_weight=logits_weight, **settings)
        with run.attached():
            ran.clear()
            report, _ = run.loss(student, batch_for(student))
        assert ran == expected
        assert {"attention", "hidden"} < set(report.terms)


# ---- what is left behind ----


def test_nothing_is_left_behind_and_evaluation_sees_logits(tmp_path, monkeypatch):
    student, teacher = pair("modernbert")
    before = [copy.deepcopy(model.state_dict()) for model in (student, teacher)]
    batch = batch_for(student)
    batch.pop("labels")
    student.eval()
    expected = student(**batch).logits
    run = distillation(student, teacher, tmp_path)
    with run.attached():
        run.loss(student, batch_for(student))
        assert torch.equal(student(**batch).logits, expected), "armed for one pass alone"
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr("hf_kd.output_layer.output_loss", lambda *args, **kwargs: 1 / 0)
            run.loss(student, batch_for(student))
        assert torch.equal(student(**batch).logits, expected), "nor after a failure"
    for model, weights in zip((student, teacher), before):
        assert not any("forward" in vars(module) for module in model.modules())
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(student(**batch).logits, expected)


def test_the_flag_reaches_the_distillation(tmp_path):
    def run(**settings):
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 2, "logging_steps": 1}
        student, teacher = pair("bert", double=False)
        args = DistillationArguments(output_dir=str(tmp_path), save_strategy="no", **quiet, **settings)
        trainer = DistillationTrainer(student, args, models.collate, models.rows(8), teacher=teacher)
        trainer.train()
        return trainer

    fused, plain = run(), run(kd_output_chunk_megabytes=0)
    assert (fused.distillation.is_fused, plain.distillation.is_fused) == (True, False)
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (fused, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
