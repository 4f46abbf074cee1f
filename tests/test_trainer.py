"""What users of `Trainer` rely on, with and without a teacher."""

import copy
import os
import re

import models
import pytest
import runs
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_kd import DistillationArguments, DistillationTrainer
from hf_kd.projections import FILE_NAME


def arguments(folder, **more):
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
    return DistillationArguments(output_dir=str(folder), logging_steps=1, **{**quiet, **more})


def trainer(folder, student, teacher=None, head="masked_lm", count=16, trainer_kwargs=None, **more):
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        args=arguments(folder, **more),
        train_dataset=models.rows(count, head=head),
        eval_dataset=models.rows(8, seed=5, head=head),
        data_collator=models.collate,
        **(trainer_kwargs or {}),
    )


def logged(run, prefix):
    return next(entry for entry in run.state.log_history if any(name.startswith(prefix) for name in entry))


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---- without a teacher it is Trainer ----


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_without_a_teacher_it_is_trainer(family, tmp_path):
    def run(cls):
        return cls(
            model=models.model(family, seed=3),
            args=TrainingArguments(
                str(tmp_path / cls.__name__), max_steps=4, logging_steps=1, use_cpu=True, report_to="none"
            ),
            train_dataset=models.rows(16),
            eval_dataset=models.rows(8),
            data_collator=models.collate,
        )

    stock, ours = run(Trainer), run(DistillationTrainer)
    for each in (stock, ours):
        each.train()
    assert runs.steps(stock) == runs.steps(ours)
    assert stock.evaluate()["eval_loss"] == ours.evaluate()["eval_loss"]
    for one, other in zip(stock.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_right_scaling_is_said_once(tmp_path, heard):
    run = trainer(tmp_path, models.model("bert"), gradient_accumulation_steps=2, max_steps=3)
    transformers.utils.logging.warning_once.cache_clear()
    run.train()
    assert heard().count("https://github.com/huggingface/transformers/issues/47688") == 1


def test_a_batch_without_labels_gives_no_nan_without_a_teacher(tmp_path):
    rows = models.rows(4)
    rows[1]["labels"] = [-100] * len(rows[1]["labels"])
    run = DistillationTrainer(
        model=models.model("bert"),
        args=arguments(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=1),
        train_dataset=rows,
        data_collator=models.collate,
    )
    run.train()
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())


# ---- warm start ----


def test_an_identical_student_has_no_distillation_loss(tmp_path):
    student = models.model("xlm_roberta", spread=3.0)
    run = trainer(tmp_path, student, copy.deepcopy(student), **runs.EVERY_TERM, kd_attention_heads="per_head")
    run.train()
    start = logged(run, "kd_start_")
    assert start["step"] == 0
    for term in ("logits", "attention", "hidden", "relation"):
        assert abs(start[f"kd_start_{term}"]) < 1e-6, term
    assert start["kd_start_task"] > 1


def test_a_copied_student_starts_below_a_random_one(tmp_path):
    teacher = models.model("modernbert", layers=6, spread=2.0)
    weights = {"kd_task_weight": 0.0, "kd_logits_weight": 1.0}
    copied = trainer(tmp_path, teacher, student_num_hidden_layers=5, **weights)
    copied.train()
    random = trainer(tmp_path, models.model("modernbert", layers=5, seed=9, spread=2.0), copied.teacher, **weights)
    random.train()
    starts = [logged(run, "kd_start_") for run in (copied, random)]
    assert starts[0]["kd_start_logits"] < starts[0]["kd_start_logits_uniform"]
    assert starts[0]["kd_start_logits"] < starts[1]["kd_start_logits"]


def test_a_term_without_a_say_is_warned_of(tmp_path, heard):
    teacher = models.model("bert", spread=3.0)
    trainer(tmp_path, models.model("bert", seed=2), teacher, kd_attention_weight=1e-9).train()
    found = re.search(r"The weighted attention term is (\S+) and the task term (\S+), ([\d,]+) times as much", heard())
    assert found and int(found[3].replace(",", "")) > 1000
    assert "multiply `kd_attention_weight` by" in heard()


