"""How should a student start? Random, first, uniform and important layers, trained alike.

A teacher is distilled into half of its layers, from four starts, three seeds each, and every language's masked accuracy
is measured after 0, 100 and 500 steps on lines that nobody trained on.

    python examples/initialisation.py --bf16

Cost: with --bf16 it took about 80 minutes of two CPU cores that were busy with other work too; 3 GB of memory.
Expect: any copied student at step 0 beats the random one at step 500 (15 to 22 % against 7 % masked accuracy); evenly
spaced layers stay ahead of the first and of the important ones (25 % against 24 %). The table is in docs/students.md.
Needs a teacher with its tokenizer and a text file a language; by default those of the folder HF_KD_SHARED.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, set_seed

from hf_kd import DistillationArguments, DistillationTrainer, build_student
from hf_kd.students import sample_batches

SHARED = Path(os.environ.get("HF_KD_SHARED", Path(__file__).resolve().parents[2] / "shared"))
STARTS = {
    "random": {"layers": "uniform", "weights": "random"},
    "first": {"layers": "first"},
    "uniform": {"layers": "uniform"},
    "importance": {"layers": "importance"},
}
HELD_OUT = 150  # lines a language


def read(tokenizer, files, length):
    """Packed training rows of all languages alike, and each language's held-out rows, masked once and for all."""
    training, held_out, sample = [], {}, []
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25, seed=0)
    for language, path in files.items():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        held_out[language] = masked_rows(tokenizer(lines[:HELD_OUT], truncation=True, max_length=length), mask)
        ids = [token for row in tokenizer(lines[HELD_OUT:])["input_ids"] for token in row]
        rows = [ids[start : start + length] for start in range(0, len(ids) - length, length)]
        training.append(np.random.default_rng(0).permutation(rows))
        sample += lines[HELD_OUT : HELD_OUT + 25]
    smallest = min(map(len, training))
    rows = [row for language in training for row in language[:smallest].tolist()]
    return Dataset.from_dict({"input_ids": rows}), held_out, sample


def masked_rows(encoded, mask):
    """Rows with their labels, so that every model sees the same masks."""
    batch = mask([{"input_ids": ids} for ids in encoded["input_ids"]])
    return Dataset.from_dict({name: batch[name].tolist() for name in ("input_ids", "attention_mask", "labels")})


def stack(rows):
    """A batch of rows that are masked and padded already."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def count_right(prediction):
    """Share of the masked tokens that are guessed right."""
    at = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions == prediction.label_ids)[at].mean())}


def run(start, seed, options, tokenizer, data):
    """Train one student; its accuracy of each language by step."""
    training, held_out, sample = data
    set_seed(seed)
    teacher = AutoModelForMaskedLM.from_pretrained(options.teacher)
    batches = sample_batches(tokenizer, sample) if start == "importance" else None
    count = options.layers or teacher.config.num_hidden_layers // 2
    student, plan = build_student(teacher, count, sample=batches, **STARTS[start])
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25)
    args = DistillationArguments(
        output_dir=str(options.output_dir / "run"),
        kd_recipe="comet",
        max_steps=max(options.steps),
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        logging_steps=100,
        eval_strategy="steps",
        eval_steps=min(step for step in options.steps if step),
        save_strategy="no",
    )
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=training,
        eval_dataset=held_out,
        data_collator=lambda rows: stack(rows) if "labels" in rows[0] else mask(rows),
        processing_class=tokenizer,
        compute_metrics=count_right,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    before = trainer.evaluate() | {"step": 0}  # training starts a new log
    trainer.train()
    found = {step: {} for step in options.steps}
    for entry in [before, *trainer.state.log_history]:
        for language in held_out:
            name = f"eval_{language}_accuracy"
            if name in entry and entry["step"] in found:
                found[entry["step"]][language] = entry[name]
    return {"layers": plan.kept_layers, "accuracy": found}


def report(results, languages, steps, console):
    """Mean and standard deviation over the seeds."""
    table = Table(title="Masked accuracy, %: mean over seeds ± standard deviation")
    for heading in ("start", "layers", "steps", *languages, "mean"):
        table.add_column(heading, justify="left" if heading == "start" else "right")
    for start, runs in results.items():
        for step in steps:
            scores = np.array([[run["accuracy"][str(step)][name] for name in languages] for run in runs.values()]) * 100
            cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(scores.mean(0), scores.std(0))]
            whole = scores.mean(1)
            kept = ", ".join(map(str, next(iter(runs.values()))["layers"])) if start != "random" else "none"
            table.add_row(start, kept, str(step), *cells, f"{whole.mean():.1f} ± {whole.std():.1f}")
    console.print(table)


def main():
    """Run every start and seed, keeping what is done, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "models" / "afro-mini"), help="folder or Hub id")
    parser.add_argument("--text", nargs="+", metavar="LANG=FILE", help="UTF-8 text, one sentence a line")
    parser.add_argument("--layers", type=int, help="layers of the student; by default half of the teacher's")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 500], help="when to measure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--output_dir", type=Path, default=Path("initialisation_output"))
    options = parser.parse_args()
    text = options.text or [
        f"{name}={SHARED / 'data' / 'text' / name}.txt" for name in ("hau", "ibo", "kin", "swa", "yor")
    ]
    files = {item.partition("=")[0]: Path(item.partition("=")[2]) for item in text}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        parser.error(f"{missing[0]} is no file: give --teacher and --text, or set HF_KD_SHARED to their folder")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    done = options.output_dir / "results.json"
    results = json.loads(done.read_text()) if done.is_file() else {}
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    data = read(tokenizer, files, options.length)
    for start in options.starts:
        for seed in options.seeds:
            if str(seed) not in results.setdefault(start, {}):
                found = run(start, seed, options, tokenizer, data)
                results[start][str(seed)] = json.loads(json.dumps(found))
                done.write_text(json.dumps(results, indent=1))
    report({start: results[start] for start in options.starts}, list(files), options.steps, Console())


if __name__ == "__main__":
    main()
