"""Named recipes: the papers' objectives as frozen data.

A recipe only sets defaults. A flag that the user gives wins over the recipe's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Recipe:
    """A published objective.

    Attributes:
        name: value of `--kd_recipe`.
        summary: what is compared, in one sentence.
        use_for: when to reach for it.
        settings: values by `DistillationArguments` field name.
        citation: title, authors, year and arXiv number.
        arxiv: arXiv number of the paper that defines it.
        note: where the paper leaves something open or this library departs from it.
    """

    name: str
    summary: str
    use_for: str
    settings: Mapping[str, object]
    citation: str
    arxiv: str
    note: str = ""


def _recipe(
    name: str, summary: str, use_for: str, citation: str, arxiv: str, note: str = "", **settings: object
) -> Recipe:
    return Recipe(name, summary, use_for, MappingProxyType(settings), citation, arxiv, note)


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _recipe(
                "comet",
                "Softened logits plus the last layer's attention averaged over heads, half each; no labels.",
                "a compact multilingual student of any width and head count",
                "AfroXLMR-Comet: Multilingual Knowledge Distillation with Attention Matching for Low-Resource "
                "Languages. Raju et al. 2025, arXiv:2502.18020",
                "2502.18020",
                "Loss, alpha = 0.5 and T = 2 are second-hand: the abstract does not state them.",
                kd_task_weight=0.0,
                kd_logits_weight=0.5,
                kd_attention_weight=0.5,
                kd_temperature=2.0,
                kd_layer_map="last",
                kd_attention_heads="head_mean",
                kd_attention_distance="mse",
            ),
            _recipe(
                "tinybert",
                "Raw attention scores per head and hidden states of evenly spaced layers, embeddings included.",
                "general distillation on plain text; student and teacher need equal head counts",
                "TinyBERT: Distilling BERT for Natural Language Understanding. Jiao et al. 2020, arXiv:1909.10351; "
                "used for one language by Cruz & Aji 2025, arXiv:2501.12660",
                "1909.10351",
                "The papers feed unmasked text; in a masked-LM script both models see the masked text.",
                kd_task_weight=0.0,
                kd_logits_weight=0.0,
                kd_attention_weight=1.0,
                kd_hidden_weight=1.0,
                kd_layer_map="uniform",
                kd_hidden_layer_map="embeddings,uniform",
                kd_attention_heads="per_head",
                kd_attention_values="scores",
                kd_attention_distance="mse",
                kd_hidden_distance="mse",
            ),
            _recipe(
                "distilbert",
                "Softened logits (5), masked-LM labels (2) and the cosine of the last hidden states (1).",
                "a student of the teacher's width cut from its layers",
                "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter. Sanh et al. 2019, "
                "arXiv:1910.01108",
                "1910.01108",
                "The authors' code compares logits at every position: set --kd_positions all for that. This recipe "
                "compares the masked ones, at a fraction of the cost.",
                kd_task_weight=2.0,
                kd_logits_weight=5.0,
                kd_hidden_weight=1.0,
                kd_temperature=2.0,
                kd_layer_map="last",
                kd_hidden_distance="cosine",
            ),
            _recipe(
                "minilmv2",
                "Query-query, key-key and value-value relations of the last layers; no labels, no logits.",
                "a student of another width or head count",
                "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers. "
                "Wang et al. 2021, arXiv:2012.15828",
                "2012.15828",
                "The three relations are added with weight 1 each. For large teachers the paper takes an upper-middle "
                "layer: set it with --kd_layer_map. It uses more relation heads than attention heads: set "
                "--kd_relation_heads.",
                kd_task_weight=0.0,
                kd_logits_weight=0.0,
                kd_relation_weight=1.0,
                kd_layer_map="last",
            ),
            _recipe(
                "privileged",
                "Labels and the mean squared error of the logits, half each.",
                "a student copied from the layers of a fine-tuned teacher",
                "The Privileged Students: On the Value of Initialization in Multilingual Knowledge Distillation. "
                "Wibowo, Solorio & Aji 2024, arXiv:2406.16524",
                "2406.16524",
                "Equal weights are those of an independent replication (arXiv:2505.16956).",
                kd_task_weight=0.5,
                kd_logits_weight=0.5,
                kd_logits_divergence="mse",
            ),
            _recipe(
                "balanced",
                "The teacher's distribution at the masked positions; no labels.",
                "one multilingual student from balanced data",
                "You Can Have Your Data and Balance It Too: Towards Balanced and Efficient Multilingual Models. "
                "Limisiewicz, Malkin & Stanovsky 2022, arXiv:2210.07135",
                "2210.07135",
                "The paper's distance and temperature were not found: forward KL at T = 1 is this library's choice. "
                "It has one teacher a language; this release takes one teacher.",
                kd_task_weight=0.0,
                kd_logits_weight=1.0,
                kd_temperature=1.0,
                kd_logits_divergence="forward_kl",
            ),
        )
    }
)
"""Every recipe by name."""

DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "kd_temperature": 2.0,
        "kd_task_weight": 0.5,
        "kd_logits_weight": 0.5,
        "kd_attention_weight": 0.0,
        "kd_hidden_weight": 0.0,
        "kd_relation_weight": 0.0,
        "kd_logits_divergence": "forward_kl",
        "kd_attention_heads": "head_mean",
        "kd_attention_values": "probabilities",
        "kd_attention_distance": "mse",
        "kd_hidden_distance": "mse",
        "kd_positions": "masked",
        "kd_layer_map": "last",
    }
)
"""What holds where neither the user nor a recipe says otherwise (Hinton et al. 2015, equal weights)."""
