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
    from safetensors import SafetensorError

    try:
        _check(request)
        _carry_out(request, console)
    except (ValueError, TypeError, OSError, HfHubHTTPError) as error:
        elsewhere = "" if Path(request.source).exists() else f" There is no folder `{request.source}` here either."
        fail(f"{error}{elsewhere}")
    except (SafetensorError, RuntimeError, KeyError) as error:  # a file cut short, an adapter of another model
        fail(f"`{request.adapter or request.source}` cannot be read as it is: {error}")


def _check(request: Request) -> None:
    """What can be refused before anything is read."""
    from ..students.folder import check_output

    if not request.dry_run:
        check_output(request.output)
    if request.vocabulary and sum(value is not None for value in request.vocabulary.values()) != 1:
        raise ValueError("Give one of `--vocab-size` and `--coverage`.")
    needs_text = bool(request.vocabulary) or "importance" in _rules(request)
    if needs_text and not request.texts:
        what = "A vocabulary is trimmed to what a text uses" if request.vocabulary else "Importance is measured on text"
        raise ValueError(f"{what}, but there is no text. Give `--text FILE...`.")
    if request.texts and not needs_text:
        raise ValueError(
            "Nothing reads `--text`. Give `--vocab-size`, `--coverage` or a rule `importance`, or drop it."
        )
    for path in (path for paths in request.texts.values() for path in paths):
        if not path.is_file():
            raise FileNotFoundError(f"`{path}` is no file. Give `--text` a file with one sentence a line.")


def _carry_out(request: Request, console: Console) -> None:
    import torch

    from ..facts import with_origin
    from ..students import build_student, plan_student
    from ..students.report import size_table
    from ..students.sizes import planned_sizes, sizes_of
    from ..students.source import adapter_base, load_source, source_skeleton
    from ..teachers import position_limit
    from ..vocabulary.load import load_tokenizer

    hub: dict[str, Any] = {"revision": request.revision, "trust_remote_code": request.trust_remote_code}
    base = adapter_base(request.source, request.revision)
    shape_of = (request.source, hub) if base is None else (base, {"trust_remote_code": request.trust_remote_code})
    skeleton = source_skeleton(shape_of[0], **shape_of[1])
    plan_student(skeleton, **_unmeasured(request.shape))  # what cannot be cut is refused before any weight loads
    tokenizer = load_tokenizer(request.source, **hub)
    if tokenizer is None and base is not None:
        tokenizer = load_tokenizer(base, trust_remote_code=request.trust_remote_code)
    trim = _plan_trim(request, tokenizer, skeleton)
    is_adapted = base is not None or request.adapter is not None
    if request.dry_run and not is_adapted and not {"importance", "svd"} & set(_rules(request)):
        teacher = skeleton
    else:
        console.print(f"Loading {request.source} ...", highlight=False, markup=False)
        teacher = load_source(request.source, adapter=request.adapter, **hub)
    sample = _sample(request, tokenizer, position_limit(teacher)) if "importance" in _rules(request) else None
    with console.status("Planning"):
        plan = plan_student(teacher, sample=sample, progress=_bar, **request.shape)
    notes = list(plan.notes)
    if is_adapted:
        notes.append("a peft adapter was merged into the teacher first")
    if request.shape.get("weights") == "random":
        notes.append(f"the random weights were drawn with seed {request.seed}")
    plan = with_origin(dataclasses.replace(plan, trim=trim, notes=tuple(notes)), teacher)
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
    said = f"Model, plan, card and picture are in {folder}{without}."
    console.print(said, highlight=False, soft_wrap=True, markup=False)


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
    if shape.get("width") in ("importance", "svd"):
        rules["width"] = "truncate"
    return {**shape, **rules}


def _plan_trim(
    request: Request, tokenizer: PreTrainedTokenizerBase | None, skeleton: PreTrainedModel
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
    check_own_tokenizer(skeleton.config.get_text_config(), tokenizer)
    counts = count_tokens(tokenizer, request.texts, num_proc=request.num_proc)
    return plan_trim(tokenizer, counts, model_config=skeleton.config, **request.vocabulary)


def _sample(request: Request, tokenizer: PreTrainedTokenizerBase | None, limit: int | None) -> Any:
    from ..students import sample_batches

    if tokenizer is None:
        raise ValueError(
            "Importance is measured on text, but no tokenizer lies beside the teacher. Save its tokenizer there, or "
            "use another rule."
        )
    lines: list[str] = []
    for paths in request.texts.values():
        language = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        share = max(1, len(language) * len(request.texts) // 128)  # as many rows of each language
        lines += language[::share][: 128 // len(request.texts) + 1]
    return sample_batches(tokenizer, lines, max_length=min(128, limit or 128))


def _bar(items: Iterable[Any]) -> Iterable[Any]:
    return track(list(items), description="Measuring layers")
