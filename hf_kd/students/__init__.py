"""Students cut from teachers: depth, width and vocabulary, with weights copied."""

from .build import build_student as build_student
from .build import student_config as student_config
from .build import trim_model as trim_model
from .build import use_master_weights as use_master_weights
from .importance import sample_batches as sample_batches
from .plan import plan_student as plan_student
