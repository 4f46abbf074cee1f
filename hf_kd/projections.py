"""Learned projections from the student's width to the teacher's.

They live on the student only while it trains, so that every engine sees them; they are
checkpointed in a file of their own, and the exported student never holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from .records import EMBEDDINGS, LayerPair

ATTRIBUTE = "kd_projections"
FILE_NAME = "kd_projections.safetensors"


def build_projections(
    pairs: tuple[LayerPair, ...], student_width: int, teacher_width: int, seed: int
) -> nn.ModuleDict | None:
    """One linear map with bias for each pair of hidden states, or None where the widths agree.

    The seed makes the initial weights the same whenever and wherever they are built, without
    drawing from the global random state.

    Args:
        pairs: pairs of layers whose hidden states are compared.
        student_width: width of the student's hidden states.
        teacher_width: width of the teacher's.
        seed: seed of the initial weights.

    Source:
        TinyBERT, Jiao et al. (2020), arXiv:1909.10351, equation 8.
    """
    if not pairs or student_width == teacher_width:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleDict({_key(pair): nn.Linear(student_width, teacher_width) for pair in pairs})


def project(
    projections: nn.ModuleDict | None, pairs: tuple[LayerPair, ...], hidden: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """Bring the student's hidden states to the teacher's width.

    Args:
        projections: from `build_projections`.
        pairs: the pairs that they were built for.
        hidden: hidden states by student layer. Shape (B, N, Ds) each.

    Returns:
        Hidden states by index of the pair. Shape (B, N, Dt) each.
    """
    if projections is None:
        return {index: hidden[pair.student] for index, pair in enumerate(pairs)}
    projected = {}
    for index, pair in enumerate(pairs):
        linear = projections[_key(pair)]
        projected[index] = linear(hidden[pair.student].to(linear.weight.dtype))
    return projected


def attach(model: nn.Module, projections: nn.ModuleDict) -> Callable[[], None]:
    """Make the projections part of the model, but of no export. Call what is returned to undo it."""
    own = vars(model).get("_keys_to_ignore_on_save")
    names = {f"{ATTRIBUTE}.{name}" for name in projections.state_dict()}
    setattr(model, ATTRIBUTE, projections)
    model._keys_to_ignore_on_save = {*(getattr(model, "_keys_to_ignore_on_save", None) or ()), *names}

    def detach() -> None:
        delattr(model, ATTRIBUTE)
        if own is None:
            del model._keys_to_ignore_on_save
        else:
            model._keys_to_ignore_on_save = own

    return detach


def save(projections: nn.ModuleDict, folder: str) -> None:
    """Write the projections into a checkpoint folder."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in projections.state_dict().items()}
    safetensors.torch.save_file(weights, Path(folder) / FILE_NAME)


def load(projections: nn.ModuleDict | None, folder: str) -> None:
    """Read the projections from a checkpoint folder.

    Args:
        projections: this run's, or None if it trains none.
        folder: the checkpoint.

    Raises:
        ValueError: the run has projections and the folder none, or the reverse, or they differ.
    """
    path = Path(folder) / FILE_NAME
    if projections is None:
        if path.is_file():
            raise ValueError(
                f"Checkpoint `{folder}` has {FILE_NAME}, but this run trains no projections. Resume with the arguments "
                "that made the checkpoint, or start anew."
            )
        return
    if not path.is_file():
        raise ValueError(
            f"Checkpoint `{folder}` has no {FILE_NAME}, but this run trains projections. Resume with the arguments "
            "that made the checkpoint, or start anew."
        )
    weights = safetensors.torch.load_file(path)
    wanted = projections.state_dict()
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in wanted.items()}:
        raise ValueError(
            f"The projections in `{folder}` are for other layers or widths ({', '.join(sorted(weights))}) than this "
            f"run's ({', '.join(sorted(wanted))}). Resume with the arguments that made the checkpoint."
        )
    projections.load_state_dict(weights)


def _key(pair: LayerPair) -> str:
    return "embeddings" if pair.student == EMBEDDINGS else f"{pair.student}_{pair.teacher}"
