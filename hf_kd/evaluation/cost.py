"""What models weigh and how fast they are, on this machine, at stated shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..publication import weight_files
from ..records import Cost, Estimate, Timing
from ..teachers import position_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES = ((1, 32), (1, 128), (32, 128))
"""Rows and tokens of each pass that is timed: one short and one long row, then a full batch."""


def take_turns(passes: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each pass in each round, the passes taking turns, so that a busy machine is unfair to none.

    Args:
        passes: what to time, by name.
        rounds: turns of each, after one that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_costs(
    models: Mapping[str, PreTrainedModel],
    folders: Mapping[str, Path | None],
    shapes: Sequence[tuple[int, int]] = SHAPES,
    rounds: int = 15,
    on_shape: Callable[[], object] = lambda: None,
) -> dict[str, Cost]:
    """Size and speed of models, side by side.

    Args:
        models: models by name, each on its device.
        folders: where each model's files lie, or None.
        shapes: rows and tokens of each pass to time; one that is longer than a model's longest
            input is left out for all.
        rounds: turns of each model at each shape.
        on_shape: called after each shape.
    """
    limits = (position_limit(model) for model in models.values())
    limit = min((limit for limit in limits if limit is not None), default=None)
    timings: dict[str, list[Timing]] = {name: [] for name in models}
    for rows, tokens in shapes:
        if limit is None or tokens <= limit:
            for name, timing in _time(models, rows, tokens, rounds).items():
                timings[name].append(timing)
        on_shape()
    return {
        name: Cost(
            parameters=model.num_parameters(),
            megabytes=sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e6,
            file_megabytes=_file_megabytes(folders.get(name)),
            timings=tuple(timings[name]),
        )
        for name, model in models.items()
    }


def _time(models: Mapping[str, PreTrainedModel], rows: int, tokens: int, rounds: int) -> dict[str, Timing]:
    peaks: dict[str, float] = {}

    def forward(name: str, model: PreTrainedModel) -> None:
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        # The same token everywhere: what it is does not change the time.
        token = model.config.get_text_config().vocab_size - 1
        ids = torch.full((rows, tokens), token, device=model.device)
        with torch.inference_mode():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
            peaks[name] = torch.cuda.max_memory_allocated(model.device) / 1e6

    passes = {name: lambda name=name, model=model: forward(name, model) for name, model in models.items()}
    found = {}
    for name, seconds in take_turns(passes, rounds).items():
        low, middle, high = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)) * 1e3)
        found[name] = Timing(rows, tokens, Estimate(middle, low, high), 1e3 * rows / middle, peaks.get(name))
    return found


def _file_megabytes(folder: Path | None) -> float | None:
    files = weight_files(folder) if folder is not None else []
    return sum(file.stat().st_size for file in files) / 1e6 if files else None
