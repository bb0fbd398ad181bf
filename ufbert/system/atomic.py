"""Files and folders that appear whole or not at all, and never in place of something unasked."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ufbert.errors import OutputError

__all__ = ["check_new", "explain_failure", "link_or_copy", "write_file", "write_folder"]

# How linking fails where files can be written but not linked: exFAT, object stores, a folder on two mounts.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


def check_new(path: Path, what: str, option: str = "--out") -> None:
    """Raise `OutputError` if `path` exists (an empty folder does not count) or its parent is not writable."""
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise OutputError(f"{path}: already exists; choose another {option} for the {what}, or remove it")
    parent = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is a file, not a folder; choose another {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write into {parent}; choose another {option}")


@contextlib.contextmanager
def write_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `destination` that becomes it when the block ends without an error.

    With `replace`, an existing folder is exchanged in one step, and files of it that the block did not write
    are carried over as hard links, or as copies where the file system has none. Raises `OutputError` if it
    exists otherwise, or cannot be written.
    """
    if not replace:
        check_new(destination, "output")
    destination = destination.absolute()
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        explain_failure(error, destination)
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        old = destination.is_dir()
        if old:
            _carry_over(destination, temporary)
        for file in temporary.rglob("*"):
            if file.is_file():  # some writers make files that only their owner may read
                file.chmod(0o666 & ~_umask())
            _sync(file)
        _sync(temporary)
        if old and _exchange(temporary, destination):
            pass  # the temporary name now holds the old folder, removed below
        else:
            if old:
                aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
                destination.rename(aside / "old")
                temporary.rename(destination)
                shutil.rmtree(aside)
            else:
                temporary.rename(destination)
        _sync(destination.parent)
    except OSError as error:
        explain_failure(error, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def write_file(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `destination` that becomes it when the block ends without an error."""
    if not replace:
        check_new(destination, "output", "--output")
    destination = destination.absolute()
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{destination.stem}.", suffix=destination.suffix, dir=destination.parent
        )
        os.close(handle)
    except OSError as error:
        explain_failure(error, destination)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.rename(destination)
        _sync(destination.parent)
    except OSError as error:
        explain_failure(error, destination)
    finally:
        temporary.unlink(missing_ok=True)


def explain_failure(error: OSError, destination: Path) -> NoReturn:
    """Raise the `OutputError` that says why `destination` could not be written."""
    if isinstance(error, OutputError):
        raise error
    advice = {
        errno.ENOSPC: "no space left on the disk; free some, or choose another place",
        errno.EDQUOT: "the disk quota is used up; free some space, or choose another place",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.EACCES: "no permission to write there; choose another place",
        errno.EPERM: "not permitted to write there; choose another place",
    }.get(error.errno or 0, f"cannot be written: {error.strerror or error}")
    raise OutputError(f"{destination}: {advice}") from error


def _carry_over(old: Path, new: Path) -> None:
    """Link what the writer did not write; a folder that it did write is complete as it is."""
    for entry in old.iterdir():
        copy = new / entry.name
        if entry.is_dir() and not copy.exists():
            shutil.copytree(entry, copy, copy_function=link_or_copy)
        elif entry.is_file() and not copy.exists():
            link_or_copy(entry, copy)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the file system cannot. Raises `OSError`."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copy2(source, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux's renameat2); False where the system cannot."""
    at_current_folder, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    result: int = renameat2(at_current_folder, os.fsencode(first), at_current_folder, os.fsencode(second), exchange)
    return result == 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
