"""`hf-kd student` and `hf-kd trim`: what they write, show and refuse."""

import json
import os
import re

import models
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_tokenizers import LINES, xlm_roberta
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
)
from typer.testing import CliRunner

from hf_kd import DistillationArguments, DistillationTrainer, facts_file, trim_vocabulary
from hf_kd.card import inline
from hf_kd.cli import app
from hf_kd.plan_words import sentences, trim_sentence
from hf_kd.plans import TrimPlan
from hf_kd.students import build_student
from hf_kd.students.folder import PLAN_FILE, plan_from_json, plan_to_json, read_plan
from hf_kd.students.source import load_source

SHAPE = ["--num-hidden-layers", "2", "--hidden-size", "8", "--num-attention-heads", "2", "--intermediate-size", "12"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A teacher with its tokenizer, and text of two languages."""
    folder = tmp_path_factory.mktemp("home")
    tokenizer = xlm_roberta()
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = models.config("xlm_roberta")
    config.vocab_size = len(tokenizer)
    for name, value in ids.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    for language, lines in LINES.items():
        (folder / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def hf_kd(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def refused(message, *arguments):
    done = hf_kd(*arguments)
    assert done.exit_code == 2 and "Traceback" not in done.output, (arguments, done.output)
    assert message in re.sub(r"\s+", " ", done.output), done.output


def test_a_student_is_written_whole(home, tmp_path):
    languages = sorted(LINES)
    text = [f"--text={home / language}.txt" for language in languages]
    out = tmp_path / "new" / "student"
    done = hf_kd("student", home / "teacher", out, *SHAPE, "--width", "importance", "--coverage", "0.9", *text)
    assert done.exit_code == 0, done.output
    names = {"README.md", "config.json", "model.safetensors", PLAN_FILE, "student_sizes.png", "tokenizer.json"}
    assert names <= set(os.listdir(out)) and os.listdir(out.parent) == ["student"]
    student, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    plan = read_plan(out)
    assert student.config.vocab_size == len(tokenizer) == plan.trim.size < plan.trim.source_size
    assert (student.config.hidden_size, student.config.num_hidden_layers) == (8, 2)
    assert plan.width_rule == "importance" and len(plan.hidden_units) == 8 and len(plan.query_units) == 2
    assert plan_from_json(plan_to_json(plan)) == plan
    whole = AutoModelForMaskedLM.from_pretrained(home / "teacher")
    again, _ = build_student(whole, plan=plan)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), student.parameters(), strict=True))
    card = (out / "README.md").read_text()
    count = sum(parameter.numel() for parameter in student.parameters())
    assert f"| parameters | {count:,} |" in card and "layers 4 → 2, hidden size 16 → 8" in card
    assert str(home) not in card + (out / PLAN_FILE).read_text() + (out / "config.json").read_text()


def test_the_plan_goes_on_into_the_card_of_the_trained_student(home, tmp_path):
    text = home / f"{sorted(LINES)[0]}.txt"
    cut = ["--layers", "0,2", "--coverage", "1", "--text", text]
    assert hf_kd("student", home / "teacher", tmp_path / "cut", *cut).exit_code == 0
    args = DistillationArguments(
        output_dir=str(tmp_path / "out"),
        teacher_model_name_or_path=str(home / "teacher"),
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "cut")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "cut")
    rows = [
        {"input_ids": ids}
        for ids in tokenizer(text.read_text().splitlines(), truncation=True, max_length=38)["input_ids"]
    ]
    collator = DataCollatorForLanguageModeling(tokenizer)
    run = DistillationTrainer(student, args, collator, rows, processing_class=tokenizer)
    run.train()
    run.save_model()
    run.create_model_card()
    plan = read_plan(tmp_path / "cut")
    assert facts_file.load(args.output_dir).plan == plan
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(inline(sentence) in card for sentence in sentences(plan))


def test_a_dry_run_shows_sizes_and_writes_nothing(home, tmp_path):
    done = hf_kd("student", home / "teacher", tmp_path / "student", *SHAPE, "--dry-run")
    assert done.exit_code == 0 and not (tmp_path / "student").exists()
    student, _ = build_student(
        AutoModelForMaskedLM.from_pretrained(home / "teacher"),
        2,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=12,
    )
    count = sum(parameter.numel() for parameter in student.parameters())
    assert f"{count:,}" in done.output and "Dry run: nothing was written." in done.output


def test_a_dry_run_needs_no_weights(home, tmp_path):
    AutoConfig.from_pretrained(home / "teacher").save_pretrained(tmp_path / "bare")
    assert hf_kd("student", tmp_path / "bare", tmp_path / "student", *SHAPE, "--dry-run").exit_code == 0


def test_a_trimmed_model_and_tokenizer_agree(home, tmp_path):
    text = home / f"{sorted(LINES)[0]}.txt"
    done = hf_kd("trim", home / "teacher", tmp_path / "small", "--text", text, "--coverage", "1")
    assert done.exit_code == 0, done.output
    small, large = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "small", home / "teacher"))
    one, other = (AutoModelForMaskedLM.from_pretrained(path) for path in (tmp_path / "small", home / "teacher"))
    kept = torch.tensor(read_plan(tmp_path / "small").kept_ids)
    for line in text.read_text(encoding="utf-8").splitlines():
        ours, theirs = (one(line, return_tensors="pt", truncation=True, max_length=38) for one in (small, large))
        assert torch.equal(kept[ours["input_ids"]], theirs["input_ids"])
        torch.testing.assert_close(one(**ours).logits, other(**theirs).logits[..., kept])


def test_trim_vocabulary_from_python(home):
    tokenizer = AutoTokenizer.from_pretrained(home / "teacher")
    model = AutoModelForMaskedLM.from_pretrained(home / "teacher")
    small, cut, plan = trim_vocabulary(model, tokenizer, LINES, coverage=0.95)
    assert small.config.vocab_size == len(cut) == plan.size < len(tokenizer) == model.config.vocab_size
    again, _, _ = trim_vocabulary(model, tokenizer, plan=plan)
    assert torch.equal(again.get_input_embeddings().weight, small.get_input_embeddings().weight)
    assert cut.pad_token_id == small.config.pad_token_id
    with pytest.raises(TypeError, match="Give `texts` and `vocab_size`, or `plan`"):
        trim_vocabulary(model, tokenizer)


def test_an_adapter_is_merged_first(home, tmp_path):
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(home / "teacher", num_labels=3)
    adapted = get_peft_model(
        base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    batch = models.collate(models.rows(4))
    batch.pop("labels")
    expected = adapted.eval()(**batch).logits
    for arguments in (
        {"name_or_path": tmp_path / "adapter"},
        {"name_or_path": home / "teacher", "adapter": tmp_path / "adapter"},
    ):
        merged = load_source(**{name: str(value) for name, value in arguments.items()})
        assert type(merged).__name__ == "XLMRobertaForSequenceClassification" and merged.config.num_labels == 3
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    done = hf_kd(
        "student", home / "teacher", tmp_path / "student", "--adapter", tmp_path / "adapter", "--layers", "0,3"
    )
    assert done.exit_code == 0, done.output
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").config.num_labels == 3


def test_random_weights_follow_the_seed(home, tmp_path):
    made = []
    for seed in (1, 1, 2):
        out = tmp_path / f"student{len(made)}"
        assert hf_kd("student", home / "teacher", out, *SHAPE, "--weights", "random", "--seed", seed).exit_code == 0
        made.append(AutoModelForMaskedLM.from_pretrained(out).lm_head.dense.weight)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_what_cannot_be_cut_is_refused_and_leaves_nothing(home, tmp_path):
    out = tmp_path / "deep" / "student"
    teacher, text = home / "teacher", home / f"{sorted(LINES)[0]}.txt"
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "strange.txt").write_text("가나다\n라마바\n", encoding="utf-8")
    cases = (
        ("The student asks for 9 layers, but its teacher has 4 layers", "student", "--num-hidden-layers", 9),
        (
            "3 attention heads do not divide a hidden size of 8",
            "student",
            "--hidden-size",
            8,
            "--num-attention-heads",
            3,
        ),
        ("A cut only makes smaller: ask for 1 to 16", "student", "--hidden-size", 32),
        ("`width` is 'middle'", "student", "--hidden-size", 8, "--width", "middle"),
        (
            "Importance is measured on text, but there is no text",
            "student",
            "--layers",
            "importance",
            "--num-hidden-layers",
            2,
        ),
        ("there is no text. Give `--text FILE...`", "student", "--vocab-size", 50),
        (
            "The corpus of `empty` is empty: 2 texts without a single token",
            "trim",
            "--text",
            tmp_path / "empty.txt",
            "--coverage",
            0.9,
        ),
        ("no token that the tokenizer knows", "trim", "--text", tmp_path / "strange.txt", "--coverage", 0.9),
        ("missing.txt", "trim", "--text", tmp_path / "missing.txt", "--coverage", 0.9),
        ("Give one of `--vocab-size` and `--coverage`.", "trim", "--text", text),
        ("Nothing reads `--text`.", "student", "--layers", "0,1", "--text", text),
        ("`middle.txt` is no file", "trim", "--text", "middle.txt", "--coverage", 0.9),
        ("`student_num_hidden_layers` (`hf-kd student`: `--num-hidden-layers`)", "student", "--layers", "first"),
    )
    for message, command, *more in cases:
        refused(message, command, teacher, out, *more)
        assert not out.parent.exists()


def test_a_tokenizer_that_is_not_the_teachers_is_refused(home, tmp_path):
    AutoConfig.from_pretrained(home / "teacher", vocab_size=2000).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(home / "teacher").save_pretrained(tmp_path / "other")
    text = home / f"{sorted(LINES)[0]}.txt"
    refused(
        "so it is not the model's own", "trim", tmp_path / "other", tmp_path / "out", "--text", text, "--coverage", 0.9
    )
    AutoConfig.from_pretrained(home / "teacher", pad_token_id=0).save_pretrained(tmp_path / "other")
    refused(
        "`pad_token_id` is 0, the tokenizer's 1",
        "trim",
        tmp_path / "other",
        tmp_path / "out",
        "--text",
        text,
        "--coverage",
        0.9,
    )


def test_an_unsupported_family_is_refused_before_its_weights_load(tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(
        json.dumps({"model_type": "albert", "architectures": ["AlbertModel"]})
    )
    refused(
        "`albert` model, which shares one layer's weights over all its layers. Supported: bert, roberta",
        "student",
        tmp_path / "teacher",
        tmp_path / "out",
    )


def test_a_misspelt_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("There is no folder `./afro-mni` here either.", "student", "./afro-mni", "out", *SHAPE)


def test_fewer_tokens_than_asked_for_are_explained():
    trim = TrimPlan((0, 1, 2), 9, "BPE", {"special": 3}, 1.0, {"hau": 1.0}, {"vocab_size": 7}, "")
    assert (
        "keeps 3 of the teacher's 9 tokens (7 were asked for; no other occurs in the text, or fits)"
        in trim_sentence(trim)
    )


def test_a_folder_in_use_is_left_alone(home, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("four years")
    refused(
        "exists and is not empty; nothing in it was touched", "student", home / "teacher", tmp_path / "used", *SHAPE
    )
    assert os.listdir(tmp_path / "used") == ["thesis.txt"]
    refused("is a file. Name a folder", "student", home / "teacher", tmp_path / "used" / "thesis.txt", *SHAPE)
    (tmp_path / "empty").mkdir()
    assert hf_kd("student", home / "teacher", tmp_path / "empty", *SHAPE).exit_code == 0


@pytest.mark.parametrize("failing", ["save_pretrained of the model", "save_pretrained of the tokenizer", "the picture"])
def test_a_failure_while_writing_leaves_nothing(home, tmp_path, monkeypatch, failing):
    target = {
        "save_pretrained of the model": "transformers.PreTrainedModel.save_pretrained",
        "save_pretrained of the tokenizer": "transformers.PreTrainedTokenizerBase.save_pretrained",
        "the picture": "hf_kd.students.report.size_picture",
    }[failing]

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target, fail)
    refused("No space left on device", "student", home / "teacher", tmp_path / "a" / "b", *SHAPE)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused(home, tmp_path):
    (tmp_path / "file").write_text("")
    refused("is not writable", "student", home / "teacher", tmp_path / "file" / "student", *SHAPE)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    refused("is not writable", "student", home / "teacher", tmp_path / "locked" / "student", *SHAPE)


def test_a_plan_of_another_format_is_refused(tmp_path):
    (tmp_path / PLAN_FILE).write_text('{"format": 0}')
    with pytest.raises(ValueError, match="This is no student plan of format 1. Make the plan anew"):
        read_plan(tmp_path)
    assert read_plan(tmp_path / "none") is None
