"""`hf-kd trim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cutting import Request, carry_out, parse_texts


def trim(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or folder of the model, with its tokenizer.")],
    output_dir: Annotated[
        Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the trimmed model; must be new.")
    ],
    text: Annotated[
        list[str],
        typer.Option(
            metavar="[LANG=]FILE",
            help="Text of the languages to keep, UTF-8, one sentence a line; give it once a file. Each language "
            "counts the same.",
        ),
    ],
    vocab_size: Annotated[int | None, typer.Option(metavar="N", help="Most tokens to keep.")] = None,
    coverage: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of the text's tokens to keep, such as 0.999.")
    ] = None,
    revision: Annotated[str, typer.Option(metavar="REV", help="Branch, tag or commit of the model.")] = "main",
    num_proc: Annotated[int, typer.Option(metavar="N", help="Processes that count tokens.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the sizes before and after; write nothing.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code from the model's repository run.")
    ] = False,
) -> None:
    """Trim a model's vocabulary to the languages of a text; nothing needs training.

    Special tokens, added tokens, bytes and the text's characters always stay. On text of kept tokens the segmentation
    and the logits are those of the whole model. Works on teachers and students alike; a trimmed student learns from an
    untrimmed teacher without any further flag.

    **Costs** one pass over the text and the memory of both models.

    **Example**

    `hf-kd trim my-org/my-xlmr my-xlmr-hausa --text hau=hausa.txt --vocab-size 16000`
    """
    carry_out(
        Request(
            model,
            output_dir,
            revision=revision,
            trust_remote_code=trust_remote_code,
            texts=parse_texts(text),
            vocabulary={"vocab_size": vocab_size, "coverage": coverage},
            num_proc=num_proc,
            dry_run=dry_run,
        ),
        Console(),
    )
