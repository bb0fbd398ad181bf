"""Pointers that git leaves in the place of large files where git-lfs is missing."""

from __future__ import annotations

from pathlib import Path

from ufbert.errors import CheckpointError

__all__ = ["is_git_lfs_pointer", "refuse_git_lfs_pointer"]

BEGINNING = b"version https://git-lfs.github.com/spec/"


def is_git_lfs_pointer(file: Path) -> bool:
    """Whether a file is the few lines that git puts in a large file's place where git-lfs is missing."""
    try:
        with file.open("rb") as content:
            return content.read(len(BEGINNING)) == BEGINNING
    except OSError:
        return False  # whoever reads the file says what is wrong with it


def refuse_git_lfs_pointer(file: Path) -> None:
    """Raise `CheckpointError` for a pointer in the place of a file."""
    if is_git_lfs_pointer(file):
        raise CheckpointError(
            f"{file}: git has left a pointer here in place of the file; install git-lfs and run `git lfs pull` in "
            f"{file.parent}, or give the model's name on the hub"
        )