# ---- the student cut from the model given ----


def test_the_model_given_becomes_the_teacher(tmp_path, heard):
    given = models.model("bert", layers=6)
    before = copy.deepcopy(given.state_dict())
    run = trainer(tmp_path, given, student_num_hidden_layers=3)
    assert run.teacher is given and run.model is not given
    assert run.student_plan.kept_layers == (0, 3, 5)
    assert "layers 0, 3, 5 (3 evenly spaced of 6)" in heard()
    for slot, layer in enumerate((0, 3, 5)):
        for one, other in zip(
            run.model.bert.encoder.layer[slot].parameters(), given.bert.encoder.layer[layer].parameters()
        ):
            assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
    run.train()
    assert all(
        torch.equal(before[name], tensor) for name, tensor in given.state_dict().items()
    ), "the teacher is frozen"
    run.save_model()
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.config.num_hidden_layers == 3
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_model_init_gives_each_new_student_the_teacher(tmp_path):
    teacher = models.model("bert", seed=1, spread=3.0)
    run = trainer(
        tmp_path,
        None,
        teacher,
        trainer_kwargs={"model_init": lambda: models.model("bert", seed=2, width=8)},
        **runs.EVERY_TERM,
    )
    run.train()
    first = runs.steps(run)
    run.train()
    assert runs.close(first, runs.steps(run))


# ---- precision, checkpointing, resuming ----


def test_half_precision_checkpoints_train_in_float32(tmp_path, heard):
    run = trainer(tmp_path, models.model("bert").to(torch.float16), models.model("bert", seed=1))
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    assert "trained with float32 weights" in heard()
    run.train()


def test_bf16_autocast_is_close_to_float32(tmp_path):
    whole = runs.steps(runs.train(tmp_path, double=False))
    half = runs.steps(runs.train(tmp_path, double=False, bf16=True))
    for one, other in zip(whole, half, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.03)


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain = runs.train(tmp_path)
    checkpointed = runs.train(tmp_path, gradient_checkpointing=True)
    assert checkpointed.model.is_gradient_checkpointing
    assert runs.close(runs.steps(plain), runs.steps(checkpointed))
    with pytest.raises(ValueError, match="use_reentrant"):
        runs.train(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})


@pytest.mark.parametrize("case", ["every_term", "tokens"])
def test_resuming_gives_the_same_losses(case, tmp_path):
    more = {"optim": "adamw_torch", "learning_rate": 1e-3, "batch": 4, "save_strategy": "steps", "save_steps": 3}
    whole = runs.train(tmp_path / "whole", case, steps=6, **more)
    resumed = runs.train(tmp_path / "resumed", case, steps=6, resume=str(tmp_path / "whole" / "checkpoint-3"), **more)
    assert runs.close(runs.steps(whole)[3:], runs.steps(resumed)[-3:], 1e-9)
    assert len({entry["loss"] for entry in runs.steps(whole)}) == 6
    assert runs.weights(whole) == pytest.approx(runs.weights(resumed), rel=1e-12)


def test_projections_are_trained_saved_and_absent_from_the_student(tmp_path):
    run = runs.train(tmp_path, steps=2, save_strategy="steps", save_steps=1, double=False)
    initial = copy.deepcopy(run.distillation.projections.state_dict())
    checkpoint = tmp_path / "checkpoint-1"
    assert (checkpoint / FILE_NAME).is_file()
    stored = load_file(checkpoint / FILE_NAME)
    assert stored.keys() == initial.keys()
    assert any(not torch.equal(stored[name], initial[name]) for name in stored), "they train between steps 1 and 2"
    for folder in (checkpoint, tmp_path / "final"):
        if folder.name == "final":
            run.save_model(str(folder))
            assert not (folder / FILE_NAME).exists()
        _, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not hasattr(run.model, "kd_projections")
    assert not any("kd_projections" in name for name in run.model._keys_to_ignore_on_save or ())


