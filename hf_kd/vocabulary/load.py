"""The tokenizer beside a model."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

# `AutoTokenizer` makes an empty tokenizer of the model's kind where none of these lies.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)


def load_tokenizer(name_or_path: str, **hub: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model, or None if there is none.

    Args:
        name_or_path: Hub id or folder of the model.
        hub: `revision` and `trust_remote_code`.

    Raises:
        ValueError: it cannot be read.
    """
    if not any(has_file(name_or_path, file, hub.get("revision", "main")) for file in _FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(name_or_path, **hub)
    except Exception as error:  # of many kinds, where a tokenizer's files are broken
        raise ValueError(
            f"The tokenizer beside `{name_or_path}` cannot be read ({type(error).__name__}: {error}). Save it there "
            "anew."
        ) from error


def has_file(name_or_path: str, file: str, revision: str = "main") -> bool:
    """Whether a folder, or a repository that can be reached, has a file."""
    return (
        cached_file(
            name_or_path,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        is not None
    )
