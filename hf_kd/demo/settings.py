"""What a demo run is made of: sizes, steps and seeds, and the error a user can act on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class DemoError(ValueError):
    """Something the user can put right; the command shows it without a traceback."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of one run. The defaults are those of `hf-kd demo`.

    Attributes:
        output_dir: folder for everything the run makes.
        seed: seed of text, masks, weights and batches.
        steps: optimizer steps of each student, distilled and from scratch alike.
        student_layers: layers of the student; None for a third of the teacher's.
        batch_size: lines per step.
        learning_rate: peak learning rate of teacher and students alike.
        mask_ratio: share of tokens masked, in training and measuring, 0 to 1.
        max_tokens: longest line, in tokens; the rest is cut off.
        train_lines: lines to train on, per language, at most.
        held_out_lines: lines to measure on, per language, at most.
        teacher_steps: optimizer steps of the demo's own teacher.
        vocabulary_size: tokens of the demo's own tokenizer.
        layers: layers of the demo's own teacher.
        width: hidden size of the demo's own teacher.
        heads: attention heads of the demo's own teacher.
        use_cpu: whether to leave an accelerator alone.
    """

    output_dir: Path = Path("demo_output")
    seed: int = 0
    steps: int = 250
    student_layers: int | None = None
    batch_size: int = 32
    learning_rate: float = 3e-3
    mask_ratio: float = 0.3
    max_tokens: int = 96
    train_lines: int = 4000
    held_out_lines: int = 400
    teacher_steps: int = 1400
    vocabulary_size: int = 2000
    layers: int = 6
    width: int = 128
    heads: int = 4
    use_cpu: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "held_out_lines", "train_lines"):
            if getattr(self, name) < 1:
                raise DemoError(f"`{name}` is {getattr(self, name)}; it must be 1 or more. Raise it.")
        if self.student_layers is not None and self.student_layers < 1:
            raise DemoError(f"The student is asked to have {self.student_layers} layers; it needs 1 or more.")
        if not 0 < self.learning_rate < 1:
            raise DemoError(f"The learning rate is {self.learning_rate}; it must lie between 0 and 1. Try 5e-4.")

    def layers_of_student(self, teacher_layers: int) -> int:
        """Layers of the student of a teacher with `teacher_layers` layers.

        Raises:
            DemoError: the student would not be smaller than its teacher.
        """
        layers = self.student_layers or max(1, teacher_layers // 3)
        if layers >= teacher_layers:
            raise DemoError(
                f"The student is asked to have {layers} layers; the teacher has {teacher_layers}, and a student must "
                f"have fewer. Pass --student-layers {max(1, teacher_layers // 3)}, or take a deeper teacher."
            )
        return layers
