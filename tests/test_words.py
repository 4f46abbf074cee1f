"""Words of two tokenizers, and what is pooled by them, against loops."""

import itertools
import re

import pytest
import reference
import tiny_tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import chunks, close, draw, gradient, slope
from tiny_tokenizers import LINES, TEXT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_kd.word_alignment import align_words, covered, decoded_spans, shared_words, text_spans
from hf_kd.words import aggregate_attention, pool_words, word_mask

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@st.composite
def numbered(draw_from):
    """Word numbers of two ragged rows, and the number of words."""
    count = draw_from(st.integers(1, 5))
    tokens = draw_from(st.integers(1, 7))
    number = st.integers(-1, count - 1)
    rows = draw_from(st.lists(st.lists(number, min_size=tokens, max_size=tokens), min_size=2, max_size=2))
    return torch.tensor(rows), count


# ---- pooling ----


@quick
@given(numbered(), st.integers(0, 10**6))
def test_states_are_pooled_as_by_loops(case, seed):
    words, count = case
    hidden = draw(*words.shape, 3, seed=seed)

    def looped(flat):
        rows = chunks(chunks(flat, 3), words.shape[1])
        return [reference.pooled_words(row, number, count) for row, number in zip(rows, words.tolist())]

    def flattened(flat):
        return [value for row in looped(flat) for state in row for value in state]

    close(pool_words(hidden, words, count), flattened(hidden.view(-1).tolist()))
    weights = draw(2, count, 3, seed=seed + 1)

    def weighted(flat):
        return sum(one * other for one, other in zip(flattened(flat), weights.view(-1).tolist(), strict=True))

    found = gradient(lambda point: pool_words(point, words, count) * weights, hidden)
    close(found, slope(weighted, hidden.view(-1).tolist()), 1e-6)


@quick
@given(numbered(), st.integers(0, 10**6))
def test_attention_is_aggregated_as_by_loops(case, seed):
    words, count = case
    tokens = words.shape[1]
    attention = torch.softmax(draw(2, 2, tokens, tokens, seed=seed), -1)

    def flattened(flat):
        maps = chunks(chunks(flat, tokens), tokens)  # one a row and head
        numbers = [row for row in words.tolist() for _ in range(2)]
        made = [reference.word_attention(one, number, count) for one, number in zip(maps, numbers, strict=True)]
        return [value for one in made for row in one for value in row]

    close(aggregate_attention(attention, words, count), flattened(attention.reshape(-1).tolist()))
    close(
        aggregate_attention(attention[:, 0], words, count),
        aggregate_attention(attention, words, count)[:, 0].flatten().tolist(),
    )
    weights = draw(2, 2, count, count, seed=seed + 1)

    def weighted(flat):
        return sum(one * other for one, other in zip(flattened(flat), weights.view(-1).tolist(), strict=True))

    found = gradient(lambda point: aggregate_attention(point, words, count) * weights, attention)
    close(found, slope(weighted, attention.reshape(-1).tolist()), 1e-6)


@quick
@given(numbered(), st.integers(0, 10**6))
def test_rows_keep_their_sums(case, seed):
    words, count = case
    tokens = words.shape[1]
    attention = torch.softmax(draw(2, tokens, tokens, seed=seed), -1)
    of_words = (attention * (words >= 0)[:, None, :]).sum(-1)  # what a token gives to tokens of words
    expected = pool_words(of_words.unsqueeze(-1), words, count).squeeze(-1)
    torch.testing.assert_close(aggregate_attention(attention, words, count).sum(-1), expected)
    whole = words.clamp(min=0)
    sums = aggregate_attention(attention, whole, count).sum(-1)
    torch.testing.assert_close(sums, word_mask(whole, count).double(), msg="without special tokens, all of it")


def test_one_token_a_word_changes_nothing():
    words = torch.arange(5).expand(2, 5)
    hidden, attention = draw(2, 5, 3), draw(2, 4, 5, 5)
    assert torch.equal(pool_words(hidden, words), hidden)
    torch.testing.assert_close(aggregate_attention(attention, words), attention)


def test_the_mask_tells_which_words_a_row_has():
    words = torch.tensor([[-1, 0, 0, 1], [-1, 2, -1, -1]])
    assert word_mask(words).tolist() == [[True, True, False], [False, False, True]]
    assert word_mask(words, 4).shape == (2, 4)
    assert word_mask(torch.full((2, 3), -1)).shape == (2, 0)
    assert pool_words(torch.ones(2, 3, 4), torch.full((2, 3), -1)).shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_taken_in_single_precision_at_least(dtype):
    words = torch.zeros(1, 3000, dtype=torch.long)
    pooled = pool_words(torch.ones(1, 3000, 2, dtype=dtype), words)
    assert pooled.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(pooled, torch.ones_like(pooled)), "3,000 is no number in half precision"
    assert aggregate_attention(torch.full((1, 3, 3), 1 / 3, dtype=dtype), words[:, :3]).dtype == pooled.dtype


def test_autocast_does_not_round_the_maps():
    words, attention = torch.tensor([[-1, 0, 0, 1]]), torch.softmax(draw(1, 2, 4, 4).float(), -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = aggregate_attention(attention, words)
    assert torch.equal(found, aggregate_attention(attention, words))


REFUSED = {
    "width": (
        lambda: pool_words(torch.ones(2, 3, 4), torch.zeros(2, 5, dtype=torch.long)),
        "shape (2, 3, 4), words (2, 5)",
    ),
    "maps": (
        lambda: aggregate_attention(torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)),
        "shape (2, 3, 4), words",
    ),
    "floats": (lambda: word_mask(torch.zeros(2, 3)), "type torch.float32; integers of shape (B, N) are needed."),
    "high": (lambda: word_mask(torch.tensor([[0, 4]]), 3), "numbers from 0 to 4; -1 for none and 0 to 2 are possible."),
    "low": (lambda: word_mask(torch.tensor([[0, -2]])), "numbers from -2 to 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# ---- alignment ----

TOKENIZERS = {name: tiny_tokenizers.TOKENIZERS[name]() for name in tiny_tokenizers.TOKENIZERS}
PAIRS = list(itertools.permutations(("bert", "xlm_roberta", "gpt2", "llama", "general_unigram", "clip"), 2))

words = st.sampled_from(sorted({word for line in TEXT for word in line.split()}))
odd = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=6)
texts = st.lists(st.tuples(words | odd, st.sampled_from([" ", "  ", "\t", "\u00a0", ""])), min_size=1, max_size=12).map(
    lambda parts: "".join(word + blank for word, blank in parts)
)


@st.composite
def spanned(draw_from):
    """A text and the spans of two made-up tokenizations, some of them across blanks."""
    text = draw_from(st.text("ab ", min_size=1, max_size=24))

    def cut():
        edges = sorted(draw_from(st.sets(st.integers(0, len(text)))))
        return [span if text[slice(*span)] == text[slice(*span)].strip() else None for span in zip(edges, edges[1:])]

    return text, cut(), cut()


@settings(quick, max_examples=200)
@given(spanned())
def test_words_are_joined_as_by_loops(case):
    text, student, teacher = case
    found = align_words(text, student, teacher)
    assert list(found[:2]) == reference.joined_words(text, student, teacher)
    assert [span for span in found[2] if text[slice(*span)].strip() != text[slice(*span)]] == []


@settings(quick, max_examples=150)
@given(texts, st.sampled_from(PAIRS))
def test_words_of_two_tokenizers_are_those_of_the_text(text, names):
    spans = []
    for name in names:
        ids = TOKENIZERS[name](text)["input_ids"]
        spans.append(text_spans(TOKENIZERS[name], ids, text))
        assert len(spans[-1]) == len(ids)
    student, teacher, found = align_words(text, *spans)
    for side, span_of in zip((student, teacher), spans):
        assert [number for number in side if number >= 0] == sorted(number for number in side if number >= 0)
        for number, span in zip(side, span_of):
            assert (number == -1) == (span is None)
            if span is not None:
                assert found[number][0] <= span[0] and span[1] <= found[number][1], "a token lies in its word"
    shared = shared_words(student, teacher, [True] * len(found))
    numbers = [set(side) - {-1} for side in shared]
    assert numbers[0] == numbers[1] == set(range(len(numbers[0])))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_finds_the_words_of_plain_text(name):
    tokenizer = TOKENIZERS[name]
    for text in LINES["hau"] + LINES["eng"]:
        spans = text_spans(tokenizer, tokenizer(text)["input_ids"], text)
        student, _, found = align_words(text, spans, spans)
        assert [text[slice(*span)] for span in found] == text.split()
        assert set(student) - {-1} == set(range(len(found))), "no word is without a token"


def test_scripts_without_blanks_are_cut_where_both_cut():
    text = "我们 喜欢学习"
    spans = [(0, 2), (3, 5), (5, 7)]
    others = [(0, 1), (1, 2), (3, 4), (4, 6), (6, 7)]
    student, teacher, found = align_words(text, spans, others)
    assert [text[slice(*span)] for span in found] == ["我们", "喜欢学习"], "one token crosses what the other cuts"
    _, _, found = align_words(text, spans, spans)
    assert [text[slice(*span)] for span in found] == ["我们", "喜欢", "学习"]


def test_words_of_one_side_or_cut_ones_are_left_out():
    assert shared_words([-1, 0, 1, 1, 3], [0, 2, 3, 3, -1], [True] * 4) == ([-1, 0, -1, -1, 1], [0, -1, 1, 1, -1])
    assert shared_words([0, 1], [0, 1], [True, False]) == ([0, -1], [0, -1])


def test_truncated_rows_cover_a_part_of_their_text():
    tokenizer, text = TOKENIZERS["bert"], LINES["hau"][0]
    ids = tokenizer(text, truncation=True, max_length=6)["input_ids"]
    part, spans = covered(text, text_spans(tokenizer, ids, text))
    assert text.startswith(part) and 0 < len(part) < len(text)
    assert [span is None for span in spans] == [True, False, False, False, False, True]
    assert tokenizer(part)["input_ids"] == ids, "which the teacher gets to read, and no more"
    assert covered("text", [None, None]) == ("", [None, None])


def test_rows_without_special_tokens_are_recognised():
    tokenizer, text = TOKENIZERS["xlm_roberta"], LINES["yor"][0]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert None not in text_spans(tokenizer, ids, text)


def test_a_row_of_another_text_is_refused():
    tokenizer = TOKENIZERS["bert"]
    message = "is not what `BertTokenizer` makes of its text ('Good"
    with pytest.raises(ValueError, match=re.escape(message)):
        text_spans(tokenizer, tokenizer(TEXT[0])["input_ids"], LINES["eng"][0])


UNDECODED = ("unigram_bytes", "bert_processing", "bpe_suffix", "bpe_ignoring_merges")


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name not in UNDECODED])
def test_ids_are_read_back_word_by_word(name):
    tokenizer = TOKENIZERS[name]
    for line in LINES["hau"] + LINES["eng"]:
        ids = tokenizer(line)["input_ids"]
        text, spans = decoded_spans(tokenizer, ids)
        assert len(spans) == len(ids)
        plain = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert text.replace(" ", "") == plain.replace(" ", "")
        assert [span is None for span in spans] == [token_id in tokenizer.all_special_ids for token_id in ids]
        for token_id, span in zip(ids, spans):
            own = tokenizer.decode([token_id]).removeprefix("##").strip()
            assert span is None or "\ufffd" in own or own in text[slice(*span)]
        cut = [text[slice(*span)] for span in dict.fromkeys(spans) if span is not None]
        assert cut == text.split() and len(cut) >= len(line.split())


