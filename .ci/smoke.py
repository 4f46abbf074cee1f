"""Distil a tiny student for two steps, then load it with plain transformers.

Run against an installed wheel, outside the checkout: python smoke.py FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, set_seed

from hf_kd import DistillationArguments, DistillationTrainer

VOCABULARY = 40
TOKENS = 12


def tiny_bert(layers: int) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=TOKENS,
        )
    )


def masked_row() -> dict[str, list[int]]:
    ids = torch.randint(5, VOCABULARY, (TOKENS,)).tolist()
    labels = [token if position % 4 == 0 else -100 for position, token in enumerate(ids)]
    return {"input_ids": ids, "attention_mask": [1] * TOKENS, "labels": labels}


def main(folder: Path) -> None:
    set_seed(0)
    tiny_bert(layers=2).save_pretrained(folder / "teacher")
    trainer = DistillationTrainer(
        model=tiny_bert(layers=1),
        args=DistillationArguments(
            output_dir=str(folder / "student"),
            teacher_model_name_or_path=str(folder / "teacher"),
            max_steps=2,
            per_device_train_batch_size=4,
            use_cpu=True,
            logging_steps=1,
        ),
        train_dataset=[masked_row() for _ in range(8)],
    )
    trainer.train()
    trainer.save_model()

    student, loading = AutoModelForMaskedLM.from_pretrained(folder / "student", output_loading_info=True)
    wrong = {kind: keys for kind, keys in loading.items() if keys}
    if wrong:
        sys.exit(f"The saved student does not load cleanly: {wrong}")
    if student.config.num_hidden_layers != 1:
        sys.exit(f"Expected the student's 1 layer, found {student.config.num_hidden_layers}")
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    terms = [name for name in steps[-1] if name.startswith("kd_")]
    if not terms:
        sys.exit(f"The log names no distillation term: {steps[-1]}")
    print("smoke test passed; terms logged:", ", ".join(terms))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
