"""Run facts to a model card. Pure text: nothing is measured or looked up here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from . import card_evaluation
from .architecture import AUTO_CLASSES
from .card_parts import merge
from .plan_words import sentences
from .provenance import shell
from .recipes import RECIPES
from .records import Objective, RunFacts

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
FILE_NAME = "README.md"
IMAGES = {"loss": "images/loss_terms.png", **card_evaluation.IMAGES}
"""Pictures of a card, by what they show, as paths in the model's folder."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_TASK = re.compile(r"[a-z0-9-]+")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHOWN_AT_MOST = 24
_HINTON = "Distilling the Knowledge in a Neural Network. Hinton, Vinyals & Dean 2015, arXiv:1503.02531"

_PIPELINES = {
    "masked_lm": ("fill-mask", 'model(f"{model.tokenizer.mask_token}")'),
    "causal_lm": ("text-generation", 'model("1, 2, 3,", max_new_tokens=8)'),
    "sequence_classification": ("text-classification", 'model("Text to classify")'),
    "token_classification": ("token-classification", 'model("Text to tag")'),
}


def render(facts: RunFacts) -> ModelCard:
    """Turn facts into a card with metadata."""
    recipe = RECIPES.get(facts.objective.recipe or "") if facts.objective else None
    metadata = _metadata(facts)
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        metadata_names=", ".join(metadata.to_dict()),
        title=inline(facts.model_name),
        facts=facts,
        teacher_id=_hub_ids([(facts.teacher or {}).get("hub_id")]),
        base_model=_hub_ids([facts.student.get("base_model")]),
        plan_teacher=_hub_ids([None if facts.plan is None else facts.plan.teacher]),
        kept=card_evaluation.summary(facts.evaluation, (facts.teacher or {}).get("parameters")),
        use=_use(facts),
        evaluation=card_evaluation.tables(facts.evaluation, inline),
        comparison_images=card_evaluation.pictures(facts.evaluation),
        recipe=recipe,
        rows=_comparison(facts),
        plan_sentences=[] if facts.plan is None else [inline(said) for said in sentences(facts.plan)],
        adapter=_listed(facts.adapter),
        terms=_terms(facts),
        results=_listed(facts.results),
        training=_listed({**facts.training, **facts.hardware}),
        datasets=", ".join(inline(name) for name in facts.datasets),
        rows_trained_on=_rows_trained_on(facts),
        licence=_licence(facts),
        has_curve=has_curve(facts),
        images=IMAGES,
        command=shell(map(one_line, facts.command)),
        names_paths=any(re.fullmatch(r"(--\w+=)?[A-Z][A-Z_]+", word) for word in facts.command),
        compare_command=shell(map(one_line, card_evaluation.command(facts.evaluation))),
        versions=[(inline(name), inline(version)) for name, version in facts.versions.items()],
        citations=_citations(facts),
        inline=inline,
        code=code,
        number=number,
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    return card


def compose(facts: RunFacts, existing: str | None = None) -> str:
    """The card's text, with everything that a person added to the existing one.

    Raises:
        ValueError: the existing card's metadata cannot be read.
    """
    return merge(render(facts), existing)


def has_curve(facts: RunFacts) -> bool:
    """Whether the loss was logged often enough to draw it."""
    return sum("loss" in entry and "step" in entry for entry in facts.history) > 1


def inline(text: object) -> str:
    """Text that cannot change a card's structure: one line, no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", one_line(text))


def code(text: object) -> str:
    """Text within backticks: one line, no backticks."""
    return re.sub(r"[`|]", "'", one_line(text))


def one_line(text: object) -> str:
    """Text in one line, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return re.sub(r"\s+", " ", printable).strip()


def number(value: object) -> str:
    """A value as a reader wants it: thousands apart, four digits of a fraction."""
    if isinstance(value, bool) or value is None:
        return "unknown" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{inline(name)} {number(item)}" for name, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return f"{len(value):,} values" if len(value) > _SHOWN_AT_MOST else ", ".join(map(number, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else inline(value)


# ---- metadata ----


def _metadata(facts: RunFacts) -> ModelCardData:
    peft_tags = ["lora"] if facts.adapter.get("kind") == "lora" else []
    base_model = _hub_ids([facts.student.get("base_model")])
    if facts.peft and base_model:
        peft_tags.append(f"base_model:adapter:{base_model}")
    results = card_evaluation.eval_results(facts.evaluation) or _run_results(facts)
    measured = [result.metric_type for result in results]
    optional: dict[str, Any] = {
        "base_model": base_model,
        "teacher": _hub_ids([(facts.teacher or {}).get("hub_id")]),
        "license": facts.licence if facts.licence and _LICENCE.fullmatch(facts.licence) else None,
        "datasets": [name for name in facts.datasets if _HUB_ID.fullmatch(name)] or None,
        "language": [name for name in facts.languages if _LANGUAGE.fullmatch(name)] or None,
        "pipeline_tag": facts.tasks[0] if facts.tasks and _TASK.fullmatch(facts.tasks[0]) else None,
        "metrics": list(dict.fromkeys(measured)) or None,
        "eval_results": results or None,
        "model_name": one_line(facts.model_name) if results else None,
    }
    return ModelCardData(
        library_name="peft" if facts.peft else "transformers",
        tags=list(dict.fromkeys(["hf-kd", "knowledge-distillation", *peft_tags, *map(one_line, facts.tags)])),
        **{name: value for name, value in optional.items() if value is not None},
    )


