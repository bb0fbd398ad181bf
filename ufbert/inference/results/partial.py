"""Results of a run that may be interrupted: `OUT.partial` beside the output, with a journal, until all are there.

The journal `OUT.partial.json` says what the run was asked, how far it came, and how long the file was then. It is
replaced in one step and only after the results it speaks of are on the disk, so that a run which is killed at
any moment goes on from a point where both agree.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ufbert.errors import OutputError
from ufbert.inference.pipeline import WindowResults
from ufbert.reporting import note
from ufbert.system.atomic import explain_failure, write_file

from .arrow_writers import ArrowWriter
from .files import RESULT_FORMATS, check_result_path
from .writers import Record, ResultWriter

__all__ = [
    "Journal",
    "PartialResults",
    "Progress",
    "check_partial",
    "check_same_run",
    "discard_partial",
    "open_partial",
    "partial_path",
]

# A kill loses no more work than this; on a disk a save takes some milliseconds.
SECONDS_BETWEEN_SAVES = 2.0


@dataclass
class Progress:
    """How far a run came, in whole windows of texts."""

    windows: int = 0
    read: int = 0
    """Rows of the input that were taken, those included that the task could not use."""
    texts: int = 0
    """Results."""
    tokens: int = 0
    truncated: int = 0
    split: int = 0

    def add(self, results: WindowResults) -> None:
        """One window more."""
        self.windows += 1
        self.read += results.read
        self.texts += len(results.examples)
        self.tokens += results.tokens
        self.truncated += results.truncated
        self.split += results.split


@dataclass
class Journal:
    """What is known of a partial file."""

    run: dict[str, Any]
    """What the run was asked and of what; `run_identity` makes it."""
    progress: Progress = field(default_factory=Progress)
    bytes: int = 0
    writer: dict[str, Any] = field(default_factory=dict)


def partial_path(output: Path) -> Path:
    """Where the results of an unfinished run are."""
    return output.with_name(output.name + ".partial")


def _journal_path(output: Path) -> Path:
    return output.with_name(output.name + ".partial.json")


def _no_journal(file: Path) -> OutputError:
    return OutputError(f"{file}: is no journal of a run; start over with --overwrite")


def check_partial(output: Path, *, resume: bool = False, overwrite: bool = False) -> Journal | None:
    """The journal of an interrupted run that can be continued; None if there is none, or if it is not wanted.

    Raises `OutputError` for results that would be lost without `overwrite`, or that are damaged.
    """
    partial = partial_path(output)
    if (overwrite and not resume) or not partial.exists() or not partial.stat().st_size:
        return None
    if not (file := _journal_path(output)).is_file():
        raise OutputError(f"{partial}: is there without its {file.name}; remove it, or start over with --overwrite")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        journal = Journal(content["run"], Progress(**content["progress"]), content["bytes"], content["writer"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_journal(file) from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be read: {error.strerror}") from error
    if partial.stat().st_size < journal.bytes:
        raise OutputError(
            f"{partial}: has lost its end, {partial.stat().st_size:,} of {journal.bytes:,} bytes are there; "
            "start over with --overwrite"
        )
    if not journal.progress.texts:
        return None
    if not resume:
        raise OutputError(
            f"{partial}: holds {journal.progress.texts:,} results of an interrupted run; continue it with --resume, "
            "or start over with --overwrite"
        )
    return journal


def discard_partial(output: Path) -> None:
    """Remove the results of an interrupted run."""
    partial_path(output).unlink(missing_ok=True)
    _journal_path(output).unlink(missing_ok=True)


def check_same_run(output: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise `OutputError` if an interrupted run was asked something else, or of something else."""
    partial, cure = partial_path(output), "start over with --overwrite instead of --resume"
    for name in new:
        before, now = old.get(name), new[name]
        if before == now or (name == "skip_bad" and now):  # what was read without a bad row may go on skipping them
            continue
        if name in ("inputs", "checkpoint"):
            what = "input" if name == "inputs" else "checkpoint"
            made_of = {path: state for path, *state in before or ()}
            if list(made_of) != [path for path, *_ in now]:
                raise OutputError(f"{partial}: was made from another {what}, {' '.join(made_of)}; {cure}")
            changed = next(path for path, *state in now if state != made_of[path])
            raise OutputError(f"{partial}: the {what} {changed} has changed since; {cure}")
        raise OutputError(
            f"{partial}: was made with {name.replace('_', ' ')} {before}, not {now}; give the same again, or {cure}"
        )


