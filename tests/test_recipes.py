"""Every recipe is the published objective it is named after, and fits the arguments."""

import dataclasses
import re

import pytest

from hf_kd.arguments import DistillationArguments
from hf_kd.layer_maps import resolve_layer_map
from hf_kd.recipes import DEFAULTS, RECIPES
from hf_kd.records import EMBEDDINGS, LAYER_TERMS, TERMS

FIELDS = {field.name for field in dataclasses.fields(DistillationArguments)}

PUBLISHED = {
    # α T² KL + (1 − α) MSE of the last layer's head-averaged attention, α = 0.5, T = 2
    "comet": {
        "weights": {"logits": 0.5, "attention": 0.5},
        "temperature": 2.0,
        "logits_divergence": "forward_kl",
        "attention_heads": "head_mean",
        "attention_values": "probabilities",
        "attention_distance": "mse",
        "maps": {"attention": "last"},
    },
    # Σ_m MSE of raw attention scores per head + Σ_m MSE of hidden states, embeddings included
    "tinybert": {
        "weights": {"attention": 1.0, "hidden": 1.0},
        "attention_heads": "per_head",
        "attention_values": "scores",
        "attention_distance": "mse",
        "hidden_distance": "mse",
        "maps": {"attention": "uniform", "hidden": "embeddings,uniform"},
    },
    # 5 T² KL + 2 MLM + 1 cosine of the last hidden state, T = 2
    "distilbert": {
        "weights": {"task": 2.0, "logits": 5.0, "hidden": 1.0},
        "temperature": 2.0,
        "logits_divergence": "forward_kl",
        "hidden_distance": "cosine",
        "maps": {"hidden": "last"},
    },
    # KL of the query, key and value relations of one layer; any number of relation heads
    "minilmv2": {"weights": {"relation": 1.0}, "maps": {"relation": "last"}},
    # 0.5 labels + 0.5 MSE of the logits
    "privileged": {"weights": {"task": 0.5, "logits": 0.5}, "logits_divergence": "mse"},
    # the teacher's distribution at the masked positions
    "balanced": {
        "weights": {"logits": 1.0},
        "temperature": 1.0,
        "logits_divergence": "forward_kl",
        "positions": "masked",
    },
}


def objective(recipe):
    return DistillationArguments(output_dir="out", use_cpu=True, report_to="none", kd_recipe=recipe).objective()


def test_every_recipe_is_stated_here():
    assert list(RECIPES) == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_is_what_was_published(name):
    published, found = dict(PUBLISHED[name]), objective(name)
    assert found.recipe == name
    assert found.weights == dict.fromkeys(TERMS, 0.0) | published.pop("weights")
    for term, layer_map in published.pop("maps", {}).items():
        assert found.layer_maps[term] == layer_map
    for setting, value in published.items():
        assert getattr(found, setting) == value


@pytest.mark.parametrize("name", RECIPES)
def test_settings_are_arguments_with_a_default(name):
    recipe = RECIPES[name]
    assert set(recipe.settings) <= FIELDS
    assert {key for key in recipe.settings if not key.endswith("_layer_map")} <= set(DEFAULTS)
    for key, value in recipe.settings.items():
        if key in DEFAULTS:
            assert type(value) is type(DEFAULTS[key])


@pytest.mark.parametrize("name", RECIPES)
def test_objective_is_valid(name):
    found = objective(name)
    assert any(found.weights.values())
    settings = {"student_num_hidden_layers": 3, "kd_recipe": name, "use_cpu": True, "report_to": "none"}
    assert DistillationArguments(output_dir="out", **settings).objective() == found
    for term in LAYER_TERMS:
        pairs = resolve_layer_map("map", found.layer_maps[term], 3, 6)
        if found.uses(term):
            assert pairs[-1] == (2, 5)
        if term != "hidden":
            assert all(pair.student != EMBEDDINGS for pair in pairs)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_where_it_comes_from(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert f"arXiv:{recipe.arxiv}" in recipe.citation
    assert re.search(r"\b20\d\d\b", recipe.citation)
    assert recipe.summary.endswith(".") and recipe.use_for
    assert not recipe.note or recipe.note.endswith(".")


def test_recipes_are_frozen():
    recipe = RECIPES["comet"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.note = "changed"
    for mapping in (RECIPES, DEFAULTS, recipe.settings):
        with pytest.raises(TypeError):
            mapping["comet"] = None
