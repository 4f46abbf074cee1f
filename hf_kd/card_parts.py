"""The parts of a card: what is generated, and what a person wrote around it."""

from __future__ import annotations

import re

import yaml
from huggingface_hub import CardData, ModelCard, ModelCardData

_PART = re.compile(r"^<!-- hf_kd begin (\w+) -->\n.*?^<!-- hf_kd end \1 -->$", re.DOTALL | re.MULTILINE)
_HEAD = re.compile(r"^<!-- hf_kd: generated from .*? of the metadata (.*?);.*?-->$", re.DOTALL | re.MULTILINE)
_METADATA = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

# Of a card without our marks: written by a machine, hence nobody's loss.
_MACHINE_MADE = (
    "<!-- This model card has been generated automatically according to the information the Trainer had access to.",
    "# Model Card for Model ID",  # the Hub's template, its very title left blank
)

OWNED = ("base_model", "library_name", "model-index", "teacher", "teacher_revision")
"""Metadata that is the facts' alone: where they are silent, the key goes. peft, say, writes local paths there."""


def merge(generated: ModelCard, existing: str | None) -> str:
    """A generated card with everything that a person added to an existing one.

    Args:
        generated: the card as the facts have it.
        existing: the card in the folder, or None.

    Returns:
        The existing card with its generated parts replaced; parts that it lacks are put where they
        belong. Of the metadata, generated keys win, and others stay.

    Raises:
        ValueError: the existing card's metadata cannot be read.
    """
    data, body = ({}, "") if existing is None else split(existing)
    head = _HEAD.search(body)
    generated_before = head.group(1).split(", ") if head else []
    own = {name: value for name, value in data.items() if name == "tags" or name not in generated_before}
    metadata = _merge_metadata(generated.data, own)
    text = generated.text.strip() + "\n"
    if _PART.search(body):
        text = _replace_parts(text, body)
    elif body.strip() and not any(mark in body for mark in _MACHINE_MADE):
        text = f"{text}\n{body.strip()}\n"
    return f"---\n{CardData(**metadata).to_yaml()}\n---\n\n{text}"


def split(card: str) -> tuple[dict[str, object], str]:
    """A card's metadata and its text.

    Raises:
        ValueError: the metadata is no YAML mapping.
    """
    match = _METADATA.match(card)
    if match is None:
        return {}, card
    try:
        data = yaml.safe_load(match.group(1)) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The card's metadata, between the first two `---`, is no YAML: {reason}. Correct it, or delete README.md "
            "and have it written anew."
        ) from error
    if not isinstance(data, dict):
        raise ValueError("The card's metadata, between the first two `---`, is no list of `name: value`. Correct it.")
    return data, card[match.end() :]


def _merge_metadata(generated: ModelCardData, existing: dict[str, object]) -> dict[str, object]:
    merged = generated.to_dict()
    for name, value in existing.items():
        if name == "tags" and isinstance(value, list):
            own = [tag for tag in value if isinstance(tag, str) and not tag.startswith("base_model:")]
            merged["tags"] = list(dict.fromkeys([*merged["tags"], *own]))
        elif name not in merged and name not in OWNED:
            merged[name] = value
    return merged


def _replace_parts(generated: str, existing: str) -> str:
    """Replace each part in place; a part that is missing goes behind the one that precedes it."""
    parts = {match.group(1): match.group(0) for match in _PART.finditer(generated)}
    placed = {match.group(1) for match in _PART.finditer(existing)}
    text = _PART.sub(lambda match: parts.get(match.group(1), match.group(0)), existing)
    previous = None
    for name, part in parts.items():
        if name not in placed:
            before = 0 if previous is None else text.index(previous) + len(previous)
            gap = "\n\n" if before else ""
            text = f"{text[:before]}{gap}{part}{'' if before else chr(10) * 2}{text[before:]}"
        previous = part
    head = _HEAD.search(generated)
    if head is not None and _HEAD.search(text):
        text = _HEAD.sub(lambda _: head.group(0), text, count=1)
    return text.strip() + "\n"
