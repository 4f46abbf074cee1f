"""Where a run came from: its command, its machine, its teacher's licence. No local path and no secret."""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, constants, hf_hub_download

from .facts_file import scrub

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SECRET_FLAG = re.compile(r"(^|[_-])(token|key|password|secret)$", re.IGNORECASE)
_PERSONAL_FLAGS = ("hub_model_id", "run_name", "push_to_hub_model_id", "project", "trackio_space_id")
_LAUNCHERS = ("pytest", "ipykernel_launcher", "__main__", "-c", "-m", "")


def hub_id(name: str | None) -> str | None:
    """The name if it has the form of a Hub id and is no local path, else None."""
    return name if name and _HUB_ID.fullmatch(name) and not _exists(name) else None


def command_of(argv: Sequence[str], processes: int = 1) -> tuple[str, ...]:
    """A command that somebody else can read: local paths become names in capitals, secrets go.

    Args:
        argv: the words of the command, the program first.
        processes: number of processes that ran it.

    Returns:
        The words; none if the program is no command of its own, such as a notebook.

    Example:
        >>> " ".join(command_of(["/home/me/run_mlm.py", "--train_file", "/data/hausa.txt", "--hub_token=hf_x"]))
        'python run_mlm.py --train_file TRAIN_FILE'
    """
    program = re.split(r"[/\\]", argv[0])[-1] if argv else ""
    if program.removesuffix(".py") in _LAUNCHERS:
        return ()
    words = [program]
    if program.endswith(".py"):
        words = ["torchrun", "--nproc_per_node", str(processes), program] if processes > 1 else ["python", program]
    flag = ""
    for word in argv[1:]:
        name, equals, value = word.partition("=")
        if word.startswith("--") and not equals:
            flag = word.removeprefix("--")
            if not _SECRET_FLAG.search(flag):
                words.append(_one_line(word))
        elif word.startswith("--"):
            flag = name.removeprefix("--")
            if not _SECRET_FLAG.search(flag):
                words.append(f"{_one_line(name)}={_public(flag, value)}")
        elif not _SECRET_FLAG.search(flag):
            words.append(_public(flag, word))
    return tuple(words)


def command_line(processes: int) -> tuple[str, ...]:
    """The command of this process; see `command_of`."""
    return command_of(sys.argv, processes)


def shell(words: Iterable[str]) -> str:
    """Words as a command to paste, one flag a line.

    Example:
        >>> print(shell(["python", "run.py", "--text", "a b", "--x"]))
        python run.py \\
            --text 'a b' \\
            --x
    """
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines)


def hardware_of(device: torch.device) -> dict[str, Any]:
    """The machine, in words that say nothing of its owner."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "logical cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found |= {"accelerator": torch.cuda.get_device_name(device), "accelerators": torch.cuda.device_count()}
    return found | {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}


@functools.cache  # asked on every save
def licence_of(name: str | None, revision: str | None) -> str | None:
    """The licence that a model's own card states, or None.

    Args:
        name: Hub id or folder that the model was loaded from.
        revision: commit of that Hub id, or None for a folder.
    """
    if not name or not (revision or Path(name).is_dir()):
        return None
    try:
        is_folder = Path(name).is_dir()
        path = Path(name) / "README.md" if is_folder else hf_hub_download(name, "README.md", revision=revision)
        licence = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    except Exception:  # no card, no network, or metadata of any shape: then nothing is known
        return None
    return licence if isinstance(licence, str) else None


def carbon_of(callbacks: Iterable[object]) -> float | None:
    """Kilograms of CO₂ that codecarbon's callback estimated, or None."""
    for callback in callbacks:
        emissions = getattr(getattr(callback, "tracker", None), "final_emissions", None)
        if isinstance(emissions, float):
            return emissions
    return None


def _public(flag: str, value: str) -> str:
    """A flag's value, or the flag's name in capitals where the value says where something lies."""
    is_path = bool(value) and (_exists(value) or (re.search(r"[/\\~]", value) and hub_id(value) is None))
    if is_path or flag in _PERSONAL_FLAGS or scrub(value) != value or constants.ENDPOINT in value:
        return re.sub(r"\W", "_", flag).upper() or "PATH"
    return _one_line(value)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", "".join(letter if letter.isprintable() else " " for letter in text)).strip()


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a name, or holding a null byte
        return False


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()
