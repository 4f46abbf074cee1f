"""`hf-kd student`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .cutting import Request, carry_out, parse_texts


def student(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="Hub id or folder of the teacher, or of a peft adapter over it.")
    ],
    output_dir: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the student; must be new.")],
    num_hidden_layers: Annotated[
        int | None, typer.Option(metavar="K", help="Layers of the student; by default all of the teacher's.")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Which layers: uniform (evenly spaced), first, last, alternating, importance (measured on --text), "
            "or a list counted from 0 such as 0,3,5.",
        ),
    ] = "uniform",
    hidden_size: Annotated[int | None, typer.Option(metavar="N", help="Width; by default the teacher's.")] = None,
    intermediate_size: Annotated[
        int | None, typer.Option(metavar="N", help="Feed-forward width; by default the teacher's.")
    ] = None,
    num_attention_heads: Annotated[
        int | None, typer.Option(metavar="N", help="Attention heads; must divide the hidden size.")
    ] = None,
    width: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="Which units, neurons and heads: truncate, svd, or importance (measured on --text)."
        ),
    ] = "truncate",
    vocab_size: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens to keep, those that --text uses most.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of --text's tokens to keep, such as 0.999.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LANG=]FILE",
            help="Text for counting and measuring, UTF-8, one sentence a line; give it once a file.",
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="SOURCE", help="Where weights come from: teacher (copied) or random.")
    ] = "teacher",
    adapter: Annotated[
        str | None, typer.Option(metavar="PATH", help="A peft adapter to merge into the teacher first.")
    ] = None,
    revision: Annotated[str, typer.Option(metavar="REV", help="Branch, tag or commit of the teacher.")] = "main",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of random weights.")] = 0,
    num_proc: Annotated[int, typer.Option(metavar="N", help="Processes that count tokens.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the sizes before and after; write nothing.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code from the teacher's repository run.")
    ] = False,
) -> None:
    """Cut a student from a teacher: fewer layers, less width, fewer tokens, weights copied.

    What is not cut is copied bit for bit. The teacher's head comes along, so a fine-tuned teacher gives a fine-tuned
    student. OUTPUT_DIR then holds the student for plain `from_pretrained`, its tokenizer, the plan, a card and a
    picture of the sizes; nothing is written if anything fails.

    **Costs** the memory of teacher and student; under a minute for XLM-R-large on 2 cores. Measuring importance runs
    the teacher on 128 rows of text, once a layer.

    **Example**: AfroXLMR-Comet's dimensions, first without writing anything

    `hf-kd student Davlan/afro-xlmr-large comet --num-hidden-layers 6 --hidden-size 256 --intermediate-size 1024
    --num-attention-heads 8 --dry-run`
    """
    vocabulary = {"vocab_size": vocab_size, "coverage": coverage}
    carry_out(
        Request(
            teacher,
            output_dir,
            adapter=adapter,
            revision=revision,
            trust_remote_code=trust_remote_code,
            shape={
                "num_hidden_layers": num_hidden_layers,
                "layers": layers,
                "hidden_size": hidden_size,
                "intermediate_size": intermediate_size,
                "num_attention_heads": num_attention_heads,
                "width": width,
                "weights": weights,
            },
            texts=parse_texts(text or ()),
            vocabulary=vocabulary if any(value is not None for value in vocabulary.values()) else {},
            num_proc=num_proc,
            seed=seed,
            dry_run=dry_run,
        ),
        Console(),
    )
