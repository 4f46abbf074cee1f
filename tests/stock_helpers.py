"""What upstream's example scripts need to run offline: data, tokenizers, models, metrics.

Everything is made up here. Nothing is downloaded, and each run keeps its caches in its own folder.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import hf_kd

ENVIRONMENT = "HF_KD_STOCK_SCRIPTS"
ALIAS_TRAINER = "from hf_kd import DistillationTrainer as Trainer\n"
ALIAS_ARGUMENTS = "from hf_kd import DistillationArguments as TrainingArguments\n"
SEQUENCE_TOKENS = 48

FOLDERS = {
    "run_mlm.py": "language-modeling",
    "run_clm.py": "language-modeling",
    "run_ner.py": "token-classification",
    "run_glue.py": "text-classification",
    "run_classification.py": "text-classification",
    "run_qa.py": "question-answering",
}
EXTENSIONS = {"run_mlm.py": "txt", "run_clm.py": "txt", "run_glue.py": "csv", "run_classification.py": "csv"}
HEADS = {
    "run_mlm.py": AutoModelForMaskedLM,
    "run_clm.py": AutoModelForCausalLM,
    "run_ner.py": AutoModelForTokenClassification,
    "run_glue.py": AutoModelForSequenceClassification,
    "run_classification.py": AutoModelForSequenceClassification,
    "run_qa.py": AutoModelForQuestionAnswering,
}

PEOPLE = ("Amina", "Chidi", "Thabo", "Wanjiru")
PLACES = ("Kigali", "Lagos", "Maun", "Zinder")
VERBS = ("visited", "left", "praised", "painted")
MOODS = ("sadly", "today", "gladly")
TAGS = ("B-LOC", "B-PER", "O")


# -- scripts ---------------------------------------------------------------------------


def copy_script(script: str, folder: Path, *, aliased: bool = True) -> Path:
    """Copy a script, and the modules beside it, with the two import lines added."""
    stock = Path(os.environ[ENVIRONMENT]) / FOLDERS[script]
    for source in stock.glob("*.py"):
        shutil.copy(source, folder)
    copied = folder / script
    if aliased:
        anchor = "from transformers.utils.versions import require_version\n"
        if script == "run_qa.py":  # its Trainer lives in a module of its own
            _insert_after(copied, anchor, ALIAS_ARGUMENTS)
            _insert_after(
                folder / "trainer_qa.py",
                "from transformers.trainer_utils import PredictionOutput, speed_metrics\n",
                ALIAS_TRAINER,
            )
        else:
            _insert_after(copied, anchor, ALIAS_TRAINER + ALIAS_ARGUMENTS)
    return copied


def run_script(script: Path, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run a script in its own folder, offline, with caches of its own."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(script.parent / "hf_home"),
        "PYTHONPATH": str(Path(hf_kd.__file__).parents[1]),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, script.name, *map(str, arguments)],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _insert_after(path: Path, line: str, addition: str) -> None:
    text = path.read_text()
    if text.count(line) != 1:
        raise ValueError(f"`{path.name}` holds {line!r} {text.count(line)} times; needed once, to add two lines after.")
    path.write_text(text.replace(line, line + addition))


# -- tokenizers and models -------------------------------------------------------------


def sentences(count: int, seed: int = 0) -> list[str]:
    """Made-up sentences of differing lengths."""
    chance = random.Random(seed)
    parts = (PEOPLE, VERBS, PLACES, MOODS)

    def clause() -> str:
        return " ".join(chance.choice(part) for part in parts)

    return [" and ".join(clause() for _ in range(chance.randint(1, 3))) + "." for _ in range(count)]


@functools.cache  # training breaks ties differently each time, and student and teacher must agree
def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A small fast tokenizer with the family's special tokens."""
    if family == "gpt2":
        special = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=sorted(set(special.values())), show_progress=False)
    elif family == "xlm-roberta":
        special = {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        }
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        ordered = list(dict.fromkeys(special.values()))
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=ordered, unk_token="<unk>", show_progress=False)
    else:
        special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(sentences(200), trainer)
    if "cls_token" in special:
        first, last = special["cls_token"], special["sep_token"]
        middle = f"{last} {last}" if family == "xlm-roberta" else last
        second = "" if family in ("xlm-roberta", "modernbert") else ":1"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {middle} $B{second} {last}{second}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {first, last}],
        )
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=SEQUENCE_TOKENS, model_input_names=names, **special
    )


