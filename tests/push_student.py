"""In a process of its own, since the client reads HF_ENDPOINT when imported: train a tiny student with
`push_to_hub`, then load what landed. Prints one JSON object.

    HF_ENDPOINT=... python tests/push_student.py FOLDER REPOSITORY SETTINGS_AS_JSON
"""

import json
import os
import sys
from pathlib import Path

import models
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_kd import DistillationArguments, DistillationTrainer, facts_file
from hf_kd.evaluation.compare import CompareSettings, compare

torch.set_num_threads(1)


def tokenizer():
    """Every number of the tiny models' vocabulary is a word."""
    special = {models.PAD: "[PAD]", models.CLS: "[CLS]", models.SEP: "[SEP]", models.MASK: "[MASK]", 0: "[UNK]"}
    words = {special.get(number, f"w{number}"): number for number in range(models.VOCABULARY)}
    names = {f"{word.strip('[]').lower()}_token": word for word in special.values()}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def train(repository, **settings):
    """Train and push; gives the trainer and the final commit."""
    given = {
        "output_dir": "secret-user/student",
        "push_to_hub": True,
        "hub_model_id": repository,
        "student_num_hidden_layers": 1,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    trainer = DistillationTrainer(
        model=models.model(layers=2, seed=1),
        args=DistillationArguments(**given | settings),
        train_dataset=models.rows(16),
        eval_dataset=models.rows(8, seed=5),
        data_collator=models.collate,
        processing_class=tokenizer(),
    )
    trainer.train()
    trainer.evaluate()
    return trainer, trainer.push_to_hub(dataset_tags="org/data", language="sw", tasks="fill-mask")


def compare_with_teacher(source):
    """What `hf-kd compare` finds of a student that lies in a folder or on the Hub."""
    Path("sw.txt").write_text("\n".join(f"w{number} w{number + 7} w{60 - number}" for number in range(10, 40)))
    found = compare(["teacher", source], {"sw": Path("sw.txt")}, Path("measured"), CompareSettings(rounds=0))
    (evaluation,) = found.students.values()
    return facts_file.plain(evaluation.languages[0])


def main():
    os.chdir(sys.argv[1])
    trainer, pushed = train(sys.argv[2], **json.loads(sys.argv[3]))
    student, loading = AutoModelForMaskedLM.from_pretrained(sys.argv[2], output_loading_info=True)
    own = trainer.model.state_dict()
    folder = Path(trainer.args.output_dir)
    models.model(layers=2, seed=1).save_pretrained("teacher")
    tokenizer().save_pretrained("teacher")
    for strategy in ("every_save", "checkpoint", "all_checkpoints"):
        train(
            f"tester/{strategy}",
            output_dir=strategy,
            hub_strategy=strategy,
            hub_private_repo=True,
            hub_always_push=True,
            save_strategy="steps",
            save_steps=2,
        )
    figures = [compare_with_teacher(source) for source in (str(folder), sys.argv[2])]
    report = {
        "figures": figures,
        "commit": pushed.oid,
        "loading": {name: sorted(map(str, found)) for name, found in loading.items()},
        "same_weights": all(torch.equal(own[name], weight) for name, weight in student.state_dict().items()),
        "layers": student.config.num_hidden_layers,
        "vocabulary": len(AutoTokenizer.from_pretrained(sys.argv[2])),
        "folder": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
