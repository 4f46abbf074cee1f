"""Models that know fewer tokens: what they say of the kept ones is what the whole model says."""

import copy
import re

import pytest
import student_models as sm
import torch

from hf_kd.plans import TrimPlan
from hf_kd.students import trim_model

CLOSE = {"atol": 1e-6, "rtol": 1e-5}
SPECIALS = (sm.PAD, sm.BOS, sm.EOS, sm.CLS, sm.SEP, sm.MASK)
OF_TOKENS = [pair for pair in sm.EVERY if pair[1] in ("masked_lm", "causal_lm")]


def plan(kept):
    """A trim plan of these ids."""
    reasons = {"by hand": len(kept)}
    return TrimPlan(tuple(kept), sm.VOCABULARY, "Unigram", reasons, 1.0, {}, {}, "0" * 64)


def some_ids(seed=0, count=20, specials=SPECIALS, below=sm.VOCABULARY):
    """Specials and a random subset, ascending; without id 0, so that every special's number falls."""
    generator = torch.Generator().manual_seed(seed)
    others = 7 + torch.randperm(below - 7, generator=generator)[:count]
    return tuple(sorted({*specials, *others.tolist()}))


def both(model, kept, seed=1):
    """The model, a trimmed copy, and the same rows for each."""
    trimmed = trim_model(model, plan(kept))
    rows = sm.batch([index for index in kept if index > sm.MASK], seed=seed)
    new = {old: rank for rank, old in enumerate(kept)}
    renumbered = rows["input_ids"].clone().apply_(new.__getitem__)
    return trimmed, rows, rows | {"input_ids": renumbered}


@pytest.mark.parametrize(("variant", "head"), sm.EVERY)
def test_kept_tokens_have_the_logits_that_they_had(variant, head):
    model = sm.make(variant, head)
    before = sm.frozen(model)
    kept = some_ids()
    trimmed, rows, renumbered = both(model, kept)
    whole, ours = sm.outputs(model, rows), sm.outputs(trimmed, renumbered)
    if (variant, head) in OF_TOKENS:
        assert whole[0].shape[-1] == sm.VOCABULARY
        whole[0] = whole[0][..., list(kept)]
    sm.assert_same(ours, whole, **CLOSE)
    sm.assert_unchanged(model, before)
    assert trimmed.config.vocab_size == trimmed.get_input_embeddings().num_embeddings == len(kept)
    assert trimmed.config.pad_token_id == 0 == kept.index(sm.PAD)
    assert trimmed.get_input_embeddings().padding_idx in (0, None)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("variant", "head"), OF_TOKENS)
def test_ties_stay_as_they_are(variant, head, tied):
    if variant == "deberta-new-head":
        pytest.skip("this head has no output matrix of its own")
    model = sm.make(variant, head, tie_word_embeddings=tied)
    kept = some_ids(2)
    trimmed, rows, renumbered = both(model, kept)
    for one in (model, trimmed):
        assert (one.get_output_embeddings().weight is one.get_input_embeddings().weight) == tied
    assert torch.equal(trimmed.get_output_embeddings().weight, model.get_output_embeddings().weight[list(kept)])
    whole = [sm.outputs(model, rows)[0][..., list(kept)]]
    sm.assert_same(sm.outputs(trimmed, renumbered), whole, **CLOSE)


@pytest.mark.parametrize("variant", ["roberta", "xlm-roberta", "camembert"])
def test_positions_are_counted_from_the_new_padding_id(variant):
    model = sm.make(variant, pad_token_id=6)
    kept = tuple(sorted({*range(2, 7), 0, *range(10, 40)}))
    trimmed = trim_model(model, plan(kept))
    fallen = 6 - kept.index(6)
    assert fallen == 1 and trimmed.config.max_position_embeddings == 40 - fallen
    old, new = (m.base_model.embeddings.position_embeddings for m in (model, trimmed))
    assert torch.equal(new.weight, old.weight[fallen:]) and new.padding_idx == 6 - fallen
    longest = torch.randint(10, 40, (2, 40 - 6 - 1))  # every position that the model has
    ours = longest.clone().apply_(kept.index)
    with torch.no_grad():
        expected, found = model(longest).logits[..., list(kept)], trimmed(ours).logits
    torch.testing.assert_close(found, expected, **CLOSE)


