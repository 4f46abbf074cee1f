"""`DistillationArguments`: parsed beside the stock scripts' arguments, checked, and stored."""

import dataclasses
import io
import json
import pickle
import re

import models
import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from hf_kd import arguments, losses, recipes
from hf_kd.arguments import DistillationArguments
from hf_kd.layer_maps import resolve_layer_map
from hf_kd.records import LAYER_TERMS, TERMS
from hf_kd.trainer import DistillationTrainer

OWN = [
    field
    for field in dataclasses.fields(DistillationArguments)
    if field.name not in {inherited.name for inherited in dataclasses.fields(TrainingArguments)}
]

SCRIPTS = {
    "run_mlm": (
        "model_name_or_path model_type config_overrides config_name tokenizer_name cache_dir use_fast_tokenizer "
        "model_revision token trust_remote_code dtype",
        "dataset_name dataset_config_name train_file validation_file overwrite_cache validation_split_percentage "
        "max_seq_length preprocessing_num_workers mlm_probability line_by_line pad_to_max_length max_train_samples "
        "max_eval_samples streaming",
    ),
    "run_clm": (
        "model_name_or_path model_type config_overrides config_name tokenizer_name cache_dir use_fast_tokenizer "
        "model_revision token trust_remote_code dtype",
        "dataset_name dataset_config_name train_file validation_file max_train_samples max_eval_samples streaming "
        "block_size overwrite_cache validation_split_percentage preprocessing_num_workers keep_linebreaks",
    ),
    "run_ner": (
        "model_name_or_path config_name tokenizer_name cache_dir model_revision token trust_remote_code "
        "ignore_mismatched_sizes",
        "task_name dataset_name dataset_config_name train_file validation_file test_file text_column_name "
        "label_column_name overwrite_cache preprocessing_num_workers max_seq_length pad_to_max_length "
        "max_train_samples max_eval_samples max_predict_samples label_all_tokens return_entity_level_metrics",
    ),
    "run_glue": (
        "model_name_or_path config_name tokenizer_name cache_dir use_fast_tokenizer model_revision token "
        "trust_remote_code ignore_mismatched_sizes",
        "task_name dataset_name dataset_config_name max_seq_length overwrite_cache pad_to_max_length max_train_samples "
        "max_eval_samples max_predict_samples train_file validation_file test_file",
    ),
    "run_qa": (
        "model_name_or_path config_name tokenizer_name cache_dir model_revision token trust_remote_code",
        "dataset_name dataset_config_name train_file validation_file test_file overwrite_cache "
        "preprocessing_num_workers max_seq_length pad_to_max_length max_train_samples max_eval_samples "
        "max_predict_samples version_2_with_negative null_score_diff_threshold doc_stride n_best_size "
        "max_answer_length",
    ),
}
"""Field names of the model and data arguments of upstream's example scripts."""


def given(**settings):
    return DistillationArguments(output_dir="out", use_cpu=True, report_to="none", **settings)


def refused(message, **settings):
    with pytest.raises(ValueError, match=re.escape(message)):
        given(**settings)


# ---- parsing ----


def parser_of(script):
    groups = [
        dataclasses.make_dataclass(f"{script}_{index}", [(name, str | None, None) for name in names.split()])
        for index, names in enumerate(SCRIPTS[script])
    ]
    return HfArgumentParser([*groups, DistillationArguments])


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_join_those_of_the_stock_scripts(script):
    flags = "--output_dir out --use_cpu --model_name_or_path student --teacher_model_name_or_path teacher"
    more = "--kd_recipe comet --kd_temperature 3 --kd_task_weight 0.25 --kd_layer_map 0:3,1:7 --teacher_dtype float32"
    model, _, args = parser_of(script).parse_args_into_dataclasses([*flags.split(), *more.split()])
    assert (model.model_name_or_path, args.teacher_model_name_or_path) == ("student", "teacher")
    assert (args.kd_temperature, args.kd_task_weight, args.kd_layer_map) == (3.0, 0.25, "0:3,1:7")
    assert args.objective().recipe == "comet"


def test_a_name_of_a_stock_script_would_clash():
    """The test above can fail: argparse refuses a flag twice."""
    twice = dataclasses.make_dataclass("Twice", [("kd_temperature", float, 1.0)])
    with pytest.raises(Exception, match="conflicting option string"):
        HfArgumentParser([twice, DistillationArguments])


