"""The card of a student that has been cut and not yet trained."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..card import inline
from ..plan_words import sentences
from ..plans import StudentPlan
from ..provenance import hub_id
from .sizes import PARTS, Sizes

TEMPLATE = Path(__file__).parents[1] / "templates" / "student_card.md"


def render(name: str, plan: StudentPlan, student: Sizes, teacher: Sizes) -> ModelCard:
    """Turn a plan and what came of it into a card.

    Args:
        name: title of the card.
        plan: what the student was cut by.
        student: its sizes.
        teacher: the teacher's.
    """
    teacher_id = hub_id(plan.teacher)
    optional = {} if teacher_id is None else {"base_model": teacher_id}
    rows = [(label, f"{value:,}", f"{teacher.shape[label]:,}") for label, value in student.shape.items()]
    rows.append(("parameters", f"{student.total:,}", f"{teacher.total:,}"))
    rows += [(part, f"{student.parameters[part]:,}", f"{teacher.parameters[part]:,}") for part in PARTS]
    rows.append(("megabytes (float32)", f"{student.megabytes:,.1f}", f"{teacher.megabytes:,.1f}"))
    return ModelCard.from_template(
        ModelCardData(library_name="transformers", tags=["hf-kd", "knowledge-distillation"], **optional),
        template_path=str(TEMPLATE),
        title=inline(name),
        plan=plan,
        teacher_id=teacher_id,
        sentences=sentences(plan),
        student=student,
        only_trimmed=plan.trim is not None and not plan.sizes and plan.weights == "teacher",
        rows=rows,
        inline=inline,
    )