def test_positions_stay_where_padding_stays():
    trimmed = trim_model(sm.make("roberta"), plan((0, *some_ids())))
    assert trimmed.config.pad_token_id == 1 and trimmed.config.max_position_embeddings == 40


@pytest.mark.parametrize("variant", ["bert", "roberta", "electra", "modernbert", "deberta-v2", "llama"])
def test_rows_beyond_the_tokenizers_vocabulary_are_dropped(variant):
    model = sm.make(variant, vocab_size=72)
    kept = some_ids(3)
    trimmed, rows, renumbered = both(model, kept)
    sm.assert_same(sm.outputs(trimmed, renumbered), [sm.outputs(model, rows)[0][..., list(kept)]], **CLOSE)


@pytest.mark.parametrize(("variant", "head"), OF_TOKENS)
def test_keeping_every_token_changes_nothing(variant, head):
    model = sm.make(variant, head)
    trimmed = trim_model(model, plan(range(sm.VOCABULARY)))
    sm.assert_same(sm.outputs(trimmed), sm.outputs(model))
    assert trimmed.config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize("variant", sm.DECODERS)
def test_generation_knows_the_new_ids(variant, tmp_path):
    model = sm.make(variant, eos_token_id=[sm.EOS, sm.SEP])
    model.generation_config.eos_token_id = [sm.EOS, sm.SEP]
    model.generation_config.pad_token_id = sm.PAD
    kept = some_ids(4)
    trimmed = trim_model(model, plan(kept))
    for holder in (trimmed.config, trimmed.generation_config):
        assert holder.eos_token_id == [kept.index(sm.EOS), kept.index(sm.SEP)]
        assert holder.bos_token_id == kept.index(sm.BOS) and holder.pad_token_id == kept.index(sm.PAD)
    assert model.generation_config.eos_token_id == [sm.EOS, sm.SEP]
    trimmed.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.generation_config.eos_token_id == trimmed.generation_config.eos_token_id
    start = torch.tensor([[kept.index(sm.BOS), 9, 10]])
    written = loaded.generate(start, max_new_tokens=5, do_sample=False)
    assert written.max() < len(kept)


def test_every_token_id_of_the_configuration_is_renumbered():
    model = sm.make("modernbert")
    kept = some_ids(5)
    trimmed = trim_model(model, plan(kept))
    for name in ("pad", "bos", "eos", "cls", "sep"):
        old, new = (getattr(m.config, f"{name}_token_id") for m in (model, trimmed))
        assert new == kept.index(old) != old


def test_the_models_own_precision_is_kept():
    model = sm.make("bert").to(torch.bfloat16)
    trimmed = trim_model(model, plan(some_ids()))
    assert {p.dtype for p in trimmed.parameters()} == {torch.bfloat16} and not trimmed.training


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((*SPECIALS, 64), "The token ids to keep must ascend from 0 to 63, each once; there are 7, from 1 to 64."),
        ((-1, *SPECIALS), "The token ids to keep must ascend from 0 to 63, each once; there are 7, from -1 to 6."),
        ((1, 2, 2, 3), "The token ids to keep must ascend from 0 to 63, each once; there are 4, from 1 to 3."),
        ((1, 3, 2), "The token ids to keep must ascend from 0 to 63, each once; there are 3, from 1 to 3."),
        ((), "The token ids to keep must ascend from 0 to 63, each once; there are 0."),
        (
            (2, 3, 4, 5, 6, 20),
            "The configuration's `pad_token_id` is 1, which is not among the 6 tokens to keep. Keep that token, or "
            "correct the configuration.",
        ),
    ],
)
def test_ids_that_cannot_be_kept_are_refused(kept, message):
    model = sm.make("roberta")
    before = sm.frozen(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        trim_model(model, plan(kept))
    sm.assert_unchanged(model, before)


def test_a_generation_token_that_is_dropped_is_refused():
    model = sm.make("llama")
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = 63
    before = sm.frozen(model)
    with pytest.raises(ValueError, match=re.escape("`eos_token_id` is 63, which is not among the 6 tokens to keep")):
        trim_model(model, plan(SPECIALS))
    sm.assert_unchanged(model, before)
