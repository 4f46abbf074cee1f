"""What a plan keeps, why, and what it refuses."""

import dataclasses
import json
import re

import numpy as np
import pytest
import transformers as hf
from tiny_tokenizers import LINES, TOKENIZERS, bert, general_unigram, gpt2, llama, qwen2, xlm_roberta
from tokenizers import Tokenizer, models

from hf_kd.plans import TrimPlan
from hf_kd.vocabulary import LanguageCounts, TokenCounts, count_tokens, plan_trim
from hf_kd.vocabulary.backend import fingerprint, read_backend
from hf_kd.vocabulary.tokenizers import trim_backend


def counted(tokenizer, texts=LINES):
    return count_tokens(tokenizer, texts)


def with_counts(tokenizer, **languages):
    """Counts made up by token, without characters."""
    vocabulary = tokenizer.get_vocab()
    filled = {}
    for name, tokens in languages.items():
        counts = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
        for token, count in tokens.items():
            counts[vocabulary[token]] = count
        filled[name] = LanguageCounts(counts, rows=1, characters={})
    return TokenCounts(filled, fingerprint(tokenizer))


def pieces(*scored):
    """A bare Unigram tokenizer."""
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *scored], unk_id=0))
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def kept_tokens(tokenizer, plan):
    return set(tokenizer.convert_ids_to_tokens(list(plan.kept_ids)))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_size_is_reached_exactly(kind):
    tokenizer = TOKENIZERS[kind]()
    counts = counted(tokenizer, LINES["hau"])
    least = plan_trim(tokenizer, counts, coverage=1e-9).size
    most = plan_trim(tokenizer, counts, coverage=1.0)
    size = (least + most.size) // 2
    plan = plan_trim(tokenizer, counts, vocab_size=size)
    # A last place can stay free in BPE, where every further token brings parts.
    assert plan.size == size or (kind == "bpe_suffix" and plan.size == size - 1)
    assert plan.size == sum(plan.reasons.values()) and least < size < most.size
    assert list(plan.kept_ids) == sorted(set(plan.kept_ids))
    assert plan.source_size == len(tokenizer)
    assert plan.algorithm == read_backend(tokenizer)["model"]["type"]
    assert most.coverage == pytest.approx(1.0)
    kept = set(plan.kept_ids)
    share = sum(counts.counts[old] for old in kept) / counts.tokens
    assert plan.coverage == pytest.approx(share) == pytest.approx(plan.language_coverage["corpus"])


def test_no_token_is_kept_that_does_not_occur_and_need_not_be():
    tokenizer = xlm_roberta()
    plan = plan_trim(tokenizer, counted(tokenizer, LINES["hau"]), vocab_size=len(tokenizer) - 1)
    assert plan.size < len(tokenizer) - 1, "a bound, not a promise"
    assert plan.coverage == pytest.approx(1.0)


def test_coverage_is_reached_and_no_more():
    tokenizer = general_unigram()
    counts = counted(tokenizer)
    required = set(plan_trim(tokenizer, counts, coverage=1e-9).kept_ids)
    for coverage in (0.85, 0.9, 0.97):
        plan = plan_trim(tokenizer, counts, coverage=coverage, balance=False)
        rarest = min(counts.counts[old] for old in set(plan.kept_ids) - required) / counts.tokens
        assert plan.coverage >= coverage > plan.coverage - rarest


def test_equal_counts_go_to_the_lower_id():
    tokenizer = bert()
    words = sorted(
        (token for token in tokenizer.get_vocab() if len(token) > 3 and not token.startswith(("[", "##"))),
        key=tokenizer.get_vocab().get,
    )
    counts = with_counts(tokenizer, one=dict.fromkeys(words[:6], 2))
    plan = plan_trim(tokenizer, counts, vocab_size=5 + 3)
    assert kept_tokens(tokenizer, plan) == {*tokenizer.all_special_tokens, *words[:3]}
    assert plan.reasons == {"special": 5, "frequent": 3}


@pytest.mark.parametrize("kind", ["roberta", "llama", "llama_every_split", "bpe_suffix", "bpe_ignoring_merges"])
def test_bpe_is_closed_over_every_merge(kind):
    """Against a slow reference: add the parts of each kept merge until nothing changes."""
    tokenizer = TOKENIZERS[kind]()
    backend = read_backend(tokenizer)
    prefix = backend["model"]["continuing_subword_prefix"] or ""
    merges = [(left, right, left + right.removeprefix(prefix)) for left, right in backend["model"]["merges"]]
    generator = np.random.default_rng(0)
    tokens = sorted(tokenizer.get_vocab())
    for _ in range(10):
        wanted = {str(token) for token in generator.choice(tokens, 5, replace=False)}
        plan = plan_trim(tokenizer, with_counts(tokenizer, one=dict.fromkeys(wanted, 1)), coverage=1.0)
        least = plan_trim(tokenizer, with_counts(tokenizer, one={"</s>": 1}), coverage=1.0)
        expected = wanted | kept_tokens(tokenizer, least)
        while True:
            parts = {part for left, right, whole in merges if whole in expected for part in (left, right)}
            if parts <= expected:
                break
            expected |= parts
        assert kept_tokens(tokenizer, plan) == expected
        small = trim_backend(backend, plan.kept_ids)["model"]
        whole = [
            merge for merge, (*_, made) in zip(backend["model"]["merges"], merges, strict=True) if made in expected
        ]
        assert small["merges"] == whole


