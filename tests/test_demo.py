"""The demo: its text, its tokenizer, its command line, and one tiny run from end to end."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from babel import Locale
from babel.dates import format_date
from rich.console import Console
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)
from typer.testing import CliRunner

from hf_kd.cli import app
from hf_kd.demo import inputs, measure, report, run
from hf_kd.demo.figures import MODEL_NAMES
from hf_kd.demo.models import train_tokenizer
from hf_kd.demo.settings import DemoError, DemoSettings
from hf_kd.demo.text import LANGUAGES, build_text, language_name
from hf_kd.recipes import RECIPES

TINY = DemoSettings(
    **{"train_lines": 200, "held_out_lines": 20, "steps": 60, "teacher_steps": 80, "batch_size": 8},
    **{"vocabulary_size": 700, "layers": 3, "width": 32, "heads": 2, "student_layers": 2},
)


@pytest.fixture(scope="module")
def text():
    return build_text(200, 20, seed=0)


@pytest.fixture(scope="module")
def tokenizer(text):
    return train_tokenizer((line for lines in text.values() for line in lines.train), TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny demo, run once: its folder, its figures, what it showed, and the batches of each training."""
    folder = tmp_path_factory.mktemp("demo")
    batches = {}

    class Recorder(run.DistillationTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            seen = tuple(tuple(inputs[name].flatten().tolist()) for name in ("input_ids", "labels"))
            batches.setdefault(Path(self.args.output_dir).name, []).append(seen)
            return super().training_step(model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, (folder / "shown.txt").open("w", encoding="utf-8") as file:
        patch.setattr(run, "DistillationTrainer", Recorder)
        figures = run.run_demo(replace(TINY, output_dir=folder), Console(file=file, width=100))
    return folder, figures, (folder / "shown.txt").read_text(encoding="utf-8"), batches


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "swa.txt"
    file.write_text("\n".join(build_text(60, 1, seed=3, languages=["sw"])["sw"].train), encoding="utf-8")
    return file


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line(output):
    return " ".join(output.split())


# Text


def test_the_same_seed_gives_the_same_text_and_another_seed_gives_another(text):
    assert build_text(200, 20, seed=0) == text
    assert build_text(200, 20, seed=1)["sw"].train != text["sw"].train


def test_every_language_has_the_same_number_of_lines(text):
    assert tuple(text) == LANGUAGES
    assert {(len(lines.train), len(lines.held_out)) for lines in text.values()} == {(200, 20)}


def test_no_held_out_line_is_trained_on_in_any_language(text):
    train = {line for lines in text.values() for line in lines.train}
    held_out = [line for lines in text.values() for line in lines.held_out]
    assert len(train) == 5 * 200
    assert len(set(held_out)) == 5 * 20
    assert train.isdisjoint(held_out)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_are_those_of_cldr(text, language):
    locale = Locale.parse(language)
    lines = "\n".join(build_text(600, 1, seed=0)[language].train)
    weekdays = locale.days["format"]["wide"].values()
    months = locale.months["format"]["wide"].values()
    assert all(weekday in lines for weekday in weekdays)
    assert all(month in lines for month in months)
    assert locale.territories["KE"] in lines
    assert re.search(re.escape(locale.languages["fr"]), lines)


def test_a_full_date_carries_its_own_weekday(text):
    dates = [line for line in text["sw"].train if re.fullmatch(r"Juma\w+, \d+ \w+ \d{4}", line)]
    assert dates
    months = {name: number for number, name in Locale("sw").months["format"]["wide"].items()}
    for line in dates:
        day, month, year = line.split(", ")[1].split()
        assert format_date(date(int(year), months[month], int(day)), "full", locale="sw") == line


def test_a_language_does_not_depend_on_which_others_were_made_before(text):
    """Babel leaks some names between locales; none of them may reach the text."""
    program = "from hf_kd.demo.text import build_text; print(build_text(60, 1, 0, ['fil'])['fil'].train)"
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    build_text(60, 1, seed=0, languages=["sw"])
    assert alone.strip() == str(build_text(60, 1, seed=0, languages=["fil"])["fil"].train)


def test_language_names():
    assert [language_name(code) for code in LANGUAGES] == ["Swahili", "Hausa", "Igbo", "Yoruba", "Filipino"]
    assert language_name("my notes") == "my notes"


# Tokenizer


def test_the_tokenizer_gives_lines_back(text, tokenizer):
    for lines in text.values():
        for line in lines.train[:20]:
            assert tokenizer.decode(tokenizer(line)["input_ids"], skip_special_tokens=True) == line


def test_the_same_text_gives_the_same_tokenizer(text, tokenizer):
    again = train_tokenizer((line for lines in text.values() for line in lines.train), TINY)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_tokenizer_knows_the_mask_and_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for one in (tokenizer, again):
        ids = one("Januari <mask> Machi")["input_ids"]
        assert ids.count(one.mask_token_id) == 1
        assert (ids[0], ids[-1]) == (one.bos_token_id, one.eos_token_id)
        assert one.model_max_length == TINY.max_tokens
    assert again("Jumatatu, 5 Januari 2026") == tokenizer("Jumatatu, 5 Januari 2026")


# Measuring


def test_masks_hide_words_and_leave_special_tokens(tokenizer):
    ids = tokenizer("Jumatatu, 5 Januari 2026")["input_ids"]
    lines = measure.mask_lines({"sw": [ids] * 50}, tokenizer, 0.3, seed=1)
    assert lines == measure.mask_lines({"sw": [ids] * 50}, tokenizer, 0.3, seed=1)
    for line in lines:
        restored = [label if label != -100 else token for token, label in zip(line.input_ids, line.labels)]
        assert restored == ids
        assert (line.labels[0], line.labels[-1]) == (-100, -100)
        assert line.input_ids.count(tokenizer.mask_token_id) == max(1, round(0.3 * (len(ids) - 2)))


def test_the_interval_of_equal_models_is_zero_and_of_a_sure_gain_above_it():
    worse = [measure.LineScore("sw", 4, 1, 8.0) for _ in range(30)]
    better = [measure.LineScore("sw", 4, 3, 4.0) for _ in range(30)]
    assert measure.gain_interval(worse, worse, seed=0) == (0, 0)
    assert measure.gain_interval(better, worse, seed=0) == (0.5, 0.5)


# End to end


def test_the_demo_leaves_everything_it_names(finished):
    folder, figures, shown, _ = finished
    for name in (
        "student/model.safetensors",
        "student/tokenizer.json",
        "student/README.md",
        "accuracy.png",
        "figures.json",
        "masked_lines.jsonl",
        "text/sw.txt",
        "text/sw.held_out.txt",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert "Traceback" not in shown
    for language in figures.languages.values():
        assert language in shown
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["student", "from_scratch", "copied", "teacher"])
def test_models_load_with_plain_transformers(finished, model):
    _, loading = AutoModelForMaskedLM.from_pretrained(finished[0] / model, output_loading_info=True)
    assert not any(loading.values()), loading


def test_every_student_sees_the_same_masked_batches(finished):
    *_, batches = finished
    assert len(batches["student"]) == TINY.steps
    assert len(set(batches["student"])) == TINY.steps
    assert batches["student"] == batches["from_scratch"] == batches["copied"]


def test_the_student_is_cut_and_the_baseline_has_its_shape(finished):
    folder, figures, *_ = finished
    student = AutoModelForMaskedLM.from_pretrained(folder / "student")
    scratch = AutoModelForMaskedLM.from_pretrained(folder / "from_scratch")
    assert student.config.num_hidden_layers == 2
    assert {name: weight.shape for name, weight in student.named_parameters()} == {
        name: weight.shape for name, weight in scratch.named_parameters()
    }
    assert figures.sizes["distilled"].parameters == sum(weight.numel() for weight in student.parameters())


@pytest.mark.parametrize("model", list(MODEL_NAMES))
def test_the_figures_are_those_of_the_saved_models(finished, model):
    """One line at a time, without padding, from the files alone."""
    folder, _, shown, _ = finished
    written = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    network = AutoModelForMaskedLM.from_pretrained(folder / {"distilled": "student"}.get(model, model)).eval()
    right, wrong, nats = {}, {}, {}
    for row in (folder / "masked_lines.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(row)
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([line["input_ids"]])).logits[0]
        for place, label in enumerate(line["labels"]):
            if label == -100:
                continue
            tally = right if int(logits[place].argmax()) == label else wrong
            tally[line["language"]] = tally.get(line["language"], 0) + 1
            nats.setdefault(line["language"], []).append(-float(logits[place].log_softmax(-1)[label]))
    for language, found in written["languages"].items():
        count = right.get(language, 0) + wrong.get(language, 0)
        assert found["masked_tokens"] == count
        assert found["scores"][model]["accuracy"] == pytest.approx(right.get(language, 0) / count, abs=1.5 / count)
        assert found["scores"][model]["loss"] == pytest.approx(sum(nats[language]) / count, rel=1e-4)
        assert f"{100 * found['scores'][model]['accuracy']:.1f}" in shown
    accuracies = [found["scores"][model]["accuracy"] for found in written["languages"].values()]
    assert written["mean"]["scores"][model]["accuracy"] == pytest.approx(sum(accuracies) / 5)


def test_the_card_shows_the_measured_figures(finished):
    folder, figures, *_ = finished
    card = (folder / "student" / "README.md").read_text(encoding="utf-8").replace("\\_", "_")
    assert "eval_yo_masked_accuracy" in card
    assert f"{figures.scores['distilled']['yo'].accuracy:.4g}" in card
    assert str(folder) not in card


def test_the_verdict_follows_the_numbers(finished):
    _, figures, shown, _ = finished
    swapped = replace(
        figures,
        scores={
            **figures.scores,
            "distilled": figures.scores["from_scratch"],
            "from_scratch": figures.scores["distilled"],
        },
    )
    assert swapped.mean_gain == pytest.approx(-figures.mean_gain)
    assert swapped.distilled_wins is (swapped.mean_gain > 0)
    for one in (figures, swapped):
        assert ("does NOT beat" in report.verdict(one)) is not one.distilled_wins
        assert f"{100 * one.mean_gain:+.1f} points" in report.verdict(one)


def test_own_teacher_and_text(finished, tmp_path, text_file):
    """The student of the tiny demo as somebody's own teacher."""
    folder, *_ = finished
    settings = replace(TINY, output_dir=tmp_path / "own", steps=2, student_layers=1)
    with (tmp_path / "shown.txt").open("w", encoding="utf-8") as file:
        figures = run.run_demo(settings, Console(file=file), teacher=str(folder / "student"), text_files=[text_file])
    assert list(figures.languages) == ["swa"]
    assert not (tmp_path / "own" / "teacher").exists()
    held_out = (tmp_path / "own" / "text" / "swa.held_out.txt").read_text(encoding="utf-8").splitlines()
    train = (tmp_path / "own" / "text" / "swa.txt").read_text(encoding="utf-8").splitlines()
    assert (len(held_out), len(train)) == (6, 54)
    assert set(held_out).isdisjoint(train)


# Command line


def test_help_and_version():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "demo" in result.output and "recipes" in result.output
    assert "hf-kd demo --teacher" in one_line(invoke("demo", "--help").output)
    assert invoke("--version").output.startswith("hf-kd ")


def test_the_command_line_stays_light():
    program = (
        "import sys, hf_kd.cli; print(sorted({'torch', 'transformers', 'matplotlib', 'babel'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_recipes_are_listed_and_detailed():
    listed = invoke("recipes").output
    assert all(name in listed for name in RECIPES)
    for name, recipe in RECIPES.items():
        detailed = invoke("recipes", name)
        assert detailed.exit_code == 0
        assert all(f"--{setting}" in detailed.output for setting in recipe.settings)
        assert recipe.arxiv in detailed.output
    unknown = invoke("recipes", "alchemy")
    assert unknown.exit_code == 2
    assert "There is no recipe `alchemy`; there are comet," in one_line(unknown.output)


def test_the_command_runs_the_demo_and_its_code_is_the_verdict(monkeypatch, finished, tmp_path):
    folder, figures, *_ = finished
    seen = {}

    def fake(settings, console, *, teacher, text_files):
        seen.update(settings=settings, teacher=teacher, text_files=text_files)
        return replace(figures, scores={**figures.scores, "distilled": seen["scores"]})

    monkeypatch.setattr(run, "run_demo", fake)
    monkeypatch.setattr("hf_kd.demo.process.prepare_process", lambda threads: None)
    perfect = {language: measure.Score(1.0, 0.0) for language in figures.languages}
    hopeless = {language: measure.Score(-1.0, 9.0) for language in figures.languages}
    arguments = ("demo", "--steps", 7, "--output-dir", tmp_path, "--teacher", folder, "--text", "a.txt", "b.txt")
    for scores, code in ((perfect, 0), (hopeless, 1)):
        seen["scores"] = scores
        assert invoke(*arguments).exit_code == code
    assert (seen["settings"].steps, seen["settings"].learning_rate) == (7, 5e-4)
    assert seen["text_files"] == [Path("a.txt"), Path("b.txt")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "x"], "The demo was given a teacher alone; it needs both or neither. Add --text FILE."),
        (["--text", "x.txt"], "The demo was given text files alone; it needs both or neither. Add --teacher PATH."),
        (["--teacher", "x", "--text", "absent.txt"], "Text file `absent.txt` does not exist."),
        (["--steps", 0], "`steps` is 0; it must be 1 or more."),
        (["--student-layers", 6], "The student is asked to have 6 layers; the teacher has 6, and a student must have"),
        (["--learning-rate", 3], "The learning rate is 3.0; it must lie between 0 and 1."),
    ],
)
def test_what_a_user_gets_wrong_is_said_without_a_traceback(arguments, message, tmp_path):
    result = invoke("demo", "--output-dir", tmp_path, *arguments)
    assert result.exit_code == 2
    assert message in one_line(result.output)
    assert "Traceback" not in result.output


