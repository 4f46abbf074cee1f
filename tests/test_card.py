"""The model card: what it says, and what no name can make it say."""

import dataclasses
import functools
import re
from pathlib import Path

import models
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers import BertForMaskedLM

from hf_kd import DistillationArguments, DistillationTrainer, card, facts
from hf_kd.architecture import AUTO_CLASSES
from hf_kd.plans import StudentPlan
from hf_kd.recipes import RECIPES
from hf_kd.records import RunFacts

SIZES = {
    "parameters": 68937216,
    "embedding_parameters": 64000512,
    "layers": 6,
    "width": 256,
    "heads": 8,
    "vocabulary": 250002,
}
STUDENT = {"class": "XLMRobertaForMaskedLM", "head": "masked_lm", "base_model": None, **SIZES}
TEACHER = {"class": "XLMRobertaForMaskedLM", "hub_id": "org/teacher", "revision": "v1.2", **SIZES}
RESULT = {
    "task": {"type": "fill-mask"},
    "dataset": {"name": "org/data", "type": "org/data"},
    "metrics": [{"type": "loss", "value": 1.23456}],
}


@functools.cache
def plain(recipe):
    """Facts of a run, all of one line and harmless."""
    args = DistillationArguments(output_dir="out", use_cpu=True, report_to="none", kd_recipe=recipe)
    return RunFacts(
        model_name="tiny-student",
        student=STUDENT,
        teacher=TEACHER,
        plan=StudentPlan(12, (0, 4, 11), "3 evenly spaced of 12"),
        objective=args.objective(),
        layer_pairs={"attention": ("0:3", "5:11")},
        training={"steps": 1200, "learning rate": 5e-05, "epochs": None},
        results={"eval_loss": 1.23456},
        history=(),
        languages=("sw",),
        licence="mit",
        datasets=("org/data",),
        tasks=("fill-mask",),
        tags=("tiny",),
        versions={"hf-kd": "0.1.0", "torch": "2.6.0"},
    )


def text(recipe="comet", **changes):
    return str(card.render(dataclasses.replace(plain(recipe), **changes)))


def metadata(content):
    """The YAML at the head of a card, read as the Hub reads it."""
    block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    return yaml.safe_load(block.group(1))


def body(content):
    return ModelCard(content).text


def parsed(content):
    return MarkdownIt("commonmark").enable("table").parse(body(content))


def structure(content):
    """Headings, tables, links and so on of the card's body, in order, without their words."""
    blank = ("text", "softbreak")
    return [
        (token.type, token.tag, [child.type for child in token.children or () if child.type not in blank])
        for token in parsed(content)
    ]


def words(content):
    """The card's text as a reader sees it, block by block."""
    return [" ".join(child.content for child in token.children or ()) for token in parsed(content)]


# ---- what it says ----


def test_metadata():
    assert metadata(text()) == {
        "datasets": ["org/data"],
        "language": ["sw"],
        "library_name": "transformers",
        "license": "mit",
        "metrics": ["loss"],
        "pipeline_tag": "fill-mask",
        "tags": ["hf-kd", "knowledge-distillation", "tiny"],
        "teacher": "org/teacher",
        "model-index": [{"name": "tiny-student", "results": [RESULT]}],
    }
    assert metadata(text(student=STUDENT | {"base_model": "org/base"}))["base_model"] == "org/base"
    assert metadata(text(peft=True))["library_name"] == "peft"


def test_what_is_unknown_is_left_out_of_the_metadata_and_named_in_the_text():
    nothing = dict.fromkeys(("languages", "datasets", "tasks", "tags"), ())
    content = text(teacher=TEACHER | {"hub_id": None}, plan=None, results={}, licence=None, **nothing)
    assert metadata(content) == {"library_name": "transformers", "tags": ["hf-kd", "knowledge-distillation"]}
    assert "a teacher that has no Hub id on record" in content
    assert "how it was initialised is not on record" in content
    assert "In its own run the student was not measured." in content and "| metric | value |" not in content
    assert "how fast either is: not measured" in content and "CO₂: not measured" in content
    assert "Data: which data set is not on record" in content and "Languages: not on record" in content
    assert "Licence: not stated" in content


def test_teacher_is_named_with_its_revision():
    assert re.search(r"\[org/teacher\]\(https://huggingface.co/org/teacher\), revision `?v1\.2\b", text())


def test_numbers_and_tables():
    content = text()
    assert "| parameters | 68,937,216 | 68,937,216 |" in content
    assert "| attention | 0.5 | mse of probabilities, averaged over heads | 0:3, 5:11 |" in content
    assert "| logits | 0.5 | forward_kl, temperature 2, positions: masked | none |" in content
    assert "layers 0, 4, 11" in content and "the student was not measured" not in content
    assert "1.235" in content and "epochs" not in content
    types = [kind for kind, _, _ in structure(content)]
    assert types.count("table_open") == 4
    assert types.count("tr_open") == 8 + 3 + 2 + 3
    assert "{{" not in content and "{%" not in content


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_cited(recipe):
    content = text(recipe=recipe)
    assert f"- {RECIPES[recipe].citation}\n" in content
    assert ("arXiv:1503.02531" in content) == plain(recipe).objective.uses("logits")
    assert f"Recipe: `{recipe}`" in content and RECIPES[recipe].note in content


