"""`hf-kd card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .failure import fail


def card(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a saved student.")],
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="State the licence, such as apache-2.0; it is never guessed.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="State a language; give it once for each.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="State a data set on the Hub; give it once for each.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="State the model's name.")] = None,
) -> None:
    """Write a student's model card anew from the facts beside it.

    The card, README.md, is made from distillation_facts.json alone: the same facts give the same card. Text between
    the marks in it is replaced; what you wrote elsewhere stays, and so does metadata that the facts do not hold.
    Costs a second and needs no network.

    **Example**

    `hf-kd card my-student --license apache-2.0 --language sw --language ha`
    """
    import dataclasses

    from .. import facts_file, publication

    given = {
        "licence": license,
        "languages": tuple(language) if language else None,
        "datasets": tuple(dataset) if dataset else None,
        "model_name": name,
    }
    try:
        facts = facts_file.load(folder)
        changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
        if license is not None:
            changes["licence_from"] = None
        if changes:
            facts_file.save(folder, dataclasses.replace(facts, **changes))
        path = publication.regenerate(folder)
    except (ValueError, OSError) as error:
        fail(str(error))
    Console().print(f"Wrote {path}", highlight=False, soft_wrap=True, markup=False)
