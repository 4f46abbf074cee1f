"""One contender in a process of its own: `python contenders.py NAME SHAPE_JSON`, its figures on the last line.

All train the same student from the same weights on the same batches towards the same loss,
task + logits (T = 2, labelled positions) + head-mean attention of the last layer, each through
its own library's training loop, with the same AdamW, in float32 and without dropout. Time is
taken between optimizer steps, so loading and the first step are no part of it.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import tempfile
import time

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments, XLMRobertaConfig, XLMRobertaForMaskedLM

TEMPERATURE = 2.0
ATTENTION_WEIGHT = 1e6  # maps of random weights are nearly even: with less, the losses shown would not tell of the term
PAD, FIRST_TOKEN, MASK = 1, 5, 4


def build(shape, attention):
    """Student and teacher with the seed's weights."""
    models = []
    for seed, role in enumerate(("student", "teacher")):
        layers, width, heads, inner = shape[role]
        config = XLMRobertaConfig(
            vocab_size=shape["vocabulary"],
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=shape["tokens"] + 2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=PAD,
        )
        torch.manual_seed(seed)
        models.append(XLMRobertaForMaskedLM._from_config(config, attn_implementation=attention))
    return models[0].train(), models[1].eval().requires_grad_(False)


def make_rows(shape, steps):
    """Rows of random tokens, none special, 15 % of them masked."""
    generator = torch.Generator().manual_seed(0)
    size = steps * shape["rows"], shape["tokens"]
    ids = torch.randint(FIRST_TOKEN, shape["vocabulary"], size, generator=generator)
    masked = torch.rand(size, generator=generator) < 0.15
    labels, inputs = ids.masked_fill(~masked, -100), ids.masked_fill(masked, MASK)
    mask = torch.ones(shape["tokens"], dtype=torch.long)
    return [{"input_ids": i, "attention_mask": mask, "labels": l} for i, l in zip(inputs, labels)]


def logits_loss(student_logits, teacher_logits, labels):
    """As tutorials write it, on the labelled positions."""
    labelled = labels != -100
    student = functional.log_softmax(student_logits[labelled] / TEMPERATURE, dim=-1)
    teacher = functional.softmax(teacher_logits[labelled] / TEMPERATURE, dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def attention_loss(student_attentions, teacher_attentions):
    return ATTENTION_WEIGHT * functional.mse_loss(student_attentions[-1].mean(1), teacher_attentions[-1].mean(1))


def textbook_loss(student, teacher, labels):
    """Divergences of two outputs with logits and attentions."""
    return logits_loss(student.logits, teacher.logits, labels) + attention_loss(student.attentions, teacher.attentions)


class Clock:
    """The optimizer of a student, and when it stepped."""

    def __init__(self, student):
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
        self.optimizer.register_step_post_hook(
            lambda *args: self.stamps.append((time.perf_counter(), time.process_time()))
        )
        self.stamps, self.losses = [], []

    def keep(self, loss):
        self.losses.append(float(loss.detach()))
        return loss


def arguments(cls, folder, shape, steps, **more):
    return cls(
        output_dir=folder,
        per_device_train_batch_size=shape["rows"],
        max_steps=steps,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **more,
    )


def train(cls, student, args, rows, clock, **more):
    """`Trainer.train` over the rows in order."""

    class InOrder(cls):
        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(rows)

        def compute_loss(self, *args, **kwargs):
            return clock.keep(super().compute_loss(*args, **kwargs))

    InOrder(student, args, train_dataset=rows, optimizers=(clock.optimizer, None), **more).train()


def distils(**flags):
    """The flags of the common objective."""
    from hf_kd import DistillationArguments

    weights = {"kd_task_weight": 1.0, "kd_logits_weight": 1.0, "kd_attention_weight": ATTENTION_WEIGHT}
    return DistillationArguments, {**weights, "kd_temperature": TEMPERATURE, "kd_layer_map": "last", **flags}


def run_hf_kd(student, teacher, rows, shape, steps, folder, clock, **flags):
    from hf_kd import DistillationTrainer

    cls, flags = distils(**flags)
    train(DistillationTrainer, student, arguments(cls, folder, shape, steps, **flags), rows, clock, teacher=teacher)


def run_hf_kd_bf16(*setup):
    run_hf_kd(*setup, bf16=True)


def run_hf_kd_without_attention(*setup):
    run_hf_kd(*setup, kd_attention_weight=0.0, kd_layer_map=None)


def run_hf_kd_loop(student, teacher, rows, shape, steps, folder, clock):
    """The same step without a Trainer: what `train()` may add."""
    from hf_kd.distillation import Distillation

    cls, flags = distils()
    objective = arguments(cls, folder, shape, steps, teacher_model_name_or_path="none", **flags).objective()
    distillation = Distillation(student, teacher, objective)
    with distillation.attached():
        for batch in DataLoader(rows, batch_size=shape["rows"]):
            clock.keep(distillation.loss(student, batch)[0].total).backward()
            clock.optimizer.step()
            clock.optimizer.zero_grad()


def run_textbook(student, teacher, rows, shape, steps, folder, clock):
    class Textbook(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs, output_attentions=True)
            with torch.no_grad():
                answers = teacher(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], output_attentions=True
                )
            loss = outputs.loss + textbook_loss(outputs, answers, inputs["labels"])
            return (loss, outputs) if return_outputs else loss

    train(Textbook, student, arguments(TrainingArguments, folder, shape, steps), rows, clock)