def test_without_a_recipe_hinton_is_cited():
    content = text(recipe=None)
    assert "arXiv:1503.02531\n" in content and "Recipe: none" in content


@pytest.mark.parametrize("head", AUTO_CLASSES)
def test_code_runs_as_far_as_its_import(head):
    for tokenizer in (True, False):
        (code,) = re.findall(
            r"```python\n(.*?)```", text(student=STUDENT | {"head": head, "tokenizer": tokenizer}), re.S
        )
        compile(code, "card", "exec")
        exec(code.splitlines()[0], namespace := {})
        assert {"pipeline", AUTO_CLASSES[head]} & set(namespace)
        assert "pipeline" not in namespace or tokenizer


def test_a_licence_that_was_inherited_says_so():
    assert "Licence: mit\n" in text()
    assert "Licence: mit, inherited: it is what the card of the teacher states\n" in text(licence_from="teacher")


def test_the_command_can_be_pasted():
    content = text(command=("python", "run_mlm.py", "--train_file", "TRAIN_FILE", "--note", "a b"))
    assert "```bash\npython run_mlm.py \\\n    --train_file TRAIN_FILE \\\n    --note 'a b'\n```" in content
    assert "started from Python" in text() and "started from Python" not in content


def test_an_adapter_keeps_the_conventions_of_peft():
    content = text(peft=True, student=STUDENT | {"base_model": "org/base"}, adapter={"kind": "lora", "r": 8})
    assert metadata(content)["base_model"] == "org/base" and metadata(content)["library_name"] == "peft"
    assert {"lora", "base_model:adapter:org/base"} <= set(metadata(content)["tags"])
    assert "It is an adapter" in content and "- kind: lora\n- r: 8\n" in content


# ---- what no name can make it say ----

HOSTILE = {
    "heading": "x\n# Injected\n\ntext",
    "underlined": "x\n===\ny\n---\n",
    "yaml": "x\n---\nbase_model: evil/base\n---\n# y",
    "yaml_value": "x: {a: [b]}\nteacher: evil",
    "table": "x | y |\n| a | b |",
    "html": "<script>alert(1)</script><b>x</b><!-- y",
    "markup": "**b** `c` _d_ [e](http://f) ![g](h)",
    "backticks": "`` ` ``` x",
    "template": "{{ 7 * 7 }} {% if x %}",
    "fence": "x\n```\ny\n",
    "escape": "x\\",
    "separators": "x\u2028# y\u2029z\x85- w\r\n> v",
}
PLACES = {
    "model_name": lambda name: {"model_name": name},
    "teacher_id": lambda name: {"teacher": TEACHER | {"hub_id": name}},
    "revision": lambda name: {"teacher": TEACHER | {"revision": name}},
    "class": lambda name: {"teacher": TEACHER | {"class": name}},
    "base_model": lambda name: {"student": STUDENT | {"base_model": name}},
    "rule": lambda name: {"plan": StudentPlan(12, (0, 4, 11), name)},
    "languages": lambda name: {"languages": (name,)},
    "licence": lambda name: {"licence": name},
    "datasets": lambda name: {"datasets": (name,)},
    "tasks": lambda name: {"tasks": (name,)},
    "tags": lambda name: {"tags": (name,)},
    "data": lambda name: {"data": {"rows": 2, "rows by language": {name: 2}}},
    "result_name": lambda name: {"results": {name: 1.0}},
    "training_name": lambda name: {"training": {name: 1.0}},
    "training_value": lambda name: {"training": {"device": name}},
    "hardware": lambda name: {"hardware": {"processor": name}},
    "command": lambda name: {"command": ("python", name)},
    "version": lambda name: {"versions": {"torch": name}},
    "repository": lambda name: {"repository": name},
}
SHOWN = set(PLACES) - {"tags", "revision", "class", "teacher_id", "base_model", "tasks", "command", "repository"}
"""Where a name stands in the text as it is; elsewhere it is left out, or it stands in code."""


@functools.cache
def harmless_text(place, name):
    return text(**PLACES[place](name))


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("place", PLACES)
def test_no_name_changes_structure_or_metadata(place, hostile):
    name = HOSTILE[hostile]
    # As harmless, but no Hub id and no code of a language, so left out of what links to the Hub.
    stand_in = "not an id" if place in ("teacher_id", "base_model", "repository") else "Harmless!"
    harmless, found = harmless_text(place, stand_in), text(**PLACES[place](name))
    assert structure(found) == structure(harmless)
    if place in SHOWN:
        assert any(" ".join(name.split()) in block for block in words(found))

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return " ".join(name.split()) if value == stand_in else value

    assert metadata(found) == renamed(metadata(harmless))
    assert ModelCard(found).data.to_dict() == metadata(found)
    marks = re.compile(r"^<!-- hf_kd .*$", re.MULTILINE)
    assert marks.findall(found) == marks.findall(harmless)


