"""A comparison's figures into the facts and cards of its students."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .. import facts_file, publication
from .compare import Comparison
from .contestants import CompareError


def update_cards(comparison: Comparison) -> list[Path]:
    """Write each student's evaluation into its facts, and its card anew; returns the cards.

    Raises:
        CompareError: a student lies in no folder, or has no facts.
    """
    facts = {}
    for name in comparison.students:
        folder = comparison.folders.get(name)
        if folder is None:
            raise CompareError(f"Student `{name}` lies in no folder, so its card cannot be written. Download it first.")
        try:
            facts[name] = facts_file.load(folder)
        except ValueError as error:
            raise CompareError(str(error)) from error
    return [
        publication.write(comparison.folders[name], dataclasses.replace(facts[name], evaluation=evaluation))
        for name, evaluation in comparison.students.items()
    ]
