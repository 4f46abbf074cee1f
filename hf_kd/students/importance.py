"""What matters in a teacher, measured on a sample of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..architecture import transformer_layers
from .families import Family, axes_of, layer_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Sample = Sequence[Mapping[str, Tensor]]
"""Batches of `input_ids` and `attention_mask`, shape (B, N) each."""


@dataclass(frozen=True)
class UnitScores:
    """Importance of each unit of a teacher; larger is more important.

    Attributes:
        hidden: of the residual stream's units: mean magnitude of what the layers read, each
            layer's share alike. Shape (D,).
        ffn: of each layer's neurons: mean magnitude of what they contribute. Shape (F,) each.
        query: of each layer's query and key units: product of their root mean squares. Shape (D,) each.
        context: of each layer's value units: mean square of what they contribute. Shape (D,) each.
    """

    hidden: Tensor
    ffn: Mapping[int, Tensor] = field(default_factory=dict)
    query: Mapping[int, Tensor] = field(default_factory=dict)
    context: Mapping[int, Tensor] = field(default_factory=dict)


def sample_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, rows: int = 128, max_length: int = 128, batch: int = 16
) -> list[dict[str, Tensor]]:
    """Turn text into a sample that importance can be measured on.

    Args:
        tokenizer: the teacher's.
        texts: any number of texts; evenly spaced ones are taken, blank ones passed over.
        rows: how many.
        max_length: tokens a text is cut to.
        batch: rows of a batch.

    Raises:
        ValueError: there is no text.
    """
    lines = [text for text in texts if text.strip()]
    if not lines:
        raise ValueError(
            "The sample for measuring importance holds no text. Give text of the languages that the student is for."
        )
    step = max(len(lines) / rows, 1.0)
    taken = [lines[int(i * step)] for i in range(min(rows, len(lines)))]
    rows_of_ids = tokenizer(taken, truncation=True, max_length=max_length)["input_ids"]
    padding = tokenizer.pad_token_id or 0  # decoders often have none; the mask hides it
    return [_padded(rows_of_ids[start : start + batch], padding) for start in range(0, len(taken), batch)]


def layer_importance(
    teacher: PreTrainedModel, sample: Sample, *, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> list[float]:
    """How far the last hidden state moves when one layer is skipped.

    Args:
        teacher: any supported model.
        sample: what to run it on.
        progress: wraps the iteration over layers, such as a progress bar.

    Returns:
        For each layer, the mean over tokens of the squared distance over the squared length,
        dimensionless, ≥ 0.

    Source:
        Minitron (Muralidharan et al. 2024, arXiv:2407.14679), section 2.2, for ranking layers by
        removing one at a time.
    """
    base = teacher.base_model
    layers = transformer_layers(teacher)
    with _measuring(teacher):
        whole = [_last_hidden(base, batch) for batch in sample]
        scores = []
        for layer in progress(layers):
            handle = layer.register_forward_hook(_skip, with_kwargs=True)
            try:
                total, tokens = 0.0, 0
                for batch, expected in zip(sample, whole, strict=True):
                    moved = (_last_hidden(base, batch) - expected).square().sum(-1)
                    moved = moved / expected.square().sum(-1).clamp_min(1e-12)
                    mask = batch["attention_mask"].bool()
                    total += float(moved[mask].sum())
                    tokens += int(mask.sum())
            finally:
                handle.remove()
            scores.append(total / tokens)
    return scores


def unit_importance(teacher: PreTrainedModel, family: Family, sample: Sample, prefix: str) -> UnitScores:
    """How strongly each unit is active.

    Args:
        teacher: a model of the family.
        family: says which module reads what.
        sample: what to run it on.
        prefix: name of the list of layers, with a dot.

    Source:
        Minitron (Muralidharan et al. 2024, arXiv:2407.14679), section 2.2: activation-based
        importance of neurons, heads and embedding channels.
    """
    sums: dict[tuple[str, str, int | None], Tensor] = {}
    axes = axes_of(teacher, family)
    mask = torch.ones(0)

    def add(kind: str, name: str, layer: int | None, states: Tensor, squared: bool) -> None:
        states = states.detach().float()
        if states.dim() == 3 and states.shape[:2] == mask.shape:
            states = states[mask]
        states = states.flatten(0, -2)
        found = states.square().mean(0) if squared else states.abs().mean(0)
        key = (kind, name, layer)
        sums[key] = sums[key] + found if key in sums else found

    def watch(name: str, layer: int | None, module_axes: tuple[str, ...]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            reads, writes = module_axes[1], module_axes[0]
            if reads == "hidden":
                add(reads, name, layer, args[0], squared=False)
            elif reads in ("ffn", "context"):
                # A unit that nothing is made of contributes nothing, however active it is.
                add(reads, name, layer, args[0] * module.weight.norm(dim=0), squared=reads == "context")
            if writes in ("query", "key"):
                add(writes, name, layer, output, squared=True)
            elif writes == "qkv":
                for part, states in zip(("query", "key"), output.chunk(3, dim=-1)):
                    add(part, name, layer, states, squared=True)

        return hook

    with _measuring(teacher), ExitStack() as stack:
        modules = dict(teacher.named_modules())
        for name, parameter_axes in axes.items():
            module = modules.get(name.removesuffix(".weight"))
            layer = layer_number(name, prefix)
            if layer is not None and isinstance(module, nn.Linear) and ".pos_" not in name:
                stack.callback(module.register_forward_hook(watch(name, layer, parameter_axes)).remove)
        for batch in sample:
            mask = batch["attention_mask"].bool()
            _last_hidden(teacher.base_model, batch)
    return _scores(sums)


def describe_sample(sample: Sample) -> str:
    """The sample in words."""
    rows = sum(len(batch["input_ids"]) for batch in sample)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in sample)
    return f"{rows:,} rows, {tokens:,} tokens"


def _padded(rows: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _scores(sums: Mapping[tuple[str, str, int | None], Tensor]) -> UnitScores:
    hidden = [value / value.mean().clamp_min(1e-12) for (kind, _, _), value in sums.items() if kind == "hidden"]
    by_layer: dict[str, dict[int, Tensor]] = {"ffn": {}, "context": {}, "query": {}, "key": {}}
    for (kind, _, layer), value in sums.items():
        if kind in by_layer and layer is not None:
            by_layer[kind][layer] = value
    query = {layer: (value * by_layer["key"][layer]).sqrt() for layer, value in by_layer["query"].items()}
    return UnitScores(torch.stack(hidden).mean(0), by_layer["ffn"], query, by_layer["context"])


@contextmanager
def _measuring(teacher: PreTrainedModel) -> Iterator[None]:
    were_training = [module for module in teacher.modules() if module.training]
    teacher.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in were_training:
            module.training = True


def _last_hidden(base: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    device = next(base.parameters()).device
    hidden: Tensor = base(**{name: value.to(device) for name, value in batch.items()}, return_dict=True)[0]
    return hidden.float()


def _skip(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Let a layer hand on what it was given."""
    given = args[0] if args else kwargs["hidden_states"]
    return (given, *output[1:]) if isinstance(output, tuple) else given
