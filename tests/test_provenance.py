"""Where a run came from: its command, its machine, its teacher's licence; nothing private."""

import types

import models
import pytest
from test_publication import SECRET, facts

from hf_kd import DistillationArguments, DistillationTrainer, card, facts_file, provenance


@pytest.mark.parametrize(
    ("given", "public"),
    [
        (["run.py", "--hub_token", "x", "--fp16"], ["python", "run.py", "--fp16"]),
        (["/a/b/run.py", f"--hub_token={SECRET}"], ["python", "run.py"]),
        (["run.py", "--model_name_or_path", "org/model"], ["python", "run.py", "--model_name_or_path", "org/model"]),
        (
            ["run.py", "--model_name_or_path", "./model"],
            ["python", "run.py", "--model_name_or_path", "MODEL_NAME_OR_PATH"],
        ),
        (["run.py", "--train_file=/x/a.txt"], ["python", "run.py", "--train_file=TRAIN_FILE"]),
        (["run.py", "--files", "/x/a.txt", "/x/b.txt"], ["python", "run.py", "--files", "FILES", "FILES"]),
        (["run.py", "--hub_model_id", "amina/x"], ["python", "run.py", "--hub_model_id", "HUB_MODEL_ID"]),
        (["run.py", "--tokenizer_name", "org/t"], ["python", "run.py", "--tokenizer_name", "org/t"]),
        (["run.py", "--note", "a\nb"], ["python", "run.py", "--note", "a b"]),
        (["run.py", SECRET], ["python", "run.py", "PATH"]),
        (["hf-kd", "demo"], ["hf-kd", "demo"]),
        (["pytest", "-q"], []),
        (["-c"], []),
        ([], []),
    ],
    ids=str,
)
def test_a_command_is_public(given, public):
    assert list(provenance.command_of(given)) == public


def test_a_command_of_several_processes():
    assert provenance.command_of(["run.py"], 4) == ("torchrun", "--nproc_per_node", "4", "run.py")


def test_emissions_are_those_of_codecarbon():
    callback = types.SimpleNamespace(tracker=types.SimpleNamespace(final_emissions=0.25))
    found = provenance.carbon_of([object(), callback])
    assert "CO₂: 0.25 kg, estimated by codecarbon\n" in card.compose(facts(carbon_kilograms=found))
    assert provenance.carbon_of([object()]) is None


def test_a_licence_is_read_from_the_teachers_card_or_not_at_all(tmp_path):
    teacher = tmp_path / "teacher"
    models.model(layers=2).save_pretrained(teacher)
    assert provenance.licence_of(str(teacher), None) is None and provenance.licence_of(None, None) is None
    assert provenance.licence_of("org/never-seen", "0123abc") is None
    provenance.licence_of.cache_clear()
    (teacher / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")
    args = DistillationArguments(
        output_dir=str(tmp_path / "out"), student_num_hidden_layers=1, use_cpu=True, report_to="none"
    )
    loaded = type(models.model()).from_pretrained(teacher)
    trainer = DistillationTrainer(loaded, args, train_dataset=models.rows(2), data_collator=models.collate)
    trainer.create_model_card()
    facts = facts_file.load(tmp_path / "out")
    assert (facts.licence, facts.licence_from) == ("cc-by-sa-4.0", "teacher")
    trainer.create_model_card(license="mit")
    assert facts_file.load(tmp_path / "out").licence_from is None
