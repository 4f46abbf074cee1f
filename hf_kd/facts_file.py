"""The facts beside the model: one JSON file, and what must never be in it.

    {"schema": "hf_kd/distillation-facts", "version": 1, "facts": {...}}

`facts` is a `RunFacts`, field by field, records within records; the docstrings of
`hf_kd.records` are its documentation. A field that is missing takes its default, so that older
files stay readable; a field that is unknown is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .records import RunFacts

FILE_NAME = "distillation_facts.json"
SCHEMA = "hf_kd/distillation-facts"
VERSION = 1

REMOVED = "(removed)"
_SECRET = re.compile(r"\b(hf|ghp|gho|sk|glpat|xox[bp])[_-][A-Za-z0-9_-]{16,}|\bapi_org_[A-Za-z0-9]{16,}")
_LOCAL = re.compile(
    r"(?<![\w:/.])/[\w.@+-]+(/[\w.@+-]+)+|~[/\\][^\s\"']*|\b[A-Za-z]:[\\/][^\s\"']*|\\\\[\w.-]+\\[^\s\"']*"
    r"|\bfile://[^\s\"']*"
)

_NUMBERS = re.compile(r"\[(?:\s*-?\d+,?)+\s*\]")  # kept units and tokens: a line each would be a book

Record = TypeVar("Record")


def save(folder: str | Path, facts: RunFacts) -> Path:
    """Write the facts into a model's folder, whole or not at all, and return the file."""
    path = Path(folder) / FILE_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(dumps(facts), encoding="utf-8")
    partial.replace(path)
    return path


def load(folder: str | Path) -> RunFacts:
    """Read the facts beside a model.

    Raises:
        ValueError: there are none, or they are not of this schema.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise ValueError(
            f"Folder `{folder}` has no {FILE_NAME}, which a card is made from. `DistillationTrainer` writes it on "
            "`save_model` and `create_model_card`: save the student again, or name the folder that it was saved in."
        )
    return loads(path.read_text(encoding="utf-8"), str(path))


def dumps(facts: RunFacts) -> str:
    """Facts as text: the same facts give the same bytes."""
    content = {"schema": SCHEMA, "version": VERSION, "facts": plain(facts)}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found.group()), text) + "\n"


def loads(text: str, name: str = FILE_NAME) -> RunFacts:
    """Read facts from text.

    Args:
        text: what `dumps` wrote.
        name: what to call it in errors.

    Raises:
        ValueError: it is no JSON, of another schema, or holds what no record has.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}` is no JSON ({error}). Restore it, or save the student again.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"`{name}` does not hold facts of a distillation: its `schema` is not {SCHEMA}.")
    if content.get("version") != VERSION:
        raise ValueError(
            f"`{name}` has version {content.get('version')} of the facts' schema; this hf_kd reads version {VERSION}. "
            "Use the hf_kd that wrote it."
        )
    try:
        return record(RunFacts, content["facts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`{name}` does not fit the facts' schema: {error}. Save the student again.") from error


def plain(value: Any) -> Any:
    """A record as what JSON knows; numbers that are none become text, secrets and local paths go."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {scrub(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return scrub(str(value))


def record(cls: type[Record], content: Mapping[str, Any]) -> Record:
    """The reverse of `plain` for a record, guided by its annotations.

    Raises:
        ValueError: the content has a field that the record has not.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise ValueError(
            f"The facts hold `{'`, `'.join(unknown)}`, which `{cls.__name__}` does not know. A newer hf_kd may have "
            "written them: update hf_kd."
        )
    return cls(**{name: _typed(hints[name], value) for name, value in content.items()})


def scrub(text: str) -> str:
    """Text without secrets and local paths.

    Example:
        >>> scrub("trained on /home/amina/data with hf_abcdefghijklmnopqrstu")
        'trained on (removed) with (removed)'
    """
    return _LOCAL.sub(REMOVED, _SECRET.sub(REMOVED, text))


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as its annotation wants it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        return _typed(next(kind for kind in inner if kind is not type(None)), value)
    if dataclasses.is_dataclass(hint):
        return record(typing.cast(type, hint), value)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):  # a NamedTuple
        return hint(*value)
    if origin in (tuple, list, set, frozenset) and not (origin is tuple and inner[-1] is not Ellipsis):
        return origin(_typed(inner[0], item) for item in value)
    if origin is tuple:
        return tuple(_typed(kind, item) for kind, item in zip(inner, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {int(name) if inner[0] is int else name: _typed(inner[1], item) for name, item in value.items()}
    return value
