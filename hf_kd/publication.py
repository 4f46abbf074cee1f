"""What lies beside a model for its readers: facts, card and pictures, all made from the facts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

from . import card, facts_file
from .records import Evaluation, RunFacts

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def write(folder: str | Path, facts: RunFacts) -> Path:
    """Write facts, pictures and card into a model's folder, and return the card.

    What `hf-kd compare` measured of these very weights is kept.

    Raises:
        ValueError: the metadata of the card that is there cannot be read.
    """
    save_facts(folder, facts)
    return regenerate(folder)


def save_facts(folder: str | Path, facts: RunFacts) -> None:
    """Write the facts alone, keeping what was measured of the very weights that lie there."""
    if facts.evaluation is None:
        facts = dataclasses.replace(facts, evaluation=_kept_evaluation(Path(folder)))
    facts_file.save(folder, facts)


def regenerate(folder: str | Path) -> Path:
    """Make pictures and card anew from the facts in a folder; a person's own words in the card stay.

    Raises:
        ValueError: there are no facts, or the card's metadata cannot be read.
    """
    folder = Path(folder)
    facts = facts_file.load(folder)
    path = folder / card.FILE_NAME
    existing = path.read_text(encoding="utf-8") if path.is_file() else None
    text = card.compose(facts, existing)  # before anything is written: it may refuse
    _draw(folder, facts)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def fingerprint(folder: str | Path) -> str | None:
    """SHA-256 over a folder's weight files, which tells one state of a model from another; None without any."""
    files = weight_files(folder)
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def weight_files(folder: str | Path) -> list[Path]:
    """A model's weight files; projections, which only a checkpoint needs, are none."""
    found: Iterable[Path] = (path for pattern in _WEIGHTS for path in Path(folder).glob(pattern))
    return sorted(path for path in found if not path.name.startswith("kd_"))


def _kept_evaluation(folder: Path) -> Evaluation | None:
    try:
        former = facts_file.load(folder).evaluation
    except ValueError:  # none there, or none that can be read: nothing to keep
        return None
    return former if former is not None and former.weights == fingerprint(folder) else None


def _draw(folder: Path, facts: RunFacts) -> None:
    if card.has_curve(facts):
        from .evaluation import curves, style  # a second of importing, spared where nothing is drawn

        style.save(curves.draw_loss_terms(facts.history), folder / card.IMAGES["loss"])
    if facts.evaluation is not None:
        from .evaluation import plots, style

        measured = {"student": facts.evaluation}
        style.save(plots.draw_languages(measured), folder / card.IMAGES["languages"])
        style.save(plots.draw_quality(measured), folder / card.IMAGES["quality"])
