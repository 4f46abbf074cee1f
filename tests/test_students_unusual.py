"""Students of teachers that are out of the ordinary: half precision, quantised, spread out, cut before."""

import dataclasses
import os

import models
import pytest
import torch
from tiny_tokenizers import LINES, llama
from torch import nn
from transformers import AutoTokenizer

from hf_kd import build_student, facts, plan_student, trim_vocabulary
from hf_kd.plans import StudentPlan, TrimPlan, VocabularyMatch
from hf_kd.shared_tokens import SharedTokens
from hf_kd.students import sample_batches, trim_model
from hf_kd.students.folder import PLAN_FILE, plan_to_json, whole_folder

KEPT = tuple(range(0, 64, 2)) + (1, 3)


def trim():
    return TrimPlan(tuple(sorted(KEPT)), 64, "Unigram", {}, 1.0, {}, {}, "")


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_a_trimmed_model_in_half_precision_keeps_its_frequencies(family, tmp_path):
    teacher = models.model(family, spread=3.0, width=32, heads=2).eval()
    teacher.save_pretrained(tmp_path)
    teacher = type(teacher).from_pretrained(tmp_path, dtype=torch.bfloat16)
    small = trim_model(teacher, trim())
    assert small.dtype == torch.bfloat16
    ids = torch.randint(0, len(KEPT), (1, 38))
    kept = torch.tensor(sorted(KEPT))
    with torch.no_grad():
        assert torch.equal(small(ids).logits, teacher(kept[ids]).logits[..., kept])


def test_quantised_and_unloaded_teachers_are_refused():
    teacher = models.model("bert")
    plan = plan_student(teacher, 2)
    teacher.quantization_method = "int8"
    with pytest.raises(ValueError, match="quantised or not loaded"):
        build_student(teacher, plan=plan)
    with torch.device("meta"):
        bare = models.model("bert")
    with pytest.raises(ValueError, match="Load the teacher without quantisation, weights included"):
        build_student(bare, 2)


def test_a_weight_that_was_hung_on_a_layer_is_not_lost():
    teacher = models.model("bert")
    teacher.bert.encoder.layer[1].extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="weights that its class does not make"):
        build_student(teacher, layers="0,1")
    build_student(teacher, layers="0,2")


def test_an_output_layer_that_accelerate_moves_is_left_alone():
    teacher = models.model("bert")
    layer = teacher.get_output_embeddings()
    own = layer.forward
    layer.forward = lambda hidden: own(hidden)
    moved = layer.forward
    shared = SharedTokens(VocabularyMatch(2, None, torch.tensor([1, 3])), teacher)
    shared.attach()()
    assert layer.forward is moved
    assert shared.of_teacher(torch.arange(64.0)[None]).tolist() == [[1.0, 3.0]]


def test_a_sample_needs_no_padding_token():
    tokenizer = llama()
    tokenizer.pad_token = None
    (batch,) = sample_batches(tokenizer, LINES["hau"])
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in tokenizer(LINES["hau"])["input_ids"]]


def test_layers_may_be_numbers_and_a_sample_may_be_read_once():
    teacher = models.model("bert")
    rows = models.collate(models.rows(4))
    batches = [{name: rows[name] for name in ("input_ids", "attention_mask")}]
    assert plan_student(teacher, layers=[0, 2]).kept_layers == (0, 2)
    plan = plan_student(teacher, 2, layers="importance", sample=iter(batches))
    assert plan == plan_student(teacher, 2, layers="importance", sample=batches)


def test_token_ids_of_generation_are_renumbered():
    teacher = models.model("llama")
    teacher.generation_config.suppress_tokens = [0, 4, 5]
    teacher.generation_config.bad_words_ids = [[4, 6], [5]]
    made = trim_model(teacher, trim()).generation_config
    assert made.suppress_tokens == [0, 4] and made.bad_words_ids == [[4, 5]]


def test_a_plan_excludes_what_plans_are_made_of():
    with pytest.raises(TypeError, match="Both a plan and what a plan is made of"):
        trim_vocabulary(models.model("llama", vocab_size=len(llama())), llama(), plan=trim(), vocab_size=5)


def test_a_chain_of_cuts_keeps_its_origin(tmp_path):
    former = StudentPlan(12, (0, 11), "first and last", teacher="org/large", teacher_revision="abc")
    teacher = models.model("bert")
    teacher.save_pretrained(tmp_path)
    (tmp_path / PLAN_FILE).write_text(plan_to_json(former))
    teacher = type(teacher).from_pretrained(tmp_path)
    plan = facts.with_origin(plan_student(teacher, 2), teacher)
    assert (plan.teacher, plan.teacher_revision) == ("org/large", "abc")
    assert "the teacher had itself been cut before: Its layers are the teacher's layers 0, 11" in plan.notes[-1]
    (tmp_path / PLAN_FILE).write_text("{}")
    assert facts.with_origin(dataclasses.replace(plan, notes=()), teacher).notes == ()


def test_an_empty_folder_is_filled_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with whole_folder(Path(".")) as partial:
        (partial / "one").write_text("1")
    assert os.listdir(tmp_path) == ["one"]
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "link") as partial:
        (partial / "two").write_text("2")
    assert os.listdir(tmp_path / "real") == ["two"] and (tmp_path / "link").is_symlink()


def test_a_broken_tokenizer_is_not_an_absent_one(tmp_path):
    from hf_kd.vocabulary.load import load_tokenizer

    models.model("bert").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)) is None
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="The tokenizer beside .* cannot be read"):
        load_tokenizer(str(tmp_path))
    llama().save_pretrained(tmp_path / "whole")
    assert len(load_tokenizer(str(tmp_path / "whole"))) == len(AutoTokenizer.from_pretrained(tmp_path / "whole"))