@pytest.mark.parametrize("place", ["languages", "licence", "datasets", "tasks", "teacher_id", "base_model"])
def test_what_the_hub_would_refuse_is_in_no_metadata(place):
    assert "Harmless" not in str(metadata(text(**PLACES[place]("Harmless!"))))


def test_a_hostile_origin_of_a_plan_becomes_no_link():
    hostile = dataclasses.replace(plain("comet").plan, teacher="a/b)\n\n# HACKED")
    content = text(plan=hostile)
    assert "HACKED" not in content and "a teacher that has no Hub id on record:" in content
    assert "(https://huggingface.co/org/base)" in text(plan=dataclasses.replace(hostile, teacher="org/base"))


def test_the_check_of_the_structure_can_fail():
    harmless = text()
    for injected in ("\n# Injected\n", "<b>", "`code`", "\n| a | b |\n|---|---|\n", "**b**", "\n\nnew paragraph"):
        assert structure(harmless.replace("inherits its teacher's", f"x {injected} y")) != structure(harmless)


# ---- no local path is published ----


@pytest.mark.parametrize("name", ["bert-base-uncased", "org/model", "org/model-v1.2_x", "Davlan/afro-xlmr-large"])
def test_hub_ids_are_published(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert facts.hub_id(name) == name
    (tmp_path / name).mkdir(parents=True)
    assert facts.hub_id(name) is None  # a folder of that name: it was loaded from there


@pytest.mark.parametrize(
    "name",
    [
        *("/data/me/model", "./model", "../model", ".", "..", "~/model", "~", "models/me/teacher"),
        *("C:\\models\\teacher", "C:/models/teacher", "models\\teacher", "\\\\server\\share", "file:///data/model"),
        *("org/model/", "org//model", "org/model ", " org/model", "org/mo del", "org/model\n", "-model", "", None),
    ],
    ids=repr,
)
def test_paths_are_not_published(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert facts.hub_id(name) is None


@pytest.fixture(scope="module")
def trainer_of_folders(tmp_path_factory):
    """Student and teacher from folders below the working directory, which would pass for Hub ids."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, layers in (("secret/student", 1), ("secret/teacher", 2)):
            models.model(layers=layers, seed=layers).save_pretrained(name)
        (folder / "secret" / "data").mkdir()
        args = DistillationArguments(
            output_dir=str(folder / "secret" / "out"),
            teacher_model_name_or_path="secret/teacher",
            use_cpu=True,
            report_to="none",
        )
        student = BertForMaskedLM.from_pretrained("secret/student")
        yield DistillationTrainer(student, args, train_dataset=models.rows(2), data_collator=models.collate)


@pytest.mark.parametrize(
    "handed",
    [
        {},
        {"finetuned_from": "secret/student"},
        {"finetuned_from": "{here}/secret/student"},
        {"dataset": "{here}/secret/data"},
        {"dataset": ["secret/data", "org/data"]},
        {"dataset": "{here}/secret/data config", "dataset_args": "config"},
        {"dataset_tags": "{here}/secret/data"},  # as stock scripts do with `--dataset_name`
        {"dataset_tags": ["secret/data", "org/data"]},
    ],
    ids=str,
)
def test_gathered_facts_hold_no_local_path(trainer_of_folders, handed):
    here = str(Path.cwd())

    def at(value):
        return [at(item) for item in value] if isinstance(value, list) else value.replace("{here}", here)

    given = {name: at(value) for name, value in handed.items()}
    content = str(card.render(facts.gather(trainer_of_folders, trainer_of_folders.distillation, **given)))
    assert "secret" not in content and here not in content
    assert not {"base_model", "teacher"} & set(metadata(content))
    assert "# out\n" in content and ("org/data" in content) == ("org/data" in str(handed))


def test_a_model_is_named_only_by_the_commit_it_was_loaded_from(tmp_path):
    """A teacher passed as a module, or a model that a student is cut from, was loaded by somebody else."""
    shared = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    passed = models.model(seed=1)
    passed.name_or_path = "org/teacher"
    data = {"train_dataset": models.rows(2), "data_collator": models.collate}
    for commit in (None, "0123abc"):
        passed.config._commit_hash = commit
        for trainer in (
            DistillationTrainer(models.model(layers=1), DistillationArguments(**shared), teacher=passed, **data),
            DistillationTrainer(passed, DistillationArguments(**shared, student_num_hidden_layers=1), **data),
        ):
            content = str(card.render(facts.gather(trainer, trainer.distillation)))
            assert ("org/teacher" in content) == ("revision `0123abc`" in content) == (commit is not None)
            assert "revision `main" not in content
