"""Training progress: a bar in a terminal, a line every quarter in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


@contextmanager
def show_progress(console: Console, label: str, steps: int) -> Iterator[TrainerCallback]:
    """Give a callback that shows a training run's progress on `console`.

    Args:
        console: where to show it; what it is decides between a bar and lines.
        label: what is being trained.
        steps: optimizer steps in all.
    """
    if not console.is_terminal:
        yield _ProgressLines(console, label, steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _ProgressBar(progress, progress.add_task(label, total=steps, loss="…"))


class _ProgressBar(TrainerCallback):
    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.progress.update(self.task, loss=f"{float(logs['loss']):.2f}")


class _ProgressLines(TrainerCallback):
    def __init__(self, console: Console, label: str, steps: int) -> None:
        self.console, self.label, self.steps = console, label, steps
        self.loss = ""
        self.start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.loss = f", loss {float(logs['loss']):.2f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = state.global_step
        if done * 4 // self.steps > (done - 1) * 4 // self.steps:
            seconds = time.perf_counter() - self.start
            line = f"{self.label}: step {done} of {self.steps}{self.loss}, {seconds:.0f} s"
            self.console.print(line, highlight=False)
