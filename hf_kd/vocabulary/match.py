"""A student and a teacher with vocabularies of their own: which token is which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..architecture import text_config
from ..plans import VocabularyMatch
from .load import load_tokenizer
from .maps import same_pipeline, token_map

if TYPE_CHECKING:
    from torch import nn

logger = logging.get_logger(__name__)

MOST_LACKING = 0.05
"""Share of the student's tokens that a teacher may lack: with more, it would read mostly nonsense."""

_SHOWN = 5


def match_vocabularies(
    student: nn.Module, teacher: nn.Module, tokenizer: object, teacher_name: str | None, **kwargs: Any
) -> VocabularyMatch:
    """Match the student's token ids to the teacher's by token string.

    Equal sizes are no proof of equal vocabularies: where both tokenizers are at hand, their
    token-to-id maps are compared. A model may have more rows than its tokenizer has tokens
    (padded vocabularies). Tokens that the teacher lacks are not compared, which is logged; the
    teacher reads its unknown token in their place.

    Args:
        student: the student.
        teacher: the teacher.
        tokenizer: the student's tokenizer, or None.
        teacher_name: Hub id or folder that the teacher's tokenizer may be loaded from, or None.
        kwargs: further arguments of `AutoTokenizer.from_pretrained`.

    Returns:
        The match.

    Raises:
        ValueError: the tokenizers cut text differently, the teacher lacks too many tokens, or the
            sizes differ and there are no two tokenizers to compare.
    """
    sizes = text_config(student).vocab_size, text_config(teacher).vocab_size
    own = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    others = _load_tokenizer(teacher_name, **kwargs) if own is not None and teacher_name else None
    if own is None or others is None:
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The student's vocabulary has {sizes[0]:,} entries, the teacher's {sizes[1]:,}, and there are no two "
                "tokenizers to tell which tokens they share. Pass the student's tokenizer as `processing_class`, and "
                "save the teacher with its own."
            )
        logger.info("No tokenizer to compare: equal vocabulary sizes are taken for equal vocabularies.")
        return VocabularyMatch(sizes[0])
    theirs = others.get_vocab()
    if all(theirs.get(token) == index for token, index in own.get_vocab().items() if index < sizes[0]):
        return VocabularyMatch(min(sizes))
    return _match_by_token(own, others, sizes, str(teacher_name))


def _match_by_token(
    own: PreTrainedTokenizerBase, others: PreTrainedTokenizerBase, sizes: tuple[int, int], teacher_name: str
) -> VocabularyMatch:
    difference = _difference(own, others)
    if difference is not None:
        raise ValueError(
            f"Student and teacher `{teacher_name}` cut text differently ({difference}), so their tokens cannot be "
            "compared one by one. Use a teacher with the student's tokenizer, or a student made from the teacher's "
            "(`hf-kd trim`)."
        )
    ids = torch.full((sizes[0],), -1, dtype=torch.long)
    found = torch.from_numpy(token_map(own, others))[: sizes[0]]
    ids[: len(found)] = torch.where(found < sizes[1], found, -1)
    known = ids >= 0
    tokens = {index: token for token, index in own.get_vocab().items() if index < sizes[0]}
    lacking = [tokens[index] for index in sorted(tokens) if not known[index]]
    if len(lacking) > MOST_LACKING * len(tokens):
        raise ValueError(
            f"Teacher `{teacher_name}` lacks {len(lacking):,} of the student's {len(tokens):,} tokens (such as "
            f"{_show(lacking)}), too many to read the student's text. Use a teacher with the student's tokenizer, or a "
            "student made from the teacher's (`hf-kd trim`)."
        )
    compared = known.nonzero().flatten()
    columns = ids[compared]
    logger.warning(
        f"The student's vocabulary is matched to the teacher's by token: {len(compared):,} of the student's "
        f"{len(tokens):,} tokens, the teacher having {sizes[1]:,}. Its logits are computed for these alone."
        + (
            f" It lacks {_show(lacking)}: they are not compared, and it reads its unknown token there."
            if lacking
            else ""
        )
    )
    ids[~known] = _stand_in(others)
    in_order = torch.arange(len(compared))
    own_columns, their_columns = (None if torch.equal(found, in_order) else found for found in (compared, columns))
    return VocabularyMatch(len(compared), own_columns, their_columns, ids)


def _difference(own: PreTrainedTokenizerBase, others: PreTrainedTokenizerBase) -> str | None:
    """Why the two cut text differently, or None."""
    if own.is_fast and others.is_fast:
        return same_pipeline(own, others)
    return None if type(own) is type(others) else f"{type(own).__name__}, not {type(others).__name__}"


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a teacher reads where it lacks a token: its unknown token, or the nearest to it that it has."""
    for index in (tokenizer.unk_token_id, tokenizer.mask_token_id, tokenizer.eos_token_id):
        if index is not None:
            return int(index)
    return 0


def _show(tokens: list[str]) -> str:
    more = f" and {len(tokens) - _SHOWN:,} more" if len(tokens) > _SHOWN else ""
    return ", ".join(repr(token) for token in tokens[:_SHOWN]) + more


def _load_tokenizer(name: str, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    try:
        found, why = load_tokenizer(name, **kwargs), "none lies there"
    except ValueError as error:
        found, why = None, str(error)
    if found is None:
        logger.warning(
            f"No tokenizer can be read beside teacher `{name}` ({why}), so only the sizes of the vocabularies are "
            "compared. Save the teacher with its tokenizer to be sure that token ids agree."
        )
    return found
