"""Trimmed tokenizers: the same segmentation, the right ids, through every class's way of loading itself."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import LINES, TEXT, TOKENIZERS, WORDS, bert, deberta_v2, general_unigram, gpt2, roberta, unigram
from tokenizers import Tokenizer

from hf_kd.vocabulary import count_tokens, plan_trim, trim_tokenizer
from hf_kd.vocabulary.backend import fingerprint, read_backend
from hf_kd.vocabulary.tokenizers import trim_backend

CONFIGS = {
    "bert": hf.BertConfig,
    "distilbert": hf.DistilBertConfig,
    "xlm_roberta": hf.XLMRobertaConfig,
    "camembert": hf.CamembertConfig,
    "deberta_v2": hf.DebertaV2Config,
    "roberta": hf.RobertaConfig,
    "gpt2": hf.GPT2Config,
    "qwen2": hf.Qwen2Config,
    "llama": hf.LlamaConfig,
    "llama_every_split": hf.LlamaConfig,
    "llama_with_bos": hf.LlamaConfig,
    "gemma": hf.GemmaConfig,
    "clip": hf.CLIPConfig,
    "albert": hf.AlbertConfig,
    "t5": hf.T5Config,
    "general_unigram": hf.ModernBertConfig,
}


def trim(tokenizer, texts=LINES["hau"], coverage=0.9, **more):
    plan = plan_trim(tokenizer, count_tokens(tokenizer, texts), coverage=coverage, **more)
    return plan, trim_tokenizer(tokenizer, plan)


@pytest.fixture(params=TOKENIZERS, scope="module")
def trimmed(request):
    """Kind, full tokenizer, plan, and trimmed tokenizer."""
    tokenizer = TOKENIZERS[request.param]()
    return request.param, tokenizer, *trim(tokenizer)


def known_texts(tokenizer, plan, texts):
    """Texts that the full tokenizer cuts into kept tokens, none of them unknown, with their new ids."""
    ranks = {old: new for new, old in enumerate(plan.kept_ids)}
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids and tokenizer.unk_token_id not in ids and all(old in ranks for old in ids):
            yield text, [ranks[old] for old in ids]


def test_every_row_holds_the_token_of_its_old_row(trimmed):
    _, tokenizer, plan, small = trimmed
    assert len(small) == plan.size < len(tokenizer)
    assert small.get_vocab() == {tokenizer.convert_ids_to_tokens(old): new for new, old in enumerate(plan.kept_ids)}
    assert small.all_special_tokens == tokenizer.all_special_tokens
    assert small.added_tokens_decoder == {
        plan.kept_ids.index(old): token for old, token in tokenizer.added_tokens_decoder.items()
    }


def test_text_of_kept_tokens_is_cut_alike(trimmed):
    _, tokenizer, plan, small = trimmed
    words = [word for word, _ in known_texts(tokenizer, plan, WORDS)]
    texts = words + TEXT + [f"{first} {second}" for first in words for second in words]
    found = list(known_texts(tokenizer, plan, texts))
    assert len(words) >= 20 and len(found) >= 400, "the check needs something to check"
    assert any(text not in " ".join(LINES["hau"]) for text, _ in found), "text beyond the corpus among it"
    for text, expected in found:
        assert small(text, add_special_tokens=False)["input_ids"] == expected, text


def test_some_text_is_cut_otherwise(trimmed):
    """Or the test above would hold for a tokenizer that was not trimmed."""
    _, tokenizer, plan, small = trimmed
    assert any(tokenizer.tokenize(text) != small.tokenize(text) for text in TEXT)


def test_specials_pairs_padding_and_masks_are_the_same(trimmed):
    kind, tokenizer, plan, small = trimmed
    words = [text for text, _ in known_texts(tokenizer, plan, WORDS)]
    phrases = (" ".join(words[start : start + 5]) for start in range(len(words)))
    long, other = [text for text, _ in known_texts(tokenizer, plan, phrases)][:2]
    firsts, seconds = [long, words[0]], [words[1], other]
    padding = tokenizer.pad_token is not None
    kwargs = {"padding": padding, "return_special_tokens_mask": True, "truncation": True, "max_length": 12}
    for arguments in ([firsts], [firsts, seconds]):
        full, ours = tokenizer(*arguments, **kwargs), small(*arguments, **kwargs)
        assert full.keys() == ours.keys()
        back = [[plan.kept_ids[new] for new in row] for row in ours["input_ids"]]
        assert back == full["input_ids"]
        for name in full.keys() - {"input_ids"}:
            assert ours[name] == full[name], name
        assert small.batch_decode(ours["input_ids"]) == tokenizer.batch_decode(full["input_ids"])


@pytest.mark.parametrize("with_config", [False, True], ids=["folder", "folder with a model"])
def test_a_saved_tokenizer_comes_back_as_it_was(trimmed, with_config, tmp_path):
    kind, tokenizer, plan, small = trimmed
    if with_config:
        CONFIGS.get(kind, hf.BertConfig)().save_pretrained(tmp_path)  # a general tokenizer beside a BERT, say
    written = {file.rsplit("/", 1)[-1] for file in small.save_pretrained(tmp_path)}
    assert (
        {"tokenizer.json", "tokenizer_config.json"}
        <= written
        <= {
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        }
    )
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(small) is type(tokenizer)
    assert again.get_vocab() == small.get_vocab()
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(small.backend_tokenizer.to_str())
    assert again(TEXT) == small(TEXT)
    assert again.special_tokens_map == small.special_tokens_map == tokenizer.special_tokens_map
    for name in ("model_max_length", "padding_side", "chat_template", "extra_special_tokens", "model_input_names"):
        assert getattr(again, name) == getattr(tokenizer, name), name


def test_added_tokens_are_still_matched_whole():
    tokenizer = general_unigram()
    plan, small = trim(tokenizer)
    text = "Ina <mask> a Naijá </s> Naijá."
    new = small(text)["input_ids"]
    assert [plan.kept_ids[token_id] for token_id in new] == tokenizer(text)["input_ids"]
    assert {small.mask_token_id, small.eos_token_id, small.convert_tokens_to_ids("Naijá")} <= set(new)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "added_tokens.json"])
def test_old_ids_that_older_formats_write_elsewhere_do_not_come_back(place):
    """Either would win over `tokenizer.json` on loading."""

    class Old(hf.PreTrainedTokenizerFast):
        def save_pretrained(self, folder, **kwargs):
            files = super().save_pretrained(folder, **kwargs)
            path = Path(folder) / place
            if place == "added_tokens.json":
                path.write_text(json.dumps(self.get_added_vocab()), encoding="utf-8")
            else:
                listed = {str(number): token.__getstate__() for number, token in self.added_tokens_decoder.items()}
                config = json.loads(path.read_text(encoding="utf-8"))
                path.write_text(json.dumps(config | {"added_tokens_decoder": listed}), encoding="utf-8")
            return files

    tokenizer = general_unigram()
    old = Old(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    plan, small = trim(old)
    assert type(small) is Old and small.init_kwargs["added_tokens_decoder"].keys() == small.added_tokens_decoder.keys()
    assert small.mask_token_id == plan.size - 1


def test_electra_loads_it(tmp_path):
    plan, small = trim(bert())
    small.save_pretrained(tmp_path)
    hf.ElectraConfig(vocab_size=plan.size).save_pretrained(tmp_path)
    assert hf.AutoTokenizer.from_pretrained(tmp_path).get_vocab() == small.get_vocab()


def test_the_given_tokenizer_is_not_changed():
    tokenizer = general_unigram()
    before = tokenizer.backend_tokenizer.to_str(), len(tokenizer), dict(tokenizer.init_kwargs)
    trim(tokenizer)
    assert (tokenizer.backend_tokenizer.to_str(), len(tokenizer), dict(tokenizer.init_kwargs)) == before


def test_settings_made_after_loading_survive(tmp_path):
    tokenizer = gpt2()
    tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = "left", "left", 33
    tokenizer.chat_template = "{% for message in messages %}{{ message }}{% endfor %}"
    tokenizer.pad_token = "<|endoftext|>"
    _, small = trim(tokenizer)
    small.save_pretrained(tmp_path)
    for made in (small, hf.AutoTokenizer.from_pretrained(tmp_path)):
        assert (made.padding_side, made.truncation_side, made.model_max_length) == ("left", "left", 33)
        assert made.chat_template == tokenizer.chat_template
        assert made.pad_token_id == len(made) - 1
        assert str(tmp_path) not in small.name_or_path


def test_padding_and_truncation_of_the_backend_are_renumbered():
    tokenizer = general_unigram()
    tokenizer.backend_tokenizer.enable_padding(pad_id=tokenizer.mask_token_id, pad_token="<mask>", length=9)
    tokenizer.backend_tokenizer.enable_truncation(7)
    plan, small = trim(tokenizer)
    assert small.backend_tokenizer.padding["pad_id"] == small.mask_token_id == plan.size - 1
    assert small.backend_tokenizer.truncation["max_length"] == 7


def test_the_unknown_id_of_deberta_follows_its_token(tmp_path):
    """It is also a setting of the tokenizer's configuration, which counts where the score is not 0."""
    tokenizer = deberta_v2(unk_score=-5.0)
    plan, small = trim(tokenizer)
    small.save_pretrained(tmp_path)
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is hf.DebertaV2Tokenizer
    assert again("☃", add_special_tokens=False)["input_ids"][-1] == again.unk_token_id == plan.size - 2
    assert small.unk_token_id != tokenizer.unk_token_id