def test_a_checkpoint_without_projections_is_refused(tmp_path):
    more = {"save_strategy": "steps", "save_steps": 1, "double": False}
    runs.train(tmp_path, steps=2, **more)
    os.remove(tmp_path / "checkpoint-1" / FILE_NAME)
    with pytest.raises(ValueError, match=re.escape(f"has no {FILE_NAME}, but this run trains projections")):
        runs.train(tmp_path, steps=2, resume=str(tmp_path / "checkpoint-1"), **more)


def test_load_best_model_at_end(tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = runs.train(tmp_path, load_best_model_at_end=True, steps=3, double=False, **best)
    evaluations = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert run.state.best_metric == min(evaluations)
    assert run.evaluate()["eval_loss"] == pytest.approx(min(evaluations), rel=1e-6)


# ---- evaluation ----


def test_eval_loss_is_the_students_task_loss_alone(tmp_path):
    run = trainer(
        tmp_path, models.model("bert"), models.model("bert", seed=1), per_device_eval_batch_size=8, **runs.EVERY_TERM
    )
    batch = models.collate(models.rows(8, seed=5))
    with torch.no_grad():
        expected = float(run.model.eval()(**batch).loss)
    assert run.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_stock_metrics_see_predictions_shaped_like_labels(family, tmp_path):
    student = models.model(family)
    if family == "modernbert":
        student.sparse_prediction = True  # transformers then gives logits at the labels alone
    seen = []

    def compute_metrics(prediction):
        seen.append((prediction.predictions.shape, prediction.label_ids.shape))
        return {"accuracy": 0.5}

    run = trainer(
        tmp_path,
        student,
        models.model(family, seed=1),
        eval_strategy="steps",
        eval_steps=1,
        trainer_kwargs={
            "compute_metrics": compute_metrics,
            "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
        },
    )
    run.train()
    assert seen and all(one == other for one, other in seen)
    assert run.predict(models.rows(4)).metrics["test_accuracy"] == 0.5
    assert family == "bert" or student.sparse_prediction, "the user's setting is put back"


# ---- leaving models as they were ----


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("stop here")


def test_nothing_is_left_in_the_models(tmp_path):
    student, teacher = models.model("bert", seed=2, width=8), models.model("bert", seed=1).train()
    before = hook_count(student), hook_count(teacher)
    names = {name for name, _ in student.named_modules()}
    run = trainer(tmp_path, student, teacher, trainer_kwargs={"callbacks": [Stop()]}, **runs.EVERY_TERM)
    with pytest.raises(RuntimeError, match="stop here"):
        run.train()
    assert (hook_count(student), hook_count(teacher)) == before
    assert {name for name, _ in student.named_modules()} == names
    assert teacher.training, "put back as it was given"
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    student(**models.collate(models.rows(2)))


def test_the_teacher_runs_without_dropout(tmp_path):
    teacher = models.model("bert", seed=1)
    for module in teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    weights = {"kd_task_weight": 0.0, "kd_logits_weight": 1.0, "learning_rate": 0.0}
    run = trainer(tmp_path, models.model("bert", seed=2), teacher.train(), per_device_train_batch_size=16, **weights)
    run.train()
    first, second = runs.steps(run)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)


def test_arguments_are_not_changed(tmp_path):
    args = arguments(tmp_path, kd_recipe="comet")
    before = args.to_dict()
    DistillationTrainer(
        models.model("bert", seed=2), args, models.collate, models.rows(8), teacher=models.model("bert", seed=1)
    ).train()
    assert args.to_dict() == before


def test_the_students_dropout_stays_on(tmp_path):
    student = models.model("bert", seed=2)
    seen = []
    student.bert.encoder.layer[0].register_forward_hook(lambda module, args, output: seen.append(module.training))
    run = trainer(tmp_path, student, models.model("bert", seed=1))
    seen.clear()  # the taps were tried out, in evaluation mode
    run.train()
    assert seen and all(seen)


