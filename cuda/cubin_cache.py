"""Compiled kernels on disk: one file per key, whole or absent, never trusted without its checksum.

The cache only saves time. A folder that cannot be read or written, or a damaged file, costs a compilation.

cuda-core's own (`cuda.core.utils.FileStreamProgramCache`, since 1.0) is as atomic, but takes what lies in its folder
for a program: a damaged file fails in the driver when it is loaded, and a folder that cannot be written ends the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["folder", "read", "write"]

CHECKSUM_BYTES = hashlib.sha256().digest_size


def folder() -> Path:
    """`$XDG_CACHE_HOME/ufbert/cuda`, or `~/.cache/ufbert/cuda`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is invalid there by the XDG rules, and would scatter caches over working directories.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "ufbert" / "cuda"


def read(key: str) -> bytes | None:
    """What `write` stored under `key`, or None if there is nothing or it is damaged."""
    try:
        content = (folder() / f"{key}.cubin").read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    checksum, code = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    return code if code and hashlib.sha256(code).digest() == checksum else None


def write(key: str, code: bytes) -> None:
    """Store `code` under `key`: a reader, or a process that does the same, sees all of it or nothing."""
    try:
        target = folder() / f"{key}.cubin"
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{key}.", suffix=".part", dir=target.parent)
    except (OSError, RuntimeError):
        return
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
