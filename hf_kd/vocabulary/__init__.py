"""Smaller vocabularies: count a corpus, plan what to keep, trim the tokenizer, map ids back."""

from .counts import LanguageCounts, TokenCounts, count_tokens
from .maps import same_pipeline, token_map
from .plan import plan_trim
from .tokenizers import check_plan, trim_tokenizer

__all__ = [
    "LanguageCounts",
    "TokenCounts",
    "check_plan",
    "count_tokens",
    "plan_trim",
    "same_pipeline",
    "token_map",
    "trim_tokenizer",
]
