"""Pipelines between processes: what one is made of, in the place of what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from ufbert.checkpoint.folder import checkpoint_files
from ufbert.errors import CheckpointError

__all__ = ["Recipe", "make_again"]

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """The arguments of a pipeline, and the state of the folder that they name."""

    options: dict[str, Any]
    """As they were given (what was `auto` is chosen by each process), a folder by its whole path."""
    files: tuple[tuple[str, int, int], ...]
    """Name, size and time of change of the checkpoint's files.

    A process that makes the pipeline again asks nothing of them, since copies on other machines have other times. But
    whatever takes equal pickles for equal results, as the cache of `datasets.map` does, sees a model trained anew.
    """

    @classmethod
    def of(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        """`folder` is where `options["folder"]`, a folder or a model of the hub, lies on this machine."""
        options = dict(options)
        if not isinstance(options["targets"], str | None):
            options["targets"] = list(options["targets"])
        if Path(options["folder"]).expanduser().is_dir():
            options["folder"] = str(folder.absolute())
        else:
            options["folder"] = str(options["folder"])
            if folder.parent.name == "snapshots":  # of the hub's cache: the same commit everywhere
                options["revision"] = folder.name
        return cls(options, _state(folder))

    def check(self, folder: Path) -> None:
        """Raise `CheckpointError` unless `folder` is what it was."""
        if _state(folder) != self.files:
            raise CheckpointError(
                f"{folder}: has changed since this pipeline was made of it, and a pickled one is made of it again; "
                "make a new pipeline first"
            )


def make_again(kind: type[T], recipe: Recipe) -> T:
    """The pipeline of a recipe. Raises `CheckpointError` where there is no such folder."""
    folder = str(recipe.options["folder"])
    if Path(folder).is_absolute() and not Path(folder).is_dir():
        raise CheckpointError(
            f"{folder}: no such folder on this machine; a pickled pipeline is made of its folder again: put it at the "
            "same path on every machine, or name a model on the hub"
        )
    return kind(**recipe.options)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = ((file, file.stat()) for file in checkpoint_files(folder)) if folder.is_dir() else ()
    return tuple((str(file.relative_to(folder)), state.st_size, state.st_mtime_ns) for file, state in files)
