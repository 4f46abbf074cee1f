"""`hf-kd demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .failure import fail


def demo(
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Your own teacher: a masked language model with its tokenizer, as a folder or Hub id. It is not "
            "trained further. Needs --text.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help="Text for your teacher, UTF-8, one sentence a line, one file a language; the file's stem names the "
            "language. Lines are sampled.",
        ),
    ] = None,
    more_text: Annotated[list[Path] | None, typer.Argument(metavar="FILE", hidden=True)] = None,
    output_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for everything made; files of an earlier demo are replaced.")
    ] = Path("demo_output"),
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimizer steps of each student. Time grows with it.")
    ] = None,
    student_layers: Annotated[
        int | None, typer.Option(metavar="K", help="Layers of the student; by default a third of the teacher's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Lines per step.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Peak learning rate of both students. By default 3e-3, or 5e-4 with your own teacher."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of text, masks, weights and batches.")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="Use the accelerator; the default needs none.")] = False,
) -> None:
    """Distil a small multilingual model and see, measured, what distillation brings.

    Trains a 6-layer teacher on text in Swahili, Hausa, Igbo, Yoruba and Filipino (names, dates and amounts from the
    Unicode CLDR) and distils it into 2 layers. For as many steps it trains the same 2 layers without a teacher, from
    scratch and from the same copied layers, and compares all of them on lines none has seen.

    **Costs** about 2.5 minutes on 2 CPU cores, 2 GB of memory and 20 MB of disk; no network.

    **Leaves** in ./demo_output the student with its model card, a plot (accuracy.png), the figures (figures.json),
    the text and the masked lines. Ends with code 1 if the distilled student does not win.

    **Example** with a teacher of your own:

    `hf-kd demo --teacher my-org/my-xlmr --text swa.txt hau.txt --steps 300`
    """
    from ..demo.settings import DemoError, DemoSettings

    console = Console()
    given = {
        "steps": steps,
        "batch_size": batch_size,
        "student_layers": student_layers,
        "learning_rate": learning_rate if learning_rate is not None or teacher is None else 5e-4,
    }
    try:
        settings = DemoSettings(
            output_dir=output_dir,
            seed=seed,
            use_cpu=not gpu,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        from ..demo.process import prepare_process
        from ..demo.run import run_demo

        prepare_process(threads=1 if teacher is None else None)
        figures = run_demo(settings, console, teacher=teacher, text_files=[*(text or ()), *(more_text or ())])
    except DemoError as error:
        fail(str(error))
    if not figures.distilled_wins:
        raise typer.Exit(1)
