"""A plan in words, for a terminal and for a model card."""

from __future__ import annotations

from .plans import StudentPlan, TrimPlan

_SIZE_NAMES = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden size",
    "intermediate_size": "feed-forward width",
    "hidden_dim": "feed-forward width",
    "num_attention_heads": "attention heads",
    "head_size": "units of a head",
}

_WIDTH_RULES = {
    "truncate": "the first units, neurons and heads of the teacher's",
    "svd": "the directions of the residual stream with most of the word embeddings' energy, the best low-rank form of "
    "each head, the neurons and heads with the largest weights",
    "importance": "the units, neurons and heads that are most active",
}


def sentences(plan: StudentPlan) -> list[str]:
    """What the plan does, a sentence each."""
    if plan.weights == "random":
        said = ["Its shape is the teacher's, cut; its weights are random, none is copied."]
    elif plan.kept_layers == tuple(range(plan.teacher_layers)):
        said = ["It keeps all of the teacher's layers, weights copied."]
    else:
        said = [
            f"Its layers are the teacher's layers {', '.join(map(str, plan.kept_layers))} (counted from 0; "
            f"{plan.rule}), weights copied."
        ]
    changed = [f"{_SIZE_NAMES[name]} {old:,} → {new:,}" for name, (old, new) in plan.sizes.items()]
    if changed:
        said.append(f"Sizes: {', '.join(changed)}.")
    if plan.width_rule is not None:
        said.append(f"Its width keeps {_WIDTH_RULES[plan.width_rule]}.")
    if plan.trim is not None:
        said.append(trim_sentence(plan.trim))
    if plan.sample is not None:
        said.append(f"Importance was measured on {plan.sample}.")
    return said + [f"{note[0].upper()}{note[1:]}." for note in plan.notes]


def trim_sentence(trim: TrimPlan) -> str:
    """What a trimmed vocabulary keeps."""
    languages = ", ".join(f"{language} {share:.2%}" for language, share in trim.language_coverage.items())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in trim.reasons.items())
    wanted = trim.asked.get("vocab_size")
    fewer = ""
    if wanted and trim.size < wanted:
        fewer = f" ({wanted:,} were asked for; no other occurs in the text, or fits)"
    return (
        f"It keeps {trim.size:,} of the teacher's {trim.source_size:,} tokens{fewer} ({reasons}), which make up "
        f"{trim.coverage:.2%} of the tokens of the corpus that was counted ({languages})."
    )
