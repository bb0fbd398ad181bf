"""Where tokenizers and tokenised corpora are kept, and by which names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufbert.errors import OutputError
from ufbert.settings.sections import DataSettings
from ufbert.system.atomic import write_folder

__all__ = ["FORMAT", "cache_folder", "cache_key", "new_in_cache"]

FORMAT = 1
"""Part of every key: raise it when the same settings give other files."""


def cache_folder(data: DataSettings) -> Path:
    """`data.cache_dir`, or else `~/.cache/ufbert` or its place under XDG_CACHE_HOME."""
    if data.cache_dir:
        return Path(data.cache_dir).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "ufbert"


def cache_key(*parts: Any) -> str:
    """The name of what these values, which JSON can hold, lead to."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def new_in_cache(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends. Raises `OutputError`."""
    try:
        with write_folder(folder, replace=True) as temporary:
            yield temporary
    except OutputError as error:
        raise OutputError(f"{error} for the cache (data.cache_dir)") from error
