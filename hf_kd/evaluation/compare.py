"""Students beside their teacher, language by language; what was measured once is not measured again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..records import Cost, Evaluation
from . import classifiers, tokens, vocabulary
from .contestants import CompareError, Contestant, describe_device, digest, load
from .cost import SHAPES, measure_costs
from .masking import MaskedLine, mask_each, mask_lines, next_tokens
from .rows import Rows, read_rows
from .summary import average, summarise
from .tokens import Statistics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[Statistics, Statistics]
"""Statistics of a student, and of its teacher on the same rows."""


@dataclass(frozen=True)
class CompareSettings:
    """What decides the figures.

    Attributes:
        seed: seed of the sample of rows, of masks and of intervals.
        mask_ratio: share of tokens masked, 0 to 1.
        max_tokens: longest row, in tokens; the rest is cut off.
        max_rows: rows of a language at most.
        pseudo_rows: rows of a language to measure pseudo-perplexity on; a pass for each token.
        rounds: turns of each model at each shape; 0 leaves speed out.
        device: where the models run.
    """

    seed: int = 0
    mask_ratio: float = 0.15
    max_tokens: int = 128
    max_rows: int = 1000
    pseudo_rows: int = 0
    rounds: int = 15
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise CompareError(f"The mask ratio is {self.mask_ratio}; it must lie between 0 and 1. Try 0.15.")
        for name, least in {"max_tokens": 4, "max_rows": 1, "pseudo_rows": 0, "rounds": 0}.items():
            if getattr(self, name) < least:
                raise CompareError(f"`{name}` is {getattr(self, name)}; it must be {least} or more. Raise it.")


@dataclass(frozen=True)
class Comparison:
    """A teacher and its students, measured.

    Attributes:
        teacher: the teacher's name.
        students: each student's evaluation by name.
        folders: folders of the students that lie in one, by name.
        reused: languages that had been measured before.
    """

    teacher: str
    students: Mapping[str, Evaluation]
    folders: Mapping[str, Path]
    reused: tuple[str, ...] = ()


def compare(
    sources: Sequence[str],
    data: Mapping[str, Path],
    cache: Path,
    settings: CompareSettings,
    on_step: Callable[[str, int, int], object] = lambda *_: None,
) -> Comparison:
    """Measure students against their teacher.

    Args:
        sources: folders or Hub ids, the teacher first.
        data: a file of held-out rows by language.
        cache: folder for what is measured, so that an interrupted comparison goes on where it was.
        settings: what decides the figures.
        on_step: told what is being done, how many steps are done, and how many there are.

    Raises:
        CompareError: models, data and settings do not fit.
    """
    if len(sources) < 2 or not data:
        raise CompareError(
            f"{len(sources)} models and {len(data)} languages were given; a comparison needs a teacher, a student and "
            "a language. Name them: hf-kd compare TEACHER STUDENT --data LANG=FILE."
        )
    steps = len(data) + (len(SHAPES) if settings.rounds else 0)
    on_step("loading models", 0, steps)
    task, (teacher, *students) = load(sources, settings.device)
    try:
        rows = [read_rows(language, file, task, settings.max_rows, settings.seed) for language, file in data.items()]
        measured, reused = {}, []
        for done, one in enumerate(rows):
            on_step(one.language, done, steps)
            measured[one.language], was_there = _measured(cache, task, teacher, students, one, settings)
            reused += [one.language] if was_there else []
    except CompareError:
        raise
    except ValueError as error:
        raise CompareError(str(error)) from error
    costs = _costs([teacher, *students], settings, lambda done: on_step("speed", len(rows) + done, steps))
    on_step("done", steps, steps)
    evaluations = {
        student.name: _evaluation(task, rows, measured, teacher, student, costs, settings) for student in students
    }
    folders = {one.name: one.folder for one in students if one.folder is not None}
    return Comparison(teacher.name, evaluations, folders, tuple(reused))


def _costs(
    contestants: Sequence[Contestant], settings: CompareSettings, on_shape: Callable[[int], object]
) -> dict[str, Cost]:
    done = itertools.count(1)
    on_shape(0)
    return measure_costs(
        {one.name: one.model for one in contestants},
        {one.name: one.folder for one in contestants},
        SHAPES if settings.rounds else (),
        settings.rounds,
        lambda: on_shape(next(done)),
    )


def _evaluation(
    task: str,
    rows: Sequence[Rows],
    measured: Mapping[str, Mapping[str, Pair]],
    teacher: Contestant,
    student: Contestant,
    costs: Mapping[str, Cost],
    settings: CompareSettings,
) -> Evaluation:
    summaries = [
        summarise(task, one.language, one.data, *measured[one.language][student.name], [settings.seed, place])
        for place, one in enumerate(rows)
    ]
    return Evaluation(
        weights=student.weights,
        teacher=teacher.hub_id,
        languages=tuple(summary.report for summary in summaries),
        mean=average(summaries),
        student_cost=costs[student.name],
        teacher_cost=costs[teacher.name],
        settings=_public(settings) | _unknown(rows, student, teacher),
        versions={"hf-kd": __version__, **{name: version(name) for name in ("transformers", "torch")}},
    )


def _unknown(rows: Sequence[Rows], student: Contestant, teacher: Contestant) -> dict[str, object]:
    """How much of the text a smaller vocabulary cannot spell."""
    own, texts = student.tokenizer, [row for one in rows for row in one.rows if isinstance(row, str)]
    if own.unk_token_id is None or not texts or own.get_vocab() == teacher.tokenizer.get_vocab():
        return {}
    ids = [token for row in own(texts, add_special_tokens=False)["input_ids"] for token in row]
    unknown = ids.count(own.unk_token_id)
    return {"student's unknown tokens": f"{unknown:,} of {len(ids):,}; both models read the student's tokens"}


def _public(settings: CompareSettings) -> dict[str, object]:
    return asdict(settings) | {"device": describe_device(settings.device)}


def _measured(
    cache: Path,
    task: str,
    teacher: Contestant,
    students: Sequence[Contestant],
    rows: Rows,
    settings: CompareSettings,
) -> tuple[dict[str, Pair], bool]:
    """One language's statistics, from the cache if they are there. Whether they were comes second."""
    shared = {name: value for name, value in asdict(settings).items() if name not in ("rounds", "device")}
    found: dict[str, Pair] = {}
    files = {
        one.name: cache
        / f"{digest(__version__, task, teacher.weights, one.weights, rows.language, rows.data, shared)}.npz"
        for one in students
    }
    for name, file in files.items():
        if file.is_file():
            found[name] = _read(file)
    missing = [one for one in students if one.name not in found]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        for name, pair in _measure(task, teacher, missing, rows, settings).items():
            found[name] = pair
            if all(one.weights for one in (teacher, *missing)):  # without, one state cannot be told from another
                _write(files[name], pair)
    return found, not missing


