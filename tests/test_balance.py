"""What is drawn from each language, how often, and in which order."""

import dataclasses
import io
import json
import re
from collections import Counter

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoTokenizer

from hf_kd.balance import RULES, balance_languages, balance_table
from hf_kd.balance.shares import redistributed, shares


def by_blanks(texts, **options):
    """A tokenizer of words."""
    return {"input_ids": [text.split() for text in texts]}


def corpus(language, rows, words=None):
    """Rows that can be told apart; row n has `words` words, or from 1 to 7."""
    return [" ".join([f"{language}{row}"] + ["x"] * ((words or 1 + row % 7) - 1)) for row in range(rows)]


def tokens_by_language(dataset):
    counted = Counter()
    for row in dataset:
        assert row["text"].startswith(row["language"])
        counted[row["language"]] += len(row["text"].split())
    return counted


def dataset(texts, **columns):
    return datasets.Dataset.from_dict({"text": texts, **columns})


def stream(texts):
    return datasets.IterableDataset.from_generator(
        lambda texts: ({"text": text} for text in texts), gen_kwargs={"texts": texts}
    )


KINDS = {"dataset": dataset, "stream": stream}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def draw(sizes, rule, kind=dataset, **more):
    corpora = {language: kind(corpus(language, rows)) for language, rows in sizes.items()}
    return balance_languages(corpora, rule, tokenizer=by_blanks, **more)


def check_report(drawn, report):
    """The report against the dataset, counted anew."""
    rows = list(drawn)
    assert tokens_by_language(rows) == {name: one.tokens for name, one in report.languages.items()}
    assert Counter(row["language"] for row in rows) == {name: one.rows for name, one in report.languages.items()}
    assert report.rows == len(rows) and sum(report.shares.values()) == pytest.approx(1)
    return rows


# ---- equal ----


def test_equal_gives_each_language_its_share_less_a_part_of_a_row(kind):
    drawn, report = draw({"aa": 90, "bb": 400, "cc": 60}, "equal", kind, budget_tokens=600)
    rows = check_report(drawn, report)
    assert all(200 - 7 < one.tokens <= 200 for one in report.languages.values())
    assert len({row["text"] for row in rows}) == len(rows), "none is repeated"
    assert report.short == ()


def test_a_language_with_too_little_gives_all_and_that_is_said(kind, heard):
    drawn, report = draw({"aa": 7, "bb": 400}, "equal", kind, budget_tokens=600)
    check_report(drawn, report)
    assert report.languages["aa"].tokens == 28 and report.short == ("aa",)
    assert report.languages["bb"].tokens <= 300
    assert (
        "`aa` has 28 tokens, fewer than its share of 300: all of them are drawn, each once." in heard()
    ), "and the rest is not made up"


def test_what_it_lacks_can_come_from_the_others(kind, heard):
    drawn, report = draw({"aa": 7, "bb": 400, "cc": 400}, "equal", kind, budget_tokens=600, redistribute=True)
    check_report(drawn, report)
    assert report.languages["aa"].tokens == 28 and report.redistributes
    assert all(286 - 7 < report.languages[name].tokens <= 286 for name in ("bb", "cc"))
    assert "all of them are drawn, each once, and what it lacks comes from the others." in heard()


def test_without_a_budget_no_language_is_short(kind, heard):
    drawn, report = draw({"aa": 14, "bb": 100}, "equal", kind)
    check_report(drawn, report)
    assert report.budget_tokens == 112 and report.languages["aa"].tokens == 56 and report.short == ()
    assert "fewer" not in heard()


def test_a_larger_budget_adds_to_a_smaller_one():
    some, more = (draw({"aa": 90, "bb": 90}, "equal", budget_tokens=budget).dataset for budget in (100, 300))
    assert set(some["text"]) < set(more["text"])


def test_a_language_is_drawn_alike_whatever_stands_beside_it():
    one = draw({"aa": 90, "bb": 90}, "equal", budget_tokens=100).dataset
    other = draw({"bb": 90, "cc": 40, "dd": 50}, "equal", budget_tokens=150).dataset
    assert {text for text in one["text"] if text.startswith("bb")} == {
        text for text in other["text"] if text.startswith("bb")
    }


