"""How far a comparison is: a bar in a terminal, lines in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function to tell what is being done, how many steps are done, and how many there are."""
    if not console.is_terminal:
        yield lambda what, done, steps: console.print(
            f"{done} of {steps}: {what}", highlight=False, markup=False, soft_wrap=True
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, steps: progress.update(task, description=escape(what), completed=done, total=steps)
