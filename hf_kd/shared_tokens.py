"""What a teacher reads and says in the tokens that it shares with the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from .architecture import text_config, unwrap_peft

if TYPE_CHECKING:
    from .plans import VocabularyMatch


class SharedTokens:
    """A teacher behind a vocabulary match.

    Args:
        match: how the student's tokens become the teacher's.
        teacher: the frozen model.
    """

    def __init__(self, match: VocabularyMatch, teacher: nn.Module) -> None:
        self.match = match
        self.teacher = teacher
        layer = unwrap_peft(teacher).get_output_embeddings()
        # One plain matrix with a row a token: other output layers run whole, and columns are picked.
        plain = (
            type(layer) is nn.Linear
            and "forward" not in vars(layer)  # accelerate's, of a teacher that is spread over devices
            and len(layer.weight) == text_config(teacher).vocab_size
        )
        self._output: nn.Linear | None = layer if plain and match.teacher_columns is not None else None
        self._kept: tuple[Tensor, Tensor | None] | None = None

    def attach(self) -> Callable[[], None]:
        """Let the teacher compute the shared tokens' logits alone. Its weights are not changed.

        Returns:
            What undoes it.
        """
        if self._output is None or self.match.teacher_columns is None:
            return lambda: None
        layer = self._output
        weight, bias = self._kept = self.output_rows(layer)

        def forward(hidden: Tensor) -> Tensor:
            return functional.linear(hidden, weight, bias)

        def undo() -> None:
            del layer.forward
            self._kept = None

        layer.forward = forward
        return undo

    def output_rows(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the teacher's output layer for the shared tokens. Shapes (compared, D), (compared,)."""
        if self._kept is not None:
            return self._kept
        columns = self.match.teacher_columns
        rows = slice(self.match.compared) if columns is None else columns.to(layer.weight.device)
        return layer.weight.detach()[rows], None if layer.bias is None else layer.bias.detach()[rows]

    def inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch in the teacher's token ids.

        Raises:
            ValueError: the ids differ, and the batch holds none.
        """
        if self.match.teacher_ids is None:
            return inputs
        if "input_ids" not in inputs:
            raise ValueError(
                "The student's vocabulary is matched to the teacher's by token, which needs `input_ids`; the batch "
                f"holds {', '.join(sorted(inputs))}. Feed token ids, or use a teacher with the same vocabulary."
            )
        ids = inputs["input_ids"]
        return inputs | {"input_ids": self.match.teacher_ids.to(ids.device)[ids]}

    def of_student(self, logits: Tensor) -> Tensor:
        """The student's logits of the shared tokens. Shape (S, compared)."""
        return self._columns(logits, self.match.student_columns)

    def of_teacher(self, logits: Tensor) -> Tensor:
        """The attached teacher's logits of the shared tokens. Shape (S, compared)."""
        return logits if self._output is not None else self._columns(logits, self.match.teacher_columns)

    def _columns(self, logits: Tensor, columns: Tensor | None) -> Tensor:
        return logits[:, : self.match.compared] if columns is None else logits[:, columns.to(logits.device)]
