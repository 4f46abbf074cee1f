"""The `hf-kd` command.

One module a command. Everything heavy is imported inside the commands, so that `hf-kd --help`
answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from .card import card
from .compare import compare
from .demo import demo
from .push import push
from .recipes import recipes
from .student import student
from .trim import trim

app = typer.Typer(
    help="Knowledge distillation as a Hugging Face Trainer extension: make large multilingual encoders small.",
    epilog="Start with `hf-kd demo`; it needs no network, no data and no GPU.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, student, trim, compare, card, push, recipes):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app(prog_name="hf-kd")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-kd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass
