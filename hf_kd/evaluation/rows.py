"""Held-out rows of one language: read, checked, sampled."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIELDS = {"text-classification": ("text", "label"), "token-classification": ("tokens", "ner_tags")}
"""What a row of labelled data holds, by task identifier of the Hub."""


@dataclass(frozen=True)
class Rows:
    """One language's rows.

    Attributes:
        language: code or name.
        rows: a line of text each, or a text and its label, or words and their tags.
        data: first digits of the SHA-256 of the file.
    """

    language: str
    rows: tuple[Any, ...]
    data: str


def read_rows(language: str, file: Path, task: str, most: int, seed: int) -> Rows:
    """Read a file of text, one line a row, or of JSON objects, one a line.

    Args:
        language: what to call the language.
        file: UTF-8; a name ending in .jsonl or .json holds objects.
        task: task identifier of the Hub; it decides what a row must hold.
        most: rows to keep at most; more are sampled.
        seed: seed of the sample.

    Raises:
        ValueError: the file is missing, empty, not UTF-8, or does not hold what the task needs.
    """
    if not file.is_file():
        raise ValueError(f"Data file `{file}` of `{language}` does not exist. Pass --data {language}=FILE.")
    content = file.read_bytes()
    try:
        lines = [line for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"Data file `{file}` is not UTF-8 (see byte {error.start}). Convert it first.") from error
    rows = [_read_row(line, number, file, task) for number, line in enumerate(lines, 1)]
    if not rows:
        raise ValueError(f"Data file `{file}` is empty. Fill it with one row a line, or leave `{language}` out.")
    if len(rows) > most:
        chosen = sorted(random.Random(f"{seed} {language}").sample(range(len(rows)), most))
        rows = [rows[place] for place in chosen]
    return Rows(language, tuple(rows), hashlib.sha256(content).hexdigest()[:12])


def _read_row(line: str, number: int, file: Path, task: str) -> Any:
    fields = FIELDS.get(task, ("text",))
    if file.suffix not in (".jsonl", ".json"):
        if task in FIELDS:
            raise ValueError(
                f"Data file `{file}` is plain text, but {task} needs labels. Pass a .jsonl file with "
                f"`{'` and `'.join(fields)}` in every row."
            )
        return line.strip()
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"Line {number} of data file `{file}` is no JSON ({error.msg}). One object a line.") from error
    missing = [field for field in fields if not isinstance(row, dict) or field not in row]
    if missing:
        raise ValueError(
            f"Line {number} of data file `{file}` has no `{'` and no `'.join(missing)}`, which {task} needs."
        )
    values = tuple(row[field] for field in fields)
    if task == "token-classification" and len(values[0]) != len(values[1]):
        raise ValueError(
            f"Line {number} of data file `{file}` has {len(values[0])} tokens and {len(values[1])} tags. Give every "
            "token one tag."
        )
    return values if len(values) > 1 else values[0]