def test_languages_are_drawn_independently():
    drawn = draw({"aa": 200, "bb": 200}, "equal", budget_tokens=400).dataset
    numbers = {name: {text.split()[0][2:] for text in drawn["text"] if text.startswith(name)} for name in ("aa", "bb")}
    assert len(numbers["aa"] & numbers["bb"]) < 25, "as of parallel texts: not the same lines of each"


# ---- alpha and none ----


def test_alpha_draws_in_proportion_to_a_power_and_repeats_what_is_small(kind):
    sizes = {"aa": 14, "bb": 1400}  # 56 and 5600 tokens
    drawn, report = draw(sizes, "alpha", kind, alpha=0.5, budget_tokens=2200)
    rows = check_report(drawn, report)
    small, large = report.languages["aa"], report.languages["bb"]
    assert 200 - 7 < small.tokens <= 200 and 2000 - 7 < large.tokens <= 2000, "as 10 to 1"
    assert small.passes == pytest.approx(200 / 56, rel=0.04) and large.passes < 1
    times = Counter(row["text"] for row in rows if row["language"] == "aa")
    assert len(times) == 14 and set(times.values()) <= {3, 4}, "every row in every pass"
    assert report.alpha == 0.5 and report.short == ()


def test_whole_passes_repeat_every_row_alike(kind):
    drawn, report = draw({"aa": 42, "bb": 42}, "alpha", kind, alpha=0.0, budget_tokens=4 * 168)
    assert set(Counter(row["text"] for row in check_report(drawn, report)).values()) == {2}


def test_none_keeps_the_proportions(kind):
    drawn, report = draw({"aa": 70, "bb": 700}, "none", kind)
    assert len(check_report(drawn, report)) == 770
    drawn, report = draw({"aa": 70, "bb": 700}, "none", kind, budget_tokens=1100)
    check_report(drawn, report)
    assert 100 - 7 < report.languages["aa"].tokens <= 100 and 1000 - 7 < report.languages["bb"].tokens <= 1000


SIZES = st.dictionaries(st.sampled_from(["aa", "bb", "cc", "dd", "ee"]), st.integers(1, 10**9), min_size=1)


@given(SIZES, st.integers(1, 10**10), st.floats(0, 1), st.sampled_from(RULES))
def test_shares_fill_the_budget(available, budget, alpha, rule):
    asked = shares(rule, available, budget, alpha)
    goal = budget if rule != "none" else min(budget, sum(available.values()))
    assert goal - len(available) - 1e-6 * goal <= sum(asked.values()) <= goal * (1 + 1e-12)
    ordered = sorted(available, key=available.get)
    assert all(asked[one] <= asked[other] for one, other in zip(ordered, ordered[1:])), "more text, no less drawn"


@given(SIZES, st.integers(1, 10**10))
def test_redistribution_gives_what_there_is_and_is_fair(available, budget):
    given_tokens = redistributed(available, budget)
    goal = min(budget, sum(available.values()))
    assert goal - len(available) <= sum(given_tokens.values()) <= goal
    assert all(given_tokens[name] <= available[name] for name in available)
    content = [tokens for name, tokens in given_tokens.items() if tokens < available[name]]
    assert not content or max(given_tokens.values()) - min(content) <= 1, "who could give more gives the most"


# ---- order, resume, report ----


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(RULES), st.sampled_from(list(KINDS)))
def test_the_seed_decides(seed, rule, kind):
    once, again = (draw({"aa": 30, "bb": 90}, rule, KINDS[kind], budget_tokens=200, seed=seed) for _ in range(2))
    assert once.report == again.report
    assert [row["text"] for row in once.dataset] == [row["text"] for row in again.dataset]


def test_another_seed_draws_others():
    one, other = (draw({"aa": 90, "bb": 90}, "equal", budget_tokens=200, seed=seed).dataset["text"] for seed in (0, 1))
    assert set(one) != set(other)