def _measure(
    task: str, teacher: Contestant, students: Sequence[Contestant], rows: Rows, settings: CompareSettings
) -> dict[str, Pair]:
    if task in ("text-classification", "token-classification"):
        longest = min(one.longest(settings.max_tokens) for one in (teacher, *students))
        labellers = {one.name: classifiers.Labeller(one.model, one.tokenizer, longest) for one in students}
        score = classifiers.score_texts if task == "text-classification" else classifiers.score_words
        of_teacher, of_students = score(
            classifiers.Labeller(teacher.model, teacher.tokenizer, longest), labellers, rows.rows
        )
        return {name: (found, of_teacher) for name, found in of_students.items()}
    pairs: dict[str, Pair] = {}
    alike = []
    for student in students:
        columns = vocabulary.share_columns(student.tokenizer, teacher.tokenizer, student.name)
        if columns is None:
            alike.append(student)
        else:
            pairs |= _measure_tokens(task, teacher, [student], rows, settings, columns)
    return pairs | (_measure_tokens(task, teacher, alike, rows, settings) if alike else {})


def _measure_tokens(
    task: str,
    teacher: Contestant,
    students: Sequence[Contestant],
    rows: Rows,
    settings: CompareSettings,
    columns: tuple[vocabulary.Columns, vocabulary.Columns] | None = None,
) -> dict[str, Pair]:
    """Students that read the same tokens, beside their teacher, who is asked once."""
    tokenizer = (teacher if columns is None else students[0]).tokenizer
    longest = min(one.longest(settings.max_tokens) for one in (teacher, *students))
    ids = tokenizer(list(rows.rows), truncation=True, max_length=longest)["input_ids"]
    lines = _ask(task, rows.language, ids, tokenizer, settings)
    if not lines:
        raise CompareError(f"The rows of `{rows.language}` hold no token to ask for. Give longer rows.")
    own, theirs = columns or (None, None)
    readers = {one.name: tokens.Reader(one.model, one.tokenizer.pad_token_id, own) for one in students}
    reader = tokens.Reader(teacher.model, teacher.tokenizer.pad_token_id, theirs)
    of_teacher, of_students = tokens.score_group(reader, readers, lines)
    if task == "fill-mask" and settings.pseudo_rows:
        alone = [mask_each(rows.language, of_row, tokenizer) for of_row in ids[: settings.pseudo_rows]]
        asked = [line for of_row in alone for line in of_row]
        taught, learned = tokens.score_group(reader, readers, asked)
        counts = [len(of_row) for of_row in alone]
        of_teacher |= _alone(taught, counts, len(lines))
        of_students = {name: found | _alone(learned[name], counts, len(lines)) for name, found in of_students.items()}
    return {name: (found, of_teacher) for name, found in of_students.items()}


def _ask(
    task: str,
    language: str,
    ids: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    settings: CompareSettings,
) -> list[MaskedLine]:
    if task == "fill-mask":
        return mask_lines({language: ids}, tokenizer, settings.mask_ratio, f"{settings.seed} {language}")
    return next_tokens({language: ids}, tokenizer)


def _alone(statistics: Statistics, counts: Sequence[int], rows: int) -> Statistics:
    """Statistics of tokens masked alone, summed by row and filled up with rows that were not asked."""
    found = {}
    for name in ("items", "nats"):
        sums = [part.sum() for part in np.split(statistics[name], np.cumsum(counts)[:-1])]
        found[f"alone_{name}"] = np.asarray([*sums, *[0.0] * (rows - len(sums))])[:rows]
    return found


def _write(file: Path, pair: Pair) -> None:
    """Write statistics, whole or not at all."""
    arrays = {f"{side}/{name}": values for side, of in zip(_SIDES, pair, strict=True) for name, values in of.items()}
    partial = file.with_suffix(".partial")
    with partial.open("wb") as content:
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    partial.replace(file)


def _read(file: Path) -> Pair:
    with np.load(file) as content:
        sides = [
            {name.removeprefix(f"{side}/"): content[name] for name in content.files if name.startswith(f"{side}/")}
            for side in _SIDES
        ]
    return sides[0], sides[1]


_SIDES = ("student", "teacher")