def test_a_class_that_cannot_hold_it_becomes_the_general_one(tmp_path, caplog, monkeypatch):
    """XLM-R's class writes 3 as the unknown id whatever the vocabulary."""
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = hf.XLMRobertaTokenizer(vocab=[("☃☃", -9.0), *specials, *unigram(), ("<mask>", 0.0)])
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_kd"), "propagate", True, raising=False)
    with caplog.at_level(logging.WARNING):
        plan, small = trim(tokenizer)
    assert plan.kept_ids[0] == 1
    assert type(small) is hf.PreTrainedTokenizerFast
    assert "`XLMRobertaTokenizer` rebuilds its tokenizer on loading" in caplog.text
    small.save_pretrained(tmp_path)
    hf.XLMRobertaConfig().save_pretrained(tmp_path)
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == small.get_vocab()
    for text, expected in known_texts(tokenizer, plan, WORDS):
        assert again(text, add_special_tokens=False)["input_ids"] == expected


def test_added_tokens_between_the_models_own_are_renumbered_in_place():
    """The library numbers added tokens from the model's size on; a hole in the model's ids lets one in between."""
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "ab": 2, "a": 3, "##b": 4, "c": 7}
    backend = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"},
                "post_processor": None,
                "decoder": None,
                "model": {
                    "type": "WordPiece",
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                    "vocab": vocabulary,
                },
            }
        )
    )
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.add_tokens(["Kano"])
    assert tokenizer.convert_tokens_to_ids("Kano") == 6 < vocabulary["c"]
    _, small = trim(tokenizer, ["a b ab c Kano", "a c"], coverage=1.0)
    assert small.get_vocab() == {"[UNK]": 0, "[PAD]": 1, "ab": 2, "a": 3, "##b": 4, "Kano": 5, "c": 6}
    assert small("ab Kano c")["input_ids"] == [2, 5, 6]


