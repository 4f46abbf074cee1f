"""What a fast tokenizer is made of, read from its `tokenizer.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

ALGORITHMS = ("BPE", "Unigram", "WordPiece")
"""The tokenizer models that can be trimmed."""


def read_backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of the `tokenizer.json` of a tokenizer that can be trimmed.

    Raises:
        TypeError: a slow tokenizer, or none at all.
        ValueError: a model other than those of `ALGORITHMS`, or two tokens of one id.
    """
    check_fast(tokenizer)
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    algorithm = backend["model"].get("type")
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"`{type(tokenizer).__name__}` has a {algorithm} model; trimming knows {', '.join(ALGORITHMS)}. Use a "
            "tokenizer of one of these."
        )
    vocabulary = tokenizer.get_vocab()
    pieces = backend["model"]["vocab"]
    if len(set(vocabulary.values())) < len(vocabulary) or (
        isinstance(pieces, list) and len({piece[0] for piece in pieces}) < len(pieces)
    ):
        raise ValueError(
            f"In the vocabulary of `{type(tokenizer).__name__}` a token has two ids, or an id two tokens, so that rows "
            "and tokens do not agree. Repair its `tokenizer.json` first."
        )
    return backend


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse tokenizers that are not backed by the `tokenizers` library.

    Raises:
        TypeError: a slow tokenizer, or none at all.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"A tokenizer is needed; got `{type(tokenizer).__name__}`. Pass what `AutoTokenizer.from_pretrained` "
            "returns."
        )
    if not tokenizer.is_fast:
        raise TypeError(
            f"`{type(tokenizer).__name__}` is a slow (Python) tokenizer; a fast one, which has a `tokenizer.json`, is "
            "needed. Convert it to a fast tokenizer first."
        )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary, tokens with their ids, in hexadecimal."""
    listed = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return hashlib.sha256(listed.encode()).hexdigest()


def merge_parts(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The merges of a BPE model, in order: left part, right part, and the token they become.

    A merge is written "left right", or [left, right] since tokenizers 0.20.
    """
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right, left + right[len(prefix) :]


def is_byte_level(backend: Mapping[str, Any]) -> bool:
    """Whether text becomes the 256 characters that stand for bytes before the model sees it."""
    return any(
        step.get("type") == "ByteLevel" for key in ("normalizer", "pre_tokenizer") for step in _steps(backend[key])
    )


def template_ids(backend: Mapping[str, Any]) -> list[int]:
    """The ids that the post-processor and the padding write."""
    ids = [] if backend["padding"] is None else [backend["padding"]["pad_id"]]
    for step in _steps(backend["post_processor"]):
        if step["type"] == "TemplateProcessing":
            ids += [token_id for entry in step["special_tokens"].values() for token_id in entry["ids"]]
        else:
            ids += [step[name][1] for name in ("cls", "sep") if name in step]
    return ids


def unknown_id(backend: Mapping[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """The id that the model gives to what it does not know, or None."""
    model = backend["model"]
    if model["type"] == "Unigram":
        return model.get("unk_id")
    return vocabulary.get(model.get("unk_token"))


def _steps(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A component's parts, those of sequences unfolded."""
    if component is None:
        return
    if component.get("type") != "Sequence":
        yield component
    for name in ("normalizers", "pretokenizers", "processors"):
        for part in component.get(name, ()):
            yield from _steps(part)
