"""The demo from end to end: text, teacher, student, baseline, figures."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from rich.console import Console
from transformers import AutoConfig, AutoModelForMaskedLM, DataCollatorForLanguageModeling, PrinterCallback, set_seed

from hf_kd import DistillationArguments, DistillationTrainer, build_student

from . import inputs, measure, models, report
from .figures import Figures, ModelSize
from .progress import show_progress
from .settings import DemoError, DemoSettings
from .text import build_text, language_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECIPE = "distilbert"
"""What the distilled student learns from: labels, the teacher's softened distribution and its last hidden states."""


@dataclass(frozen=True)
class _Workshop:
    """What every training run of one demo shares."""

    settings: DemoSettings
    tokenizer: PreTrainedTokenizerBase
    data: Dataset
    masked_lines: Sequence[measure.MaskedLine]
    console: Console

    def trainer(self, model: PreTrainedModel, folder: str, steps: int, **distillation: Any) -> DistillationTrainer:
        """A trainer that writes to `folder`; everything but the distillation is the same for all."""
        settings = self.settings
        arguments = DistillationArguments(
            output_dir=str(settings.output_dir / folder),
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            adam_beta2=0.95,
            weight_decay=0.01,
            train_sampling_strategy="group_by_length",
            logging_steps=max(1, steps // 20),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            dataloader_pin_memory=False,
            use_cpu=settings.use_cpu,
            seed=settings.seed,
            **distillation,
        )
        trainer = DistillationTrainer(
            model=model,
            args=arguments,
            train_dataset=self.data,
            processing_class=self.tokenizer,
            data_collator=DataCollatorForLanguageModeling(
                self.tokenizer, mlm_probability=settings.mask_ratio, seed=settings.seed
            ),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def train(self, trainer: DistillationTrainer, label: str) -> str:
        """Train with progress shown, save, and give the folder."""
        set_seed(self.settings.seed)  # the sampler draws batches from it
        with show_progress(self.console, label, trainer.args.max_steps) as callback:
            trainer.add_callback(callback)
            trainer.train()
        trainer.save_model()
        return str(trainer.args.output_dir)


def run_demo(
    settings: DemoSettings, console: Console, *, teacher: str | None = None, text_files: Sequence[Path] = ()
) -> Figures:
    """Distil a student, train its baselines, measure them, and write everything down.

    Args:
        settings: sizes, steps, seeds and the output folder.
        console: where to show what happens.
        teacher: masked language model to distil, a folder or Hub id; None to train one.
        text_files: text for that teacher, one sentence a line, one language a file.

    Returns:
        The figures, as written to `figures.json`.

    Raises:
        DemoError: the teacher or the text given will not do.
    """
    if (teacher is None) != (not text_files):
        given, lacking = ("a teacher", "--text FILE") if teacher else ("text files", "--teacher PATH")
        raise DemoError(f"The demo was given {given} alone; it needs both or neither. Add {lacking}.")
    start = time.perf_counter()
    workshop = _open_workshop(settings, console, teacher, text_files)
    folders = {"teacher": teacher or _train_teacher(workshop)}
    folders["distilled"] = _distil(workshop, folders["teacher"])
    folders |= _train_baselines(workshop, folders["teacher"], folders["distilled"])
    figures = _measure(workshop, folders, start)
    report.write_files(figures, settings.output_dir)
    report.show_figures(console, figures, settings.output_dir)
    return figures


def _open_workshop(
    settings: DemoSettings, console: Console, teacher: str | None, text_files: Sequence[Path]
) -> _Workshop:
    if teacher is None:
        report.show_stage(console, "Text", "words of the Unicode CLDR; a tokenizer is trained on them")
        settings.layers_of_student(settings.layers)  # refused before anything is written
        text = build_text(settings.train_lines, settings.held_out_lines, settings.seed)
        tokenizer = models.train_tokenizer((line for lines in text.values() for line in lines.train), settings)
    else:
        report.show_stage(console, "Text", "lines sampled from your files")
        text = inputs.read_text(text_files, settings)
        tokenizer = inputs.load_tokenizer(teacher)
        settings.layers_of_student(inputs.load_masked_lm(teacher).config.num_hidden_layers)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    report.write_text(text, settings.output_dir)
    report.show_text(console, text)

    def token_ids(lines: Sequence[str]) -> list[list[int]]:
        longest = min(settings.max_tokens, tokenizer.model_max_length)
        return tokenizer(list(lines), truncation=True, max_length=longest)["input_ids"]

    ids = token_ids([line for lines in text.values() for line in lines.train])
    languages = [language for language, lines in text.items() for _ in lines.train]  # for the card
    data = Dataset.from_dict({"input_ids": ids, "length": [len(line) for line in ids], "language": languages})
    held_out = {language: token_ids(lines.held_out) for language, lines in text.items()}
    masked = measure.mask_lines(held_out, tokenizer, settings.mask_ratio, settings.seed)
    measure.write_lines(settings.output_dir / "masked_lines.jsonl", masked)
    return _Workshop(settings, tokenizer, data, masked, console)


def _train_teacher(workshop: _Workshop) -> str:
    settings = workshop.settings
    teacher = models.new_teacher(workshop.tokenizer, settings)
    note = f"{settings.layers} layers, {teacher.num_parameters():,} parameters, trained here"
    report.show_stage(workshop.console, "Teacher", note)
    return workshop.train(workshop.trainer(teacher, "teacher", settings.teacher_steps), "Teacher")


def _distil(workshop: _Workshop, teacher: str) -> str:
    """The way of a user: hand the trainer a model, say how many layers to keep, train, save."""
    settings = workshop.settings
    model = inputs.load_masked_lm(teacher)
    layers = settings.layers_of_student(model.config.num_hidden_layers)
    note = f"{layers} of the teacher's {model.config.num_hidden_layers} layers, taught by the teacher"
    report.show_stage(workshop.console, "Distilled student", note)
    trainer = workshop.trainer(model, "student", settings.steps, student_num_hidden_layers=layers, kd_recipe=RECIPE)
    folder = workshop.train(trainer, "Distilled")
    # What is logged as an evaluation is shown on the card.
    lines = measure.score_lines(trainer.model, workshop.masked_lines, workshop.tokenizer.pad_token_id)
    results = {}
    for language, score in measure.by_language(lines).items():
        results[f"eval_{language}_masked_accuracy"] = score.accuracy
        results[f"eval_{language}_masked_loss"] = score.loss
    trainer.log(results)
    known = [language for language in measure.by_language(lines) if language_name(language) != language]
    trainer.create_model_card(model_name="Student of the hf-kd demo", language=known)
    return folder


def _train_baselines(workshop: _Workshop, teacher: str, distilled: str) -> dict[str, str]:
    """The distilled student's shape without a teacher, from random weights and from copied layers; all else equal."""
    settings = workshop.settings
    note = "same shape, steps and batches; random weights, then copied layers"
    report.show_stage(workshop.console, "Without a teacher", note)
    config = AutoConfig.from_pretrained(distilled)
    set_seed(settings.seed)
    scratch = AutoModelForMaskedLM.from_config(config)
    copied, _ = build_student(inputs.load_masked_lm(teacher), config.num_hidden_layers)
    return {
        "from_scratch": workshop.train(workshop.trainer(scratch, "from_scratch", settings.steps), "From scratch"),
        "copied": workshop.train(workshop.trainer(copied, "copied", settings.steps), "Copied layers"),
    }


def _measure(workshop: _Workshop, folders: Mapping[str, str], start: float) -> Figures:
    settings, lines, filler = workshop.settings, workshop.masked_lines, workshop.tokenizer.pad_token_id
    loaded = {name: inputs.load_masked_lm(folder) for name, folder in folders.items()}
    scores = {name: measure.score_lines(model, lines, filler) for name, model in loaded.items()}
    batch = random.Random(settings.seed).sample(lines, min(32, len(lines)))
    pair = {name: loaded[name] for name in ("teacher", "distilled")}
    speeds = measure.lines_per_second(pair, batch, filler)
    return Figures(
        languages={line.language: language_name(line.language) for line in lines},
        masked_tokens=measure.count_masked(scores["teacher"]),
        scores={name: measure.by_language(of_model) for name, of_model in scores.items()},
        gain_intervals={
            baseline: measure.gain_interval(scores["distilled"], scores[baseline], settings.seed)
            for baseline in ("from_scratch", "copied")
        },
        sizes={
            name: ModelSize(
                layers=model.config.num_hidden_layers,
                parameters=model.num_parameters(),
                megabytes=sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 1e6,
                lines_per_second=speeds[name],
            )
            for name, model in pair.items()
        },
        settings={name: value for name, value in vars(settings).items() if name != "output_dir"},
        seconds=time.perf_counter() - start,
    )