def test_left_padding_counts_as_right_padding(tmp_path):
    def left(batch):
        made = models.collate(batch)
        shift = [int(row.eq(0).sum()) for row in made["attention_mask"]]
        return {name: torch.stack([row.roll(n) for row, n in zip(value, shift)]) for name, value in made.items()}

    logs = []
    for collator in (models.collate, left):
        pair = (models.model("xlm_roberta", seed=s, width=w, spread=2.0).double() for s, w in ((2, 8), (1, 16)))
        student, teacher = pair
        args = arguments(tmp_path, kd_positions="all", **runs.EVERY_TERM)
        run = DistillationTrainer(student, args, collator, models.rows(16), teacher=teacher)
        run.train()
        logs.append(runs.steps(run))
    assert runs.close(*logs)


# ---- adapters, labels, other heads ----


def test_a_lora_student(tmp_path):
    student = get_peft_model(
        models.model("bert", seed=2, width=8), LoraConfig(r=2, target_modules=["query", "value"], inference_mode=False)
    )
    run = trainer(
        tmp_path, student, models.model("bert", seed=1), save_strategy="steps", save_steps=1, **runs.EVERY_TERM
    )
    run.train()
    assert (tmp_path / "checkpoint-1" / FILE_NAME).is_file()
    run.save_model()
    assert (tmp_path / "adapter_model.safetensors").is_file()
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert stored and all("lora" in name for name in stored)
    run.create_model_card()
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


def test_classes_are_matched_by_name(tmp_path):
    names = {"id2label": {0: "neg", 1: "neu", 2: "pos"}, "label2id": {"neg": 0, "neu": 1, "pos": 2}}
    turned = {"id2label": {0: "pos", 1: "neg", 2: "neu"}, "label2id": {"pos": 0, "neg": 1, "neu": 2}}
    student = models.model("bert", "sequence_classification", spread=3.0, **names)
    teacher = models.model("bert", "sequence_classification", spread=3.0, **turned)
    order = [1, 2, 0]  # the student's classes among the teacher's
    with torch.no_grad():
        teacher.load_state_dict(student.state_dict())
        teacher.classifier.weight[order], teacher.classifier.bias[order] = (
            student.classifier.weight.clone(),
            student.classifier.bias.clone(),
        )
    run = trainer(tmp_path, student, teacher, "sequence_classification", kd_task_weight=0, kd_logits_weight=1)
    run.train()
    assert abs(logged(run, "kd_start_")["kd_start_logits"]) < 1e-6, "the same function under other label orders"


def test_labels_of_other_names_are_refused(tmp_path):
    student = models.model("bert", "sequence_classification", num_labels=3)
    teacher = models.model("bert", "sequence_classification", id2label={0: "neg", 1: "neu", 2: "pos"})
    with pytest.raises(
        ValueError, match="The student's labels are LABEL_0, LABEL_1, LABEL_2; the teacher's are neg, neu, pos"
    ):
        trainer(tmp_path, student, teacher, "sequence_classification")


def test_a_classifier_learns_without_labels(tmp_path):
    unlabelled = [
        {k: v for k, v in row.items() if k != "labels"} for row in models.rows(8, head="sequence_classification")
    ]
    pair = (models.model("bert", "sequence_classification", seed=s, num_labels=3) for s in (2, 1))
    student, teacher = pair
    run = DistillationTrainer(
        student,
        arguments(tmp_path, kd_task_weight=0, kd_logits_weight=1),
        models.collate,
        unlabelled,
        teacher=teacher,
    )
    run.train()
    assert runs.steps(run)[0]["loss"] > 0
    with pytest.raises(ValueError, match="The batch has no labels"):
        DistillationTrainer(student, arguments(tmp_path), models.collate, unlabelled, teacher=teacher).train()


# ---- refusals ----


def refusal(
    tmp_path, match, student=None, teacher=None, error=ValueError, head="masked_lm", trainer_kwargs=None, **more
):
    with pytest.raises(error, match=match):
        trainer(tmp_path, student or models.model("bert"), teacher, head, trainer_kwargs=trainer_kwargs, **more)