def test_the_order_of_the_mapping_does_not_matter(kind):
    one = draw({"aa": 30, "bb": 90}, "equal", kind, budget_tokens=200)
    other = draw({"bb": 90, "aa": 30}, "equal", kind, budget_tokens=200)
    assert list(one.dataset) == list(other.dataset)


def test_languages_are_mixed(kind):
    rows = [row["language"] for row in draw({"aa": 300, "bb": 300}, "equal", kind, budget_tokens=1000).dataset]
    assert 0.3 < sum(one != other for one, other in zip(rows, rows[1:])) / len(rows) < 0.7


@pytest.mark.parametrize("rule", RULES)
def test_a_stream_resumes_exactly_wherever_it_stopped(rule):
    def make():
        return draw({"aa": 5, "bb": 12, "cc": 9}, rule, stream, budget_tokens=75, alpha=0.2).dataset

    whole = list(make())
    for stop in range(len(whole)):
        begun = make()
        rows = [row for _, row in zip(range(stop), begun)]
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
        assert rows + list(resumed) == whole


def test_the_report_is_plain_and_frozen():
    report = draw({"aa": 7, "bb": 400}, "equal", budget_tokens=600).report
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["languages"]["aa"] == {
        "rows": 7,
        "tokens": 28,
        "asked_tokens": 300,
        "available_rows": 7,
        "available_tokens": 28,
    }
    assert plain["languages"]["bb"]["available_tokens"] is None, "it was not read to its end"
    assert plain["tokens"] == report.tokens and plain["rule"] == "equal" and plain["seed"] == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.seed = 1


def test_the_table_shows_every_language():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(balance_table(draw({"aa": 7, "bb": 400}, "equal", budget_tokens=600).report))
    shown = console.export_text()
    assert "equal, 600 tokens asked for" in shown
    assert re.search(r"aa\W+7\W+28\W+8\.[0-9]%\W+28\W+1\.00\W+short of 300", shown)
    assert re.search(r"all\W+\d+\W+\d+", shown)


# ---- sources ----


def test_a_folder_of_files(tmp_path, cache):
    for language in ("aa", "bb"):
        lines = corpus(language, 20)
        (tmp_path / f"{language}.txt").write_text("\ufeff" + "\n\n".join(lines) + "\n  \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no language")
    for streaming in (False, True):
        drawn, report = balance_languages(tmp_path, "none", tokenizer=by_blanks, streaming=streaming)
        assert isinstance(drawn, datasets.IterableDataset) == streaming
        assert sorted(row["text"] for row in check_report(drawn, report)) == sorted(
            corpus("aa", 20) + corpus("bb", 20)
        ), "blank lines are left out"
        assert report.languages["aa"].available_rows == 20


def test_files_and_streams_mix_into_a_stream(tmp_path, cache):
    for part in (1, 2):
        (tmp_path / f"{part}.txt").write_text("\n".join(f"aa{part}{n}" for n in range(9)), encoding="utf-8")
    corpora = {"aa": [tmp_path / "1.txt", str(tmp_path / "2.txt")], "bb": stream(corpus("bb", 9))}
    drawn, report = balance_languages(corpora, "none", tokenizer=by_blanks)
    assert isinstance(drawn, datasets.IterableDataset) and len(check_report(drawn, report)) == 27


def test_blank_and_missing_texts_are_left_out(kind):
    texts = ["", "aa0 x", None, " \t", "aa1", "\u3000"]
    drawn, report = balance_languages({"aa": kind(texts)}, "none", tokenizer=by_blanks)
    assert {row["text"] for row in check_report(drawn, report)} == {"aa0 x", "aa1"}


def test_tokenized_rows_need_no_tokenizer(kind):
    rows = datasets.Dataset.from_dict({"input_ids": [[1] * (1 + n % 5) for n in range(50)] + [[]]})
    other = rows if kind is dataset else rows.to_iterable_dataset()
    drawn, report = balance_languages({"aa": rows, "bb": other}, budget_tokens=60)
    assert all(25 < one.tokens <= 30 for one in report.languages.values())
    assert sum(len(row["input_ids"]) for row in drawn) == report.tokens


