"""A finished folder to the Hugging Face hub, as a model repository."""

from __future__ import annotations

import shlex
from pathlib import Path

from ufbert.errors import ConfigError, OutputError
from ufbert.reporting import console

__all__ = ["check_upload", "upload_checkpoint"]


def check_upload(name: str) -> None:
    """Raise `ConfigError` for a name that no repository can have, or without a token; nothing is sent."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"--push {name}: no name of a repository on the Hugging Face hub; write USER/MODEL, in letters, digits, "
            "-, _ and ."
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"--push {name}: HF_HUB_OFFLINE is set; unset it, or leave out --push")
    if get_token() is None:
        raise ConfigError(
            f"--push {name}: not logged in to the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may write"
        )


def upload_checkpoint(folder: Path, name: str, *, private: bool = False) -> str:
    """Create the model repository `name` unless it exists, send the folder's files, and return the address.

    Raises `OutputError` that says how to send them by hand. With `private`, nothing is sent to a repository that
    all can read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not console().is_terminal:
        disable_progress_bars()
    # The roots of the errors of whichever HTTP library the hub's client uses; a card that the hub does not take is a
    # ValueError, and what its storage says a RuntimeError.
    expected: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
    api = HfApi()
    try:
        made = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(made.repo_id).private:
            raise OutputError(
                f"{folder}: is complete, but {made.repo_id} on the Hugging Face hub exists already and is public, so "
                "nothing was sent; choose another --push, or leave out --private"
            )
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload by ufbert convert")
    except OutputError:
        raise
    except expected as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        command = shlex.join(["hf", "upload", name, str(folder), ".", *(["--private"] if private else [])])
        raise OutputError(
            f"{folder}: is complete, but could not be sent to {name} on the Hugging Face hub ({reason}); send it by "
            f"hand: {command}"
        ) from error
    return str(made)
