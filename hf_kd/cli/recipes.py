"""`hf-kd recipes`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .failure import fail

if TYPE_CHECKING:
    from ..recipes import Recipe


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one recipe in full.")] = None,
) -> None:
    """List the published objectives that `--kd_recipe` sets.

    A recipe only sets defaults: any flag given beside it wins. Costs nothing and needs no network.

    **Example**

    `hf-kd recipes comet`
    """
    from ..recipes import RECIPES

    if name is None:
        _list_recipes(RECIPES.values())
    elif name in RECIPES:
        _show_recipe(RECIPES[name])
    else:
        fail(f"There is no recipe `{name}`; there are {', '.join(RECIPES)}. Pick one, or leave the name out.")


def _list_recipes(recipes: Iterable[Recipe]) -> None:
    table = Table(title="Recipes for --kd_recipe", show_lines=True)
    for heading in ("recipe", "objective", "use it for", "paper"):
        table.add_column(heading)
    for recipe in recipes:
        table.add_row(
            f"[bold]{recipe.name}[/]", escape(recipe.summary), escape(recipe.use_for), f"arXiv:{recipe.arxiv}"
        )
    console = Console()
    console.print(table)
    console.print("`hf-kd recipes NAME` shows the flags that a recipe sets.", highlight=False)


def _show_recipe(recipe: Recipe) -> None:
    from ..recipes import DEFAULTS

    console = Console(highlight=False)
    console.print(f"[bold]{recipe.name}[/]: {escape(recipe.summary)}")
    console.print(f"Use it for {escape(recipe.use_for)}.")
    console.print(f"Source: {escape(recipe.citation)}")
    if recipe.note:
        console.print(f"Note: {escape(recipe.note)}")
    table = Table(title=f"What --kd_recipe {recipe.name} sets")
    for heading in ("flag", "value", "without a recipe"):
        table.add_column(heading)
    for setting, value in recipe.settings.items():
        table.add_row(f"--{setting}", f"[bold]{value}[/]", str(DEFAULTS.get(setting, "that of --kd_layer_map")))
    console.print(table)
