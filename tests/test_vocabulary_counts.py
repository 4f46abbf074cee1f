"""Counting: equal to a plain loop, however the texts come."""

import re
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers as hf
from tiny_tokenizers import LINES, TEXT, bert, general_unigram, gpt2, llama

from hf_kd.vocabulary import count_tokens

MANY = TEXT * 250  # several batches


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def tokenizer():
    return general_unigram()


def loop(tokenizer, texts):
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    for text in texts:
        for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]:
            counts[token_id] += 1
    return counts


def same(first, second):
    assert first.languages.keys() == second.languages.keys()
    for name, language in first.languages.items():
        np.testing.assert_array_equal(language.counts, second.languages[name].counts)
        assert language.rows == second.languages[name].rows
        assert language.characters == second.languages[name].characters


@pytest.mark.parametrize("make", [bert, gpt2, llama, general_unigram])
def test_counts_are_those_of_a_plain_loop(make):
    tokenizer = make()
    counted = count_tokens(tokenizer, TEXT)
    expected = loop(tokenizer, TEXT)
    np.testing.assert_array_equal(counted.counts, expected)
    assert counted.counts.dtype == np.int64
    assert counted.tokens == expected.sum() and counted.rows == len(TEXT)
    normalizer = tokenizer.backend_tokenizer.normalizer
    text = "".join(TEXT if normalizer is None else map(normalizer.normalize_str, TEXT))
    assert counted.characters == Counter(text)


def test_every_kind_of_corpus_counts_alike(tokenizer, tmp_path):
    expected = count_tokens(tokenizer, MANY)
    rows = datasets.Dataset.from_dict({"id": list(range(len(MANY))), "sentence": MANY})
    paths = [tmp_path / "a.txt", tmp_path / "b [1].txt"]
    paths[0].write_text("\n".join(MANY[:1100]) + "\n", encoding="utf-8")
    paths[1].write_text("\r\n".join(MANY[1100:]), encoding="utf-8", newline="")
    same(expected, count_tokens(tokenizer, (text for text in MANY)))
    same(expected, count_tokens(tokenizer, rows, column="sentence"))
    same(expected, count_tokens(tokenizer, rows, column="sentence", num_proc=2))
    same(expected, count_tokens(tokenizer, rows.with_format("numpy"), column="sentence"))
    same(expected, count_tokens(tokenizer, rows.to_iterable_dataset(), column="sentence"))
    same(expected, count_tokens(tokenizer, paths))
    same(expected, count_tokens(tokenizer, paths, num_proc=2, column="ignored"))


def test_one_path_will_do_and_a_byte_order_mark_is_no_text(tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXT), encoding="utf-8-sig")
    same(count_tokens(tokenizer, TEXT), count_tokens(tokenizer, path))


def test_languages_are_counted_apart(tokenizer):
    counted = count_tokens(tokenizer, LINES)
    assert list(counted.languages) == list(LINES)
    for name, lines in LINES.items():
        np.testing.assert_array_equal(counted.languages[name].counts, loop(tokenizer, lines))
        assert counted.languages[name].rows == len(lines)
    np.testing.assert_array_equal(counted.counts, loop(tokenizer, TEXT))
    assert counted.characters == count_tokens(tokenizer, TEXT).characters
    assert (counted.rows, counted.tokens) == (len(TEXT), loop(tokenizer, TEXT).sum())


def test_missing_texts_are_passed_over(tokenizer):
    rows = datasets.Dataset.from_dict({"text": [TEXT[0], None, "", TEXT[1]]})
    counted = count_tokens(tokenizer, rows)
    assert counted.rows == 3
    np.testing.assert_array_equal(counted.counts, loop(tokenizer, TEXT[:2]))