def test_merges_written_as_strings_are_read():
    tokenizer = roberta()
    backend = read_backend(tokenizer)
    plan, _ = trim(tokenizer)
    pairs = trim_backend(backend, plan.kept_ids)["model"]["merges"]
    backend["model"]["merges"] = [" ".join(merge) for merge in backend["model"]["merges"]]
    assert trim_backend(backend, plan.kept_ids)["model"]["merges"] == [" ".join(merge) for merge in pairs] != []


def _written(backend, ids):
    """Text that the tokens stand for, roughly."""
    if backend.decoder is not None:
        return backend.decode(ids)
    text = "".join(backend.id_to_token(token_id) for token_id in ids)
    return text.replace("##", "").replace("</w>", " ").replace("▁", " ").replace("Ġ", " ")


def _random_plan(tokenizer, draw_counts):
    """Kept ids for random counts: what must be kept, and a random closed rest."""
    counts = count_tokens(tokenizer, ["a"])
    language = dataclasses.replace(counts.languages["corpus"], counts=draw_counts, characters={})
    counts = dataclasses.replace(counts, languages={"corpus": language})
    return plan_trim(tokenizer, counts, coverage=1.0)


@pytest.mark.parametrize(
    "kind",
    [
        "roberta",
        "llama",
        "llama_every_split",
        "bpe_suffix",
        "bpe_ignoring_merges",
        "xlm_roberta",
        "unigram_bytes",
        "bert",
    ],
)
def test_any_closed_subset_cuts_its_own_text_alike(kind):
    """Over random subsets and random text: every BPE and Unigram kind, and WordPiece."""
    tokenizer = TOKENIZERS[kind]()
    backend, size = read_backend(tokenizer), len(tokenizer)
    full = Tokenizer.from_str(json.dumps(backend))
    unknown = tokenizer.unk_token_id
    letters = sorted({letter for word in WORDS for letter in word})
    checked = 0

    @settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(data=st.data())
    def check(data):
        nonlocal checked
        seed = data.draw(st.integers(0, 2**32 - 1))
        share = data.draw(st.sampled_from([0.1, 0.3, 0.6]))
        generator = np.random.default_rng(seed)
        counts = (generator.random(size) < share) * generator.integers(1, 9, size)
        counts[0] += 1  # never none at all
        plan = _random_plan(tokenizer, counts.astype(np.int64))
        ranks = {old: new for new, old in enumerate(plan.kept_ids)}
        small = Tokenizer.from_str(json.dumps(trim_backend(backend, plan.kept_ids)))
        kept = [old for old in plan.kept_ids if old not in tokenizer.added_tokens_decoder]
        texts = []
        for _ in range(60):
            pieces = generator.choice(kept, generator.integers(1, 5))
            texts.append(_written(full, pieces.tolist()))
            texts.append(data.draw(st.sampled_from(WORDS)) + "".join(generator.choice(letters, 3)))
        for text in texts:
            ids = full.encode(text, add_special_tokens=False).ids
            if all(old in ranks for old in ids) and unknown not in ids:
                assert small.encode(text, add_special_tokens=False).ids == [ranks[old] for old in ids], text
                checked += 1

    check()
    assert checked > 100


