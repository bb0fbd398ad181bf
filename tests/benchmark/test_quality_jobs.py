"""Runs in processes of their own, several at once: failures, order, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ufbert.benchmark.quality.jobs import Job, Outcome, run_jobs
from ufbert.errors import OutputError


def job(name: str, code: str, folder: Path) -> Job:
    """A quick process of Python alone."""
    return Job(name, lambda: [sys.executable, "-S", "-E", "-c", code], folder / "logs" / f"{name}.log")


def test_a_failure_is_named_by_its_last_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = "import os; print(os.environ['WHO'])"
    jobs = [
        job("good", done, tmp_path),
        job("bad", "import sys; print('a line'); sys.exit('error: the disk is full')", tmp_path),
        job("killed", "import os; print('going'); os.kill(os.getpid(), 9)", tmp_path),
        job("mute", "raise SystemExit(3)", tmp_path),
        job("last", done, tmp_path),
    ]
    most = 0

    def tell(names: Sequence[str]) -> None:
        nonlocal most
        most = max(most, len(names))

    outcome = run_jobs(jobs, 2, {"WHO": "us"}, tell)
    assert outcome.stopped_by == 0
    assert outcome.failures == {
        "bad": "the disk is full",
        "killed": "ended by signal 9; memory may not suffice",
        "mute": "ended with code 3",
    }
    assert most <= 2
    for name in ("good", "last"):
        command, said = (tmp_path / "logs" / f"{name}.log").read_text().splitlines()
        assert command.startswith(f"$ {sys.executable} -S")
        assert said == "us"
    assert {"bad: failed: the disk is full", "last: done"} <= set(capsys.readouterr().err.splitlines())


def test_ctrl_c_ends_the_running_ones_by_sigterm_and_starts_no_more(tmp_path: Path) -> None:
    saving = (
        "import pathlib, signal, sys, time\n"
        f"def save(*_):\n    pathlib.Path({str(tmp_path)!r}, sys.argv[1]).write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ready-' + sys.argv[1]).touch()\n"
        "time.sleep(60)\n"
    )

    def saver(name: str) -> Job:
        return Job(name, lambda: [sys.executable, "-S", "-E", "-c", saving, name], tmp_path / f"{name}.log")

    sent: list[int] = []

    def tell(names: Sequence[str]) -> None:
        if not sent and all((tmp_path / f"ready-{name}").exists() for name in ("one", "two")):
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    outcome = run_jobs([saver("one"), saver("two"), saver("three")], 2, {}, tell)
    assert (outcome.stopped_by, outcome.failures) == (signal.SIGINT, {})
    assert [(tmp_path / name).exists() for name in ("one", "two", "three", "three.log")] == [True, True, False, False]
    # The usual handlers are back.
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_job_that_has_a_process_already_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = job("one", "print('ready', flush=True); import time; time.sleep(60)", tmp_path)
    second = job("one", "print('never')", tmp_path)
    inner: list[Outcome] = []

    def tell(names: Sequence[str]) -> None:
        if not inner and first.log.read_text().endswith("ready\n"):
            inner.append(run_jobs([second], 1, {}))
            os.kill(os.getpid(), signal.SIGINT)

    run_jobs([first], 1, {}, tell)
    assert inner[0].failures == {"one": f"another process is at it and writes {first.log}"}
    assert "never" not in first.log.read_text()
    # Its lock ends with it.
    assert run_jobs([second], 1, {}).failures == {}


def test_an_error_in_between_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    waiting = job("waiting", "import os, time; print(os.getpid(), flush=True); time.sleep(60)", tmp_path)
    (tmp_path / "logs" / "next.log").mkdir()
    with pytest.raises(OutputError, match=r"next\.log: cannot be written: Is a directory"):
        run_jobs([waiting, job("next", "", tmp_path)], 2, {})
    assert not [pid for pid in _children() if pid]


def _children() -> list[int]:
    try:
        return [os.waitpid(-1, os.WNOHANG)[0]]
    except ChildProcessError:
        return []
