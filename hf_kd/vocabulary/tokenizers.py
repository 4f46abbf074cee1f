"""The act: a tokenizer that has the plan's tokens alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from .backend import check_fast, fingerprint, merge_parts, read_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..plans import TrimPlan

logger = logging.get_logger(__name__)

_STALE = ("added_tokens.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
_SETTINGS = ("padding_side", "truncation_side", "clean_up_tokenization_spaces", "split_special_tokens")


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, plan: TrimPlan) -> PreTrainedTokenizerBase:
    """Make a tokenizer of a plan's tokens. A token's new id is its place among the kept ids.

    Settings, chat template, special tokens, post-processor and padding stay as they are. The class
    stays, too, unless it cannot hold the trimmed tokenizer; then it is `PreTrainedTokenizerFast`,
    and a warning says so. The given tokenizer is not changed.

    Args:
        tokenizer: the tokenizer that the plan was made for.
        plan: what `plan_trim` returned.

    Raises:
        TypeError: a slow tokenizer.
        ValueError: a plan for another tokenizer, or one that drops a token it cannot do without.
        RuntimeError: the trimmed tokenizer does not come back as it was written.
    """
    check_plan(tokenizer, plan)
    backend = trim_backend(read_backend(tokenizer), plan.kept_ids)
    ranks = {old: new for new, old in enumerate(plan.kept_ids)}
    expected = {token: ranks[old] for token, old in tokenizer.get_vocab().items() if old in ranks}
    with tempfile.TemporaryDirectory() as folder:
        _write(tokenizer, backend, ranks, Path(folder))
        trimmed = _reload(tokenizer, backend, expected, folder)
    _carry_settings(tokenizer, trimmed)
    return trimmed


def check_plan(tokenizer: PreTrainedTokenizerBase, plan: TrimPlan) -> None:
    """Refuse a plan that was made for another tokenizer.

    Raises:
        TypeError: a slow tokenizer.
        ValueError: the plan's fingerprint is not that of the tokenizer.
    """
    check_fast(tokenizer)
    if plan.fingerprint != fingerprint(tokenizer):
        raise ValueError(
            f"The plan is for another tokenizer: it was made for {plan.source_size} tokens with the fingerprint "
            f"{plan.fingerprint[:12]}, this one has {len(tokenizer)} with {fingerprint(tokenizer)[:12]}. Plan anew "
            "with this tokenizer."
        )


def trim_backend(backend: Mapping[str, Any], kept_ids: tuple[int, ...]) -> dict[str, Any]:
    """The content of a `tokenizer.json` with the kept tokens alone, every id in it renumbered.

    Raises:
        ValueError: an id that the tokenizer cannot do without is not kept.
    """
    ranks = _Ranks({old: new for new, old in enumerate(kept_ids)})
    added = [{**entry, "id": ranks[entry["id"]]} for entry in backend["added_tokens"]]
    padding = backend["padding"]
    return {
        **backend,
        "added_tokens": added,
        "padding": padding and {**padding, "pad_id": ranks[padding["pad_id"]]},
        "post_processor": _trim_post_processor(backend["post_processor"], ranks),
        "model": _trim_model(backend["model"], ranks, added),
    }


class _Ranks(dict[int, int]):
    """New ids by old id."""

    def __missing__(self, old: int) -> int:
        raise ValueError(
            f"The plan drops token id {old}, which the tokenizer cannot do without (special, added or unknown token). "
            "Plan with `plan_trim`, which keeps it."
        )


def _trim_model(model: Mapping[str, Any], ranks: _Ranks, added: list[dict[str, Any]]) -> dict[str, Any]:
    if model["type"] == "Unigram":
        pieces = [piece for old, piece in enumerate(model["vocab"]) if old in ranks]
        unknown = model["unk_id"]
        return {**model, "vocab": pieces, "unk_id": None if unknown is None else ranks[unknown]}
    old_ids = sorted(model["vocab"].items(), key=lambda entry: entry[1])
    kept = {token: ranks[old] for token, old in old_ids if old in ranks}
    outside = {entry["content"]: entry["id"] for entry in added if entry["content"] not in kept}
    if any(new < len(kept) for new in outside.values()):
        # The library numbers added tokens from the model's size on, so those in between must be the model's own.
        kept = dict(sorted({**kept, **outside}.items(), key=lambda entry: entry[1]))
    trimmed = {**model, "vocab": kept}
    if model["type"] == "BPE":
        whole = [all(part in kept for part in parts) for parts in merge_parts(model)]
        trimmed["merges"] = [merge for merge, is_whole in zip(model["merges"], whole, strict=True) if is_whole]
    return trimmed


def _trim_post_processor(processor: Mapping[str, Any] | None, ranks: _Ranks) -> dict[str, Any] | None:
    if processor is None:
        return None
    trimmed = dict(processor)
    if processor["type"] == "Sequence":
        trimmed["processors"] = [_trim_post_processor(part, ranks) for part in processor["processors"]]
    if processor["type"] == "TemplateProcessing":
        trimmed["special_tokens"] = {
            name: {**entry, "ids": [ranks[old] for old in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
    for name in ("cls", "sep"):  # of BertProcessing and RobertaProcessing
        if name in processor:
            token, old = processor[name]
            trimmed[name] = [token, ranks[old]]
    return trimmed


def _write(
    tokenizer: PreTrainedTokenizerBase, backend: Mapping[str, Any], ranks: Mapping[int, int], folder: Path
) -> None:
    """Save the tokenizer, its vocabulary replaced by the trimmed one, without files that still hold the old."""
    tokenizer.save_pretrained(folder)
    for pattern in (*_STALE, *tokenizer.vocab_files_names.values()):
        for path in folder.glob(pattern):
            path.unlink()
    (folder / "tokenizer.json").write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("vocab", None)
    config.pop("merges", None)
    if config.get("unk_id") in ranks:  # DeBERTa-v2's
        config["unk_id"] = ranks[config["unk_id"]]
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(ranks[int(old)]): entry for old, entry in config["added_tokens_decoder"].items()
        }
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _reload(
    tokenizer: PreTrainedTokenizerBase, backend: Mapping[str, Any], expected: Mapping[str, int], folder: str
) -> PreTrainedTokenizerBase:
    """Load the trimmed tokenizer in its own class, or in the general one if that class rebuilds it otherwise."""
    trimmed = type(tokenizer).from_pretrained(folder)
    if _is_faithful(trimmed, backend, expected):
        return trimmed
    general = PreTrainedTokenizerFast.from_pretrained(folder)
    if not _is_faithful(general, backend, expected):
        raise RuntimeError(
            f"The trimmed `{type(tokenizer).__name__}` has {len(general)} tokens after loading, and {len(expected)} "
            "were kept, or its settings differ. Save it, load it as `PreTrainedTokenizerFast`, and trim that."
        )
    logger.warning(
        f"`{type(tokenizer).__name__}` rebuilds its tokenizer on loading, and would change the trimmed one. It is a "
        "`PreTrainedTokenizerFast` from now on, which reads `tokenizer.json` as it is."
    )
    return general


def _is_faithful(trimmed: PreTrainedTokenizerBase, backend: Mapping[str, Any], expected: Mapping[str, int]) -> bool:
    return trimmed.get_vocab() == expected and json.loads(trimmed.backend_tokenizer.to_str()) == backend


def _carry_settings(tokenizer: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase) -> None:
    """Carry over what `save_pretrained` leaves out when it was set after loading; forget the temporary folder."""
    for name in _SETTINGS:
        value = getattr(tokenizer, name)
        if getattr(trimmed, name) != value:
            setattr(trimmed, name, value)
            trimmed.init_kwargs[name] = value
    trimmed.name_or_path = trimmed.init_kwargs["name_or_path"] = ""
