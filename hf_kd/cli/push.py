"""`hf-kd push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .failure import fail


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a saved student.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Hub id, such as user/name; made if absent.")],
    private: Annotated[bool, typer.Option("--private", help="The repository must be private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch to commit to; made if absent.")] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Message of the commit.")] = "Upload a distilled student",
) -> None:
    """Upload a saved student with its card to the Hub, in one commit.

    The token is that of `hf auth login`, or of HF_TOKEN. An upload that breaks is tried again, and what arrived is not
    sent twice; the folder is never changed. What serves training alone stays here: optimizer, checkpoints, and
    training_args.bin, which holds local paths.

    **Example**

    `hf-kd push my-student my-name/my-student --private`
    """
    from ..hub import PublishError
    from ..hub import push as upload

    console = Console()
    try:
        address = upload(
            folder,
            repository,
            private=private,
            revision=revision,
            message=message,
            on_failure=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
        )
    except PublishError as error:
        fail(str(error))
    console.print(f"Published: {address}", highlight=False, markup=False, soft_wrap=True)