def test_text_that_will_not_do(tmp_path):
    empty, short, latin = tmp_path / "e.txt", tmp_path / "s.txt", tmp_path / "l.txt"
    empty.write_text("\n \n", encoding="utf-8")
    short.write_text("one\ntwo\ntwo\n", encoding="utf-8")
    latin.write_bytes("señor".encode("latin-1"))
    with pytest.raises(DemoError, match=r"e\.txt` is empty"):
        inputs.read_text([empty], TINY)
    with pytest.raises(DemoError, match=r"s\.txt` has 2 lines of its own; the demo needs 40 or more"):
        inputs.read_text([short], TINY)
    with pytest.raises(DemoError, match=r"l\.txt` is not UTF-8"):
        inputs.read_text([latin], TINY)


def test_a_second_file_of_the_same_name_is_refused(text_file, tmp_path):
    other = tmp_path / "other" / text_file.name
    other.parent.mkdir()
    other.write_bytes(text_file.read_bytes())
    with pytest.raises(DemoError, match="Two text files are named `swa`"):
        inputs.read_text([text_file, other], TINY)


def test_a_teacher_that_cannot_fill_masks_is_refused(tmp_path, tokenizer):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=99, **sizes)).save_pretrained(tmp_path / "classifier")
    GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=8, n_layer=2, n_head=2)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(DemoError, match=r"has no masked-LM head: \d+ of its weights are missing"):
        inputs.load_masked_lm(str(tmp_path / "classifier"))
    with pytest.raises(DemoError, match="is a `gpt2`, which has no masked-LM head"):
        inputs.load_masked_lm(str(tmp_path / "gpt2"))
    with pytest.raises(DemoError, match="The teacher `.*absent` could not be loaded"):
        inputs.load_masked_lm(str(tmp_path / "absent"))
    tokenizer.save_pretrained(tmp_path / "maskless")
    AutoTokenizer.from_pretrained(tmp_path / "maskless", mask_token=None).save_pretrained(tmp_path / "maskless")
    with pytest.raises(DemoError, match="has no mask token; the demo needs one"):
        inputs.load_tokenizer(str(tmp_path / "maskless"))
