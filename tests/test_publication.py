"""Facts beside the model, the card made of them, and what a person wrote in it."""

import dataclasses
import json
import re
from collections.abc import Mapping

import models
import pytest
import test_card
from huggingface_hub import ModelCard
from push_student import tokenizer
from transformers import BertForMaskedLM
from typer.testing import CliRunner

from hf_kd import DistillationArguments, DistillationTrainer, card, facts_file, publication
from hf_kd.card_parts import split
from hf_kd.cli import app
from hf_kd.records import (
    Cost,
    Estimate,
    Evaluation,
    LanguageEvaluation,
    LayerPair,
    RunFacts,
    StudentPlan,
    Timing,
)

SECRET = "hf_sentinelSentinelSentinel"
LANGUAGE = LanguageEvaluation(
    language="sw",
    task="fill-mask",
    rows=40,
    items=300,
    unit="masked tokens",
    data="0123456789ab",
    student={"masked_accuracy": Estimate(0.22, 0.2, 0.24), "masked_loss": Estimate(4.0, 3.9, 4.1)},
    teacher={"masked_accuracy": Estimate(0.26, 0.24, 0.28), "masked_loss": Estimate(3.5, 3.4, 3.6)},
    fidelity={"top1_agreement": Estimate(0.6, 0.5, 0.7), "kl": Estimate(0.4, 0.3, 0.5)},
    retention={"masked_accuracy": Estimate(0.846, 0.8, 0.9)},
)
COST = Cost(1000, 4.0, None, (Timing(1, 32, Estimate(2.0, 1.9, 2.2), 500.0),))
EVALUATION = Evaluation(
    weights="abc",
    teacher="org/teacher",
    languages=(LANGUAGE,),
    mean=None,
    student_cost=COST,
    teacher_cost=dataclasses.replace(COST, parameters=4000, timings=()),
    settings={"seed": 0, "device": "cpu"},
    versions={"torch": "2.6.0"},
)


HISTORY = tuple({"step": step, "loss": 2.0 / step, "kd_task": 1.0 / step} for step in (1, 2, 3))


def facts(**changes):
    return dataclasses.replace(test_card.plain("comet"), **changes)


# ---- the file ----


@pytest.mark.parametrize(
    "changes", [{}, {"evaluation": EVALUATION, "history": HISTORY}, {"plan": None, "teacher": None}], ids=len
)
def test_facts_are_read_back_as_they_were_written(changes, tmp_path):
    written = facts(**changes)
    facts_file.save(tmp_path, written)
    assert facts_file.load(tmp_path) == written
    assert facts_file.dumps(facts_file.load(tmp_path)) == (tmp_path / facts_file.FILE_NAME).read_text()


def test_the_file_names_its_schema_and_every_field():
    content = json.loads(facts_file.dumps(facts(evaluation=EVALUATION)))
    assert (content["schema"], content["version"]) == ("hf_kd/distillation-facts", 1)
    assert list(content["facts"]) == [field.name for field in dataclasses.fields(RunFacts)]
    for field in dataclasses.fields(RunFacts):
        assert f"        {field.name}: " in RunFacts.__doc__


def test_a_number_that_is_none_stays_readable():
    written = facts(results={"eval_loss": float("nan")})
    again = facts_file.loads(facts_file.dumps(written))
    assert again.results == {"eval_loss": "nan"} and facts_file.dumps(again) == facts_file.dumps(written)
    assert "| nan |" in card.compose(again)


def test_an_older_file_is_read_and_a_newer_one_refused():
    content = json.loads(facts_file.dumps(facts()))
    del content["facts"]["hardware"]
    assert facts_file.loads(json.dumps(content)).hardware == {}
    content["facts"]["colour"] = "blue"
    with pytest.raises(ValueError, match="The facts hold `colour`, which `RunFacts` does not know"):
        facts_file.loads(json.dumps(content))
    with pytest.raises(ValueError, match="has version 2 of the facts' schema; this hf_kd reads version 1"):
        facts_file.loads(json.dumps(content | {"version": 2}))
    for text, message in (("{", "is no JSON"), ("[]", "its `schema` is not"), ("{}", "its `schema` is not")):
        with pytest.raises(ValueError, match=message):
            facts_file.loads(text)