def test_other_columns_stay_and_the_language_is_the_mappings():
    texts = corpus("aa", 9)
    rows = dataset(texts, number=list(range(9)), language=["??"] * 9)
    for source in (rows, rows.to_iterable_dataset()):
        drawn = balance_languages({"aa": source}, "none", tokenizer=by_blanks).dataset
        assert {row["language"] for row in drawn} == {"aa"}
        assert all(row["text"] == texts[row["number"]] for row in drawn)


# ---- refusals ----

REFUSED = {
    "rule": ({"rule": "fair"}, ValueError, "`rule` is 'fair'; possible are 'equal', 'alpha', 'none'. Choose one."),
    "budget": ({"budget_tokens": 0}, ValueError, "`budget_tokens` is 0; at least 1 is needed."),
    "small": ({"budget_tokens": 2}, ValueError, "The share of `bb` is 1 tokens, which is less than its first row has."),
    "alpha": ({"rule": "alpha", "alpha": 1.5}, ValueError, "`alpha` is 1.5; 0 (all languages alike) to 1"),
    "redistribute": ({"rule": "none", "redistribute": True}, ValueError, "by `rule` 'none' no language can be short."),
    "tokenizer": ({"tokenizer": None}, ValueError, "the dataset of `aa` is not tokenized. Pass the student's"),
    "column": (
        {"column": "line"},
        ValueError,
        "has the columns `text`, `language`, but neither `input_ids` nor `line`.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_refused(case):
    more, error, message = REFUSED[case]
    corpora = {"aa": dataset(["aa"] * 9), "bb": dataset(["bb x y"] * 9)}
    with pytest.raises(error, match=re.escape(message)):
        balance_languages(corpora, **{"tokenizer": by_blanks, **more})


CORPORA = {
    "empty": ({}, ValueError, "`corpora` names no language."),
    "list": ([1], TypeError, "`corpora` is of type `list`; needed is a folder of LANG.txt"),
    "splits": (datasets.DatasetDict(), TypeError, "`corpora` is of type `DatasetDict`"),
    "split": ({"aa": datasets.DatasetDict(train=dataset(["x"]))}, TypeError, "Pass `corpus['train']`."),
    "number": ({"aa": 3}, TypeError, "The corpus of `aa` is of type `int`; needed is a text file"),
    "no file": ({"aa": "missing.txt"}, FileNotFoundError, "Text file `missing.txt` of `aa` does not exist."),
    "no folder": ("missing", FileNotFoundError, "Folder `missing` does not exist."),
    "no text": ({"aa": dataset(["x"]), "bb": dataset(["", " "])}, ValueError, "There is no text of `bb`"),
}


@pytest.mark.parametrize("case", CORPORA)
def test_corpora_that_are_refused(case):
    corpora, error, message = CORPORA[case]
    with pytest.raises(error, match=re.escape(message)):
        balance_languages(corpora, tokenizer=by_blanks)


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*\.txt\. Name the files by language"):
        balance_languages(tmp_path, tokenizer=by_blanks)


@pytest.mark.real
@pytest.mark.parametrize("streaming", [False, True])
def test_real_text_is_balanced(shared, cache, streaming):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "afro-mini")
    corpora = {name: shared / "data" / "text" / f"{name}.txt" for name in ("hau", "xho", "yor")}
    drawn, report = balance_languages(corpora, budget_tokens=12_000, tokenizer=tokenizer, streaming=streaming)
    rows, counted = list(drawn), Counter()
    for row in rows:
        counted[row["language"]] += len(tokenizer(row["text"], add_special_tokens=False)["input_ids"])
    assert counted == {name: one.tokens for name, one in report.languages.items()}
    assert all(3_800 < tokens <= 4_000 for tokens in counted.values())
    for language, path in corpora.items():
        lines = Counter(path.read_text(encoding="utf-8").splitlines())
        mine = Counter(row["text"] for row in rows if row["language"] == language)
        assert not mine - lines, "each line of the file at most once"