def test_messages():
    tokenizer, other = roberta(), bert()
    plan, _ = trim(tokenizer)
    expected = (
        f"The plan is for another tokenizer: it was made for 385 tokens with the fingerprint {plan.fingerprint[:12]}, "
        f"this one has 220 with {fingerprint(other)[:12]}. Plan anew with this tokenizer."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        trim_tokenizer(other, plan)
    slow = hf.ByT5Tokenizer()
    with pytest.raises(TypeError, match=re.escape("`ByT5Tokenizer` is a slow (Python) tokenizer; a fast one")):
        trim_tokenizer(slow, plan)
    with pytest.raises(TypeError, match=re.escape("A tokenizer is needed; got `str`")):
        trim_tokenizer("xlm-roberta-base", plan)
    with pytest.raises(ValueError, match=re.escape("The plan drops token id 1, which the tokenizer cannot do without")):
        trim_tokenizer(tokenizer, dataclasses.replace(plan, kept_ids=(0, 2, 3, 4)))


def test_a_tokenizer_that_does_not_come_back_is_not_returned(monkeypatch):
    monkeypatch.setattr("hf_kd.vocabulary.tokenizers._is_faithful", lambda *_: False)
    message = (
        "The trimmed `GPT2Tokenizer` has 305 tokens after loading, and 305 were kept, or its settings differ. Save it"
    )
    with pytest.raises(RuntimeError, match=re.sub("305", r"\\d+", re.escape(message))):
        trim(gpt2())
