"""`DistillationTrainer`: the `Trainer` with a teacher.

The one module that knows all the others. It overrides documented hooks and never forks the
training loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from . import facts, projections, publication
from .architecture import require_head, unwrap_peft
from .arguments import DistillationArguments
from .distillation import Distillation
from .item_counts import UPSTREAM_ISSUE, ignores_item_count
from .losses.output import CHUNK_BYTES
from .meter import TermMeter, scale_warning
from .plans import StudentPlan
from .positions import IGNORED
from .students import build_student, use_master_weights
from .teachers import load_teacher

logger = logging.get_logger(__name__)


class DistillationTrainer(Trainer):
    """`Trainer` whose model also learns from a teacher.

    The teacher is named in the arguments (`teacher_model_name_or_path`), is the model given
    (`student_num_hidden_layers`: the student is then cut from it), or is passed as a module. With
    no teacher this is `Trainer`, except that the loss of models that ignore `num_items_in_batch`
    is scaled rightly under gradient accumulation and over several processes.

    Args:
        model: the student, or the teacher to cut it from.
        args: `DistillationArguments`; any `TrainingArguments` without a teacher.
        rest: further positional arguments of `Trainer`.
        teacher: a teacher of one's own; it is run in evaluation mode, without gradients, and moved
            to the training device.
        kwargs: further arguments of `Trainer`.

    Raises:
        ValueError: teacher, student and objective do not fit together.
        TypeError: a teacher without `DistillationArguments`.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *rest: Any,
        teacher: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self.teacher = teacher
        self._teacher_name = None if teacher is None else facts.name_of(teacher)
        self.student_plan: StudentPlan | None = None
        self.distillation: Distillation | None = None
        self._card_arguments: dict[str, Any] = {}
        self._meter = TermMeter()
        self._step_counts: Tensor | None = None
        self._reported_start = False
        self._uniform: float | None = None
        self._rescales_loss = False
        given = inspect.signature(Trainer.__init__).bind_partial(self, model, args, *rest, **kwargs).arguments
        collator_tokenizer = getattr(given.get("data_collator"), "tokenizer", None)
        self._tokenizer = given.get("processing_class") or collator_tokenizer
        if teacher is not None or (isinstance(args, DistillationArguments) and args.distills):
            settings = self._check_call(args, given)
            model = self._cut(model, settings)
            if model is not None:
                self._adopt(model, settings)
        elif isinstance(args, DistillationArguments) and args.given_settings:
            names = "`, `".join(args.given_settings)
            raise ValueError(
                f"`{names}` {'is' if len(args.given_settings) == 1 else 'are'} set, but there is no teacher to learn "
                "from. Name one with `teacher_model_name_or_path`, let the model given be it with "
                "`student_num_hidden_layers`, or drop the setting."
            )
        super().__init__(model, args, *rest, **kwargs)
        self._rescales_loss = ignores_item_count(self.model)
        if self.distillation is not None:
            if self.optimizer is not None and self.distillation.projections is not None:
                raise ValueError(
                    "An optimizer of one's own was passed, but the hidden states are compared through learned "
                    "projections, which it does not hold. Pass `optimizer_cls_and_kwargs` instead of `optimizers`."
                )
            self.loss_is_scaled_for_ga = True
            if getattr(self.teacher, "hf_device_map", None) is None:
                self.teacher.to(self.args.device)
            self.add_callback(_StartReport(self))

    # ---- teacher and student ----

    def _check_call(self, args: TrainingArguments | None, given: Mapping[str, Any]) -> DistillationArguments:
        """Refuse what cannot be combined with a teacher."""
        if not isinstance(args, DistillationArguments):
            raise TypeError(
                f"A teacher was given, but `args` is {type(args).__name__}, which has no distillation settings. Pass "
                "`DistillationArguments`."
            )
        if self.teacher is not None and args.distills:
            raise ValueError(
                "A `teacher` was passed, and the arguments name one too (`teacher_model_name_or_path` or "
                "`student_num_hidden_layers`). Use one of the two."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process would be driven by `nn.DataParallel`, which loses what is captured "
                f"from the student. Start one process a GPU: `torchrun --nproc_per_node {args.n_gpu} script.py ...`, "
                "or choose one GPU with CUDA_VISIBLE_DEVICES=0."
            )
        if given.get("compute_loss_func") is not None:
            raise ValueError(
                "`compute_loss_func` and a teacher were both given, but the teacher's objective replaces the loss. "
                "Drop `compute_loss_func`, or subclass `DistillationTrainer` and override `compute_loss`."
            )
        if args.cuts_student and (given.get("optimizers") or (None,))[0] is not None:
            raise ValueError(
                "An optimizer of one's own was passed with `student_num_hidden_layers` or `student_layers`, but it "
                "holds the parameters of the model given, which becomes the teacher. Pass `optimizer_cls_and_kwargs` "
                "instead of `optimizers`."
            )
        if given.get("model_init") is not None and args.cuts_student:
            raise ValueError(
                "`student_num_hidden_layers` or `student_layers` cuts the student from the model given, but "
                "`model_init` was given instead. Let `model_init` return `hf_kd.build_student(...)`'s student and name "
                "the teacher."
            )
        return args

    def _cut(self, model: nn.Module | None, args: DistillationArguments) -> nn.Module | None:
        """Way 2: the model given becomes the teacher, and the student is cut from it."""
        if not args.cuts_student or model is None:
            return model
        require_head(model)
        student, plan = build_student(model, args.student_num_hidden_layers, layers=args.student_layers)
        self.student_plan = facts.with_origin(plan, model)
        self.teacher = model
        self._teacher_name = None  # the tokenizer is the student's own
        logger.warning(
            f"Student cut from the model given: layers {', '.join(map(str, self.student_plan.kept_layers))} "
            f"({self.student_plan.rule}), weights copied. The model given is now the teacher."
        )
        return student

    def _adopt(self, student: nn.Module, args: DistillationArguments) -> None:
        """Pair a student with the teacher, which is loaded if it has not been."""
        head = require_head(student)
        objective = args.objective()
        if self.teacher is None and args.teacher_model_name_or_path is not None:
            self._teacher_name = args.teacher_model_name_or_path
            self.teacher = load_teacher(
                args.teacher_model_name_or_path,
                head,
                revision=args.teacher_revision,
                dtype=args.teacher_dtype,
                attn_implementation=args.teacher_attn_implementation,
                device=args.device,
                needs_head=objective.uses("logits"),
                trust_remote_code=args.teacher_trust_remote_code,
            )
        use_master_weights(student)
        chunk = args.kd_output_chunk_megabytes
        self.distillation = Distillation(
            student,
            self.teacher,
            objective,
            tokenizer=self._tokenizer,
            teacher_name=self._teacher_name,
            teacher_revision=args.teacher_revision,
            trust_remote_code=args.teacher_trust_remote_code,
            seed=args.seed,
            label_smoothing=args.label_smoothing_factor,
            output_chunk_bytes=CHUNK_BYTES if chunk is None else chunk * 2**20,
        )

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Pair each new model of `model_init` with the teacher."""
        model = super().call_model_init(trial)
        if self.teacher is not None or (isinstance(self.args, DistillationArguments) and self.args.distills):
            self._adopt_anew(model)
        return model

    def _hp_search_setup(self, trial: Any) -> None:
        """Let a trial's `kd_` settings take effect: they are written after its model is made."""
        super()._hp_search_setup(trial)
        if trial is not None and self.distillation is not None:
            self.args.check()
            self._adopt_anew(self.distillation.student)

    def _adopt_anew(self, student: nn.Module) -> None:
        former = self.distillation
        was_attached = former is not None and former.is_attached
        if former is not None:
            former.detach()
        self._adopt(student, self.args)
        if was_attached and self.distillation is not None:
            self.distillation.attach()

    # ---- training ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`, with projections and taps in the models from its start to its end or failure."""
        if self.distillation is None:
            return super().train(*args, **kwargs)
        self.distillation.attach()
        try:
            return super().train(*args, **kwargs)
        finally:
            self._step_counts = None
            self.distillation.detach()

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that only the teacher (`token_type_ids`, say) or a collator of ours reads."""
        super()._set_signature_columns_if_needed()
        if self.distillation is not None:
            wanted = {*self.distillation.teacher_inputs, *getattr(self.data_collator, "columns", ())}
            self._signature_columns += sorted(wanted - set(self._signature_columns))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Count the positions of every term over the whole optimizer step, on all processes."""
        batch_samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.distillation is not None:
            counts = [self.distillation.find_positions(batch).counts() for batch in batch_samples]
            total = torch.stack(counts).sum(0) if counts else torch.zeros(3, dtype=torch.long)
            total = total.to(device)
            self._step_counts = self.accelerator.reduce(total, "sum") if self._averages_over_processes else total
        return batch_samples, num_items_in_batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distillation loss in training; the task's own loss in evaluation and without a teacher.

        The outputs of a language model in training hold no logits, unless `kd_output_chunk_megabytes`
        is 0: no more than a chunk of them exists at a time.
        """
        if self.distillation is None:
            return self._task_loss(model, inputs, return_outputs, num_items_in_batch)
        if not model.training:
            return self._task_loss(model, self.distillation.student_batch(inputs), return_outputs, num_items_in_batch)
        with self.distillation.attached():
            report, outputs = self.distillation.loss(
                model, inputs, self._step_counts, teacher_context=self.accelerator.autocast
            )
            if self._meter.is_empty and not self._reported_start:
                self._uniform = self.distillation.uniform_reference(inputs)
        # DDP averages gradients over processes; the terms are shares of one mean over all of them.
        scale = self.accelerator.num_processes if self._averages_over_processes and self._step_counts is not None else 1
        self._meter.add({name: value * scale for name, value in report.terms.items()}, self.state.global_step)
        loss = report.total * scale
        return (loss, outputs) if return_outputs else loss

    @property
    def _averages_over_processes(self) -> bool:
        return self.args.average_tokens_across_devices and self.args.world_size > 1

    def _task_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Tensor | int | None
    ) -> Any:
        """`Trainer`'s loss, rescaled where the model ignores the item count that it was given."""
        plain = (
            not self._rescales_loss
            or num_items_in_batch is None
            or self.label_smoother is not None
            or self.compute_loss_func is not None
        )
        if plain:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if model.training and (self.args.gradient_accumulation_steps > 1 or self.args.world_size > 1):
            logger.warning_once(
                f"`{type(unwrap_peft(self.model)).__name__}` ignores the item count that Trainer 5 passes to it, so "
                "the stock Trainer would multiply its loss by the number of accumulated batches and of processes. "
                f"DistillationTrainer scales it rightly: {UPSTREAM_ISSUE}"
            )
        labels = inputs["labels"]
        labels = labels[..., 1:] if self._loss_shifts_labels else labels
        own = (labels != IGNORED).sum()
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        # The model's mean over no label at all is nan, and so would be its gradient.
        loss = loss * (own / num_items_in_batch) if own > 0 else outputs["logits"].sum() * 0.0
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """`Trainer.prediction_step`; a ModernBERT student gives logits at every position, as metrics expect."""
        if self.distillation is None:
            return super().prediction_step(model, inputs, *args, **kwargs)
        inputs = self.distillation.student_batch(inputs)
        inner = unwrap_peft(self.accelerator.unwrap_model(model))
        if not getattr(inner, "sparse_prediction", False):
            return super().prediction_step(model, inputs, *args, **kwargs)
        inner.sparse_prediction = False
        try:
            return super().prediction_step(model, inputs, *args, **kwargs)
        finally:
            inner.sparse_prediction = True

    # ---- logging ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each weighted term, `kd_task`, `kd_logits` and so on; together they are `loss`."""
        if "loss" in logs and not self._meter.is_empty:
            terms = self._meter.drain(self._mean_over_processes, self.state.global_step)
            logs.update({f"kd_{name}": value for name, value in terms.items()})
        super().log(logs, start_time)

    def _start_metering(self) -> None:
        """Forget what an earlier or failed attempt (`auto_find_batch_size`) left behind."""
        self._meter = TermMeter()
        self._reported_start = False

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, "mean")

    def _report_start(self) -> None:
        """Log the first step's terms, before any update, and warn of terms without a say."""
        if self._reported_start or self._meter.is_empty or self.args.logging_strategy == "no":
            return
        self._reported_start = True
        terms = self._meter.read(self._mean_over_processes, self.state.global_step)
        logs = {f"kd_start_{name}": value for name, value in terms.items()}
        if self._uniform is not None:
            logs["kd_start_logits_uniform"] = self._uniform
        self.log(logs)
        warning = scale_warning(terms)
        if warning is not None:
            logger.warning(warning)

    # ---- saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.distillation is not None and self.distillation.is_attached and self.args.should_save:
            if self.distillation.projections is not None:
                projections.save(self.distillation.projections, output_dir or self.args.output_dir)
        folder = Path(output_dir or self.args.output_dir)
        if self.distillation is not None and self.args.should_save and not folder.name.startswith("checkpoint-"):
            try:
                publication.save_facts(folder, facts.gather(self, self.distillation, **self._card_arguments))
            except Exception as error:  # the weights are saved: a run of days must not end for want of a card
                logger.warning(f"The facts of this run could not be written beside the model: {error}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_projections(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_projections(self.state.best_model_checkpoint)

    def _load_projections(self, folder: str) -> None:
        # The checkpoints of FSDP and DeepSpeed hold the whole model, projections included.
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            projections.load(None if self.distillation is None else self.distillation.projections, folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the student; without a teacher, `Trainer`'s own.

        Takes the arguments of `Trainer.create_model_card`.
        """
        if self.distillation is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            given = inspect.signature(Trainer.create_model_card).bind(self, *args, **kwargs).arguments
            given.pop("self")
            self._card_arguments = given
            publication.write(self.args.output_dir, facts.gather(self, self.distillation, **given))


class _StartReport(TrainerCallback):
    """Reports the loss terms of the first step before the optimizer changes anything."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._start_metering()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._report_start()