def save_model(
    head: type,
    folder: Path,
    *,
    family: str = "bert",
    layers: int = 2,
    width: int = 32,
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Build a tiny model from its configuration and save it with its tokenizer."""
    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(folder)
    ids = {
        name: getattr(tokenizer, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        if getattr(tokenizer, name) is not None
    }
    if labels is not None:
        ids |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": SEQUENCE_TOKENS + 2,
    }
    if family == "gpt2":
        sizes.pop("intermediate_size")
    if family == "modernbert":
        sizes |= {"local_attention": 8, "global_attn_every_n_layers": 2}
    torch.manual_seed(seed)
    # Wider than usual at the start, so that two models disagree enough for a loss to show it.
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), initializer_range=0.2, **sizes, **ids)
    model = head.from_config(config)
    model.save_pretrained(folder)
    return model


# -- data and metrics ------------------------------------------------------------------

GLUE_CARD = """---
configs:
- config_name: sst2
  data_files:
  - {split: train, path: train.jsonl}
  - {split: validation, path: validation.jsonl}
  - {split: test, path: test.jsonl}
dataset_info:
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - {name: label, dtype: {class_label: {names: {"0": negative, "1": positive}}}}
---
"""


def write_data(script: str, folder: Path) -> list[str]:
    """Write training and validation files; returns the flags that name them."""
    flags = []
    for split, count in (("train", 60), ("validation", 12)):
        extension = EXTENSIONS.get(script, "json")
        path = folder / f"{split}.{extension}"
        lines = sentences(count, seed=count)
        if script == "run_ner.py":
            text = "".join(json.dumps(_tagged(line)) + "\n" for line in lines)
        elif extension == "csv":  # numbers: `datasets` 5 turns the scripts' ids of named labels back into text
            text = "sentence,label\n" + "".join(f"{line},{label}\n" for line, label in _with_moods(lines))
        elif script == "run_qa.py":
            text = json.dumps({"data": [_question(number, line) for number, line in enumerate(lines)]})
        else:
            text = "".join(line + "\n" for line in lines)
        path.write_text(text)
        flags += [f"--{split}_file", path.name]
    return flags


def write_glue(folder: Path) -> list[str]:
    """Write a data set with named labels where `--task_name sst2` looks first; returns the flags."""
    (folder / "nyu-mll" / "glue").mkdir(parents=True)
    for split, count in (("train", 60), ("validation", 12), ("test", 4)):
        rows = [{"sentence": line, "label": label % 2} for line, label in _with_moods(sentences(count, seed=count))]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "nyu-mll" / "glue" / f"{split}.jsonl").write_text(text)
    (folder / "nyu-mll" / "glue" / "README.md").write_text(GLUE_CARD)
    return ["--task_name", "sst2"]


def _with_moods(lines: Sequence[str]) -> list[tuple[str, int]]:
    return [(f"{line} {MOODS[number % len(MOODS)]}", number % len(MOODS)) for number, line in enumerate(lines)]


def _tagged(line: str) -> dict[str, list[str]]:
    words = line.removesuffix(".").split()
    tags = ["B-PER" if word in PEOPLE else "B-LOC" if word in PLACES else "O" for word in words]
    return {"tokens": words, "ner_tags": tags}


def _question(number: int, context: str) -> dict[str, object]:
    person, verb, place = context.split()[:3]
    answers = {"text": [place], "answer_start": [context.index(place)]}
    return {"id": str(number), "question": f"{person} {verb}?", "context": context, "answers": answers}


METRIC = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        features = datasets.Features({features})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        pairs = [pair for pair in zip(predictions, references)]
        right = {right}
        return {{key: sum(right) / len(right) for key in {keys}}}
"""
METRICS = {
    "accuracy": {
        "features": '{"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}',
        "right": "[a == b for a, b in pairs]",
        "keys": '["accuracy"]',
    },
    "glue": {
        "features": '{"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}',
        "right": "[a == b for a, b in pairs]",
        "keys": '["accuracy"]',
    },
    "seqeval": {
        "features": '{key: datasets.List(datasets.Value("string")) for key in ("predictions", "references")}',
        "right": "[a == b for one, other in pairs for a, b in zip(one, other)]",
        "keys": '["overall_precision", "overall_recall", "overall_f1", "overall_accuracy"]',
    },
    "squad": {
        "features": """{
            "predictions": {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")},
            "references": {
                "id": datasets.Value("string"),
                "answers": {
                    "text": datasets.List(datasets.Value("string")),
                    "answer_start": datasets.List(datasets.Value("int32")),
                },
            },
        }""",
        "right": '[a["prediction_text"] in b["answers"]["text"] for a, b in pairs]',
        "keys": '["exact_match", "f1"]',
    },
}


def write_metrics(folder: Path) -> None:
    """Write stand-ins for Hub metrics where `evaluate.load` looks first: below the working folder."""
    for name, parts in METRICS.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{name}.py").write_text(METRIC.format(name=name.title(), **parts))
