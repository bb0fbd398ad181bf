"""A distillation that may be interrupted: the folder `DEST.partial`, until DEST is there.

`layer-00.safetensors`, ... hold the layers whose regression is done, `training-0000.safetensors` the phase in progress:
weights, Adam's moments, random states. `journal.json` says what the conversion was asked and how far it came; it is
replaced in one step and only after the tensors it names are on the disk, so that a conversion which is killed at any
moment goes on from a point where both agree.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ufbert.checkpoint.folder import read_tensors, write_tensors
from ufbert.errors import CheckpointError, OutputError
from ufbert.reporting import note
from ufbert.system.atomic import explain_failure, write_file

__all__ = ["Journal", "PartialConversion", "check_partial", "open_partial", "partial_folder"]

JOURNAL_FILE = "journal.json"
# A kill loses no more work than this; and saving never takes more than a twentieth of the time.
SECONDS_BETWEEN_SAVES = 60.0
LARGEST_SHARE = 0.05


@dataclass
class Journal:
    """What is known of a partial conversion."""

    run: dict[str, Any]
    """What it was asked, and of what."""
    seconds: float = 0.0
    """Spent on it by all sessions, without reading the corpus."""
    layers: list[dict[str, float]] = field(default_factory=list)
    """The held-out errors of each layer that is done."""
    training: dict[str, Any] = field(default_factory=dict)
    """The phase in progress: `phase`, `steps`, `seconds`, `file` and what else the phase wants to know again."""
    saves: int = 0
    survey: dict[str, Any] = field(default_factory=dict)
    """By what the layers' shapes were chosen, and which; empty where they were given."""

    @property
    def worth_keeping(self) -> bool:
        """Whether anything would be lost with it."""
        return bool(self.layers or self.training or self.survey)


def partial_folder(destination: Path) -> Path:
    """Where the work of an unfinished conversion is."""
    whole = destination.absolute()
    return whole.with_name(whole.name + ".partial")


