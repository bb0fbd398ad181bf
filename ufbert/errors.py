"""The errors a user can cause.

    UfbertError                    one line: what is wrong, where, what to do; the commands exit with 1
    ├── ConfigError                a key, value or combination in TOML, on the command line or in a config object
    ├── DataError                  an input file, column, row or data set
    ├── CheckpointError            a folder that is no checkpoint, of the wrong kind, damaged or foreign
    │   └── TokenizerError         a vocabulary that belongs to a tokenizer that is not read
    ├── OutputError                a destination that exists, cannot be written or is full
    ├── BackendError               a backend, device or compiled kernel that is not to be had
    └── MissingExtraError          an optional dependency that is not installed

Every class also is the built-in error a caller of the library would expect, so `except ValueError`
around a bad configuration works.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "OutputError",
    "TokenizerError",
    "UfbertError",
]


class UfbertError(Exception):
    """Root of the errors that are the user's to mend; the text is one complete line."""


class ConfigError(UfbertError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another one."""


class DataError(UfbertError, ValueError):
    """Input that is missing, empty, broken or lacks a column; the text names file and line."""


class CheckpointError(UfbertError, ValueError):
    """A checkpoint that cannot be read, or that lacks the head the task needs."""


class TokenizerError(CheckpointError):
    """A vocabulary of a tokenizer that is not read here: a model's weights are of use without it, too."""


class OutputError(UfbertError, OSError):
    """A destination that exists already, cannot be written, or has no space left."""


class BackendError(UfbertError, RuntimeError):
    """A compute backend or device that this machine does not offer."""


class MissingExtraError(UfbertError, ImportError):
    """An optional dependency is absent; the text carries the exact command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """`package` is what failed to import, `extra` the name in pyproject.toml, `purpose` what needs it."""
        super().__init__(f"{purpose} needs {package}; install it with: pip install 'ufbert[{extra}]'")
        self._parts = package, extra, purpose

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        """Made of its parts again, where a worker's error is passed on to another process."""
        return type(self), self._parts