def test_a_stream_is_read_batch_by_batch(tokenizer):
    """So that memory does not grow with it: no more than a batch is taken before it is counted."""
    taken, seen = 0, []

    class Watched(type(tokenizer)):
        def __call__(self, texts, **kwargs):
            seen.append((taken, len(texts)))
            return super().__call__(texts, **kwargs)

    watched = Watched(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")

    def stream():
        nonlocal taken
        for text in MANY:
            taken += 1
            yield text

    count_tokens(watched, stream())
    assert len(seen) == -(-len(MANY) // 1000)
    assert [so_far for so_far, _ in seen] == np.cumsum([number for _, number in seen]).tolist()


def test_tokenizer_and_dataset_stay_as_they_were(tokenizer, tmp_path):
    rows = datasets.Dataset.from_dict({"text": TEXT})
    rows.save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")
    files = sorted(tmp_path.rglob("*"))
    padded = general_unigram()
    padded.backend_tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=50)
    padded.backend_tokenizer.enable_truncation(3)
    before = padded.backend_tokenizer.to_str()
    same(count_tokens(tokenizer, rows), count_tokens(padded, rows))
    assert padded.backend_tokenizer.to_str() == before
    assert sorted(tmp_path.rglob("*")) == files and rows.column_names == ["text"]


def test_progress_is_shown_and_can_be_hidden(tokenizer, capfd):
    datasets.enable_progress_bars()
    count_tokens(tokenizer, {"hau": iter(LINES["hau"])})
    assert "Counting tokens (hau): 5 texts" in capfd.readouterr().err
    count_tokens(tokenizer, {"hau": datasets.Dataset.from_dict({"text": LINES["hau"]})})
    assert "Counting tokens (hau): 100%" in capfd.readouterr().err
    datasets.disable_progress_bars()
    count_tokens(tokenizer, LINES)
    assert capfd.readouterr().err == ""


def test_corpora_without_a_known_token_are_refused(tokenizer, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n", encoding="utf-8")
    none = datasets.Dataset.from_dict({"text": []})
    for texts, number in ([], 0), (["", " "], 2), ([empty], 2), (none, 0):
        bare = hf.PreTrainedTokenizerFast(tokenizer_object=bert().backend_tokenizer, unk_token="[UNK]")
        message = f"The corpus is empty: {number} texts without a single token. Give text of the language to keep."
        with pytest.raises(ValueError, match=re.escape(message)):
            count_tokens(bare, texts)
    with pytest.raises(ValueError, match=re.escape("The corpus of `yor` is empty: 0 texts")):
        count_tokens(tokenizer, {"hau": TEXT, "yor": []})
    message = (
        "The corpus has no token that the tokenizer knows: all 2 are `[UNK]` or blanks. Check the language, its script"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        count_tokens(bert(), ["☃ ☃"])


def test_files_that_cannot_be_read_are_refused(tokenizer, tmp_path):
    missing = tmp_path / "missing.txt"
    message = f"Text file `{missing}` does not exist. Give a UTF-8 file with one text a line."
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        count_tokens(tokenizer, {"hau": TEXT, "yor": [missing]})
    latin = tmp_path / "latin.txt"
    latin.write_bytes("one\ntwo\nÉkó\n".encode("latin-1"))
    message = (
        f"Text file `{latin}` is not UTF-8: invalid continuation byte in line 3. Convert it, for example with `iconv"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        count_tokens(tokenizer, [latin])


def test_what_is_no_corpus_is_refused(tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a\n", encoding="utf-8")
    rows = datasets.Dataset.from_dict({"sentence": ["a"]})
    with pytest.raises(TypeError, match=re.escape("`texts` is the string 'Ina kwana'; a corpus is needed.")):
        count_tokens(tokenizer, "Ina kwana")
    message = f"`texts` holds the string {str(path)!r}, which is a file's name; strings are taken as texts. Pass `Path("
    with pytest.raises(TypeError, match=re.escape(message)):
        count_tokens(tokenizer, [str(path)])
    with pytest.raises(TypeError, match=re.escape("`texts` mixes paths with `str`. Pass paths only, or texts only.")):
        count_tokens(tokenizer, [Path(path), "a"])
    with pytest.raises(
        TypeError, match=re.escape("`texts` is of type `int`; needed are paths, a dataset, or an iterable")
    ):
        count_tokens(tokenizer, 3)
    with pytest.raises(TypeError, match=re.escape("A text of the corpus is of type `int`; texts are strings.")):
        count_tokens(tokenizer, ["a", 3])
    message = "`texts` is a DatasetDict with the splits 'train'; one split is needed. Pass `texts['train']`"
    with pytest.raises(TypeError, match=re.escape(message)):
        count_tokens(tokenizer, datasets.DatasetDict(train=rows))
    message = "The dataset has the columns 'sentence', but no 'text'. Name the one that holds the texts with `column`."
    for dataset in (rows, rows.to_iterable_dataset()):
        with pytest.raises(ValueError, match=re.escape(message)):
            count_tokens(tokenizer, dataset)
    with pytest.raises(ValueError, match="`texts` names no language. Give at least one"):
        count_tokens(tokenizer, {})
    with pytest.raises(TypeError, match=re.escape("`ByT5Tokenizer` is a slow (Python) tokenizer; a fast one")):
        count_tokens(hf.ByT5Tokenizer(), TEXT)
