"""A model and its tokenizer, trimmed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..architecture import text_config
from .build import trim_model
from .families import VOCABULARY, family_of, require_cut

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..plans import TrimPlan
    from ..vocabulary import TokenCounts

_MOST_PADDING_ROWS = 1024  # vocabularies are padded to round numbers, never by more


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Any = None,
    *,
    vocab_size: int | None = None,
    coverage: float | None = None,
    plan: TrimPlan | None = None,
    num_proc: int = 1,
    **choices: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, TrimPlan]:
    """Trim a model and its tokenizer to the tokens that some text uses. Neither argument is changed.

    Args:
        model: a model of a supported family, a teacher as well as a student.
        tokenizer: its own fast tokenizer.
        texts: the corpus to count: whatever `hf_kd.vocabulary.count_tokens` takes, or a mapping
            from language to it. Not needed with a plan.
        vocab_size: most tokens to keep. One of this and `coverage` is needed, unless a plan is given.
        coverage: share of the token occurrences to keep, above 0 and up to 1.
        plan: from `plan_trim`, instead of the text.
        num_proc: processes that count.
        choices: further arguments of `plan_trim`: `keep`, `balance`.

    Returns:
        The trimmed model, its tokenizer, and the plan.

    Raises:
        ValueError: the tokenizer is not the model's, or what is asked for cannot be kept.
        TypeError: a slow tokenizer, or not exactly one of text and plan.

    Source:
        Load What You Need, Abdaoui et al. (2020), arXiv:2010.05609.
    """
    from ..vocabulary import count_tokens, plan_trim, trim_tokenizer

    config = text_config(model)
    check_own_tokenizer(config, tokenizer)
    if plan is not None and (texts is not None or vocab_size is not None or coverage is not None or choices):
        raise TypeError("Both a plan and what a plan is made of were given. Give one of the two.")
    if plan is None:
        if texts is None:
            raise TypeError("There is neither text to count nor a plan. Give `texts` and `vocab_size`, or `plan`.")
        counts: TokenCounts = count_tokens(tokenizer, texts, num_proc=num_proc)
        plan = plan_trim(
            tokenizer, counts, vocab_size=vocab_size, coverage=coverage, model_config=model.config, **choices
        )
    return trim_model(model, plan), trim_tokenizer(tokenizer, plan), plan


def check_own_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot be the model's.

    Raises:
        ValueError: the model has fewer rows than the tokenizer has tokens, or far more, or they
            name other special tokens.
    """
    require_cut(family_of(config), config, VOCABULARY)
    tokens = max(tokenizer.get_vocab().values()) + 1
    if not tokens <= config.vocab_size <= tokens + _MOST_PADDING_ROWS:
        raise ValueError(
            f"The tokenizer has {tokens:,} tokens, the model {config.vocab_size:,} rows, so it is not the model's own. "
            "Use the tokenizer that the model was trained with."
        )
    for role in ("pad", "cls", "sep", "mask"):
        own, other = getattr(config, f"{role}_token_id", None), getattr(tokenizer, f"{role}_token_id", None)
        if own is not None and other is not None and own != other:
            raise ValueError(
                f"The model's `{role}_token_id` is {own}, the tokenizer's {other}, so it is not the model's own. Use "
                "the tokenizer that the model was trained with, or correct the configuration."
            )
