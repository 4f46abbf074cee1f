"""The output layers of a language-model student and its teacher, run as one loss.

While installed, the student's output layer answers with the loss of its positions instead of
their logits, and the teacher's with its own input. Both are asked for by arming them for one
forward pass; unarmed they do what they always do. That the loss is computed inside the
student's forward pass lets every engine (DDP, FSDP, ZeRO) see which weights it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .architecture import LANGUAGE_MODEL_HEADS, unwrap_peft
from .losses.output import OutputLayer, OutputLoss, Workspace, output_loss
from .losses.tied import TiedGradient
from .records import Objective
from .shared_tokens import SharedTokens

logger = logging.get_logger(__name__)


class FusedOutput:
    """Task and logits term computed from hidden states, in chunks of positions.

    Args:
        student: the student's output layer, from `find_output_layer`.
        teacher: the teacher's; None if logits are not compared.
        objective: what is compared.
        tied: the student's input embedding, if it has the output layer's weight.
        label_smoothing: of the task term, 0 to 1.
        shared: the tokens whose logits are compared.
        chunk_bytes: memory for the logits of one chunk.
    """

    def __init__(
        self,
        student: nn.Linear,
        teacher: nn.Linear | None,
        objective: Objective,
        *,
        tied: nn.Embedding | None = None,
        label_smoothing: float,
        shared: SharedTokens,
        chunk_bytes: int,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.tied = tied
        self.objective = objective
        self.label_smoothing = label_smoothing
        self.shared = shared
        self.chunk_bytes = chunk_bytes
        self._undo: list[Callable[[], object]] = []
        self._answers: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        self._workspace = Workspace()
        self._loss: OutputLoss | None = None
        self._gradient: TiedGradient | None = None
        self._stand_in: Tensor | None = None

    def install(self) -> None:
        """Put the stand-ins into both models."""
        for layer in (self.student, self.teacher, self.tied):
            if layer is not None:
                self._stand_in_for(layer)

    def remove(self) -> None:
        """Leave both models as `install` found them, and free the buffers."""
        while self._undo:
            self._undo.pop()()
        self._answers.clear()
        self._workspace = Workspace()

    @contextmanager
    def narrowed_teacher(self) -> Iterator[None]:
        """While the block runs, the teacher's logits are the input of its output layer. Shape (1, S, D)."""
        assert self.teacher is not None
        self._answers[self.teacher] = lambda states: states
        try:
            yield
        finally:
            self._answers.clear()

    @contextmanager
    def armed(self, teacher_states: Tensor | None, targets: Tensor | None, counts: Tensor) -> Iterator[None]:
        """While the block runs, the student's logits are its loss. Shape (1, 1, 1).

        Args:
            teacher_states: input of the teacher's output layer. Shape (S, D).
            targets: token ids, −100 where there is none; None without task term. Shape (S,).
            counts: as for `Distillation.loss`. Shape (3,).
        """

        def answer(states: Tensor) -> Tensor:
            layer = OutputLayer(states.flatten(0, -2), self.student.weight, self.student.bias)
            self._loss = self._compute(layer, teacher_states, targets, counts)
            self._stand_in = self._loss.total.expand(1, 1, 1).clone()  # FSDP2 warns of views
            return self._stand_in

        self._answers[self.student] = answer
        if self.tied is not None and self.tied.weight.requires_grad and torch.is_grad_enabled():
            self._answers[self.tied] = self._look_up
        try:
            yield
        finally:
            self._answers.clear()
            self._loss = self._stand_in = self._gradient = None

    def check(self, logits: object) -> None:
        """Refuse a student that does more with its logits than return them.

        Raises:
            ValueError: the logits are not what its output layer answered.
        """
        if self._answers and logits is not self._stand_in:
            raise ValueError(
                "The student changes what leaves its output layer, so its loss cannot be computed in chunks. Set "
                "`--kd_output_chunk_megabytes 0`."
            )

    def take(self, total: Tensor) -> OutputLoss:
        """The loss of the pass at hand, its total as the wrapped student returned it."""
        assert self._loss is not None
        return self._loss._replace(total=total.view(()))

    def uniform_logits_term(self, teacher_states: Tensor, counts: Tensor) -> Tensor:
        """The weighted logits term of a student that gives every token the same probability. Shape ()."""
        nothing = self.student.weight.new_zeros(self.student.out_features, 1)
        ignorant = OutputLayer(nothing.new_zeros(len(teacher_states), 1), nothing)
        with torch.no_grad():
            return self._compute(ignorant, teacher_states, None, counts).logits

    def _compute(
        self, student: OutputLayer, teacher_states: Tensor | None, targets: Tensor | None, counts: Tensor
    ) -> OutputLoss:
        teacher = columns = None
        if teacher_states is not None and self.teacher is not None:
            teacher = OutputLayer(teacher_states, *self.shared.output_rows(self.teacher))
            columns = self.shared.match.student_columns
        return output_loss(
            student,
            teacher,
            targets,
            task_weight=self.objective.weights["task"],
            logits_weight=self.objective.weights["logits"],
            task_count=counts[0],
            logits_count=counts[1],
            divergence=self.objective.logits_divergence,
            temperature=self.objective.temperature,
            label_smoothing=self.label_smoothing,
            student_columns=None if columns is None else columns.to(student.states.device),
            chunk_bytes=self.chunk_bytes,
            workspace=self._workspace,
            tied=self._gradient,
        )

    def _look_up(self, ids: Tensor) -> Tensor:
        embedding = self.tied
        assert embedding is not None
        self._gradient = TiedGradient()
        return self._gradient.look_up(ids, embedding.weight, embedding.padding_idx)

    def _stand_in_for(self, layer: nn.Module) -> None:
        own, was_replaced = layer.forward, "forward" in vars(layer)

        def forward(input: Tensor) -> Tensor:
            answer = self._answers.get(layer)
            return own(input) if answer is None else answer(input)

        def undo() -> None:
            if was_replaced:
                layer.forward = own
            else:
                del layer.forward

        # On the instance, where the module's hooks still surround it; its loops are not for the compiler.
        layer.forward = torch.compiler.disable(forward)
        self._undo.append(undo)