def check_partial(destination: Path, options: Mapping[str, Any], *, resume: bool) -> Journal | None:
    """The journal of an interrupted conversion into `destination` that goes on with `resume`; None if there is none.

    Raises `OutputError` for one that would be lost, is damaged, or was made with other `options`.
    """
    folder = partial_folder(destination)
    if not folder.exists():
        return None
    file = folder / JOURNAL_FILE
    try:
        journal = Journal(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise OutputError(f"{folder}: is there without its {file.name}; delete it, or choose another DEST") from None
    except (ValueError, TypeError) as error:
        raise OutputError(f"{file}: is no journal of a conversion; delete {folder}") from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be read: {error.strerror}") from error
    if not journal.worth_keeping:
        return None
    if not resume:
        raise OutputError(
            f"{folder}: holds an interrupted conversion; continue it with the same command and --resume, or delete it"
        )
    before = journal.run["options"]
    for name, now in _plain(options).items():
        if before.get(name) != now:
            raise OutputError(
                f"{folder}: was made with {name.replace('_', ' ')} {before.get(name)}, not {now}; give the same again, "
                "or delete the folder and leave out --resume"
            )
    return journal


class PartialConversion:
    """Keeps the work of a conversion; without a folder, as for a caller who has no destination, it keeps nothing."""

    def __init__(self, folder: Path | None = None, journal: Journal | None = None) -> None:
        self.folder = folder
        self.journal = journal or Journal({})
        self.resumed = self.journal.worth_keeping
        self.frozen = False
        """Whether what follows is no longer kept: the training was ended early, and a resumed one shall not be."""
        self._begin: float | None = None
        self._saved = time.monotonic()
        self._cost = 0.0  # seconds of the last save

    def start_clock(self) -> None:
        """From here on time counts as the conversion's."""
        self._begin = time.monotonic() - self.journal.seconds

    @property
    def started(self) -> bool:
        """Whether this session has begun to work."""
        return self._begin is not None

    @property
    def seconds(self) -> float:
        """Spent in all sessions."""
        return self.journal.seconds if self._begin is None else time.monotonic() - self._begin

    def claim(self, what: str, name: str, fingerprint: str) -> None:
        """The conversion is of the `what` (source or corpus) of this fingerprint, which the user calls `name`.

        Raises `OutputError` if it was of another one.
        """
        before = self.journal.run.setdefault(what, [name, fingerprint])
        if before[1] == fingerprint:
            return
        cure = "delete the folder and leave out --resume"
        if before[0] == name:
            raise OutputError(f"{self.folder}: the {what} {name} has changed since; bring it back, or {cure}")
        raise OutputError(f"{self.folder}: was made from another {what}, {before[0]}; give that again, or {cure}")

    def keep_survey(self, survey: Mapping[str, Any]) -> None:
        """Keep what the layers' shapes were chosen by. Raises `OutputError`."""
        self.journal.survey = dict(survey)
        if self.folder is not None:
            self.save()

    @property
    def layers_done(self) -> int:
        """How many layers have their regression behind them."""
        return len(self.journal.layers)

    def finish_layer(self, tensors: Mapping[str, torch.Tensor], errors: Mapping[str, float]) -> None:
        """Keep the next layer's `tensors` and held-out errors. Raises `OutputError`; those before it are kept."""
        if self.folder is None or self.frozen:
            return
        self._write(_layer_file(self.layers_done), tensors)
        self.journal.layers.append(dict(errors))
        self.journal.training = {}
        self.save()

    def read_layer(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of a layer that is done."""
        return self._read(_layer_file(index))

    def training(self, phase: str) -> dict[str, Any]:
        """What was kept of the phase in progress beside its tensors; empty if another one, or none, is."""
        training = self.journal.training
        return training if training.get("phase") == phase else {}

    def read_training(self) -> dict[str, torch.Tensor]:
        """The tensors of the phase in progress."""
        return self._read(self.journal.training["file"])

    def keep_training(self, phase: str, tensors: Mapping[str, torch.Tensor], **facts: Any) -> None:
        """Keep the state of a phase, in place of what was kept of it before; a full disk is noted, and no more."""
        if self.folder is None or self.frozen:
            return
        begin = time.monotonic()
        file = f"training-{self.journal.saves:04d}.safetensors"
        try:
            self._write(file, tensors)
            self.journal.training = {"phase": phase, "file": file, **facts}
            self.save()
        except OutputError as error:
            note(f"Not kept, will try again: {error}")
        self._saved = time.monotonic()
        self._cost = self._saved - begin

    @property
    def due(self) -> bool:
        """Whether it is time to keep the state of the training again."""
        return time.monotonic() - self._saved >= max(SECONDS_BETWEEN_SAVES, self._cost / LARGEST_SHARE)

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        assert self.folder is not None
        with write_file(self.folder / name, replace=True) as temporary:
            write_tensors({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, temporary)

    def save(self) -> None:
        """Write the journal, and remove what it does not name: an earlier state, or what a kill left half written."""
        assert self.folder is not None
        self.journal.seconds = self.seconds
        self.journal.saves += 1
        with write_file(self.folder / JOURNAL_FILE, replace=True) as temporary:
            temporary.write_text(json.dumps(asdict(self.journal), indent=1), encoding="utf-8")
        named = {JOURNAL_FILE, self.journal.training.get("file"), *map(_layer_file, range(self.layers_done))}
        for file in self.folder.iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        assert self.folder is not None
        try:
            return read_tensors(self.folder / name)
        except CheckpointError as error:
            raise OutputError(f"{error}; the conversion cannot go on: delete {self.folder}") from error


@contextlib.contextmanager
def open_partial(destination: Path, options: Mapping[str, Any], *, resume: bool) -> Iterator[PartialConversion]:
    """The partial conversion into `destination`, going on with an interrupted one if `resume`.

    It goes away when the block ends without an error; after one, or Ctrl-C, what was kept stays. Raises `OutputError`:
    no place to write, another conversion in progress or of other `options`.
    """
    folder = partial_folder(destination)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        explain_failure(error, folder)
    try:
        _lock(folder, handle)
        journal = check_partial(destination, options, resume=resume)
        partial = PartialConversion(folder, journal or Journal({"options": _plain(options)}))
        partial.save()
        try:
            yield partial
        except BaseException:
            if not partial.journal.worth_keeping:
                shutil.rmtree(folder, ignore_errors=True)
            elif partial.started:  # else nothing has changed, and the error says what to do
                note(f"The work so far is kept in {folder}; continue with the same command and --resume")
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(folder: Path, handle: int) -> None:
    """Hold the folder as long as the handle is open. Raises `OutputError` if another process does."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{folder}: another conversion is writing it; wait for it, or choose another DEST") from error


def _layer_file(index: int) -> str:
    return f"layer-{index:02d}.safetensors"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(options))
    return plain
