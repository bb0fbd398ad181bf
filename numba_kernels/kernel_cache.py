"""Compiled kernels on disk, in one folder for each state of this package's source.

Numba's own cache knows of a kernel only the file it stands in. Kernels of this package call each other across
files, so after an edit or an update it would go on running what the other files used to say. Here a folder's name
is a hash of all of them, and of the versions of Python, Numba and llvmlite; a file's name is one of the kernel, its
argument types and the processor. A file is written once and renamed into place: there is no index that processes
could overwrite for each other.

The folders stand in `ufbert/kernels` of $NUMBA_CACHE_DIR if that is set, else of $XDG_CACHE_HOME or ~/.cache. Of
those that other states of the source left, the most recently used stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import _Cache as Cache
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

__all__ = ["KernelCache", "cache_folder", "why_not_writable"]

logger = logging.getLogger("ufbert.numba_kernels")

# About 3 MB each: a few checkouts, environments and the versions before an update.
MOST_FOLDERS = 8


def _hash_of_source() -> str:
    """Every source file of this package, by name and content, and what compiles it."""
    versions = (numba.__version__, llvmlite.__version__, sys.implementation.cache_tag, sys.abiflags)
    digest = hashlib.sha256(repr(versions).encode())
    # .pyc: a package that ships without its source.
    files = [file for file in Path(__file__).parent.iterdir() if file.suffix in (".py", ".pyc")]
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


try:
    # Now, as the modules are being imported: what a later edit writes is not what this process runs. Takes 0.9 ms.
    _STATE: str | None = _hash_of_source()
except OSError:
    # Imported from where there are no files, a zip archive for one.
    _STATE = None


def cache_folder() -> Path:
    """Where the kernels of this state of the source are kept. Raises OSError where there is no such place."""
    if _STATE is None:
        raise OSError("the kernels' source cannot be read")
    chosen = str(getattr(config, "CACHE_DIR", ""))
    home = Path(chosen or os.environ.get("XDG_CACHE_HOME", ""))
    if not chosen and not home.is_absolute():  # as the specification of XDG_CACHE_HOME demands
        try:
            home = Path.home() / ".cache"
        except RuntimeError as error:
            raise OSError("there is no home folder") from error
    return home.absolute() / "ufbert" / "kernels" / _STATE


def why_not_writable() -> str | None:
    """None if compiled kernels can be kept, else the reason. Makes the folder."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return str(error)
    return None


class KernelCache(Cache):  # type: ignore[misc,unused-ignore]
    """The cache of one kernel, which its dispatcher asks before it compiles and tells afterwards.

    What cannot be read is compiled; what cannot be written is compiled in each process, and said once.
    """

    writable = True
    """False once something could not be written; then no kernel tries again."""

    _used = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}".removeprefix("ufbert.numba_kernels.")
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The folder, as `dispatcher.stats` shows it."""
        try:
            return str(cache_folder())
        except OSError:
            return None

    def enable(self) -> None:
        """Read and write files."""
        self._enabled = True

    def disable(self) -> None:
        """Do neither."""
        self._enabled = False

    def flush(self) -> None:
        """Forget this kernel, for `dispatcher.recompile`."""
        with contextlib.suppress(OSError):
            for file in cache_folder().glob(f"{self._name}-*"):
                file.unlink(missing_ok=True)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for these argument types, or None."""
        if not self._enabled:
            return None
        # All that compiled code refers to. Numba's own cache would refresh the context, which loads the definitions
        # for a compilation, scipy.linalg among them: 0.2 s, that a compilation takes when it comes to one.
        rtsys.initialize(target_context)
        try:
            file = self._file(sig, target_context.codegen())
            payload = pickle.loads(file.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        if not KernelCache._used:
            KernelCache._used = True
            # The folder's time says when it was last used, for `_remove_old_folders`.
            with contextlib.suppress(OSError):
                os.utime(file.parent)
        return CompileResult._rebuild(target_context, *payload)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel for other processes."""
        if not (self._enabled and KernelCache.writable):
            return
        if data.library.has_dynamic_globals:
            raise TypeError(f"{self._name} holds an address of this process; it must come as an argument")
        try:
            # A module imported after an edit is not of the state that names the folder.
            if _hash_of_source() != _STATE:
                return
            self._write(self._file(sig, data.codegen), dumps(data._reduce()))
        except OSError as error:
            KernelCache.writable = False
            logger.warning("The compiled kernels cannot be kept (%s); NUMBA_CACHE_DIR may name another folder", error)

    def _file(self, sig: Any, codegen: Any) -> Path:
        """One file for a kernel, its argument types, and the processor with its features."""
        key = hashlib.sha256(repr((sig, codegen.magic_tuple())).encode())
        return cache_folder() / f"{self._name}-{key.hexdigest()[:32]}.pickle"

    @staticmethod
    def _write(file: Path, content: bytes) -> None:
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _remove_old_folders(file.parent)
            temporary.write_bytes(content)
            temporary.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _remove_old_folders(current: Path) -> None:
    """Leave `MOST_FOLDERS` at most: `current` and the most recently used others.

    A process that still uses a folder finds its kernels gone, and compiles and writes them anew. Nobody sees a folder
    half removed: it gets another name first.
    """
    found = []
    for folder in current.parent.iterdir():
        # Another process may be removing it too.
        with contextlib.suppress(FileNotFoundError):
            if folder != current and folder.is_dir() and not folder.is_symlink():
                found.append((folder.stat().st_mtime, folder))
    for _, folder in sorted(found, reverse=True)[MOST_FOLDERS - 1 :]:
        condemned = folder.with_name(f"{folder.name.partition('.')[0]}.{uuid.uuid4().hex}")
        try:
            folder.rename(condemned)
        except OSError:
            continue
        shutil.rmtree(condemned, ignore_errors=True)
