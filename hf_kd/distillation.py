"""One student learning from one teacher: what is compared, captured and combined.

Knows nothing of the Trainer, so that it also serves a training loop of one's own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from . import projections as projection
from . import teachers
from .architecture import (
    CLASSIFICATION_HEADS,
    LANGUAGE_MODEL_HEADS,
    head_of,
    require_head,
    text_config,
    transformer_layers,
    unwrap_peft,
)
from .capture import Capture, Complete
from .layer_maps import resolve_layer_map
from .losses.combine import combine, logits_term, task_term
from .losses.output import CHUNK_BYTES, OutputLoss
from .output_layer import fuse_output
from .positions import Positions, find_positions, special_token_ids
from .records import EMBEDDINGS, LAYER_TERMS, LayerPair, LossReport, Objective, Signal
from .shared_tokens import SharedTokens
from .vocabulary.match import match_vocabularies

_LABELS = ("labels", "start_positions", "end_positions")


class Distillation:
    """Student, teacher and objective, checked against each other.

    Args:
        student: the model that trains.
        teacher: the frozen model.
        objective: what is compared.
        tokenizer: the student's tokenizer, or None.
        teacher_name: where the teacher's tokenizer may be loaded from, or None to skip that.
        teacher_revision: revision of that tokenizer.
        trust_remote_code: whether code from the teacher's repository may run for it.
        seed: seed of the projections' initial weights.
        label_smoothing: of the task term, 0 to 1.
        output_chunk_bytes: memory for the logits of language models, which are then computed in
            chunks; 0 to compute all at once.

    Raises:
        ValueError: student and teacher do not fit, or the objective does not fit them.
        TypeError: the teacher is no transformers model.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        objective: Objective,
        *,
        tokenizer: object | None = None,
        teacher_name: str | None = None,
        teacher_revision: str = "main",
        trust_remote_code: bool = False,
        seed: int = 0,
        label_smoothing: float = 0.0,
        output_chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.head = require_head(student)
        self.label_smoothing = label_smoothing
        teachers.check_pair(student, teacher, self.head, compares_logits=objective.uses("logits"))
        if getattr(text_config(student), "output_router_logits", False):
            raise ValueError(
                "The student's configuration has `output_router_logits`, whose balancing loss is no term of the "
                "objective and would be lost. Set it to False, or train this student without a teacher."
            )
        origin = {"revision": teacher_revision, "trust_remote_code": trust_remote_code}
        match = match_vocabularies(student, teacher, tokenizer, teacher_name, **origin)
        self.shared_tokens = SharedTokens(match, teacher)
        self.label_order = self._match_labels(objective)
        self.pairs = self._resolve_pairs(objective)
        self.objective = objective
        self._check_head_counts()
        self.special_ids = torch.tensor(special_token_ids(tokenizer, text_config(student)), dtype=torch.long)
        self.projections = projection.build_projections(
            self.pairs["hidden"], text_config(student).hidden_size, text_config(teacher).hidden_size, seed
        )
        self._student_capture = self._capture(student, "student")
        self._teacher_capture = self._capture(teacher, "teacher")
        self.student_inputs = frozenset(inspect.signature(unwrap_peft(student).forward).parameters)
        self.teacher_inputs = frozenset(inspect.signature(unwrap_peft(teacher).forward).parameters)
        self._position_limit = teachers.position_limit(teacher)
        self._probe()
        self._fused = fuse_output(
            student,
            teacher,
            self.head,
            objective,
            label_smoothing=label_smoothing,
            shared=self.shared_tokens,
            chunk_bytes=output_chunk_bytes,
        )
        self._undo: list[Callable[[], object]] = []

    @property
    def is_attached(self) -> bool:
        """Whether projections and taps are in the models."""
        return bool(self._undo)

    @property
    def is_fused(self) -> bool:
        """Whether the output layers are computed in chunks, as one loss."""
        return self._fused is not None

    def attach(self) -> None:
        """Put projections and taps into the models. Does nothing if they are there."""
        if self.is_attached:
            return
        was_training = self.teacher.training
        try:
            self._undo.append(lambda: self.teacher.train(was_training))
            self.teacher.eval()
            if self.projections is not None:
                self.projections.to(next(self.student.parameters()).device)
                self._undo.append(projection.attach(self.student, self.projections))
            self._undo.append(self.shared_tokens.attach())
            for capture in (self._student_capture, self._teacher_capture):
                self._undo.append(capture.remove)
                capture.install()
            self._undo.append(self.student.register_forward_hook(self._hand_over).remove)
            if self._fused is not None:
                self._undo.append(self._fused.remove)
                self._fused.install()
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Leave both models as `attach` found them. The projections are kept for another `attach`."""
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attached while the block runs, and afterwards only if it was before."""
        if self.is_attached:
            yield
            return
        self.attach()
        try:
            yield
        finally:
            self.detach()

    def student_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch without what only the teacher reads, such as `token_type_ids`."""
        return {name: value for name, value in batch.items() if name in self.student_inputs or name in _LABELS}

    def find_positions(self, batch: Mapping[str, Tensor]) -> Positions:
        """Which positions of a batch count, before any forward pass."""
        return find_positions(batch, self.head, self.special_ids, self.objective.positions)

    def loss(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        counts: Tensor | None = None,
        *,
        teacher_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> tuple[LossReport, Mapping[str, Tensor]]:
        """The loss of one batch. The distillation must be attached.

        Args:
            model: the student, as the engine wrapped it.
            batch: what the collator made.
            counts: positions in the whole optimizer step, from `Positions.counts`; None for this
                batch alone. Shape (3,).
            teacher_context: entered around the teacher's forward pass, such as autocast.

        Returns:
            The loss with its terms, and the student's outputs: without logits where they were
            computed in chunks.

        Raises:
            ValueError: the batch has no labels though a term needs them.
        """
        checks.require_labels(batch, self.head, self.objective)
        positions = self.find_positions(batch)
        counts = positions.counts() if counts is None else counts
        inputs = {name: value for name, value in batch.items() if name not in _LABELS}
        labels = {name: batch[name] for name in _LABELS if name in batch}
        checks.refuse_several_labels_a_row(labels, self.head, self.objective)
        selected = self._select(positions)
        if positions.targets is not None:
            labels["targets"] = positions.targets if selected is None else positions.targets[selected]
        teacher = self._run_teacher(inputs, positions, teacher_context)
        student, outputs, fused = self._run_student(model, inputs, selected, teacher, labels, counts)
        task = None
        if self.objective.uses("task") and fused is None:
            task = task_term(
                self.head,
                student.outputs,
                labels,
                positions,
                counts[0],
                problem_type=getattr(unwrap_peft(self.student).config, "problem_type", None),
                label_smoothing=self.label_smoothing,
            )
        if selected is not None and fused is None:  # language-model logits: compare the common vocabulary
            shared = self.shared_tokens.of_student(student.outputs["logits"])
            student = dataclasses.replace(student, outputs={"logits": shared})
        report = combine(self.objective, self.pairs, student, teacher, positions, counts, task, fused)
        if not (self.objective.uses("task") or self.objective.uses("logits")):
            # The head is in no term: tie it to the loss, or DDP waits for its gradient.
            unused = sum(logits.sum() for logits in student.outputs.values())
            report = dataclasses.replace(report, total=report.total + 0.0 * unused)
        return report, outputs

    def uniform_reference(self, batch: Mapping[str, Any]) -> float | None:
        """The logits term of a student that knows nothing, on this batch; None without that term.

        Such a student gives every class or token the same probability. One copied from the teacher
        should start below it.
        """
        if not self.objective.uses("logits"):
            return None
        positions = self.find_positions(batch)
        inputs = {name: value for name, value in batch.items() if name not in _LABELS}
        teacher = self._run_teacher(inputs, positions, nullcontext).outputs
        if self._fused is not None:
            return float(self._fused.uniform_logits_term(teacher["states"], positions.counts()))
        ignorant = {name: torch.zeros_like(logits) for name, logits in teacher.items()}
        share = logits_term(self.objective, ignorant, teacher, positions, positions.counts()[1])
        return self.objective.weights["logits"] * float(share)

    def _run_student(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        selected: Tensor | None,
        teacher: Signal,
        labels: Mapping[str, Tensor],
        counts: Tensor,
    ) -> tuple[Signal, Mapping[str, Tensor], OutputLoss | None]:
        self._student_capture.start(selected)
        inputs = self.student_batch(inputs)
        if self.head == "causal_lm":
            inputs["use_cache"] = False
        fused, targets = None, labels.get("targets") if self.objective.uses("task") else None
        with self._fused.armed(teacher.outputs.get("states"), targets, counts) if self._fused else nullcontext():
            try:
                outputs = dict(model(**inputs, return_dict=True))
            finally:
                self._student_capture.take()  # of a pass that failed
            if self._fused is not None:
                fused = self._fused.take(outputs.pop("logits"))
        captured = outputs.pop("kd_captured")
        if selected is not None and fused is None:
            outputs["logits"] = outputs["logits"][0]
        signal = Signal(
            {name: value for name, value in outputs.items() if name.endswith("logits")},
            captured["hidden"],
            captured["attention"],
            captured["relation"],
        )
        checks.require_gradients(self.student, signal)
        return signal, outputs, fused

    def _hand_over(self, model: nn.Module, args: Any, output: Any) -> Any:
        """Return the captured tensors from the student's own forward pass.

        Whatever wraps the student (DDP, say) then knows that the loss depends on them. A plain
        dict, since DDP rebuilds a `ModelOutput` with the fields of its class.
        """
        if not self._student_capture.is_recording:
            return output
        captured = self._student_capture.take()
        if self._fused is not None:
            self._fused.check(output["logits"])
        hidden = projection.project(self.projections, self.pairs["hidden"], captured.hidden)
        return {
            **output,
            "kd_captured": {
                "hidden": hidden,
                "attention": dict(captured.attention),
                "relation": dict(captured.relation),
            },
        }

    def _run_teacher(
        self, inputs: dict[str, Any], positions: Positions, context: Callable[[], AbstractContextManager[Any]]
    ) -> Signal:
        is_language_model = self.head in LANGUAGE_MODEL_HEADS
        runs_head = self.objective.uses("logits")
        if not runs_head and not any(self.objective.uses(term) for term in LAYER_TERMS):
            return Signal()
        # A teacher that is spread over devices moves its weights after each module has run to its end.
        stops = not runs_head and getattr(self.teacher, "hf_device_map", None) is None
        self._teacher_capture.start(positions.compared if is_language_model and runs_head else None, stops=stops)
        inputs = {name: value for name, value in inputs.items() if name in self.teacher_inputs}
        inputs = self.shared_tokens.inputs(inputs)
        fused = self._fused if runs_head else None
        outputs: dict[str, Tensor] = {}
        with context(), fused.narrowed_teacher() if fused else nullcontext(), suppress(Complete):
            outputs = teachers.answer(self.teacher, inputs, runs_head=runs_head, position_limit=self._position_limit)
        captured = self._teacher_capture.take()
        if fused is not None:
            outputs = {"states": outputs["logits"][0]}
        elif is_language_model and runs_head:
            outputs = {"logits": self.shared_tokens.of_teacher(outputs["logits"][0])}
        elif self.label_order is not None:
            outputs = {"logits": outputs["logits"][..., self.label_order]}
        return dataclasses.replace(captured, outputs=outputs)

    def _select(self, positions: Positions) -> Tensor | None:
        """Positions that the student's output layer must see; None for heads that see all."""
        if self.head not in LANGUAGE_MODEL_HEADS:
            return None
        if not self.objective.uses("logits"):
            return positions.labelled if self.objective.uses("task") else torch.zeros_like(positions.labelled)
        return positions.compared  # never less than the labelled ones

    def _match_labels(self, objective: Objective) -> list[int] | None:
        if not objective.uses("logits") or self.head not in CLASSIFICATION_HEADS:
            return None
        config = unwrap_peft(self.student).config
        not_softmax = config.num_labels == 1 or config.problem_type in ("regression", "multi_label_classification")
        if self.head == "sequence_classification" and not_softmax and objective.logits_divergence != "mse":
            raise ValueError(
                f"The student's problem type is {config.problem_type or 'regression'} ({config.num_labels} labels), "
                f"whose logits are no distribution over classes: `{objective.logits_divergence}` would compare "
                "nonsense. Use `--kd_logits_divergence mse`."
            )
        return teachers.align_labels(config, unwrap_peft(self.teacher).config)

    def _resolve_pairs(self, objective: Objective) -> dict[str, tuple[LayerPair, ...]]:
        pairs: dict[str, tuple[LayerPair, ...]] = {term: () for term in LAYER_TERMS}
        for term in LAYER_TERMS:
            if objective.uses(term):
                counts = (len(transformer_layers(model)) for model in (self.student, self.teacher))
                pairs[term] = resolve_layer_map(f"kd_{term}_layer_map", objective.layer_maps[term], *counts)
                if term != "hidden":  # the embedding output has no attention
                    pairs[term] = tuple(pair for pair in pairs[term] if pair.student != EMBEDDINGS)
                if not pairs[term]:
                    raise ValueError(
                        f"The layer map of the {term} term is {objective.layer_maps[term]!r}, which leaves it no "
                        f"layer. Set `--kd_{term}_layer_map`, such as `last`."
                    )
        return pairs

    def _check_head_counts(self) -> None:
        if not self.objective.uses("attention") or self.objective.attention_heads == "head_mean":
            return
        student, teacher = (text_config(model).num_attention_heads for model in (self.student, self.teacher))
        if student != teacher:
            raise ValueError(
                f"The student has {student} attention heads, the teacher {teacher}, so their maps cannot be compared "
                "head by head. Use `--kd_attention_heads head_mean`, or the relation term (`--kd_recipe minilmv2`)."
            )

    def _probe(self) -> None:
        """Try both models on four tokens, so that what does not fit is refused here; fill in the relation heads."""
        if any(hasattr(p, "ds_id") or p.is_meta for model in (self.student, self.teacher) for p in model.parameters()):
            return  # ZeRO-3 has partitioned the weights: only a training step can run them
        compares_positions = self.head in LANGUAGE_MODEL_HEADS
        student = self._student_capture.probe(narrows_head=compares_positions)
        teacher = self._teacher_capture.probe(
            narrows_head=compares_positions and self.objective.uses("logits") and head_of(self.teacher) == self.head
        )
        if not self.objective.uses("relation"):
            return
        heads = self.objective.relation_heads or text_config(self.student).num_attention_heads
        for name, signal in (("student", student), ("teacher", teacher)):
            widths = {state.shape[-1] for states in signal.relation.values() for state in states}
            for width in sorted(widths):
                if width % heads:
                    raise ValueError(
                        f"{heads} relation heads do not divide the {name}'s query, key and value widths ({width}). "
                        "Set `--kd_relation_heads` to a common divisor of both models' widths."
                    )
        self.objective = dataclasses.replace(self.objective, relation_heads=heads)

    def _capture(self, model: nn.Module, side: str) -> Capture:
        wanted = {term: {getattr(pair, side) for pair in pairs} for term, pairs in self.pairs.items()}
        return Capture(
            model,
            **wanted,
            head_mean=self.objective.attention_heads == "head_mean",
            scores=self.objective.attention_values == "scores" and self.objective.uses("attention"),
        )