def test_a_token_whose_parts_do_not_fit_is_passed_over():
    tokenizer = gpt2()
    vocabulary = tokenizer.get_vocab()
    long = max((token for token in vocabulary if token != "<|endoftext|>"), key=len)
    parts = plan_trim(tokenizer, with_counts(tokenizer, one={long: 1}), coverage=1.0).reasons["part of a kept token"]
    merges = map("".join, read_backend(tokenizer)["model"]["merges"])
    whole = next(token for token in merges if len(token) == 2 and token not in long)
    assert parts >= 2
    counts = with_counts(tokenizer, one={long: 100, whole: 1})
    tight = plan_trim(tokenizer, counts, vocab_size=257 + parts)
    assert tight.reasons == {"special": 1, "byte": 256, "frequent": 1} and whole in kept_tokens(tokenizer, tight)
    enough = plan_trim(tokenizer, counts, vocab_size=257 + parts + 1)
    assert long in kept_tokens(tokenizer, enough) and enough.size == 258 + parts


def test_unigram_tokens_bring_their_characters():
    """Else an unknown character, whose penalty follows the scores, could win against a kept token."""
    scores = {"ab": -20.0, "cd": -20.0, "bcd": -1.0, "b": -2.0, "a": -45.0, "c": -30.0, "d": -30.0}
    tokenizer = pieces(*scores.items())
    backend = read_backend(tokenizer)
    plan = plan_trim(tokenizer, with_counts(tokenizer, one={"ab": 3, "cd": 3, "bcd": 2}), coverage=1.0)
    assert tokenizer.tokenize("abcd") == ["ab", "cd"]
    assert kept_tokens(tokenizer, plan) == {"<unk>", *scores}

    def cut(kept):
        ids = tuple(sorted(tokenizer.convert_tokens_to_ids(["<unk>", *kept])))
        return Tokenizer.from_str(json.dumps(trim_backend(backend, ids))).encode("abcd").tokens

    assert cut(scores) == ["ab", "cd"]
    assert cut(["ab", "cd", "bcd", "b"]) == ["a", "bcd"], "what would happen without"


def test_the_penalty_of_unknown_characters_is_kept():
    """It is 10 below the lowest score of the vocabulary."""
    tokenizer = pieces(
        ("ab", -20.0), ("cd", -20.0), ("bcd", -1.0), ("b", -2.0), ("c", -22.0), ("d", -22.0), ("zz", -45.0)
    )
    backend = read_backend(tokenizer)
    plan = plan_trim(tokenizer, with_counts(tokenizer, one={"ab": 3, "cd": 3, "bcd": 2}), coverage=1.0)
    assert tokenizer.tokenize("abcd") == ["ab", "cd"] and "zz" in kept_tokens(tokenizer, plan)
    assert plan.reasons["unknown"] == 1
    without = tuple(old for old in plan.kept_ids if old != tokenizer.convert_tokens_to_ids("zz"))
    assert Tokenizer.from_str(json.dumps(trim_backend(backend, plan.kept_ids))).encode("abcd").tokens == ["ab", "cd"]
    assert Tokenizer.from_str(json.dumps(trim_backend(backend, without))).encode("abcd").tokens == ["a", "bcd"]


def test_characters_of_the_corpus_are_kept_in_every_form():
    tokenizer = bert()
    plan = plan_trim(tokenizer, counted(tokenizer, ["IN a"]), vocab_size=30)
    forms = {form for letter in "ina" for form in (letter, f"##{letter}") if form in tokenizer.get_vocab()}
    assert (
        forms <= kept_tokens(tokenizer, plan) and "i" in forms and "##n" in forms
    ), "in lower case, as the model sees it"
    assert "##z" not in kept_tokens(tokenizer, plan)
    tokenizer = xlm_roberta()
    plan = plan_trim(tokenizer, counted(tokenizer, ["ay"]), vocab_size=30)
    expected = {"▁", *(form for letter in "ay" for form in (letter, f"▁{letter}") if form in tokenizer.get_vocab())}
    assert expected <= kept_tokens(tokenizer, plan)


def test_bytes_specials_added_tokens_and_named_ones_are_kept():
    for tokenizer in (gpt2(), qwen2(), llama(), TOKENIZERS["unigram_bytes"]()):
        plan = plan_trim(tokenizer, counted(tokenizer, ["a"]), coverage=1e-9)
        kept = kept_tokens(tokenizer, plan)
        assert plan.reasons["byte"] >= 255
        assert {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} <= kept
    tokenizer = general_unigram()
    rare = next(token for token in reversed(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))) if len(token) > 3)
    word = max(tokenizer.get_vocab(), key=lambda token: (token.startswith("▁"), len(token)))
    plan = plan_trim(tokenizer, counted(tokenizer, ["a"]), coverage=1e-9, keep=[word])
    assert {word, "Naijá", "<mask>", rare} <= kept_tokens(tokenizer, plan)
    assert plan.reasons["asked for"] == 1 and plan.reasons["added"] == 1
    assert plan.asked["keep"] == [word]
    assert plan_trim(tokenizer, counted(tokenizer, ["a"]), coverage=1e-9, keep=word).kept_ids == plan.kept_ids


