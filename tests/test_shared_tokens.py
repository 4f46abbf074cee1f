"""A student with a smaller vocabulary learns from a teacher with the whole one."""

import dataclasses

import models
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from hf_kd import DistillationArguments, DistillationTrainer
from hf_kd.distillation import Distillation
from hf_kd.plans import TrimPlan
from hf_kd.shared_tokens import SharedTokens
from hf_kd.students import trim_model

SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<mask>")
KEPT = (0, 1, 2, 3, 4, *range(5, 64, 3))


def tokenizer(ids=range(models.VOCABULARY)):
    """Token `w<i>` for each of the teacher's ids, renumbered in order."""
    names = [SPECIAL[index] if index < len(SPECIAL) else f"w{index}" for index in ids]
    made = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(roles, SPECIAL)))


def trim(ids=KEPT):
    return TrimPlan(ids, models.VOCABULARY, "WordLevel", {}, 1.0, {}, {}, "")


def batch(head, ids=KEPT):
    """Ragged rows in the numbers of a trimmed vocabulary."""
    rows = models.collate(models.rows(8, head=head))
    new = torch.full((models.VOCABULARY,), ids.index(5))
    new[torch.tensor(ids)] = torch.arange(len(ids))
    rows["input_ids"] = new[rows["input_ids"]]
    rows["labels"] = torch.where(rows["labels"] < 0, -100, new[rows["labels"].clamp_min(0)])
    return rows


def distillation(student, teacher, folder, ids=KEPT, **settings):
    tokenizer().save_pretrained(folder)
    args = DistillationArguments(output_dir=str(folder / "out"), teacher_model_name_or_path=str(folder), **settings)
    return Distillation(student, teacher, args.objective(), tokenizer=tokenizer(ids), teacher_name=str(folder))


@pytest.mark.parametrize("family", (*models.MASKED, *models.CAUSAL))
def test_a_trimmed_copy_agrees_with_its_teacher_in_every_term(family, tmp_path):
    head = "causal_lm" if family in models.CAUSAL else "masked_lm"
    teacher = models.model(family, head, seed=1, spread=3.0).eval()
    student = trim_model(teacher, trim())
    weights = {"kd_task_weight": 0.0, "kd_logits_weight": 1.0, "kd_attention_weight": 1.0, "kd_hidden_weight": 1.0}
    run = distillation(student, teacher, tmp_path, kd_layer_map="uniform", **weights)
    rows = batch(head)
    with run.attached():
        report, _ = run.loss(student, rows)
    assert all(abs(float(value)) < 1e-6 for value in report.terms.values()), report.terms


def test_the_logits_term_is_that_of_the_shared_columns(tmp_path):
    """A student whose numbers are in another order, with a token of its own, against plain indexing."""
    teacher = models.model("xlm_roberta", seed=1, spread=3.0).eval()
    ids = (*KEPT[:5], *KEPT[:4:-1])
    own = tokenizer(ids)
    own.add_tokens(["<extra>"])
    student = models.model("xlm_roberta", seed=2, spread=3.0, vocab_size=len(ids) + 1).eval()
    tokenizer().save_pretrained(tmp_path)
    args = DistillationArguments(output_dir=str(tmp_path / "out"), teacher_model_name_or_path=str(tmp_path))
    settings = dataclasses.replace(args.objective(), temperature=2.0, logits_divergence="forward_kl")
    run = Distillation(student, teacher, settings, tokenizer=own, teacher_name=str(tmp_path))
    rows = batch("masked_lm", KEPT)
    rows["input_ids"][:, 2] = len(ids)  # the student's own token: the teacher reads <unk>
    with run.attached():
        report, _ = run.loss(student, rows)
    read = torch.tensor([*ids, 0])[rows["input_ids"]]
    masked = rows["labels"] != -100
    with torch.no_grad():
        ours = student(rows["input_ids"], attention_mask=rows["attention_mask"]).logits[masked][:, : len(ids)] / 2
        theirs = teacher(read, attention_mask=rows["attention_mask"]).logits[masked][:, torch.tensor(ids)] / 2
    expected = 4 * nn.functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="batchmean")
    assert float(report.terms["logits"]) == pytest.approx(float(expected) * settings.weights["logits"], rel=1e-5)


def test_the_teacher_computes_the_kept_rows_alone_and_is_whole_again_afterwards(tmp_path):
    teacher = models.model("bert", seed=1).eval()
    student = trim_model(teacher, trim())
    run = distillation(student, teacher, tmp_path)
    layer = teacher.get_output_embeddings()
    whole = teacher(**models.collate(models.rows(2))).logits
    with run.attached():
        assert layer(torch.zeros(1, 16)).shape == (1, len(KEPT))
    assert "forward" not in vars(layer)
    assert torch.equal(teacher(**models.collate(models.rows(2))).logits, whole)


def test_an_output_layer_of_another_kind_runs_whole(tmp_path):
    class Scaled(nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) * 2.0

    teacher = models.model("bert", seed=1).eval()
    run = distillation(trim_model(teacher, trim()), teacher, tmp_path)
    teacher.cls.predictions.decoder.__class__ = Scaled
    shared = SharedTokens(run.shared_tokens.match, teacher)
    shared.attach()
    logits = torch.arange(64.0).repeat(3, 1)
    assert torch.equal(shared.of_teacher(logits), torch.tensor(KEPT).float().repeat(3, 1))


def test_the_trainer_matches_a_trimmed_student_by_itself(tmp_path, heard):
    teacher = models.model("modernbert", seed=1, spread=2.0)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    student = trim_model(teacher, trim())
    args = DistillationArguments(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(tmp_path / "teacher"),
        kd_recipe="comet",
        max_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
    )
    rows = [{name: value[index].tolist() for name, value in batch("masked_lm").items()} for index in range(8)]
    run = DistillationTrainer(student, args, models.collate, rows, processing_class=tokenizer(KEPT))
    run.train()
    start = next(entry for entry in run.state.log_history if "kd_start_logits" in entry)
    assert start["kd_start_logits"] < 1e-6 < start["kd_start_logits_uniform"]
    assert f"{len(KEPT)} of the student's {len(KEPT)} tokens, the teacher having 64" in heard()


def test_rows_without_ids_cannot_be_matched(tmp_path):
    teacher = models.model("bert", seed=1).eval()
    run = distillation(trim_model(teacher, trim()), teacher, tmp_path)
    with pytest.raises(ValueError, match="which needs `input_ids`; the batch holds inputs_embeds"):
        run.shared_tokens.inputs({"inputs_embeds": torch.zeros(1, 2, 16)})
