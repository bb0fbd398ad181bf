"""Checkpoints that a run keeps beside its latest: the newest few, and the best by held-out loss.

They stand in `checkpoints/` of the run's folder, `step-000123/` and `best/`, each whole but for the optimiser, so that
every command reads them; `checkpoints.json` says their steps and losses. A file that two of them share, or that the
run's latest has too, is one file with several names where the file system has hard links.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ufbert.checkpoint.folder import read_json
from ufbert.errors import CheckpointError
from ufbert.model.card import markdown_table
from ufbert.system.atomic import link_or_copy

__all__ = [
    "KEPT_FOLDER",
    "KeptCheckpoint",
    "KeptCheckpoints",
    "card_kept",
    "keep_checkpoint",
    "kept_rows",
    "read_kept",
]

KEPT_FOLDER = "checkpoints"
INDEX_FILE = f"{KEPT_FOLDER}/checkpoints.json"
BEST = "best"


@dataclass(frozen=True)
class KeptCheckpoint:
    """One of them."""

    step: int
    held_out_loss: float | None
    """In nats; None if it was not measured with these weights, as when a signal ended the session."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"step-{self.step:06d}"


@dataclass(frozen=True)
class KeptCheckpoints:
    """All of them."""

    newest: tuple[KeptCheckpoint, ...] = ()
    """By rising step."""
    best: KeptCheckpoint | None = None
    """Of all that were saved; it need not be among the newest."""


def read_kept(run: Path) -> KeptCheckpoints:
    """What the folder of a run holds, without what somebody removed. Raises `CheckpointError` for a damaged index."""
    file = run / INDEX_FILE
    if not file.is_file():
        return KeptCheckpoints()
    values = read_json(file)
    try:
        best = KeptCheckpoint(**values["best"]) if values["best"] else None
        newest = [KeptCheckpoint(**entry) for entry in values["newest"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the index of kept checkpoints; remove {file.parent}") from error
    return KeptCheckpoints(
        tuple(entry for entry in newest if (file.parent / entry.name).is_dir()),
        best if (file.parent / BEST).is_dir() else None,
    )


def keep_checkpoint(new: Path, run: Path, checkpoint: KeptCheckpoint, count: int, card: str) -> KeptCheckpoints:
    """Into `new`, which will be the folder of the run: its checkpoint, and those of `run` that stay.

    `count` is how many of the newest there will be, `card` the README.md of this one.
    """
    before = read_kept(run)
    earlier = tuple(kept for kept in before.newest if kept.step != checkpoint.step)
    kept = (*earlier, checkpoint)[-count:]
    folder = new / KEPT_FOLDER
    own = folder / checkpoint.name
    own.mkdir(parents=True)
    for file in sorted(new.iterdir()):
        if file.is_file():
            link_or_copy(file, own / file.name)
    (own / "README.md").write_text(card, encoding="utf-8")
    for entry in kept[:-1]:
        _link_folder(run / KEPT_FOLDER / entry.name, folder / entry.name)
    best, loss = before.best, checkpoint.held_out_loss
    if loss is not None and (best is None or best.held_out_loss is None or loss <= best.held_out_loss):
        best = checkpoint
        _link_folder(own, folder / BEST)
    elif best is not None:
        _link_folder(run / KEPT_FOLDER / BEST, folder / BEST)
    index = {"newest": [dataclasses.asdict(k) for k in kept], "best": dataclasses.asdict(best) if best else None}
    (new / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return KeptCheckpoints(kept, best)


def card_kept(kept: KeptCheckpoints) -> str:
    """The section of the model card; empty if none is kept."""
    if not kept.newest:
        return ""
    rows = [(f"`{KEPT_FOLDER}/{folder}`", step, loss) for folder, step, loss in kept_rows(kept)]
    return "\n## Kept checkpoints\n\n" + markdown_table(("folder", "step", "held-out loss"), rows)


def kept_rows(kept: KeptCheckpoints) -> list[tuple[str, str, str]]:
    """Folder, step and held-out loss of each, the best one last."""
    rows = [(entry.name, f"{entry.step:,}", _loss(entry)) for entry in kept.newest]
    if kept.best is not None:
        rows.append((BEST, f"{kept.best.step:,}", _loss(kept.best)))
    return rows


def _loss(entry: KeptCheckpoint) -> str:
    return "not measured" if entry.held_out_loss is None else f"{entry.held_out_loss:.4f}"


def _link_folder(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        link_or_copy(file, target / file.name)