@dataclasses.dataclass(frozen=True)
class Trim:
    """A record that a later plan may hold."""

    kept_ids: tuple[int, ...]
    counts: Mapping[int, int]
    pair: LayerPair
    place: tuple[int, str]
    names: frozenset[str] | None


@dataclasses.dataclass(frozen=True)
class WiderPlan(StudentPlan):
    """A plan as later versions may have it."""

    width: int | None = None
    vocabulary: Trim | None = None


def test_records_of_any_fields_are_read_back():
    trim = Trim(tuple(range(99)), {3: 4}, LayerPair(0, 3), (1, "x"), frozenset("ba"))
    plan = WiderPlan(12, (0, 11), "first and last", width=256, vocabulary=trim)
    assert facts_file.record(WiderPlan, json.loads(json.dumps(facts_file.plain(plan)))) == plan


@pytest.mark.parametrize(
    "private",
    [SECRET, "/home/amina/data/hausa.txt", "~/data", "C:\\Users\\amina\\x", "\\\\server\\share", "file:///data/x"],
)
def test_secrets_and_local_paths_do_not_reach_the_file_or_the_card(private):
    text = facts_file.dumps(
        facts(model_name=f"x {private}", training={f"a {private}": f"b {private}"}, command=("run", private))
    )
    assert json.dumps(private)[1:-1] not in text and "amina" not in text and facts_file.REMOVED in text
    assert facts_file.scrub("org/model at https://huggingface.co/org/model, 3/4 and/or 5 MB/s") == (
        "org/model at https://huggingface.co/org/model, 3/4 and/or 5 MB/s"
    )


# ---- the card of a folder ----


def test_the_card_is_a_function_of_the_facts(tmp_path):
    path = publication.write(tmp_path, facts(evaluation=EVALUATION, history=HISTORY))
    first = path.read_bytes()
    assert publication.regenerate(tmp_path).read_bytes() == first
    path.unlink()
    assert publication.regenerate(tmp_path).read_bytes() == first
    assert (tmp_path / card.IMAGES["loss"]).read_bytes().startswith(b"\x89PNG")
    assert f"({card.IMAGES['loss']})" in first.decode()


def test_a_persons_words_survive(tmp_path):
    path = publication.write(tmp_path, facts())
    text = path.read_text()
    begin, end = "<!-- hf_kd begin results -->", "<!-- hf_kd end results -->"
    text = text.replace(begin, f"My note before the results.\n\n{begin}").replace(end, f"{end}\n\nAnd one after.")
    text = text.replace("library_name: transformers", "library_name: other\nwidget:\n- text: Habari").replace(
        "# tiny-student", "# Renamed by hand, within a generated part"
    )
    path.write_text(text + "\n## Thanks\n\nTo everyone.\n")
    publication.write(tmp_path, facts(results={"eval_loss": 9.5}))
    changed = path.read_text()
    for kept in ("My note before the results.\n\n" + begin, end + "\n\nAnd one after.", "## Thanks\n\nTo everyone."):
        assert kept in changed
    assert "| 9.5 |" in changed and "Renamed by hand" not in changed
    assert test_card.metadata(changed)["widget"] == [{"text": "Habari"}]
    assert test_card.metadata(changed)["library_name"] == "transformers"
    assert publication.regenerate(tmp_path).read_text() == changed


def test_metadata_that_the_facts_no_longer_hold_goes(tmp_path):
    path = publication.write(tmp_path, facts())
    assert {"license", "datasets", "model-index"} <= set(test_card.metadata(path.read_text()))
    publication.write(tmp_path, facts(licence=None, datasets=()))
    assert not {"license", "datasets", "model-index"} & set(test_card.metadata(path.read_text()))


