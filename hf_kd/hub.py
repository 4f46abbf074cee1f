"""Publishing a student: the only module of `hf_kd` that uploads."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from . import card, facts_file
from .publication import weight_files

LEFT_OUT = (
    "training_args.bin",
    "trainer_state.json",
    "optimizer.*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "kd_projections.safetensors",
    "checkpoint-*",
    "runs/*",
    "emissions.csv",
    "*.partial",
    ".*",
    "_*",
    "*/.*",
    "*/__pycache__/*",
)
"""Files that serve training alone; some of them hold local paths."""

_MAY_PASS = (408, 409, 412, 429, 500, 502, 503, 504)
"""Statuses of a server that is busy, or of two commits at once: worth another attempt."""


class PublishError(RuntimeError):
    """Something the user can put right; the command shows it without a traceback."""


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a distilled student",
    attempts: int = 4,
    wait: Callable[[float], object] = time.sleep,
    on_failure: Callable[[str], object] = lambda _: None,
) -> str:
    """Upload a saved student, its card and its facts, in one commit.

    The folder is not changed. The repository is made if there is none. An upload that breaks is
    tried again: what arrived is not sent twice, and the commit comes last, so that the repository
    never holds half a model.

    Args:
        folder: what `save_pretrained` or the trainer wrote.
        repository: Hub id, such as "user/name".
        private: whether the repository must be private.
        revision: branch to commit to, made if there is none; None for the main one.
        message: of the commit.
        attempts: how often to try.
        wait: called with the seconds to wait before another attempt.
        on_failure: told of each attempt that failed and is followed by another.

    Returns:
        Address of the commit.

    Raises:
        PublishError: the folder holds no model, the Hub refuses, or it cannot be reached.
    """
    folder = Path(folder)
    token = get_token()
    content = _content(folder, repository, token)
    reason = ""
    for attempt in range(attempts):
        if attempt:
            on_failure(f"Attempt {attempt} of {attempts} failed ({reason}); trying again.")
            wait(2.0**attempt)
        try:
            return str(_push(content, repository, private, revision, message).commit_url)
        except Exception as error:
            refusal = error if isinstance(error, PublishError) else _refusal(error, repository, token)
            if refusal is not None:
                raise refusal from None  # what the client raised may show the request's headers
            reason = _reason(error, token)
    raise PublishError(
        f"`{folder}` could not be uploaded to {constants.ENDPOINT} in {attempts} attempts; the last one failed because "
        f"of {reason}. The folder is as it was, and what arrived is kept: repeat the command when the network is back."
    )


def _push(
    content: dict[str, Path | bytes], repository: str, private: bool, revision: str | None, message: str
) -> CommitInfo:
    api = HfApi()
    name = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
    if private and not api.model_info(name).private:
        raise PublishError(
            f"`{name}` exists and is public, but --private was asked for. Make it private in its settings on the Hub, "
            "choose another name, or leave --private out."
        )
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    operations = [CommitOperationAdd(path, given) for path, given in content.items()]
    return api.create_commit(name, operations, commit_message=message, revision=revision)


def _content(folder: Path, repository: str, token: str | None) -> dict[str, Path | bytes]:
    """What to upload, by path in the repository; the card with the address that it will have.

    Raises:
        PublishError: it is no model, or a file holds the token.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise PublishError(
            f"Folder `{folder}` holds no config.json, so it is no saved model. Name the folder that the student was "
            "saved in."
        )
    if not weight_files(folder):
        raise PublishError(f"Folder `{folder}` holds no weights (*.safetensors). Save the student again.")
    content: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_left_out(path.relative_to(folder).as_posix())
    }
    if facts_file.FILE_NAME in content:
        try:
            facts = facts_file.load(folder)
            if "/" in repository:  # else it lacks the owner, whom the token decides
                facts = dataclasses.replace(facts, repository=repository)
            existing = folder / card.FILE_NAME
            text = card.compose(facts, existing.read_text(encoding="utf-8") if existing.is_file() else None)
        except ValueError as error:
            raise PublishError(str(error)) from error
        content[facts_file.FILE_NAME] = facts_file.dumps(facts).encode()
        content[card.FILE_NAME] = text.encode()
    for path, given in content.items():
        if token and token.encode() in (given if isinstance(given, bytes) else given.read_bytes()):
            raise PublishError(
                f"File `{path}` holds the very token that would be used, which everybody could read. Remove it there, "
                "and revoke the token if the file was ever shared."
            )
    return content


def _is_left_out(path: str) -> bool:
    return any(fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*") for pattern in LEFT_OUT)


def _refusal(error: Exception, repository: str, token: str | None) -> PublishError | None:
    """What to tell of a failure that another attempt would not mend; None where it might."""
    if isinstance(error, OfflineModeIsEnabled):
        return PublishError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it and repeat the command; the folder is as it "
            "was."
        )
    if isinstance(error, HFValidationError):
        return PublishError(f"`{repository}` is no Hub id: {error} Write it as user/name.")
    if isinstance(error, HfHubHTTPError):
        return _answered(error, repository, token)
    if isinstance(error, ValueError) and "metadata" in str(error):  # of the card, which the client has the Hub check
        return PublishError(
            f"The Hub does not take the card: {_public(error, token)} Correct README.md's metadata and repeat the "
            "command; the folder is as it was."
        )
    return None


def _answered(error: HfHubHTTPError, repository: str, token: str | None) -> PublishError | None:
    status = error.response.status_code if error.response is not None else None
    if status in _MAY_PASS:
        return None
    if status == 401:
        return PublishError(
            "The Hub does not know you: there is no token, or it is no longer valid. Run `hf auth login`, or set "
            "HF_TOKEN, with a token that may write. The folder is as it was."
        )
    if status == 403:
        return PublishError(
            f"Your token may not write to `{repository}`. Use a token with write access, or a repository of your own. "
            "The folder is as it was."
        )
    reason = _public(error.server_message or f"status {status}", token)
    return PublishError(f"The Hub refused the upload to `{repository}`: {reason} The folder is as it was.")


def _reason(error: Exception, token: str | None) -> str:
    """Why an attempt failed, in words."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the Hub's answer {error.response.status_code}"
    if isinstance(error, RuntimeError):  # the client wraps what befell the storage of large files
        return _public(error.__cause__ or error, token)
    return _public(f"{type(error).__name__}: {error}", token)


def _public(text: object, token: str | None) -> str:
    """A message without the token, in one line."""
    flat = " ".join(str(text).split())
    return facts_file.scrub(flat.replace(token, facts_file.REMOVED) if token else flat)
