"""Students cut from teachers: depth, width and vocabulary, with weights copied."""

from .build import build_student, student_config, trim_model, use_master_weights
from .importance import sample_batches
from .plan import plan_student
from .trim import trim_vocabulary

__all__ = [
    "build_student",
    "plan_student",
    "sample_batches",
    "student_config",
    "trim_model",
    "trim_vocabulary",
    "use_master_weights",
]
