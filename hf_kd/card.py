"""Run facts to a model card. Pure text: nothing is measured or looked up here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .architecture import AUTO_CLASSES
from .recipes import RECIPES
from .records import RunFacts

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"


def render(facts: RunFacts) -> ModelCard:
    """Turn facts into a card with metadata."""
    recipe = RECIPES.get(facts.objective.recipe or "") if facts.objective else None
    return ModelCard.from_template(
        _metadata(facts),
        template_path=str(TEMPLATE),
        title=inline(facts.model_name),
        facts=facts,
        recipe=recipe,
        auto_class=AUTO_CLASSES.get(str(facts.student["head"]), "AutoModel"),
        rows=_comparison(facts),
        terms=_terms(facts),
        results={inline(name): _number(value) for name, value in facts.results.items()},
        training={inline(name): _number(value) for name, value in facts.training.items() if value is not None},
        inline=inline,
        number=_number,
    )


def write(folder: str, facts: RunFacts) -> Path:
    """Write the card into a model's folder as README.md, and return its path."""
    path = Path(folder) / "README.md"
    render(facts).save(path)
    return path


def inline(text: object) -> str:
    """Text that cannot change a card's structure: one line, no markup."""
    flat = re.sub(r"\s+", " ", str(text)).strip()
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", flat)


def _metadata(facts: RunFacts) -> ModelCardData:
    optional: dict[str, Any] = {
        "base_model": facts.student.get("base_model"),
        "teacher": facts.teacher.get("hub_id") if facts.teacher else None,
        "license": facts.licence,
        "datasets": list(facts.datasets) or None,
        "pipeline_tag": facts.tasks[0] if facts.tasks else None,
    }
    return ModelCardData(
        language=list(facts.languages) or None,
        library_name="peft" if facts.peft else "transformers",
        tags=list(dict.fromkeys(["hf-kd", "knowledge-distillation", *facts.tags])),
        **{name: value for name, value in optional.items() if value is not None},
    )


def _comparison(facts: RunFacts) -> list[tuple[str, str, str]]:
    """Rows of the table of sizes: what, student, teacher."""
    labels = {
        "class": "class",
        "parameters": "parameters",
        "embedding_parameters": "of these in the input embeddings",
        "layers": "layers",
        "width": "width",
        "heads": "attention heads",
        "vocabulary": "vocabulary",
    }
    teacher: Mapping[str, object] = facts.teacher or {}
    return [
        (label, f"`{facts.student[name]}`" if name == "class" else _number(facts.student[name]),
         f"`{teacher.get(name)}`" if name == "class" else _number(teacher.get(name)))
        for name, label in labels.items()
    ]  # fmt: skip


def _terms(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """Rows of the objective: term, weight, how, layers."""
    objective = facts.objective
    if objective is None:
        return []
    heads = {"head_mean": "averaged over heads", "per_head": "head by head"}[objective.attention_heads]
    how = {
        "task": "the labels' own loss",
        "logits": f"{objective.logits_divergence}, temperature {objective.temperature:g}, "
        f"positions: {objective.positions}",
        "attention": f"{objective.attention_distance} of {objective.attention_values}, {heads}",
        "hidden": objective.hidden_distance,
        "relation": f"query, key and value relations, {objective.relation_heads} relation heads",
    }
    return [
        (term, f"{weight:g}", how[term], ", ".join(facts.layer_pairs.get(term, ())) or "none")
        for term, weight in objective.weights.items()
        if weight > 0
    ]


def _number(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "unknown" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else inline(value)