def test_help_prints(capsys):
    with pytest.raises(SystemExit) as stopped:
        parser_of("run_mlm").parse_args_into_dataclasses(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{field.name}" in printed for field in OWN)


def test_an_unknown_choice_is_refused_by_the_parser(capsys):
    for flag in ("--kd_recipe", "--kd_positions", "--teacher_dtype", "--kd_logits_divergence"):
        with pytest.raises(SystemExit):
            parser_of("run_mlm").parse_args_into_dataclasses(["--output_dir", "out", flag, "nonsense"])
        assert "invalid choice: 'nonsense'" in capsys.readouterr().err


# ---- names and help ----

KINDS = (
    r"one of ",
    r"true or false",
    r"an integer (>= [01]|from 1)",
    r"dimensionless, >=? 0",
    r"Hub id or a local folder",
    r"branch, tag or commit",
    r"any name that",
    r"layers counted from 0",
)


def faults(field):
    """What the first sentence of a field's help leaves out: its kind and range, and its default."""
    first = re.split(r"\.(?:\s|$)", field.metadata.get("help", ""))[0]
    body, found, default = first.partition(", default ")
    missing = [] if any(re.search(kind, body) for kind in KINDS) else ["kind and range"]
    missing += [f"choice {choice}" for choice in field.metadata.get("choices") or () if choice not in body]
    if "float" in str(field.type) and "dimensionless" not in body:
        missing.append("unit")
    filled_in = field.default if field.default is not None else recipes.DEFAULTS.get(field.name)
    if not found or (filled_in is not None and str(filled_in).lower() not in default):
        missing.append("default")
    return missing


@pytest.mark.parametrize("field", OWN, ids=lambda field: field.name)
def test_help_names_kind_range_and_default(field):
    assert faults(field) == []


@pytest.mark.parametrize(
    "help, default, missing",
    [
        ("", None, ["kind and range", "default"]),
        ("Weight of the task.", None, ["kind and range", "default"]),
        ("Weight of the task, dimensionless, >= 0.", None, ["default"]),
        ("Weight of the task, dimensionless, >= 0. The second sentence says it, default 0.5.", None, ["default"]),
        ("Weight of the task, dimensionless, >= 0, default 2.", 0.5, ["default"]),
        ("Where to look, one of here, default here.", "here", ["choice there"]),
    ],
)
def test_the_check_of_the_help_can_fail(help, default, missing):
    choices = ["here", "there"] if "here" in help else None
    metadata = {"help": help, "choices": choices}
    bad = dataclasses.field(default=default, metadata=metadata)
    made = dataclasses.make_dataclass("Bad", [("bad", str | None, bad)])
    assert faults(dataclasses.fields(made)[0]) == missing


def test_names_say_whose_they_are():
    assert len(OWN) > 20
    assert [f.name for f in OWN if not f.name.startswith(("teacher_", "student_", "kd_"))] == []


def test_every_setting_has_a_field():
    assert set(recipes.DEFAULTS) <= {field.name for field in OWN}
    for name in ("LOGITS_DIVERGENCES", "HIDDEN_DISTANCES", "ATTENTION_DISTANCES"):
        assert getattr(arguments, name) == tuple(getattr(losses, name))


# ---- wrong values ----


@pytest.mark.parametrize(
    "name, choices",
    [
        ("kd_recipe", "comet, tinybert, distilbert, minilmv2, privileged, balanced"),
        ("kd_logits_divergence", "forward_kl, reverse_kl, jensen_shannon, mse"),
        ("kd_attention_heads", "head_mean, per_head"),
        ("kd_attention_values", "probabilities, scores"),
        ("kd_attention_distance", "mse, kl"),
        ("kd_hidden_distance", "mse, cosine, normalized_mse"),
        ("kd_positions", "masked, all"),
        ("teacher_dtype", "auto, float32, bfloat16, float16"),
    ],
)
def test_unknown_choices_are_refused(name, choices):
    refused(f"`{name}` is 'nonsense'; it must be one of {choices}. Pick one of them.", **{name: "nonsense"})


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperatures_that_cannot_divide_are_refused(temperature):
    message = "a temperature divides the logits and must be above 0 and finite. Use 1 for no softening"
    refused(f"`kd_temperature` is {temperature}; {message}", kd_temperature=temperature)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_weights_below_0_or_without_end_are_refused(term, weight):
    message = f"`kd_{term}_weight` is {weight}; a weight must be 0 or more and finite. Use 0 to leave the term out."
    refused(message, **{f"kd_{term}_weight": weight})


@pytest.mark.parametrize(
    "message, settings",
    [
        ("`kd_relation_heads` is 0; it must be 1 or more.", {"kd_relation_heads": 0}),
        ("`kd_output_chunk_megabytes` is -1; it must be 0 or more.", {"kd_output_chunk_megabytes": -1}),
        ("`student_num_hidden_layers` is 0; a student needs 1 layer or more.", {"student_num_hidden_layers": 0}),
        (
            "`student_layers` is 'middle'; it must be uniform, first, last, alternating or layers",
            {"student_layers": "middle"},
        ),
        ("`student_layers` is last, but `student_num_hidden_layers` does not say how", {"student_layers": "last"}),
        ("`student_layers` lists 2 layers but", {"student_layers": "0,3", "student_num_hidden_layers": 3}),
        ("`kd_layer_map` holds '3'; each item must be", {"kd_layer_map": "3"}),
        ("`kd_hidden_layer_map` is empty.", {"kd_hidden_layer_map": ""}),
        ("`kd_attention_layer_map` holds `embeddings`, which only hidden", {"kd_attention_layer_map": "embeddings"}),
        ("`kd_relation_layer_map` holds `embeddings`, which only hidden", {"kd_relation_layer_map": "embeddings,last"}),
    ],
)
def test_wrong_numbers_and_layers_are_refused(message, settings):
    refused(message, **settings)


def test_two_teachers_are_refused():
    for settings in ({"student_num_hidden_layers": 3}, {"student_layers": "0,3"}):
        message = (
            "`teacher_model_name_or_path` (here) and `student_num_hidden_layers` or `student_layers` are both set. "
            "Cutting a student makes the model given to the script the teacher: drop one of the two."
        )
        refused(message, teacher_model_name_or_path="here", **settings)


NOTHING = {"kd_task_weight": 0.0, "kd_logits_weight": 0.0}
SCORES_KL = {"kd_attention_weight": 1.0, "kd_attention_values": "scores", "kd_attention_distance": "kl"}
ONLY_EMBEDDINGS = {"kd_attention_weight": 1.0, "kd_layer_map": "embeddings"}


def test_objectives_without_sense_are_refused():
    refused("Every term has weight 0, so there is nothing to train on. Give at", student_num_hidden_layers=2, **NOTHING)
    message = "`kd_attention_values` is scores and `kd_attention_distance` is kl, but KL compares distributions."
    refused(message, teacher_model_name_or_path="here", **SCORES_KL)
    refused(message, teacher_model_name_or_path="here", kd_recipe="tinybert", kd_attention_distance="kl")


@pytest.mark.parametrize("settings", [NOTHING, SCORES_KL, ONLY_EMBEDDINGS], ids=["nothing", "scores_kl", "no_pairs"])
def test_objectives_without_sense_are_refused_for_a_teacher_passed_as_a_module_too(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student, teacher = models.model(layers=2, seed=2), models.model(seed=1)
    with pytest.raises(ValueError, match="kd_"):
        DistillationTrainer(student, given(**settings), teacher=teacher, data_collator=models.collate)


@pytest.mark.parametrize(
    "terms, settings",
    [
        (("logits",), {"kd_temperature": 3.0, "kd_logits_divergence": "mse", "kd_positions": "all"}),
        (("attention",), {"kd_attention_heads": "per_head", "kd_attention_layer_map": "last"}),
        (("attention",), {"kd_attention_values": "scores", "kd_attention_distance": "kl"}),
        (("hidden",), {"kd_hidden_distance": "cosine", "kd_hidden_layer_map": "uniform"}),
        (("relation",), {"kd_relation_heads": 4, "kd_relation_layer_map": "last"}),
        (LAYER_TERMS, {"kd_layer_map": "uniform"}),
    ],
    ids=str,
)
def test_a_setting_of_a_term_without_weight_is_refused(terms, settings):
    weights = " and ".join(f"`kd_{term}_weight`" for term in terms) + (" is 0" if len(terms) == 1 else " are 0")
    for name, value in settings.items():
        message = f"`{name}` is {value}, but {weights}, so it would do nothing. Give the term a weight, or drop the"
        refused(message, kd_logits_weight=0.0, **{name: value})
        for term in terms:
            given(**{name: value, f"kd_{term}_weight": 1.0})


@pytest.mark.parametrize(
    "name, value",
    [
        ("teacher_revision", "v2"),
        ("teacher_dtype", "bfloat16"),
        ("teacher_attn_implementation", "eager"),
        ("teacher_trust_remote_code", True),
    ],
)
def test_settings_of_a_teacher_that_is_not_loaded_are_refused(name, value):
    refused(f"`{name}` is {value}, but no teacher is loaded by name, so it would do nothing.", **{name: value})
    refused(f"`{name}` is {value}, but no teacher is loaded", student_num_hidden_layers=2, **{name: value})
    given(teacher_model_name_or_path="here", **{name: value})


# ---- the objective ----

EVERY_TERM = {f"kd_{term}_weight": 1.0 for term in TERMS}


def test_a_recipe_sets_defaults_and_a_flag_wins():
    assert given().objective().weights == dict(zip(TERMS, (0.5, 0.5, 0.0, 0.0, 0.0)))
    assert given(kd_recipe="distilbert").objective().weights["logits"] == 5.0
    assert given(kd_recipe="distilbert", kd_logits_weight=4.0).objective().weights["logits"] == 4.0


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_flag_equal_to_the_default_still_wins(recipe):
    for name, default in recipes.DEFAULTS.items():
        objective = given(kd_recipe=recipe, **EVERY_TERM | {name: default}).objective()
        if name.endswith("_weight"):
            assert objective.weights[name.removeprefix("kd_").removesuffix("_weight")] == default
        elif name == "kd_layer_map":
            assert set(objective.layer_maps.values()) == {default}
        else:
            assert getattr(objective, name.removeprefix("kd_")) == default


@pytest.mark.parametrize(
    "settings, attention, hidden",
    [
        ({}, "last", "last"),
        ({"kd_recipe": "tinybert"}, "uniform", "embeddings,uniform"),
        ({"kd_recipe": "tinybert", "kd_layer_map": "0:1"}, "0:1", "0:1"),
        ({"kd_recipe": "tinybert", "kd_hidden_layer_map": "last"}, "uniform", "last"),
        ({"kd_recipe": "tinybert", "kd_layer_map": "0:1", "kd_hidden_layer_map": "last"}, "0:1", "last"),
        ({"kd_layer_map": "uniform", "kd_attention_layer_map": "last"}, "last", "uniform"),
        ({"kd_hidden_layer_map": "uniform"}, "last", "uniform"),
    ],
)
def test_layer_maps_of_a_term_go_before_the_shared_one(settings, attention, hidden):
    maps = given(**EVERY_TERM, **settings).objective().layer_maps
    assert set(maps) == set(LAYER_TERMS)
    assert (maps["attention"], maps["hidden"]) == (attention, hidden)
    assert all(resolve_layer_map("map", layer_map, 3, 6) for layer_map in maps.values())


def test_what_makes_a_run_a_distillation():
    assert not given().distills
    assert given().given_settings == ()
    assert not given(kd_recipe="comet").distills
    assert given(kd_recipe="comet", kd_task_weight=0.0).given_settings == ("kd_recipe", "kd_task_weight")
    assert given(teacher_model_name_or_path="here").distills
    assert given(student_num_hidden_layers=2).cuts_student and given(student_layers="0,2").cuts_student
    assert not given(teacher_model_name_or_path="here").cuts_student


# ---- storing ----


def test_arguments_survive_storing(tmp_path):
    args = given(kd_recipe="distilbert", kd_temperature=3.0, kd_layer_map="0:1", student_num_hidden_layers=2)
    own = {field.name: getattr(args, field.name) for field in OWN}
    for read in (json.loads(args.to_json_string()), args.to_dict()):
        assert {name: read[name] for name in own} == own
    stored = io.BytesIO()
    torch.save(args, stored)  # as `training_args.bin`
    stored.seek(0)
    for copy in (torch.load(stored, weights_only=False), pickle.loads(pickle.dumps(args))):
        assert isinstance(copy, DistillationArguments)
        assert {name: getattr(copy, name) for name in own} == own
        assert copy.objective() == args.objective()
    (tmp_path / "args.json").write_text(json.dumps(own | {"output_dir": "out"}))
    (read,) = HfArgumentParser(DistillationArguments).parse_json_file(str(tmp_path / "args.json"))
    assert read.objective() == args.objective()
