"""Rows of made-up text in three languages, and what masks them."""

import datasets
import tiny_tokenizers
from tiny_tokenizers import LINES
from transformers import DataCollatorForLanguageModeling

LANGUAGES = ("eng", "hau", "yor")
STUDENT = tiny_tokenizers.bert()
TEXTS = [(language, line) for lines in zip(*LINES.values()) for language, line in zip(LINES, lines)]


def rows(tokenizer=STUDENT, texts=tuple(TEXTS), **options):
    return [{**tokenizer(text, **options), "text": text, "language": language} for language, text in texts]


def without(made, *columns):
    return [{name: value for name, value in row.items() if name not in columns} for row in made]


def masking(tokenizer=STUDENT, **options):
    return DataCollatorForLanguageModeling(tokenizer, **{"mlm_probability": 0.3, **options})


def left():
    made = tiny_tokenizers.bert(padding_side="left")
    assert made.padding_side == "left"
    return made


def corpus():
    return datasets.Dataset.from_dict({"text": [text for _, text in TEXTS], "language": [name for name, _ in TEXTS]})
