"""A real multilingual teacher on real text: what tiny random models cannot show."""

import datasets
import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from hf_kd import DistillationArguments, DistillationTrainer, build_student
from hf_kd.evaluation.compare import CompareSettings, compare

pytestmark = pytest.mark.real
LANGUAGES = ("hau", "ibo", "kin", "swa", "yor")


@pytest.fixture(scope="module")
def teacher_folder(shared):
    return str(shared / "models" / "afro-mini")


@pytest.fixture(scope="module")
def lines(shared, teacher_folder):
    """A few sentences of each language, tokenized."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    text = []
    for language in LANGUAGES:
        with open(shared / "data" / "text" / f"{language}.txt", encoding="utf-8") as file:
            text += [line.strip() for _, line in zip(range(40), file)]
    return datasets.Dataset.from_dict(dict(tokenizer(text, truncation=True, max_length=48)))


def run(folder, model, teacher_folder, lines, **more):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    args = DistillationArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=4,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        **more,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, seed=0)
    trainer = DistillationTrainer(model, args, collator, lines, processing_class=tokenizer)
    trainer.train()
    return trainer


def test_a_student_cut_from_a_trained_teacher_starts_well_and_improves(teacher_folder, lines, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(teacher_folder)
    trainer = run(tmp_path, model, teacher_folder, lines, student_num_hidden_layers=3, kd_recipe="comet")
    history = trainer.state.log_history
    start = history[0]
    assert start["kd_start_logits"] < 0.5 * start["kd_start_logits_uniform"]
    losses = [entry["kd_logits"] for entry in history if "kd_logits" in entry]
    assert losses[-1] < 0.8 * start["kd_start_logits"], "it approaches its teacher"
    trainer.save_model()
    student = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert student.config.num_hidden_layers == 3 and student.config.vocab_size == 24_000


def test_a_trained_teacher_teaches_by_name(teacher_folder, lines, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(teacher_folder)
    trainer = run(tmp_path, model, teacher_folder, lines, teacher_model_name_or_path=teacher_folder)
    assert abs(trainer.state.log_history[0]["kd_start_logits"]) < 1e-5, "the student is a copy of its teacher"


def test_a_build_student_is_measured_beside_its_trained_teacher(shared, teacher_folder, tmp_path):
    student, _ = build_student(AutoModelForMaskedLM.from_pretrained(teacher_folder), 4)
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path / "student")
    data = {language: shared / "data" / "text" / f"{language}.txt" for language in ("hau", "swa")}
    settings = CompareSettings(max_rows=60, rounds=0)
    found = compare([teacher_folder, str(tmp_path / "student")], data, tmp_path, settings).students["student"]
    for one in found.languages:
        assert 0.1 < one.teacher["masked_accuracy"].value < 0.5 and one.items > 100
        assert 0.5 < one.retention["masked_accuracy"].value < 1.1
        assert 0.3 < one.fidelity["top1_agreement"].value < one.fidelity["top5_agreement"].value < 1
        assert 0 < one.fidelity["kl"].low < one.fidelity["kl"].value < one.fidelity["kl"].high
