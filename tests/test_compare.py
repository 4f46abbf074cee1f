"""`hf-kd compare`: figures, files, plots, resumption, the card."""

import csv
import dataclasses
import json
import random
import re
import shlex

import models
import pytest
import test_card
from push_student import tokenizer
from test_evaluation import trimmed
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from hf_kd import DistillationArguments, DistillationTrainer, card, facts_file
from hf_kd.card_evaluation import summary as kept_sentence
from hf_kd.cli import app
from hf_kd.evaluation import compare, contestants, plots, report, style, tokens
from hf_kd.evaluation.contestants import CompareError
from hf_kd.records import Cost, Estimate, Timing

TOKENIZER = tokenizer()
NAMES = {"token_classification": ["O", "B-PER", "I-PER"], "sequence_classification": ["bad", "good", "mixed"]}


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def one_line(output):
    return " ".join(output.split())


def save(folder, head="masked_lm", **shape):
    model = models.model("bert", head, spread=4.0, **({"num_labels": 3} if head in NAMES else {}), **shape)
    if head in NAMES:
        names = NAMES[head]
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A teacher, a student of it that was distilled and saved with facts, another student, and text."""
    folder = tmp_path_factory.mktemp("compare")
    save(folder / "teacher", layers=2, seed=1)
    save(folder / "other", layers=1, seed=3)
    args = DistillationArguments(
        output_dir=str(folder / "student"),
        student_num_hidden_layers=1,
        max_steps=3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    teacher = AutoModelForMaskedLM.from_pretrained(folder / "teacher")
    data = {"train_dataset": models.rows(8), "data_collator": models.collate, "processing_class": TOKENIZER}
    trainer = DistillationTrainer(teacher, args, **data)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(language=["sw", "ha"])
    rng = random.Random(0)
    for language in ("sw", "ha"):
        lines = (" ".join(f"w{rng.randint(10, 63)}" for _ in range(rng.randint(3, 12))) for _ in range(30))
        (folder / f"{language}.txt").write_text("\n".join(lines))
    return folder


def words(folder, *more, students=("student", "other")):
    named = [folder / name for name in students]
    data = ["--data", f"sw={folder}/sw.txt", f"ha={folder}/ha.txt"]
    return ("compare", folder / "teacher", *named, *data, "--output-dir", folder / "out", "--rounds", 1, *more)


@pytest.fixture(scope="module")
def compared(workshop):
    return invoke(*words(workshop, "--pseudo-perplexity", 2))


def test_everything_is_shown_and_written(workshop, compared):
    assert compared.exit_code == 0, compared.output
    for shown in ("sw: 30 rows", "ha: 30 rows", "mean of 2 languages", "Size and speed"):
        assert shown in compared.output
    for name in ("comparison.json", "comparison.csv", "languages.png", "quality.png", "loss_terms_1.png"):
        assert (workshop / "out" / name).stat().st_size > 0
        assert f"Wrote {workshop / 'out' / name}" in compared.output
    content = (workshop / "out" / "comparison.json").read_text()
    assert str(workshop) not in content and json.loads(content)["schema"] == report.SCHEMA
    assert list(json.loads(content)["students"]) == ["student", "other"]


def test_the_figures_are_those_of_the_saved_models(workshop, compared):
    student = AutoModelForMaskedLM.from_pretrained(workshop / "student")
    found = json.loads((workshop / "out" / "comparison.json").read_text())["students"]["student"]
    for number, language in enumerate(("sw", "ha")):
        ids = TOKENIZER((workshop / f"{language}.txt").read_text().splitlines())["input_ids"]
        lines = compare.mask_lines({language: ids}, TOKENIZER, 0.15, f"0 {language}")
        of_lines = tokens.score_lines(tokens.Reader(student, TOKENIZER.pad_token_id), lines)
        one = found["languages"][number]
        assert (one["language"], one["rows"], one["items"]) == (language, 30, of_lines["items"].sum())
        share = of_lines["correct"].sum() / of_lines["items"].sum()
        assert one["student"]["masked_accuracy"]["value"] == pytest.approx(share)
        assert one["student"]["masked_accuracy"]["low"] <= share <= one["student"]["masked_accuracy"]["high"]
        alone = [line for of_row in ids[:2] for line in compare.mask_each(language, of_row, TOKENIZER)]
        nats = tokens.score_lines(tokens.Reader(student, TOKENIZER.pad_token_id), alone)["nats"].mean()
        assert compare.np.log(one["student"]["pseudo_perplexity"]["value"]) == pytest.approx(nats, rel=1e-5)


def test_the_csv_holds_every_number(workshop, compared):
    with (workshop / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    content = json.loads((workshop / "out" / "comparison.json").read_text())["students"]
    for row in rows:
        evaluation = content[row["student"]]
        reports = {one["language"]: one for one in (*evaluation["languages"], evaluation["mean"])}
        assert float(row["value"]) == reports[row["language"]][row["of"]][row["measure"]]["value"]
    assert {row["of"] for row in rows} == {"student", "teacher", "fidelity", "retention"}


def test_what_was_measured_is_not_measured_again(workshop, compared, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("asked a model again")

    before = json.loads((workshop / "out" / "comparison.json").read_text())
    monkeypatch.setattr(tokens, "score_group", refuse)
    again = invoke(*words(workshop, "--pseudo-perplexity", 2))
    assert again.exit_code == 0 and "Measured before, and not again: sw, ha" in again.output
    after = json.loads((workshop / "out" / "comparison.json").read_text())
    for name, evaluation in after["students"].items():
        assert {**evaluation, "student_cost": 0, "teacher_cost": 0} == {
            **before["students"][name],
            "student_cost": 0,
            "teacher_cost": 0,
        }


def test_an_interrupted_comparison_goes_on_where_it_was(workshop, tmp_path, monkeypatch):
    asked, score = [], tokens.score_group

    def interrupt(teacher, students, lines):
        asked.append(lines[0].language)
        if asked == ["sw", "ha"]:
            raise KeyboardInterrupt
        return score(teacher, students, lines)

    monkeypatch.setattr(tokens, "score_group", interrupt)
    sources = [str(workshop / name) for name in ("teacher", "student")]
    data = {language: workshop / f"{language}.txt" for language in ("sw", "ha")}
    settings = compare.CompareSettings(rounds=0)
    with pytest.raises(KeyboardInterrupt):
        compare.compare(sources, data, tmp_path, settings)
    found = compare.compare(sources, data, tmp_path, settings)
    assert asked == ["sw", "ha", "ha"] and found.reused == ("sw",)
    compare.compare(sources, data, tmp_path, dataclasses.replace(settings, seed=1))
    assert asked[3:] == ["sw", "ha"], "other settings are another comparison"


def test_the_card_shows_the_figures(workshop):
    folder = workshop / "student"
    only = words(workshop, "--update-card", students=("student",))
    assert invoke(*only).exit_code == 0
    evaluation, text = facts_file.load(folder).evaluation, (folder / "README.md").read_text()
    for one in evaluation.languages:
        assert f"| {one.language} | {one.items} | {100 * one.student['masked_accuracy'].value:.1f} (" in text
    assert kept_sentence(evaluation) in text
    (model,) = model_index(text)
    assert {result["dataset"]["config"] for result in model["results"]} == {"sw", "ha"}
    for image in card.IMAGES.values():
        assert f"]({image})" in text and (folder / image).stat().st_size > 0
    assert invoke("card", folder).exit_code == 0 and (folder / "README.md").read_text() == text


def test_every_code_block_of_the_card_runs_and_gives_its_figures_again(workshop, monkeypatch, capsys):
    if facts_file.load(workshop / "student").evaluation is None:
        assert invoke(*words(workshop, "--update-card", students=("student",))).exit_code == 0
    text = (workshop / "student" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(workshop / "student")
    exec(code, {})
    assert "token_str" in capsys.readouterr().out
    assert len(code.splitlines()) == 4, "three lines and an empty one"
    *_, command = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for name, place in (("TEACHER", "teacher"), ("STUDENT", "student"), ("sw=FILE", "sw.txt"), ("ha=FILE", "ha.txt")):
        assert name in command
        command = command.replace(name, f"{name.replace('FILE', '') if '=' in name else ''}{workshop / place}")
    done = invoke(*shlex.split(command.replace("\\\n", ""))[1:], "--output-dir", workshop / "again")
    assert done.exit_code == 0, done.output
    again = json.loads((workshop / "again" / "comparison.json").read_text())["students"]["student"]
    shown = facts_file.plain(facts_file.load(workshop / "student").evaluation)
    assert (again["languages"], again["mean"]) == (shown["languages"], shown["mean"])


def model_index(text):
    return test_card.metadata(text)["model-index"]


@pytest.mark.parametrize("head", list(NAMES))
def test_labels_are_compared_too(head, tmp_path):
    save(tmp_path / "teacher", head, layers=2, seed=1)
    save(tmp_path / "student", head, layers=1, seed=2)
    rng = random.Random(0)
    rows = []
    for _ in range(20):
        text = [f"w{rng.randint(10, 63)}" for _ in range(6)]
        if head == "token_classification":
            rows.append({"tokens": text, "ner_tags": [rng.choice(NAMES[head]) for _ in text]})
        else:
            rows.append({"text": " ".join(text), "label": rng.choice(NAMES[head])})
    (tmp_path / "sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data", f"sw={tmp_path}/sw.jsonl", "--rounds", 0, "--output-dir", tmp_path / "out"]
    done = invoke("compare", tmp_path / "teacher", tmp_path / "student", *data)
    assert done.exit_code == 0, done.output
    (one,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["students"]["student"]["languages"]
    wanted = {"entity_f1"} if head == "token_classification" else {"macro_f1", "accuracy", "weighted_f1"}
    assert wanted <= set(one["student"]) and {"top1_agreement", "kl"} <= set(one["fidelity"])


def test_a_causal_student_is_asked_for_the_tokens_that_follow(workshop, tmp_path):
    for name, seed in (("teacher", 1), ("student", 2)):
        models.model("llama", seed=seed, spread=4.0).save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    sources = [str(tmp_path / name) for name in ("teacher", "student")]
    found = compare.compare(sources, {"sw": workshop / "sw.txt"}, tmp_path, compare.CompareSettings(rounds=0))
    (one,) = found.students["student"].languages
    words = [len(line.split()) for line in (workshop / "sw.txt").read_text().splitlines()]
    assert one.items == sum(words) - len(words), "nothing comes before a line's first token"
    assert {"token_accuracy", "perplexity"} <= set(one.student)


def test_a_student_with_fewer_tokens_is_compared_on_those_shared(workshop, tmp_path):
    """It is its teacher with half of the embeddings, so both must say the same."""
    teacher = AutoModelForMaskedLM.from_pretrained(workshop / "teacher")
    student, own = trimmed(teacher, [3, 4, 0, 2, 1, *range(63, 30, -1)])
    own.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    student.save_pretrained(tmp_path / "student")
    own.save_pretrained(tmp_path / "student")
    sources = [str(workshop / "teacher"), str(tmp_path / "student")]
    found = compare.compare(sources, {"sw": workshop / "sw.txt"}, tmp_path, compare.CompareSettings(rounds=0))
    (one,) = found.students["student"].languages
    assert one.fidelity["top1_agreement"].value == 1 and one.fidelity["kl"].value == pytest.approx(0, abs=1e-6)
    assert one.student["masked_accuracy"] == one.teacher["masked_accuracy"]
    words = (workshop / "sw.txt").read_text().split()
    unknown = sum(word not in own.get_vocab() for word in words)
    said = f"{unknown:,} of {len(words):,}; both models read the student's tokens"
    assert unknown and found.students["student"].settings["student's unknown tokens"] == said


def test_an_adapter_is_compared_with_its_base_beneath(workshop, tmp_path):
    peft = pytest.importorskip("peft")
    base = AutoModelForMaskedLM.from_pretrained(workshop / "teacher")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "student")
    TOKENIZER.save_pretrained(tmp_path / "student")
    sources = [str(workshop / "teacher"), str(tmp_path / "student")]
    found = compare.compare(sources, {"sw": workshop / "sw.txt"}, tmp_path, compare.CompareSettings(rounds=0))
    (one,) = found.students["student"].languages
    assert 0 < one.fidelity["kl"].value, "the adapter was read"
    cost = found.students["student"]
    assert cost.student_cost.parameters > cost.teacher_cost.parameters
    assert cost.student_cost.file_megabytes < cost.teacher_cost.file_megabytes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "sw"], "`--data sw` is not of the form LANG=FILE. Write, say, --data sw=swahili.txt."),
        (["--data", "sw=absent.txt"], "`sw` has two files in --data."),
        (["--data", "ig=absent.txt"], "Data file `absent.txt` of `ig` does not exist."),
        (["--mask-ratio", 2], "The mask ratio is 2.0; it must lie between 0 and 1."),
        (["--max-rows", 0], "`max_rows` is 0; it must be 1 or more."),
        (["--update-card"], "has no distillation_facts.json"),
    ],
)
def test_what_a_user_gets_wrong_is_said_without_a_traceback(workshop, more, message):
    found = invoke(*words(workshop, *more))
    assert found.exit_code == 2 and message in one_line(found.output) and "Traceback" not in found.output


def test_a_teacher_alone_is_no_comparison(workshop):
    done = invoke("compare", workshop / "teacher", "--data", f"sw={workshop}/sw.txt", f"ha={workshop}/ha.txt")
    assert done.exit_code == 2 and "1 models and 2 languages were given; a comparison needs" in one_line(done.output)


def test_models_that_cannot_be_compared_are_refused(workshop, tmp_path):
    for source, message in (
        (tmp_path, "could not be loaded"),
        (save(tmp_path / "qa", "question_answering"), "which `hf-kd compare` does not measure"),
        (
            save(tmp_path / "classifier", "sequence_classification"),
            "is plain text, but text-classification needs labels",
        ),
    ):
        with pytest.raises(CompareError, match=message):
            data = {"sw": workshop / "sw.txt"}
            compare.compare([str(source), str(source)], data, tmp_path / "x", compare.CompareSettings(rounds=0))
    with pytest.raises(CompareError, match="Student `org/s` lies in no folder"):
        from hf_kd.evaluation.update import update_cards

        update_cards(compare.Comparison("t", {"org/s": None}, {}))


def test_names_of_models_differ(tmp_path):
    for folder in ("a/model", "b/model"):
        (tmp_path / folder).mkdir(parents=True)
    names = contestants._names([str(tmp_path / "a/model"), str(tmp_path / "b/model"), "org/model"])
    assert names == ["model", "model (1)", "org/model"]


# ---- plots ----


def boxes(picture):
    """Where every visible text of a picture lies, in pixels."""
    picture.canvas.draw()
    renderer = picture.canvas.get_renderer()
    axes = [axis for one in picture.axes for axis in (one.xaxis, one.yaxis)]
    ticks = {tick for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    beyond_view = {id(tick.label1) for tick in ticks - {tick for axis in axes for tick in axis._update_ticks()}}
    texts = picture.findobj(lambda artist: hasattr(artist, "get_text") and id(artist) not in beyond_view)
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


def assert_legible(picture):
    found = [(text, box) for text, box in boxes(picture) if box.width > 0]
    width, height = picture.canvas.get_width_height()
    for place, (text, box) in enumerate(found):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} is cut off"
        for other, other_box in found[place + 1 :]:
            overlap = box.padded(-1).overlaps(other_box.padded(-1))
            assert not overlap or text == other, f"{text!r} and {other!r} overlap"


def evaluation_of(workshop, students, languages, spread=1.0):
    """Made-up evaluations of as many students and languages."""
    settings = compare.CompareSettings(rounds=0)
    sources = [str(workshop / "teacher"), str(workshop / "student")]
    measured = compare.compare(sources, {"sw": workshop / "sw.txt"}, workshop / "plots", settings)
    (one,) = measured.students["student"].languages
    reports = []
    for number in range(languages):
        value = Estimate(
            0.1 + 0.8 * number / languages, 0.05 + 0.8 * number / languages, 0.15 + 0.8 * number / languages
        )
        scores = {"masked_accuracy": value}
        reports.append(dataclasses.replace(one, language=f"language {number}", student=scores, teacher=scores))
    found = {}
    for number in range(students):
        timing = Timing(1, 128, Estimate(3.0 * spread**number, 1.0, 9.0), 1.0)
        cost = Cost(10**6 * int(3 * spread**number), 4.0, None, (timing,))
        found[f"student {number} of a rather long name, {number}"] = dataclasses.replace(
            measured.students["student"],
            languages=tuple(reports),
            mean=dataclasses.replace(reports[0], language="mean"),
            student_cost=cost,
            teacher_cost=dataclasses.replace(cost, parameters=5 * 10**8),
        )
    return found


@pytest.mark.parametrize(("students", "languages", "spread"), [(1, 1, 1.0), (2, 5, 1.2), (4, 3, 3.0), (6, 6, 1.0)])
def test_plots_are_legible(workshop, students, languages, spread):
    found = evaluation_of(workshop, students, languages, spread)
    for draw in (plots.draw_languages, plots.draw_quality):
        picture = draw(found, "teacher: of a rather long name too, really")
        style.save(picture, workshop / f"{draw.__name__}_{students}.png")
        assert_legible(picture)


def test_the_check_of_legibility_can_fail():
    picture = style.new_figure()
    picture.text(0.5, 0.5, "one")
    picture.text(0.5, 0.5, "other")
    with pytest.raises(AssertionError, match="'one' and 'other' overlap"):
        assert_legible(picture)


def test_models_differ_without_colour_too():
    assert len(set(style.PALETTE)) == len(set(style.HATCHES)) == len(set(style.MARKERS)) == len(set(style.DASHES)) == 7