class PartialResults:
    """Takes blocks of records and keeps them; `mark` says after which ones a run can go on."""

    def __init__(self, output: Path, stream: BinaryIO, run: dict[str, Any], journal: Journal | None) -> None:
        suffix = output.suffix.lower()
        self.output, self.stream = output, stream
        self.writer: ResultWriter = (ArrowWriter if suffix == ".parquet" else RESULT_FORMATS[suffix])(stream)
        self.journal = journal or Journal(run)
        self.progress = Progress(**asdict(self.journal.progress))
        self.saved = time.monotonic()
        if journal is None:
            self.save()  # before the old file is emptied, whose journal would say that it is longer
        stream.truncate(self.journal.bytes)
        stream.seek(self.journal.bytes)
        if journal is not None:
            try:
                self.writer.restore(journal.writer)
            except (ValueError, KeyError, TypeError) as error:
                raise _no_journal(_journal_path(output)) from error

    def expect(self, sample: Mapping[str, Any]) -> None:
        """See `ResultWriter`."""
        self.writer.expect(sample)

    def write(self, records: Sequence[Record]) -> None:
        """Append the records."""
        self.writer.write(records)

    def mark(self) -> None:
        """What was written so far is what `progress` says."""
        self.stream.flush()
        first = not self.journal.progress.texts
        self.journal = Journal(
            self.journal.run, Progress(**asdict(self.progress)), self.stream.tell(), self.writer.state()
        )
        if first or time.monotonic() - self.saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the journal of the last mark, after the results are on the disk."""
        os.fsync(self.stream.fileno())
        with write_file(_journal_path(self.output), replace=True) as temporary:
            temporary.write_text(json.dumps(asdict(self.journal), indent=1), encoding="utf-8")
        self.saved = time.monotonic()

    def complete(self) -> None:
        """Give the file its name."""
        self.save()
        partial = partial_path(self.output)
        if isinstance(self.writer, ArrowWriter):
            with write_file(self.output, replace=True) as temporary, temporary.open("wb") as stream:
                self.writer.write_parquet(stream)
            partial.unlink()
        else:
            self.writer.finish()
            self.stream.flush()
            os.fsync(self.stream.fileno())
            partial.replace(self.output)
        _journal_path(self.output).unlink()

    def keep_or_remove(self) -> None:
        """After an error: keep what a later run can use, and nothing if there are no results yet."""
        if self.journal.progress.texts:
            with contextlib.suppress(OSError):  # a full disk: the journal before this one still holds
                self.save()
            note(
                f"{self.journal.progress.texts:,} results are kept in {partial_path(self.output)}; "
                "continue with the same command and --resume"
            )
        else:
            discard_partial(self.output)


@contextlib.contextmanager
def open_partial(
    output: Path, run: dict[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[PartialResults]:
    """Take the results of the run that `run` describes, going on after those of an interrupted one if `resume`.

    The file gets its name when the block ends without an error; after an error or Ctrl-C the results so far stay
    in `partial_path(output)`. Raises `OutputError`: no place to write, another run's results, a run in progress.
    """
    check_result_path(output, overwrite=overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial_path(output), os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
            _lock(output, stream)
            journal = check_partial(output, resume=resume, overwrite=overwrite)
            if journal is not None:
                check_same_run(output, journal.run, run)
            results = PartialResults(output, stream, run, journal)
            try:
                yield results
                results.complete()
            except BaseException:
                results.keep_or_remove()
                raise
    except OSError as error:
        explain_failure(error, output)


def _lock(output: Path, stream: BinaryIO) -> None:
    """Hold the file as long as it is open. Raises `OutputError` if another process does."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{output}: another run is writing it; wait for it, or choose another --output") from error