def test_a_part_that_was_removed_comes_back_where_it_was(tmp_path):
    path = publication.write(tmp_path, facts())
    whole = path.read_text()
    for name in ("summary", "results", "citation"):
        without = re.sub(rf"<!-- hf_kd begin {name} -->.*?<!-- hf_kd end {name} -->\n\n?", "", whole, flags=re.DOTALL)
        assert without != whole
        path.write_text(without)
        again = publication.regenerate(tmp_path).read_text()
        order = re.findall(r"<!-- hf_kd begin (\w+) -->", again)
        assert order == re.findall(r"<!-- hf_kd begin (\w+) -->", whole)


def test_a_card_of_ones_own_is_kept_below_and_a_machines_is_not(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: cc-by-4.0\n---\n# Mine\n\nWritten by hand.\n")
    publication.write(tmp_path, facts(licence=None))
    text = path.read_text()
    assert text.rstrip().endswith("# Mine\n\nWritten by hand.")
    assert test_card.metadata(text)["license"] == "cc-by-4.0"
    assert publication.regenerate(tmp_path).read_text() == text
    ModelCard.from_template(ModelCard("---\nlicense: mit\n---\n").data).save(path)
    publication.regenerate(tmp_path)
    assert "Provide a quick summary" not in path.read_text()
    filled = "# Model Card for my model\n\n<!-- Provide a quick summary of what the model is/does. -->\n\nMy own words."
    path.write_text(filled)
    assert publication.regenerate(tmp_path).read_text().rstrip().endswith(filled)


def test_metadata_that_cannot_be_read_is_refused_and_left(tmp_path):
    path = publication.write(tmp_path, facts())
    path.write_text("---\nx: [\n---\n# Mine\n")
    with pytest.raises(ValueError, match="The card's metadata, between the first two `---`, is no YAML"):
        publication.regenerate(tmp_path)
    assert path.read_text() == "---\nx: [\n---\n# Mine\n"
    with pytest.raises(ValueError, match="is no list of `name: value`"):
        split("---\n- x\n---\n")


def test_what_was_measured_is_kept_for_the_weights_it_is_of(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    measured = dataclasses.replace(EVALUATION, weights=publication.fingerprint(tmp_path))
    publication.write(tmp_path, facts(evaluation=measured))
    publication.write(tmp_path, facts())
    assert facts_file.load(tmp_path).evaluation == measured
    (tmp_path / "model.safetensors").write_bytes(b"two")
    publication.write(tmp_path, facts())
    assert facts_file.load(tmp_path).evaluation is None


def test_a_measured_comparison_is_shown():
    text = card.compose(facts(evaluation=EVALUATION))
    said = "(masked tokens ranked first, in the one language measured) with 25.0 % of its parameters."
    assert f"It keeps 84.6 % of the score of a teacher of 4,000 parameters {said}" in text
    assert "compared with another teacher than the one that it was distilled from" in text
    own = card.compose(facts(evaluation=EVALUATION, teacher={**test_card.TEACHER, "parameters": 4000}))
    assert f"It keeps 84.6 % of its teacher's score {said}" in own and "another teacher" not in own
    assert "| sw | 300 | 22.0 (20.0 to 24.0) | 26.0 (24.0 to 28.0) | 84.6 (80.0 to 90.0) |" in text
    assert "| sw | 4 / 3.5 |" in text
    assert "hf-kd compare TEACHER STUDENT \\\n    --data sw=FILE \\\n    --seed 0\n```" in text
    assert "| 1 × 32 tokens, ms | 2.0 (1.9 to 2.2) | not measured |" in text
    assert "| weight files, MB | not measured | not measured |" in text
    (model,) = test_card.metadata(text)["model-index"]
    assert [metric["value"] for result in model["results"] for metric in result["metrics"]] == [0.22, 4.0]
    bare = card.compose(facts(evaluation=dataclasses.replace(EVALUATION, student_cost=Cost(1, 1.0))))
    assert "| latency and throughput | not measured | not measured |" in bare
    assert "| peak memory | not measured | not measured |" in bare


@pytest.mark.parametrize("hostile", test_card.HOSTILE)
def test_no_language_changes_the_structure_of_a_comparison(hostile):
    def shown(name):
        one = dataclasses.replace(LANGUAGE, language=name)
        settings = {name: name}
        return str(card.render(facts(evaluation=dataclasses.replace(EVALUATION, languages=(one,), settings=settings))))

    harmless, found = shown("Harmless!"), shown(test_card.HOSTILE[hostile])
    assert test_card.structure(found) == test_card.structure(harmless)
    assert ModelCard(found).data.to_dict().keys() == test_card.metadata(harmless).keys()


# ---- by the trainer, and from the command line ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny run, saved, with a card that knows more than the trainer."""
    folder = tmp_path_factory.mktemp("saved")
    args = DistillationArguments(
        output_dir=str(folder),
        student_num_hidden_layers=1,
        max_steps=3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    data = {"train_dataset": models.rows(4), "data_collator": models.collate}
    trainer = DistillationTrainer(models.model(layers=2), args, **data)
    trainer.train()
    trainer.save_model()
    return folder, trainer


def test_saving_leaves_the_facts_and_the_card_what_it_was_told(saved):
    folder, trainer = saved
    assert facts_file.load(folder).plan.kept_layers == (0,)
    assert facts_file.load(folder).data == {"rows": 4} and "processor" in facts_file.load(folder).hardware
    trainer.create_model_card(language="sw")
    trainer.save_model()
    assert facts_file.load(folder).languages == ("sw",)
    assert str(folder) not in (folder / facts_file.FILE_NAME).read_text()


def test_the_command_writes_the_card(saved):
    folder, trainer = saved
    trainer.create_model_card()
    text = (folder / "README.md").read_text()
    (folder / "README.md").unlink()
    result = CliRunner().invoke(app, ["card", str(folder)])
    assert result.exit_code == 0 and (folder / "README.md").read_text() == text
    CliRunner().invoke(app, ["card", str(folder), "--license", "mit", "--language", "sw", "--language", "ha"])
    assert test_card.metadata((folder / "README.md").read_text())["language"] == ["sw", "ha"]
    assert facts_file.load(folder).licence == "mit" and facts_file.load(folder).licence_from is None


def test_an_adapters_card_survives_what_peft_writes_into_it(tmp_path):
    """peft rewrites README.md on every save, its local paths among it."""
    peft = pytest.importorskip("peft")
    (tmp_path / "home").mkdir()
    models.model(layers=1).save_pretrained(tmp_path / "home" / "base")
    base = BertForMaskedLM.from_pretrained(tmp_path / "home" / "base")
    student = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"]))
    args = DistillationArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    data = {"train_dataset": models.rows(2), "data_collator": models.collate, "processing_class": tokenizer()}
    trainer = DistillationTrainer(student, args, teacher=models.model(seed=1), **data)
    trainer.save_model()
    trainer.create_model_card()
    path = tmp_path / "out" / "README.md"
    first = path.read_text()
    path.write_text(first + "\nMy own words.\n")
    trainer.save_model()
    assert str(tmp_path) in path.read_text(), "peft wrote where its base lies"
    trainer.create_model_card()
    again = path.read_text()
    assert str(tmp_path) not in again and "My own words." in again and "- PEFT " in again
    assert test_card.metadata(again)["tags"] == ["hf-kd", "knowledge-distillation", "lora", "transformers"]
    assert test_card.metadata(again)["library_name"] == "peft" and "base_model" not in test_card.metadata(again)
    assert "- kind: lora" in again and again.count("hf_kd begin summary") == 1
    trainer.save_model()
    trainer.create_model_card()
    assert path.read_text() == again


def test_a_folder_without_facts_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["card", str(tmp_path)])
    assert result.exit_code == 2 and "has no distillation_facts.json" in " ".join(result.output.split())


def test_a_model_is_saved_even_where_its_facts_cannot_be(saved, tmp_path, monkeypatch):
    def fail(*arguments, **more):
        raise KeyError("no width")

    monkeypatch.setattr("hf_kd.trainer.facts.gather", fail)
    saved[1].save_model(str(tmp_path))
    assert (tmp_path / "model.safetensors").is_file() and not (tmp_path / facts_file.FILE_NAME).exists()
