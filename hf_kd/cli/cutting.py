"""What `hf-kd student` and `hf-kd trim` have in common: plan, show, build, write whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from .failure import fail

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..plans import StudentPlan, TrimPlan


@dataclass(frozen=True)
class Request:
    """What a person asked for.

    Attributes:
        source: Hub id or folder of the model to cut.
        output: folder to write.
        adapter: Hub id or folder of an adapter to merge first.
        revision: branch, tag or commit of the source.
        trust_remote_code: whether code from its repository may run.
        shape: arguments of `plan_student`, without the sample.
        texts: files by language.
        vocabulary: `vocab_size` or `coverage`, if the vocabulary is to be trimmed.
        num_proc: processes that count tokens.
        seed: of random weights.
        dry_run: whether to show the plan and write nothing.
    """

    source: str
    output: Path
    adapter: str | None = None
    revision: str = "main"
    trust_remote_code: bool = False
    shape: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[Path]] = field(default_factory=dict)
    vocabulary: dict[str, Any] = field(default_factory=dict)
    num_proc: int = 1
    seed: int = 0
    dry_run: bool = False


def parse_texts(given: Iterable[str]) -> dict[str, list[Path]]:
    """Files by language, from `LANG=FILE` or `FILE`, whose stem is then the language."""
    texts: dict[str, list[Path]] = {}
    for item in given:
        language, separator, name = item.partition("=")
        path = Path(name if separator else item)
        texts.setdefault(language if separator else path.stem, []).append(path)
    return texts


def carry_out(request: Request, console: Console) -> None:
    """Plan, show the sizes and, unless it is a dry run, write the student."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        _carry_out(request, console)
    except (ValueError, TypeError, OSError, HfHubHTTPError) as error:
        fail(str(error))


def _carry_out(request: Request, console: Console) -> None:
    import torch

    from ..facts import with_origin
    from ..students import build_student, plan_student
    from ..students.folder import check_output
    from ..students.report import size_table
    from ..students.sizes import planned_sizes, sizes_of
    from ..students.source import load_source, load_tokenizer, source_skeleton
    from ..teachers import position_limit

    if not request.dry_run:
        check_output(request.output)
    hub: dict[str, Any] = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    skeleton = None if request.adapter else source_skeleton(request.source, **hub)
    if skeleton is not None:  # what cannot be cut is refused before any weight loads
        plan_student(skeleton, **_unmeasured(request.shape))
    tokenizer = load_tokenizer(request.source, **hub)
    trim = _plan_trim(request, tokenizer, skeleton)
    if request.dry_run and skeleton is not None and not {"importance", "svd"} & set(_rules(request)):
        teacher = skeleton
    else:
        console.print(f"Loading {request.source} ...", highlight=False)
        teacher = load_source(request.source, adapter=request.adapter, **hub)
    sample = _sample(request, tokenizer, position_limit(teacher)) if "importance" in _rules(request) else None
    with console.status("Planning"):
        plan = plan_student(teacher, sample=sample, progress=_bar, **request.shape)
    plan = with_origin(dataclasses.replace(plan, trim=trim), teacher)
    if request.dry_run:
        _show(console, plan)
        console.print(size_table(planned_sizes(teacher, plan), sizes_of(teacher)))
        console.print("Dry run: nothing was written.")
        return
    torch.manual_seed(request.seed)
    with console.status("Building the student"):
        student, _ = build_student(teacher, plan=plan)
    _show(console, plan)
    _write(request.output, student, teacher, tokenizer, plan, console)


def _write(
    folder: Path,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    plan: StudentPlan,
    console: Console,
) -> None:
    from ..students import card
    from ..students.folder import save_student, whole_folder
    from ..students.report import size_picture, size_table
    from ..students.sizes import sizes_of
    from ..vocabulary import trim_tokenizer

    if tokenizer is not None and plan.trim is not None:
        tokenizer = trim_tokenizer(tokenizer, plan.trim)
    sizes = sizes_of(student), sizes_of(teacher)
    with console.status("Writing"), whole_folder(folder) as partial:
        save_student(partial, student, plan, tokenizer)
        size_picture(*sizes, partial / "student_sizes.png")
        card.render(folder.absolute().name, plan, *sizes).save(partial / "README.md")
    console.print(size_table(*sizes))
    without = "" if tokenizer is not None else ", without a tokenizer, since none lies beside the teacher"
    console.print(f"Student, plan, card and picture are in {folder}{without}.", highlight=False, soft_wrap=True)


def _show(console: Console, plan: StudentPlan) -> None:
    from ..plan_words import sentences

    for sentence in sentences(plan):
        console.print(f"- {sentence}", highlight=False, markup=False)


def _rules(request: Request) -> tuple[str, ...]:
    """The rules that choose layers and units; random weights have no units to choose from."""
    shape = request.shape
    return (shape.get("layers", "uniform"), shape.get("width", "truncate") if shape.get("weights") != "random" else "")


def _unmeasured(shape: dict[str, Any]) -> dict[str, Any]:
    """The same sizes by rules that need no weights."""
    rules = {"layers": "uniform"} if shape.get("layers") == "importance" else {}
    return {**shape, "width": "truncate", **rules}


def _plan_trim(
    request: Request, tokenizer: PreTrainedTokenizerBase | None, skeleton: PreTrainedModel | None
) -> TrimPlan | None:
    if not request.vocabulary:
        return None
    from ..students.trim import check_own_tokenizer
    from ..vocabulary import count_tokens, plan_trim

    if tokenizer is None:
        raise ValueError(
            f"No tokenizer lies beside `{request.source}`, so its vocabulary cannot be trimmed. Save the model's "
            "tokenizer there."
        )
    if not request.texts:
        raise ValueError("A vocabulary is trimmed to what a text uses, but there is no text. Give `--text FILE...`.")
    config = None
    if skeleton is not None:
        config = skeleton.config
        check_own_tokenizer(config.get_text_config(), tokenizer)
    counts = count_tokens(tokenizer, request.texts, num_proc=request.num_proc)
    return plan_trim(tokenizer, counts, model_config=config, **request.vocabulary)


def _sample(request: Request, tokenizer: PreTrainedTokenizerBase | None, limit: int | None) -> Any:
    from ..students import sample_batches

    if tokenizer is None or not request.texts:
        missing = "no tokenizer lies beside the teacher" if tokenizer is None else "there is no text"
        raise ValueError(f"Importance is measured on text, but {missing}. Give `--text FILE...`, or another rule.")
    lines: list[str] = []
    for paths in request.texts.values():
        language = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        share = max(1, len(language) * len(request.texts) // 128)  # as many rows of each language
        lines += language[::share][: 128 // len(request.texts) + 1]
    return sample_batches(tokenizer, lines, max_length=min(128, limit or 128))


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    return track(list(items), description="Measuring layers")