def run_textbrewer(student, teacher, rows, shape, steps, folder, clock):
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from textbrewer.presets import KD_LOSS_MAP, MATCH_LOSS_MAP

    def masked_kl(student_logits, teacher_logits, temperature):
        # The logits come masked: rows of the labelled positions alone.
        return logits_loss(student_logits, teacher_logits, torch.zeros(len(student_logits)))

    KD_LOSS_MAP["tempered_kl"] = masked_kl
    MATCH_LOSS_MAP["head_mean"] = lambda one, other, mask=None: attention_loss([one], [other])

    def adapt(batch, outputs):
        mask = batch["labels"] != -100
        return {"logits": outputs.logits[mask], "attention": outputs.attentions[-1:]}

    class Recorded(GeneralDistiller):
        def train_on_batch(self, batch, args):
            total, parts = super().train_on_batch(batch, args)
            return clock.keep(total), parts

    match = {"layer_T": 0, "layer_S": 0, "feature": "attention", "loss": "head_mean", "weight": 1}
    config = DistillationConfig(
        temperature=TEMPERATURE,
        hard_label_weight=1,
        kd_loss_weight=1,
        kd_loss_type="tempered_kl",
        intermediate_matches=[match],
    )
    distiller = Recorded(
        TrainingConfig(device="cpu", log_dir=None, output_dir=folder, ckpt_steps=10**9),
        config,
        teacher,
        student,
        adapt,
        lambda batch, outputs: {**adapt(batch, outputs), "losses": outputs.loss},
    )
    loader = DataLoader(rows, batch_size=shape["rows"])
    distiller.save_and_callback = lambda *args, **kwargs: None  # writing the student is no step
    with distiller:
        distiller.train(clock.optimizer, loader, num_steps=steps, output_attentions=True)


def run_modelopt(student, teacher, rows, shape, steps, folder, clock):
    import modelopt.torch.distill as distill
    from torch.nn.modules.loss import _Loss

    for model in (student, teacher):
        model.config.output_attentions = True
    current = {}

    class Both(_Loss):
        def forward(self, outputs, answers):
            return textbook_loss(outputs, answers, current["labels"])

    class Balance(distill.DistillationLossBalancer):
        def forward(self, losses):
            return sum(losses.values())

    settings = {"teacher_model": teacher, "criterion": {("", ""): Both()}, "loss_balancer": Balance()}
    converted = distill.convert(student, mode=[("kd_loss", settings)])

    class ModelOpt(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            current.update(inputs)
            return model.compute_kd_loss(student_loss=model(**inputs).loss)

    train(ModelOpt, converted, arguments(TrainingArguments, folder, shape, steps), rows, clock)


class _NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision, which torchdistill imports for image models that are not used here."""

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("torchvision") else None

    def exec_module(self, module):
        def make(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = make


def run_torchdistill(student, teacher, rows, shape, steps, folder, clock):
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_NoTorchvision())
        for name in ("datasets", "models", "transforms", "ops"):
            importlib.import_module(f"torchvision.{name}")
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
    from torchdistill.losses.registry import register_func2extract_model_output
    from torchdistill.optim.registry import OPTIM_DICT

    class Both(torch.nn.Module):
        def forward(self, student_values, teacher_values, targets):
            return textbook_loss(student_values["."]["output"], teacher_values["."]["output"], targets)

    @register_func2extract_model_output(key="own_loss")
    def own_loss(outputs, targets, **kwargs):
        return {"loss": outputs.loss}

    @register_collate_func(key="with_targets")
    def collate(batch):
        made = torch.utils.data.default_collate([row for row, *_ in batch])
        return made | {"output_attentions": True}, made["labels"], {}

    OPTIM_DICT["benchmark"] = lambda *args, **kwargs: clock.optimizer
    side = {"forward_proc": "forward_batch_only_as_kwargs"}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "rows",
            "collate_fn": "with_targets",
            "sampler": {"class_or_func": SequentialSampler},
            "requires_supp": False,
            "kwargs": {"batch_size": shape["rows"]},
        },
        "teacher": {**side, "requires_grad": False},
        "student": side,
        "optimizer": {"key": "benchmark", "kwargs": {}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"model_term": {"weight": 1}, "sub_terms": {"both": {"criterion": Both(), "weight": 1}}},
            "func2extract_model_loss": "own_loss",
        },
    }
    dataset = {"rows": [(row, 0) for row in rows]}
    box = get_distillation_box(teacher, student, dataset, config, torch.device("cpu"), [], False, 1)
    box.pre_epoch_process(epoch=0)
    for batch, targets, _ in box.train_data_loader:
        box.post_forward_process(clock.keep(box.forward_process(batch, targets)))


CONTENDERS = {name[4:]: run for name, run in list(globals().items()) if name.startswith("run_")}


def memory(key):
    """A figure of /proc/self/status in MB."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(key)).split()[1]) / 1024


def measure(name, shape):
    """Seconds a step, losses and memory of one contender."""
    torch.set_num_threads(shape["threads"])
    student, teacher = build(shape, "sdpa" if name.startswith("hf_kd") else "eager")
    rows = make_rows(shape, shape["steps"] + 1)
    clock = Clock(student)
    weights = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak of building the models
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        CONTENDERS[name](student, teacher, rows, shape, shape["steps"] + 1, folder, clock)
    kinds = ([after - before for before, after in zip(stamps, stamps[1:])] for stamps in zip(*clock.stamps))
    seconds, cpu_seconds = kinds
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": clock.losses,
        "weights_mb": weights,
        "peak_mb": memory("VmHWM"),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
