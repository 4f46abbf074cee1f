"""`hf-kd compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .failure import fail


def compare(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Folder or Hub id of the teacher.")],
    students: Annotated[list[str], typer.Argument(metavar="STUDENT", help="Folders or Hub ids of its students.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="LANG=FILE...",
            help="Held-out rows, one file a language: text, one line a row; or .jsonl with `text` and `label` for "
            "classifiers, `tokens` and `ner_tags` for taggers.",
        ),
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables and plots.")] = Path("comparison"),
    max_rows: Annotated[int, typer.Option(metavar="N", help="Rows of a language at most; more are sampled.")] = 1000,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest row, in tokens.")] = 128,
    mask_ratio: Annotated[float, typer.Option(metavar="R", help="Share of tokens masked, 0 to 1.")] = 0.15,
    pseudo_perplexity: Annotated[
        int, typer.Option(metavar="N", help="Rows to measure pseudo-perplexity on; a pass for each token.")
    ] = 0,
    rounds: Annotated[int, typer.Option(metavar="N", help="Turns of each timing; 0 leaves speed out.")] = 15,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of samples, masks and intervals.")] = 0,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Add the figures to the facts and card of each student's folder.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Use the accelerator; the default needs none.")] = False,
) -> None:
    """Measure students against their teacher, language by language.

    Shows scores with 95 % intervals, what each student keeps of its teacher, how alike they answer, size and speed;
    writes comparison.json, comparison.csv and plots. What to measure follows from the teacher's head: masked or next
    tokens, classes, or entities. A language that was measured is not measured again, so an interrupted comparison goes
    on where it was.

    **Costs** about a minute for 5 languages of 400 lines and two small models on 2 CPU cores; no network for folders.

    **Example**

    `hf-kd compare demo_output/teacher demo_output/student --data sw=demo_output/text/sw.held_out.txt --update-card`
    """
    from ..evaluation.contestants import CompareError

    console = Console()
    try:
        from ..demo.process import prepare_process
        from ..evaluation import report
        from ..evaluation.compare import CompareSettings
        from ..evaluation.compare import compare as measure
        from ..evaluation.progress import show_steps
        from ..evaluation.update import update_cards

        prepare_process(threads=None)
        settings = CompareSettings(
            seed=seed,
            mask_ratio=mask_ratio,
            max_tokens=max_tokens,
            max_rows=max_rows,
            pseudo_rows=pseudo_perplexity,
            rounds=rounds,
            device="cuda" if gpu else "cpu",
        )
        # `--data sw=a.txt ha=b.txt`: the second word reaches us as one more student.
        more = [word for word in students if "=" in word and not Path(word).exists()]
        students = [word for word in students if word not in more]
        files = _read_data([*data, *more])
        with show_steps(console) as on_step:
            found = measure([teacher, *students], files, output_dir / "measured", settings, on_step)
        report.show(console, found)
        written = report.write(found, output_dir)
        written += update_cards(found) if update_card else []
    except (CompareError, OSError) as error:
        fail(str(error))
    for path in written:
        console.print(f"Wrote {path}", highlight=False, soft_wrap=True, markup=False)


def _read_data(data: list[str]) -> dict[str, Path]:
    """Files by language, of `LANG=FILE` words."""
    from ..evaluation.contestants import CompareError

    files: dict[str, Path] = {}
    for word in data:
        language, equals, file = word.partition("=")
        if not (language.strip() and equals and file):
            raise CompareError(f"`--data {word}` is not of the form LANG=FILE. Write, say, --data sw=swahili.txt.")
        if language in files:
            raise CompareError(f"`{language}` has two files in --data. Join them, or name one of them otherwise.")
        files[language.strip()] = Path(file)
    return files