def fuse_output(
    student: nn.Module,
    teacher: nn.Module,
    head: str,
    objective: Objective,
    *,
    label_smoothing: float,
    shared: SharedTokens,
    chunk_bytes: int,
) -> FusedOutput | None:
    """The output layers as one loss, or None where they are to run as they are; says why, where that costs.

    Args:
        student: the student.
        teacher: the teacher.
        head: the student's head, one of `architecture.HEADS`.
        objective: what is compared.
        label_smoothing: of the task term, 0 to 1.
        shared: the tokens whose logits are compared.
        chunk_bytes: memory for the logits of one chunk, or 0 for no chunks.
    """
    compares = objective.uses("logits")
    if not chunk_bytes or head not in LANGUAGE_MODEL_HEADS or not (compares or objective.uses("task")):
        return None
    layers = {}
    for name, model in (("student", student), ("teacher", teacher))[: 1 + compares]:
        layer = find_output_layer(model)
        if layer is None:
            logger.warning_once(
                f"The logits of the {name} (`{type(unwrap_peft(model)).__name__}`) do not come straight from a plain "
                "linear layer, so they are computed all at once, which takes more time and memory than in chunks."
            )
            return None
        layers[name] = layer
    return FusedOutput(
        layers["student"],
        layers.get("teacher"),
        objective,
        tied=_find_tied_embedding(student, layers["student"]),
        label_smoothing=label_smoothing,
        shared=shared,
        chunk_bytes=chunk_bytes,
    )


def find_output_layer(model: nn.Module) -> nn.Linear | None:
    """The layer whose output is the model's logits; None if it is no plain linear layer, or more follows it.

    A layer that an adapter, a quantiser or a hook has changed is none either. Models whose weights
    are not at hand (ZeRO-3, meta device) cannot be run here, and `FusedOutput.check` judges them in
    training.
    """
    layer = unwrap_peft(model).get_output_embeddings()
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    if any(hasattr(parameter, "ds_id") or parameter.is_meta for parameter in model.parameters()):
        return layer
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            ids = torch.arange(4, device=next(model.parameters()).device)[None]
            logits = model(input_ids=ids, return_dict=True)["logits"]
    finally:
        hook.remove()
        model.train(was_training)
    return layer if len(seen) == 1 and logits is seen[0] else None


def _find_tied_embedding(model: nn.Module, layer: nn.Linear) -> nn.Embedding | None:
    embedding = unwrap_peft(model).get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.weight is not layer.weight or "forward" in vars(embedding):
        return None
    is_partitioned = hasattr(layer.weight, "ds_id")  # ZeRO-3 has accumulation of its own
    has_options = embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse
    return None if is_partitioned or has_options else embedding
