"""The models of a comparison: loaded, named, and told apart by their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from ..architecture import AUTO_CLASSES, head_of_class
from ..facts import TASKS
from ..provenance import hardware_of, hub_id
from ..publication import fingerprint
from ..teachers import load_teacher, position_limit
from .summary import QUALITY

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADAPTER = "adapter_config.json"


class CompareError(ValueError):
    """Something the user can put right; the command shows it without a traceback."""


@dataclass(frozen=True)
class Contestant:
    """One model of a comparison.

    Attributes:
        name: what it is called, in this comparison alone.
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        weights: what tells these weights from others: a SHA-256, or a commit of the Hub.
        folder: where it lies, or None if it came from the Hub.
        hub_id: where it came from, or None if from a folder.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str
    folder: Path | None
    hub_id: str | None

    def longest(self, tokens: int) -> int:
        """Longest row that it can read, at most `tokens`."""
        limits = (tokens, self.tokenizer.model_max_length, position_limit(self.model))
        return min(limit for limit in limits if limit is not None)


def load(sources: Sequence[str], device: str) -> tuple[str, list[Contestant]]:
    """Load models for the task of the first.

    Args:
        sources: folders or Hub ids, the teacher first.
        device: where to put them.

    Returns:
        The task's identifier on the Hub, and the models.

    Raises:
        CompareError: one cannot be loaded, or has no head that can be compared.
    """
    head = _head_of(sources[0])
    task = TASKS[head]
    if task not in QUALITY:
        raise CompareError(
            f"`{sources[0]}` is a {head} model, which `hf-kd compare` does not measure. It measures "
            f"{', '.join(QUALITY)}."
        )
    names = _names(sources)
    return task, [_load(source, name, head, device) for source, name in zip(sources, names, strict=True)]


def _head_of(source: str) -> str:
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _not_loaded(source, error) from error
    heads = [head_of_class(name) for name in config.architectures or ()]
    if not heads or heads[0] is None:
        raise CompareError(
            f"`{source}` names no model with a head ({', '.join(config.architectures or ['no class'])}), so what to "
            "measure is not known. Pass a model saved with its head, such as one of AutoModelForMaskedLM."
        )
    return heads[0]


def _load(source: str, name: str, head: str, device: str) -> Contestant:
    folder = Path(source) if Path(source).is_dir() else None
    try:
        if folder is not None and (folder / _ADAPTER).is_file():
            model = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(source).to(device).eval()
        else:
            model = load_teacher(source, head, device=device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(source, error) from error
    if head == "masked_lm" and tokenizer.mask_token_id is None:
        raise CompareError(
            f"The tokenizer of `{source}` has no mask token, so nothing can be hidden from the model. Save the model "
            "with its own tokenizer."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    weights = fingerprint(folder) if folder is not None else getattr(model.config, "_commit_hash", None)
    return Contestant(name, model.float(), tokenizer, weights or "", folder, None if folder else hub_id(source))


def _names(sources: Sequence[str]) -> list[str]:
    """Short names that differ: a Hub id, or a folder's last part, numbered where two are the same."""
    names: list[str] = []
    for source in sources:
        name = Path(source).resolve().name if Path(source).is_dir() else source
        name = "".join(letter if letter.isprintable() else " " for letter in name)
        names.append(name if name not in names else f"{name} ({len(names)})")
    return names


def _not_loaded(source: str, error: Exception) -> CompareError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CompareError(
        f"`{source}` could not be loaded: {reason} Pass a folder written by `save_pretrained`, with its tokenizer, or "
        "a Hub id that can be reached."
    )


def describe_device(device: str) -> str:
    """What a device is, in words.

    Example:
        >>> "thread" in describe_device("cpu")
        True
    """
    found = hardware_of(torch.device(device))
    threads = found["threads"]
    return str(found.get("accelerator", f"{found['processor']}, {threads} thread{'s' if threads > 1 else ''}"))


def digest(*values: object) -> str:
    """A name for what a result hangs on: the same values give the same name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]
