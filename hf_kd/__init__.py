"""Knowledge distillation as a Hugging Face `Trainer` extension.

Two import lines turn a stock script into a distillation script:

    from hf_kd import DistillationTrainer as Trainer
    from hf_kd import DistillationArguments as TrainingArguments

Names load on first use, so that `import hf_kd` imports neither torch nor the Trainer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import DistillationArguments as DistillationArguments
    from .balance import balance_languages as balance_languages
    from .balance import balance_table as balance_table
    from .collators import DataCollatorForAttentionMatching as DataCollatorForAttentionMatching
    from .collators import DataCollatorForDistillation as DataCollatorForDistillation
    from .collators import DataCollatorForHiddenMatching as DataCollatorForHiddenMatching
    from .packing import pack_texts as pack_texts
    from .packing import tokenize_with_languages as tokenize_with_languages
    from .recipes import RECIPES as RECIPES
    from .samplers import LanguageGroupedSampler as LanguageGroupedSampler
    from .students import build_student as build_student
    from .students import plan_student as plan_student
    from .students import trim_vocabulary as trim_vocabulary
    from .teachers import load_teacher as load_teacher
    from .trainer import DistillationTrainer as DistillationTrainer

__version__ = "0.1.0.dev0"

_HOME = {
    "DataCollatorForAttentionMatching": "collators",
    "DataCollatorForDistillation": "collators",
    "DataCollatorForHiddenMatching": "collators",
    "DistillationArguments": "arguments",
    "DistillationTrainer": "trainer",
    "LanguageGroupedSampler": "samplers",
    "RECIPES": "recipes",
    "balance_languages": "balance",
    "balance_table": "balance",
    "build_student": "students",
    "load_teacher": "teachers",
    "pack_texts": "packing",
    "plan_student": "students",
    "tokenize_with_languages": "packing",
    "trim_vocabulary": "students",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