def test_every_token_id_of_the_configuration_is_kept():
    tokenizer = bert()
    config = hf.BertConfig(vocab_size=224, decoder_start_token_id=101, eos_token_id=[102, 103], pad_token_id=0)
    config.sub = {"image_token_id": 104, "video_token_id": None, "sep_token_id": 9_999, "use_token_ids": True}
    plan = plan_trim(tokenizer, counted(tokenizer, ["a"]), coverage=1e-9, model_config=config)
    assert {0, 101, 102, 103, 104} <= set(plan.kept_ids)
    assert plan.reasons["model configuration"] == 4 and plan.model_rows == 224
    config.vocab_size = 104
    message = "Token id 104 must be kept, but the model has 104 rows. Resize the model to its tokenizer first."
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_trim(tokenizer, counted(tokenizer, ["a"]), coverage=1e-9, model_config=config)


def test_a_small_language_is_not_drowned():
    tokenizer = bert()
    words = [token for token in sorted(tokenizer.get_vocab()) if len(token) > 3 and token[0] not in "[#"]
    large, small = dict.fromkeys(words[:10], 1000), dict.fromkeys(words[10:20], 1)
    counts = with_counts(tokenizer, large=large, small=small)
    balanced = plan_trim(tokenizer, counts, vocab_size=5 + 12)
    pooled = plan_trim(tokenizer, counts, vocab_size=5 + 12, balance=False)
    assert pooled.language_coverage == pytest.approx({"large": 1.0, "small": 0.2})
    assert pooled.coverage == pytest.approx(10_002 / 10_010)
    assert sum(balanced.language_coverage.values()) == pytest.approx(1.2)
    assert balanced.coverage == pytest.approx(0.6) and balanced.language_coverage["small"] > 0.2
    assert balanced.asked["balance"] and not pooled.asked["balance"]


def test_a_plan_goes_through_json():
    tokenizer = general_unigram()
    plan = plan_trim(tokenizer, counted(tokenizer), vocab_size=110, keep=["na"])
    again = TrimPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan and isinstance(again.kept_ids, tuple)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.source_size = 3
    values = plan.to_dict()
    for broken in ([], [3, 2], [2, 2], [-1, 2]):
        with pytest.raises(ValueError, match="`kept_ids` of the trim plan must be ids from 0, ascending, each once"):
            TrimPlan.from_dict({**values, "kept_ids": broken})
    del values["coverage"]
    message = "The trim plan has unknown fields (`more`) or lacks some (`coverage`)."
    with pytest.raises(ValueError, match=re.escape(message)):
        TrimPlan.from_dict({**values, "more": 1})


def test_messages():
    tokenizer, other = bert(), gpt2()
    counts = counted(tokenizer)
    refused = [
        ({}, "One of `vocab_size` and `coverage` is needed; neither is given. Choose one."),
        (
            {"vocab_size": 9, "coverage": 0.5},
            "One of `vocab_size` and `coverage` is needed; both are (9 and 0.5) given.",
        ),
        ({"coverage": 0.0}, "`coverage` is 0.0; it is a share of the token occurrences, above 0 and up to 1."),
        ({"coverage": 99}, "`coverage` is 99; it is a share"),
        ({"vocab_size": 220}, "`vocab_size` is 220, but the tokenizer has 220 tokens: there is nothing to cut."),
        ({"vocab_size": 150, "keep": ["☃"]}, "`keep` names '☃', which is not in the vocabulary."),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=re.escape(message)):
            plan_trim(tokenizer, counts, **arguments)
    needed = plan_trim(tokenizer, counts, coverage=1e-9)
    characters = needed.reasons["character"]
    message = (
        f"`vocab_size` is 20, but {needed.size} tokens must be kept (5 special, {characters} character). Ask for at "
        f"least {needed.size}, or count on text with fewer stray characters."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_trim(tokenizer, counts, vocab_size=20)
    with pytest.raises(ValueError, match="The counts were made with another tokenizer: its vocabulary differs"):
        plan_trim(other, counts, vocab_size=300)


def test_models_that_cannot_be_trimmed_are_refused():
    levels = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>")))
    with pytest.raises(ValueError, match=re.escape("has a WordLevel model; trimming knows BPE, Unigram, WordPiece.")):
        plan_trim(levels, counted(levels, ["a"]), coverage=0.5)
    twice = pieces(("a", -1.0), ("a", -2.0))
    with pytest.raises(ValueError, match="a token has two ids, or an id two tokens"):
        plan_trim(twice, counted(twice, ["a"]), coverage=0.5)
    with pytest.raises(TypeError, match=re.escape("`ByT5Tokenizer` is a slow (Python) tokenizer")):
        plan_trim(hf.ByT5Tokenizer(), None, coverage=0.5)
