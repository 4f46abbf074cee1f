"""A `language` column, which the Trainer would drop, reaches a collator of ours in a training run."""

import models
import pytest
import torch
from datasets import Dataset

from hf_kd import DataCollatorForDistillation, DistillationArguments, DistillationTrainer


def test_the_trainer_keeps_the_columns_of_the_collator(tmp_path):
    seen = []

    def collate(rows):
        seen.append(models.collate(rows))
        return seen[-1]

    rows = models.rows(8)
    dataset = Dataset.from_list([row | {"language": ("hau", "yor")[i % 2], "other": "x"} for i, row in enumerate(rows)])
    collator = DataCollatorForDistillation(collate, languages=("hau", "yor"))
    args = DistillationArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    trainer = DistillationTrainer(
        models.model("bert", seed=2), args, collator, dataset, dataset, teacher=models.model("bert", seed=1)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(batch["kd_language"].tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert "other" not in batch
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_a_language_that_is_not_named_is_refused_by_its_column():
    collator = DataCollatorForDistillation(models.collate, languages=("hau",))
    with pytest.raises(ValueError, match="`language`.*swa.*hau"):
        collator([row | {"language": "swa"} for row in models.rows(2)])
