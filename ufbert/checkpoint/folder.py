"""A checkpoint's folder: where it is, and its files read and written with errors that say what to do.

`config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`, `README.md`, and the files of
`sentence_transformers` where a converted model embeds in a way of its own. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ufbert.errors import CheckpointError

from .download import download_checkpoint
from .git_lfs import refuse_git_lfs_pointer

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "checkpoint_files",
    "locate_checkpoint",
    "read_json",
    "read_pickled_tensors",
    "read_tensors",
    "write_tensors",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FILES = (".bin", ".json", ".safetensors")


def locate_checkpoint(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; anything that is no path is fetched from the Hugging Face hub.

    `revision` is a branch, tag or commit there. Raises `CheckpointError` if there is neither such a folder nor
    such a model on the hub, and for a revision of a folder.
    """
    path = Path(folder_or_hub_id).expanduser()
    text = str(folder_or_hub_id)
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{text}: is a folder here, which has no revisions; leave out --revision {revision}")
        return path
    if path.exists():
        raise CheckpointError(f"{text}: is a file; give the checkpoint's folder")
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise CheckpointError(f"{text}: no such folder")
    return download_checkpoint(text, revision)


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """The files that a checkpoint is read from, in their order, those of its modules for embeddings too."""
    found = [*folder.iterdir(), *folder.glob("[0-9]*_*/*")]
    return (file for file in sorted(found) if file.suffix in FILES)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises `CheckpointError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {path.parent} is not a checkpoint") from error
    except json.JSONDecodeError as error:
        refuse_git_lfs_pointer(path)
        raise CheckpointError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return values


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises `CheckpointError`."""
    refuse_git_lfs_pointer(path)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; {path.parent} is not a checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {error}") from error


def read_pickled_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch file, unpickled weights-only. Raises `CheckpointError`."""
    refuse_git_lfs_pointer(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file, but the checkpoint's index names it; fetch it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: holds more than tensors, and unpickling that could run code, so it was not read; "
            "take a safetensors version of the model, or save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise CheckpointError(f"{file}: damaged or not a torch file ({' '.join(reason)}); fetch it again") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise CheckpointError(f"{file}: holds no state_dict (names with tensors)")
    return content


def write_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write a safetensors file. Raises `OSError` as other writing does, so that `write_folder` explains it."""
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library passes the system's error on in its text alone.
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error