def _run_results(facts: RunFacts) -> list[EvalResult]:
    """The run's own metrics as structured results, where the Hub can tell what they were measured on."""
    names = [name for name in facts.datasets if _HUB_ID.fullmatch(name)]
    if len(names) != 1 or not facts.tasks or not _TASK.fullmatch(facts.tasks[0]):
        return []
    return [
        EvalResult(
            task_type=facts.tasks[0],
            dataset_type=names[0],
            dataset_name=names[0],
            metric_type=one_line(name.removeprefix("eval_")),
            metric_value=value,
        )
        for name, value in facts.results.items()
        if isinstance(value, float)
    ]


def _hub_ids(names: Iterable[object]) -> str | None:
    """The first name that is a Hub id."""
    return next((str(name) for name in names if name and _HUB_ID.fullmatch(str(name))), None)


# ---- text ----


def _use(facts: RunFacts) -> str:
    """Three lines that run where the repository was downloaded to, or anywhere by its Hub id."""
    where = facts.repository if facts.repository and _HUB_ID.fullmatch(facts.repository) else "."
    head = str(facts.student.get("head"))
    if head not in _PIPELINES or facts.student.get("tokenizer") is False:
        auto_class = AUTO_CLASSES.get(head, "AutoModel")
        lines = [f"from transformers import {auto_class}", "", f'model = {auto_class}.from_pretrained("{where}")']
        return "\n".join([*lines, "print(model.config)"])
    task, call = _PIPELINES[head]
    note = "" if where != "." else '  # ".": the folder that this repository was downloaded to'
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            f'model = pipeline("{task}", model="{where}"){note}',
            f"print({call})",
        ]
    )


def _licence(facts: RunFacts) -> str:
    if not facts.licence:
        return "not stated; ask whoever published this model, and mind the teacher's licence"
    if facts.licence_from:
        return f"{inline(facts.licence)}, inherited: it is what the card of the {inline(facts.licence_from)} states"
    return inline(facts.licence)


def _rows_trained_on(facts: RunFacts) -> str:
    rows = facts.data.get("rows")
    if not isinstance(rows, int):
        return ""
    by_language = facts.data.get("rows by language")
    if not isinstance(by_language, Mapping):
        return f"{rows:,} rows, how many of which language is not on record"
    return f"{rows:,} rows: " + ", ".join(f"{inline(name)} {number(count)}" for name, count in by_language.items())


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

    def shown(name: str, value: object) -> str:
        return f"`{code(value)}`" if name == "class" else number(value)

    return [(label, shown(n, facts.student.get(n)), shown(n, teacher.get(n))) for n, label in labels.items()]


def _terms(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """Rows of the objective: term, weight, how, layers."""
    objective = facts.objective
    if objective is None:
        return []
    how = _how_compared(objective)
    return [
        (term, f"{weight:g}", how[term], ", ".join(map(inline, facts.layer_pairs.get(term, ()))) or "none")
        for term, weight in objective.weights.items()
        if weight > 0
    ]


def _how_compared(objective: Objective) -> dict[str, str]:
    heads = {"head_mean": "averaged over heads", "per_head": "head by head"}[objective.attention_heads]
    return {
        "task": "the labels' own loss",
        "logits": f"{objective.logits_divergence}, temperature {objective.temperature:g}, "
        f"positions: {objective.positions}",
        "attention": f"{objective.attention_distance} of {objective.attention_values}, {heads}",
        "hidden": objective.hidden_distance,
        "relation": f"query, key and value relations, {objective.relation_heads} relation heads",
    }


def _citations(facts: RunFacts) -> list[str]:
    """Papers of the method: what every distillation of logits rests on, then the recipe's."""
    recipe = RECIPES.get(facts.objective.recipe or "") if facts.objective else None
    uses_logits = facts.objective is None or facts.objective.uses("logits")
    return [*([_HINTON] if uses_logits or recipe is None else []), *([recipe.citation] if recipe else [])]


def _listed(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values for a table or list, without what is unknown."""
    return [(inline(name), number(value)) for name, value in values.items() if value is not None]
