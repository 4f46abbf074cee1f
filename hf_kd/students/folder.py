"""A student's folder: all of it, or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plans import StudentPlan, TrimPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAN_FILE = "student_plan.json"
_FORMAT = 1


def check_output(folder: Path) -> None:
    """Refuse a folder that cannot be written, before any work is done.

    Raises:
        FileExistsError: it exists and is not empty.
        PermissionError: it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`{folder}` is a file. Name a folder that does not exist yet, or an empty one.")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"`{folder}` exists and is not empty; nothing in it was touched. Name another folder, or empty it first."
        )
    parent = _existing_parent(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"`{folder}` cannot be made: `{parent}` is not writable. Name a folder where you may write."
        )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name only when the block ends well.

    Raises:
        FileExistsError: the folder exists and is not empty.
        PermissionError: it cannot be written.
    """
    check_output(folder)
    folder = folder.absolute()
    missing = [parent for parent in folder.absolute().parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        within = folder if folder.exists() else folder.parent
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=within))
    except OSError as error:
        raise PermissionError(
            f"`{folder}` cannot be made ({error.strerror}). Name a folder where you may write."
        ) from error
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        if folder.exists():  # it may be a mount, a link or where somebody stands: it is filled, not replaced
            for item in sorted(partial.iterdir()):
                os.replace(item, folder / item.name)
            partial.rmdir()
        else:
            os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:  # nearest first: what was made for it goes with it
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def save_student(
    folder: Path, student: PreTrainedModel, plan: StudentPlan, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write model, tokenizer and plan into a folder."""
    student.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / PLAN_FILE).write_text(plan_to_json(plan), encoding="utf-8")


def plan_to_json(plan: StudentPlan) -> str:
    """The plan as JSON, one line a field."""
    fields = {"format": _FORMAT} | dataclasses.asdict(plan)
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def plan_from_json(text: str) -> StudentPlan:
    """Read a plan that `plan_to_json` wrote.

    Raises:
        ValueError: it is no plan, or of another format.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise ValueError(f"This is no student plan of format {_FORMAT}. Make the plan anew with this version of hf_kd.")
    sizes = fields.pop("sizes")
    trim = fields.pop("trim")
    sizes = {name: (old, new) for name, (old, new) in sizes.items()}
    plan = StudentPlan(sizes=sizes, **{name: _tuples(value) for name, value in fields.items()})
    return plan if trim is None else dataclasses.replace(plan, trim=TrimPlan.from_dict(trim))


def read_plan(folder: str | Path) -> StudentPlan | None:
    """The plan in a student's folder, or None if there is none."""
    path = Path(folder) / PLAN_FILE
    return plan_from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _existing_parent(folder: Path) -> Path:
    for parent in (folder.absolute(), *folder.absolute().parents):
        if parent.exists():
            return parent
    return Path("/")
