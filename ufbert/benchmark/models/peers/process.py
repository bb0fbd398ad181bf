"""The parent's end of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ufbert

__all__ = ["Worker", "WorkerError", "environment"]

# A worker that is silent for so long hangs.
LIMIT_SECONDS = 900.0


class WorkerError(Exception):
    """A worker failed or died; the text is the last line of what it said."""


class Worker:
    """A process that answers one request at a time."""

    def __init__(self, threads: int, *, ours: bool) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(threads, ours=ours),
        )
        self.idle_cpu_seconds = 0.0
        """CPU time that it took while it was not asked anything."""
        self.resident_bytes: int | None = None
        self.peak_bytes: int | None = None

    def ask(self, do: str, *, limit: float = LIMIT_SECONDS, **request: Any) -> dict[str, Any]:
        """The answer. Raises `WorkerError` if there is none within `limit` seconds."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        watch = threading.Timer(limit, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            late = not watch.is_alive()
            watch.cancel()
        if not line:
            self._process.wait()
            raise WorkerError(f"no answer within {limit:.0f} s" if late else self._last_words())
        answer: dict[str, Any] = json.loads(line)
        self.idle_cpu_seconds += answer.pop("idle_cpu_seconds")
        self.resident_bytes = answer.pop("resident_bytes")
        self.peak_bytes = answer.pop("peak_bytes")
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # A worker that died leaves unflushed bytes behind.
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._process.terminate()
        self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        code = self._process.returncode
        if code < 0:
            return f"its process was ended by signal {-code}; memory may not suffice"
        if not lines:
            return f"its process ended with code {code}"
        # The class of one of our errors says nothing to a user; a bare KeyError's text says nothing without it.
        return lines[-1].removeprefix("ufbert.errors.")[:300]


def environment(threads: int, *, ours: bool) -> dict[str, str]:
    """For the frameworks' thread pools, before they are loaded."""
    values = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))}
    if not ours and values.get("OMP_WAIT_POLICY") == "PASSIVE":
        # Ours, set for ufbert's own process: a peer's user has not set it.
        del values["OMP_WAIT_POLICY"]
    # Found wherever this ufbert was imported from.
    root = str(Path(ufbert.__file__).parent.parent)
    values["PYTHONPATH"] = os.pathsep.join(filter(None, (root, values.get("PYTHONPATH"))))
    return values
