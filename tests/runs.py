"""Whole training runs, small enough to repeat under every split of the same rows."""

import models
import torch

from hf_kd import DistillationArguments, DistillationTrainer

EVERY_TERM = {
    "kd_task_weight": 1.0,
    "kd_logits_weight": 1.0,
    "kd_attention_weight": 100.0,
    "kd_hidden_weight": 1.0,
    "kd_relation_weight": 10.0,
    "kd_layer_map": "uniform",
    "kd_hidden_layer_map": "embeddings,uniform",
}
"""Every term at once; with a narrow student, projections too."""

CASES = {
    "every_term": {"family": "xlm_roberta", "width": 8, "kd": EVERY_TERM},
    "all_positions": {"family": "modernbert", "width": 16, "kd": {"kd_positions": "all", "kd_recipe": "comet"}},
    "causal": {"family": "llama", "width": 16, "kd": {"kd_recipe": "privileged"}},
    "tokens": {"family": "bert", "width": 16, "head": "token_classification", "kd": {}},
    "sequences": {"family": "bert", "width": 16, "head": "sequence_classification", "kd": {}},
    "answers": {"family": "bert", "width": 16, "head": "question_answering", "kd": {}},
    "relations": {
        "family": "bert",
        "width": 8,
        "kd": {"kd_recipe": "minilmv2"},
        "args": {"gradient_checkpointing": True},
    },
    "one_labelled_row": {"family": "bert", "width": 16, "kd": {"kd_recipe": "comet"}, "labelled_rows": 1},
    "no_teacher": {"family": "xlm_roberta", "width": 16, "kd": None},
}


def train(
    output_dir, case="every_term", *, batch=32, accumulate=1, steps=3, double=True, count=32, resume=None, **args
):
    """One run over the same rows a step, however they are split. Returns the trainer."""
    spec = CASES[case]
    head = spec.get("head") or ("causal_lm" if spec["family"] in models.CAUSAL else "masked_lm")
    more = {} if head in ("masked_lm", "causal_lm", "question_answering") else {"num_labels": 3}
    teacher = models.model(spec["family"], head, seed=1, spread=3.0, **more)
    student = models.model(spec["family"], head, seed=2, layers=2, width=spec["width"], **more)
    if double:
        teacher, student = teacher.double(), student.double()
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "max_steps": steps,
        "logging_steps": 1,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **spec.get("args", {}),
        **args,
    }
    dataset = models.rows(count, head=head)
    for row in dataset[spec.get("labelled_rows", count) :]:
        row["labels"] = [-100] * len(row["labels"])
    trainer = DistillationTrainer(
        model=student,
        teacher=None if spec["kd"] is None else teacher,
        args=DistillationArguments(**settings, **(spec["kd"] or {})),
        train_dataset=dataset,
        eval_dataset=models.rows(8, seed=5, head=head),
        data_collator=models.collate,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def steps(trainer):
    """What each optimizer step logged, without times."""
    return [
        {name: value for name, value in entry.items() if name in ("loss", "grad_norm") or name.startswith("kd_")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def weights(trainer):
    """A checksum of the student's weights."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return float(sum(parameter.detach().double().square().sum() for parameter in model.parameters()))


def close(one, other, tolerance=1e-6):
    """Whether two logs agree, entry by entry."""
    assert [sorted(entry) for entry in one] == [sorted(entry) for entry in other]
    for first, second in zip(one, other, strict=True):
        for name in first:
            assert abs(first[name] - second[name]) <= tolerance * max(abs(first[name]), 1e-6), (name, first, second)
    assert one, "two empty logs prove nothing"
    return True


if __name__ == "__main__":  # one process of several: `torchrun tests/runs.py OUTPUT CASE,CASE BATCH ACCUMULATE`
    import gc
    import json
    import sys

    from accelerate import PartialState

    torch.set_num_threads(1)
    folder, names, batch, accumulate = sys.argv[1:5]
    report = {}
    for name in names.split(","):
        trainer = train(f"{folder}/{name}", name, batch=int(batch), accumulate=int(accumulate))
        metrics = trainer.evaluate()
        report[name] = {"steps": steps(trainer), "weights": weights(trainer), "eval_loss": metrics["eval_loss"]}
    with open(f"{folder}/rank{trainer.args.process_index}.json", "w") as file:
        json.dump(report, file)
    # A thread of gloo's that asks for the interpreter while it ends aborts the process: leave none behind.
    del trainer
    gc.collect()
    PartialState().destroy_process_group()
