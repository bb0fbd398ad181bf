"""Commands in processes of their own, several at once: what one of them does to itself, the others do not feel."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ufbert.errors import OutputError
from ufbert.reporting import note
from ufbert.system.atomic import explain_failure
from ufbert.system.interruption import Interruption

__all__ = ["Job", "Outcome", "run_jobs"]

POLL_SECONDS = 0.1
STOPPING = (
    "Stopping: the runs save, which may take a while. A second Ctrl-C ends them at once, back at their checkpoints."
)


@dataclass(frozen=True)
class Job:
    """A command to run."""

    name: str
    command: Callable[[], Sequence[str]]
    """Called when its turn comes."""
    log: Path
    """What it says goes to the end of this file."""


@dataclass
class Outcome:
    """How the jobs ended."""

    failures: dict[str, str] = field(default_factory=dict)
    """By the job's name, the last line that it said."""
    stopped_by: int = 0
    """The signal that ended the work before its time; 0 if none came."""


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    environment: Mapping[str, str],
    tell: Callable[[Sequence[str]], None] = lambda _running: None,
) -> Outcome:
    """Run all, `at_once` side by side; a failure does not keep the others from running.

    Ctrl-C and SIGTERM end the running ones by SIGTERM and start no more. `tell` hears the names of the running ones
    at each look at them, ten times a second. Raises `OutputError` for a log that cannot be written.
    """
    outcome = Outcome()
    waiting = list(jobs)
    running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
    with Interruption(STOPPING) as interruption:
        try:
            while running or (waiting and not interruption.requested):
                while waiting and len(running) < at_once and not interruption.requested:
                    job = waiting.pop(0)
                    if process := _start(job, environment):
                        running[job.name] = job, process
                    else:
                        outcome.failures[job.name] = f"another process is at it and writes {job.log}"
                        note(f"{job.name}: left out: {outcome.failures[job.name]}")
                time.sleep(POLL_SECONDS)
                if interruption.received and not outcome.stopped_by:
                    outcome.stopped_by = int(interruption.received)
                    _signal(running.values(), signal.SIGTERM)
                for name in [name for name, (_, process) in running.items() if process.poll() is not None]:
                    job, process = running.pop(name)
                    # A run that has not begun to train when it is told to stop ends without having anything to save.
                    if process.returncode and not outcome.stopped_by:
                        outcome.failures[name] = _last_words(job.log, process.returncode)
                        note(f"{name}: failed: {outcome.failures[name]}")
                    elif not process.returncode:
                        note(f"{name}: done")
                tell(list(running))
        except KeyboardInterrupt:
            _signal(running.values(), signal.SIGKILL)
            raise
        except BaseException:
            _signal(running.values(), signal.SIGTERM)
            raise
        finally:
            for _, process in running.values():
                process.wait()
    return outcome


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """The process; None if the job has one already, of another call or left over from one that was killed."""
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            try:
                # The process inherits the lock with its output, and holds it for as long as it lives.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            command = list(job.command())
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            # In a session of its own, lest a Ctrl-C reach it twice: from the terminal and from here.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
    except OutputError:
        raise
    except OSError as error:
        explain_failure(error, job.log)


def _signal(running: Iterable[tuple[Job, subprocess.Popen[bytes]]], number: signal.Signals) -> None:
    for _, process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _last_words(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2].strip().splitlines()[1:]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = (errors or lines or [""])[-1]
    ended = f"ended by signal {-code}; memory may not suffice" if code < 0 else f"ended with code {code}"
    return last if last and code > 0 else ended
