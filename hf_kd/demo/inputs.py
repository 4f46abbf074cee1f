"""A teacher and text of the user's own: read, sampled and checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from .settings import DemoError, DemoSettings
from .text import LanguageText

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST_LINES = 40


def read_text(files: Sequence[Path], settings: DemoSettings) -> dict[str, LanguageText]:
    """Sample lines of text files: one sentence a line, one language a file.

    Args:
        files: text files; a file's stem names its language.
        settings: `train_lines`, `held_out_lines` and `seed` are read.

    Returns:
        Lines by language. A tenth of a file is held out, at most `held_out_lines`; a line
        that stands in several files is read from the first alone.

    Raises:
        DemoError: a file is missing, empty or too short, or two have the same stem.
    """
    text: dict[str, LanguageText] = {}
    seen: set[str] = set()
    for file in files:
        if file.stem in text:
            raise DemoError(f"Two text files are named `{file.stem}`, which names the language. Rename one of them.")
        lines = [line for line in _read_lines(file) if line not in seen]
        if len(lines) < FEWEST_LINES:
            raise DemoError(
                f"Text file `{file}` has {len(lines)} lines of its own; the demo needs {FEWEST_LINES} or more, a "
                "tenth of them to measure on. Add lines, or leave the file out."
            )
        seen.update(lines)
        text[file.stem] = _sample(file.stem, lines, settings)
    return text


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a teacher's tokenizer.

    Args:
        name: folder or Hub id of the teacher.

    Raises:
        DemoError: it cannot be loaded, or has no mask or padding token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer of teacher", name, error) from error
    for kind in ("mask", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise DemoError(
                f"The tokenizer of teacher `{name}` has no {kind} token; the demo needs one to mask words and compare "
                "guesses. Pass a masked language model with its own tokenizer."
            )
    return tokenizer


def load_masked_lm(name: str) -> PreTrainedModel:
    """Load a masked language model in float32, head included.

    Args:
        name: folder or Hub id of the model.

    Raises:
        DemoError: it cannot be loaded, or has no trained masked-LM head.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _not_loaded("teacher", name, error) from error
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise DemoError(
            f"Teacher `{name}` is a `{config.model_type}`, which has no masked-LM head; the demo fills masks. Pass an "
            "encoder trained by masked language modelling, such as an XLM-R."
        )
    try:
        model, loading = AutoModelForMaskedLM.from_pretrained(name, dtype="float32", output_loading_info=True)
    except (OSError, ValueError) as error:
        raise _not_loaded("teacher", name, error) from error
    if missing := sorted(loading["missing_keys"]):
        raise DemoError(
            f"Teacher `{name}` has no masked-LM head: {len(missing)} of its weights are missing, such as "
            f"`{missing[0]}`. Pass a checkpoint saved with its head (`AutoModelForMaskedLM`), not a bare encoder or a "
            "classifier."
        )
    return model


def _read_lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DemoError(f"Text file `{file}` does not exist. Pass files with one sentence a line.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DemoError(f"Text file `{file}` is not UTF-8 (see byte {error.start}). Convert it first.") from error
    distinct = list(dict.fromkeys(line for line in lines if line))
    if not distinct:
        raise DemoError(f"Text file `{file}` is empty. Fill it with one sentence a line, or leave it out.")
    return distinct


def _sample(language: str, lines: list[str], settings: DemoSettings) -> LanguageText:
    shuffled = random.Random(f"{settings.seed} {language}").sample(lines, len(lines))
    held_out = min(settings.held_out_lines, len(lines) // 10)
    return LanguageText(
        tuple(shuffled[held_out : held_out + settings.train_lines]),
        tuple(shuffled[:held_out]),
    )


def _not_loaded(what: str, name: str, error: Exception) -> DemoError:
    reason = str(error).strip().splitlines()[0]
    return DemoError(
        f"The {what} `{name}` could not be loaded: {reason} Pass a folder written by `save_pretrained`, or a Hub id "
        "that can be reached."
    )