@pytest.mark.parametrize("name", UNDECODED)
def test_a_tokenizer_that_cannot_decode_is_refused(name):
    with pytest.raises(ValueError, match="has no decoder, so the text of its tokens cannot be read back. Keep the"):
        decoded_spans(TOKENIZERS[name], [5, 6])


def test_whole_words_as_tokens_need_no_decoder():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "kasuwa": 1, "gida": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert decoded_spans(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"), [1, 2, 0]) == (
        "kasuwa gida [UNK]",
        [(0, 6), (7, 11), (12, 17)],
    )


def test_unknown_words_are_read_as_the_teachers_unknown():
    tokenizer = TOKENIZERS["bert"]
    ids = tokenizer("kasuwa 我 kasuwa")["input_ids"]
    assert tokenizer.unk_token_id in ids
    text, spans = decoded_spans(tokenizer, ids, "<unk>")
    assert text == "kasuwa <unk> kasuwa"
    assert spans[0] is None and spans[-1] is None and spans[-2] == (13, 19)


def test_a_chunk_may_begin_within_a_word_and_hold_special_tokens():
    tokenizer = TOKENIZERS["bert"]
    ids = tokenizer("kasuwa")["input_ids"][2:] + tokenizer("gida")["input_ids"]
    text, spans = decoded_spans(tokenizer, ids)
    assert text.endswith("uwa gida") and len(text.split()) == 2
    assert [span is None for span in spans] == [False, True, True, False, True]
