"""The facts of a run, gathered from the trainer: what the card is made of.

No local path, no user name and no secret enters a fact.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from . import __version__, provenance
from .architecture import head_of, text_config, unwrap_peft
from .plan_words import sentences
from .provenance import hub_id
from .records import RunFacts
from .students.folder import read_plan

if TYPE_CHECKING:
    from torch import nn

    from .distillation import Distillation
    from .plans import StudentPlan
    from .trainer import DistillationTrainer

logger = logging.get_logger(__name__)

_LIBRARIES = ("transformers", "torch", "datasets", "tokenizers", "peft")

TASKS = {
    "masked_lm": "fill-mask",
    "causal_lm": "text-generation",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
}
"""The Hub's name of the task of each head."""


def gather(
    trainer: DistillationTrainer,
    distillation: Distillation,
    language: str | list[str] | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> RunFacts:
    """Gather what a card says about a run.

    The arguments after the first two are those of `Trainer.create_model_card`. `finetuned_from` is
    not believed: scripts pass local paths there, while the models know the repository and commit
    that they were loaded from.
    """
    whole = trainer.accelerator.unwrap_model(trainer.model)
    student = unwrap_peft(whole)
    head = head_of(student) or "unknown"
    # A cut student starts from the teacher; any other from the checkpoint that it was loaded from.
    was_cut = trainer.student_plan is not None
    folder = name_of(student)
    plan = trainer.student_plan or _plan_beside(folder)
    origin = distillation.teacher if was_cut else student
    inherited = None if license else provenance.licence_of(name_of(origin), _revision(origin))
    return RunFacts(
        model_name=model_name or Path(trainer.args.output_dir).absolute().name,
        student=describe(student)
        | {
            "head": head,
            "base_model": (plan and plan.teacher) or hub_id_of(origin),
            "tokenizer": trainer.processing_class is not None,
        },
        teacher=describe(distillation.teacher)
        | {"hub_id": hub_id_of(distillation.teacher), "revision": _revision(distillation.teacher)},
        plan=plan,
        objective=distillation.objective,
        layer_pairs={term: tuple(map(str, pairs)) for term, pairs in distillation.pairs.items() if pairs},
        training=_training(trainer),
        results=_results(trainer.state.log_history),
        history=tuple(dict(entry) for entry in trainer.state.log_history),
        languages=_strings(language),
        licence=license or inherited,
        datasets=tuple(name for name in _strings(dataset_tags) or _strings(dataset) if hub_id(name)),
        tasks=_strings(tasks) or ((TASKS[head],) if head in TASKS else ()),
        tags=_strings(tags),
        versions={"hf-kd": __version__} | {name: version(name) for name in _LIBRARIES},
        peft=student is not whole,
        adapter=_adapter(whole),
        licence_from=("teacher" if was_cut else "model that the student was loaded from") if inherited else None,
        repository=trainer.hub_model_id if trainer.args.push_to_hub else None,
        data=_data(trainer.train_dataset),
        hardware=provenance.hardware_of(trainer.args.device),
        command=provenance.command_line(trainer.args.world_size),
        carbon_kilograms=provenance.carbon_of(trainer.callback_handler.callbacks),
    )


def describe(model: nn.Module) -> dict[str, Any]:
    """Class, sizes and parameter counts of a model. Parameters are counted once where tied."""
    model = unwrap_peft(model)
    config = text_config(model)
    embeddings = model.get_input_embeddings()
    return {
        "class": type(model).__name__,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": getattr(config, "num_attention_heads", None),
        "vocabulary": config.vocab_size,
        "parameters": sum(parameter.numel() for parameter in _own_parameters(model)),
        "embedding_parameters": sum(parameter.numel() for parameter in embeddings.parameters()),
    }


def name_of(model: nn.Module) -> str | None:
    """The Hub id or folder that a model was loaded from, or None."""
    return getattr(unwrap_peft(model), "name_or_path", None) or None


def _revision(model: nn.Module) -> str | None:
    """The commit that a model was loaded from, or None if it came from no repository."""
    return getattr(unwrap_peft(model).config, "_commit_hash", None)


def hub_id_of(model: nn.Module) -> str | None:
    """The Hub id that a model was loaded from; None if it came from a folder, which is never published."""
    return hub_id(name_of(model)) if _revision(model) is not None else None


def with_origin(plan: StudentPlan, teacher: nn.Module) -> StudentPlan:
    """The plan with the repository and commit of the teacher that it cuts, if it has one."""
    name = hub_id_of(teacher)
    if name is not None:
        return dataclasses.replace(plan, teacher=name, teacher_revision=_revision(teacher))
    former = _plan_beside(name_of(teacher))
    if former is None:
        return plan
    note = f"the teacher had itself been cut before: {' '.join(sentences(former))[:-1]}"
    return dataclasses.replace(
        plan, teacher=former.teacher, teacher_revision=former.teacher_revision, notes=(*plan.notes, note)
    )


def _plan_beside(folder: str | None) -> StudentPlan | None:
    """The plan in a model's folder, or None; one that cannot be read is no reason to lose a run."""
    try:
        return read_plan(folder) if folder else None
    except ValueError as error:
        logger.warning(f"The plan beside `{folder}` is left out of the card: {error}")
        return None


def _adapter(model: nn.Module) -> dict[str, Any]:
    """Settings of the active adapter; nothing without peft."""
    config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    if config is None:
        return {}
    wanted = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save")
    found = {name: getattr(config, name) for name in wanted if getattr(config, name, None) is not None}
    found = {name: sorted(value) if isinstance(value, (set, list)) else value for name, value in found.items()}
    return {"kind": str(getattr(config.peft_type, "value", config.peft_type)).lower()} | found


def _data(dataset: Any) -> dict[str, Any]:
    """Rows trained on, in all and, where a column names it, by language."""
    try:
        found: dict[str, Any] = {"rows": len(dataset)}
    except TypeError:  # none, or streamed
        return {}
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list) and "language" in columns:
        found["rows by language"] = dict(sorted(Counter(map(str, dataset["language"])).items()))
    return found


def _own_parameters(model: nn.Module) -> Iterable[torch.Tensor]:
    return (parameter for name, parameter in model.named_parameters() if not name.startswith("kd_projections."))


def _training(trainer: DistillationTrainer) -> dict[str, Any]:
    args, state = trainer.args, trainer.state
    runtime = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    return {
        "steps": state.global_step,
        "epochs": round(state.epoch, 2) if state.epoch is not None else None,
        "rows a step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "accumulated batches": args.gradient_accumulation_steps,
        "processes": args.world_size,
        "learning rate": args.learning_rate,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "weight decay": args.weight_decay,
        "precision": "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "float32",
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else str(args.device.type),
        "run time, seconds": round(runtime[-1], 1) if runtime else None,
    }


def _results(history: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The last evaluation's metrics, without its speed."""
    speeds = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")
    results: dict[str, float] = {}
    for entry in history:
        found = {name: value for name, value in entry.items() if name.startswith("eval_")}
        if found:
            results = {name: value for name, value in found.items() if not name.endswith(speeds)}
    return results


def _strings(value: str | list[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