def test_teachers_that_do_not_fit_are_refused(tmp_path):
    student = models.model("bert")
    refusal(tmp_path, "Student and teacher share weights", student, student)
    refusal(tmp_path, "vocabulary has 64 entries, the teacher's 90", student, models.model("bert", vocab_size=90))
    refusal(
        tmp_path,
        "has a masked_lm head, but teacher `BertForTokenClassification`",
        student,
        models.model("bert", "token_classification"),
    )
    refusal(tmp_path, "it must be a transformers model", student, torch.nn.Linear(2, 2), TypeError)
    with torch.device("meta"):
        meta = models.model("bert")
    refusal(tmp_path, "meta device", student, meta)
    refusal(
        tmp_path,
        "`--kd_attention_heads head_mean`",
        student,
        models.model("bert", heads=2),
        kd_attention_weight=1,
        kd_attention_heads="per_head",
    )
    refusal(
        tmp_path,
        "5 relation heads do not divide the student's",
        student,
        models.model("bert", seed=1),
        kd_relation_weight=1,
        kd_relation_heads=5,
    )
    refusal(
        tmp_path,
        "asks for teacher layer 9; the teacher has layers 0 to 3",
        student,
        models.model("bert", seed=1),
        kd_hidden_weight=1,
        kd_layer_map="0:9",
    )
    refusal(
        tmp_path,
        "A `teacher` was passed, and the arguments name one too",
        student,
        models.model("bert", seed=1),
        student_num_hidden_layers=2,
    )


def test_unsupported_heads_are_named(tmp_path):
    for cls in (BertForMultipleChoice, BertForNextSentencePrediction):
        refusal(
            tmp_path,
            f"`{cls.__name__}` has a head that `hf_kd` cannot distil",
            cls(models.config("bert")),
            models.model("bert"),
        )


def test_regression_needs_mse(tmp_path):
    pair = [models.model("bert", "sequence_classification", seed=s, num_labels=1) for s in (1, 2)]
    refusal(tmp_path, "Use `--kd_logits_divergence mse`", *pair, head="sequence_classification")


def test_settings_without_a_teacher_are_refused(tmp_path):
    refusal(
        tmp_path,
        "`kd_recipe`, `kd_temperature` are set, but there is no teacher",
        kd_recipe="comet",
        kd_temperature=3.0,
    )
    with pytest.raises(ValueError, match="`student_layers` is last, but `student_num_hidden_layers` does not say"):
        arguments(tmp_path, student_layers="last")


def test_data_parallel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillationArguments, "n_gpu", property(lambda self: 2))
    refusal(tmp_path, "torchrun --nproc_per_node 2", models.model("bert"), models.model("bert", seed=1))


def test_settings_that_would_be_ignored_are_refused(tmp_path):
    pair = models.model("bert", width=8), models.model("bert", seed=1)
    refusal(
        tmp_path, "`compute_loss_func` and a teacher", *pair, trainer_kwargs={"compute_loss_func": lambda *a, **k: None}
    )
    optimizer = torch.optim.SGD(pair[0].parameters(), lr=0.1)
    refusal(
        tmp_path,
        "learned projections, which it does not hold",
        *pair,
        trainer_kwargs={"optimizers": (optimizer, None)},
        kd_hidden_weight=1,
    )
    with pytest.raises(TypeError, match="Pass `DistillationArguments`"):
        DistillationTrainer(pair[0], TrainingArguments(str(tmp_path)), teacher=pair[1])


def test_rows_longer_than_the_teachers_positions_are_refused(tmp_path):
    short = models.config("xlm_roberta")
    short.max_position_embeddings = 10  # of which 2 are the padding's
    with pytest.raises(ValueError, match="tokens long, but teacher `XLMRobertaForMaskedLM` has 8 positions"):
        trainer(tmp_path, models.model("xlm_roberta"), AutoModelForMaskedLM.from_config(short)).train()
