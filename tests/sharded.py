"""One process of two whose student FSDP2 shards: `torchrun tests/sharded.py OUTPUT`."""

import json
import sys

import models
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_kd import DistillationArguments
from hf_kd.distillation import Distillation


def gradients(tied, chunk, rank, mesh):
    """Loss and norms of the gradients of one batch, the output layer in chunks or not."""
    student = models.model("bert", seed=2, layers=2, tie_word_embeddings=tied).double()
    teacher = models.model("bert", seed=1, spread=3.0).double()
    args = DistillationArguments(output_dir="none", teacher_model_name_or_path="none", kd_attention_weight=1.0)
    run = Distillation(student, teacher, args.objective(), output_chunk_bytes=chunk)
    run.attach()
    for layer in student.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    if not tied:
        fully_shard(student.cls.predictions.decoder, mesh=mesh)
    fully_shard(student, mesh=mesh)
    report, _ = run.loss(student, models.collate(models.rows(8)[rank * 4 : rank * 4 + 4]))
    report.total.backward()
    found = {name: p.grad.full_tensor().norm().item() for name, p in student.named_parameters() if p.grad is not None}
    return {"fused": run.is_fused, "loss": report.total.item(), **found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    mesh = init_device_mesh("cpu", (2,))
    found = {f"{tied} {chunk}": gradients(tied, chunk, rank, mesh) for tied in (True, False) for chunk in (3000, 0)}
    if rank == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(found, file)
    distributed.destroy_process_group()
