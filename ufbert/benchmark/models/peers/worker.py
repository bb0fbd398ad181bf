"""The process of one implementation: reads requests as lines of JSON, answers with lines of JSON.

    load, shape, sample, check, parts    a job's runner
    export, tokenise                     work that ends with its answer

Nothing but NumPy is imported here, so that a framework's memory is its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .job import Job, Runner

__all__ = ["main"]

# Different inputs in turn; the calls outnumber them, the tokens of a call are never those of the call before.
INPUTS = 8
# For the estimate of a call's time, which sets how many make a sample.
ESTIMATE_SECONDS, ESTIMATE_CALLS = 0.3, 9


class Server:
    """One job's state between requests."""

    def __init__(self) -> None:
        self.job: Job
        self.runner: Runner
        self.inputs: list[Any] = []
        self.calls = 0
        self.cpu_after_answer: float | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; every answer tells the CPU seconds that idle threads took since the last one."""
        idle = 0.0 if self.cpu_after_answer is None else time.process_time() - self.cpu_after_answer
        reply = getattr(self, f"do_{request.pop('do')}")(**request)
        self.cpu_after_answer = time.process_time()
        return {**reply, "idle_cpu_seconds": idle, **memory()}

    def do_load(self, job: dict[str, Any]) -> dict[str, Any]:
        """Import the framework and load the model."""
        self.job = Job(**job)
        module: Any = importlib.import_module(f"{__package__}.{self.job.module}")
        self.runner = module.load(self.job)
        return {"versions": self.runner.versions}

    def do_shape(self, batch: int) -> dict[str, Any]:
        """Make ready for a batch size and warm up; seconds of a call."""
        job = self.job
        self.inputs = []
        self.runner.shape(batch, job.sequence_length)
        self.inputs = [self.runner.take(ids) for ids in job.draw(INPUTS, batch)]
        self.measure(1)
        # The median of a few, since the first calls may meet the threads of the process before.
        seconds = self.measure(1)
        while sum(seconds) < ESTIMATE_SECONDS and len(seconds) < ESTIMATE_CALLS:
            seconds += self.measure(1)
        return {"seconds_per_call": float(np.median(seconds))}

    def do_sample(self, calls: int, warm_up: int) -> dict[str, Any]:
        """Seconds of each call."""
        self.measure(warm_up)
        gc.disable()
        try:
            return {"seconds": self.measure(calls)}
        finally:
            gc.enable()

    def do_check(self, ids: str, states: str) -> dict[str, Any]:
        """Read tokens from a file, write their hidden states to another."""
        checked = np.load(ids)
        self.runner.shape(*checked.shape)
        np.save(states, self.runner.states(self.runner.run(self.runner.take(checked))))
        return {}

    def do_parts(self, calls: int) -> dict[str, Any]:
        """Of our encoder, for the batch size of the last `shape`."""
        from .ours import Ours
        from .parts import time_parts

        assert isinstance(self.runner, Ours)
        return time_parts(self.runner, self.inputs, calls)

    def do_export(self, job: dict[str, Any]) -> dict[str, Any]:
        """See `export`."""
        from .export import export

        return export(Job(**job))

    def do_tokenise(self, job: dict[str, Any]) -> dict[str, Any]:
        """See `tokenising`."""
        from .tokenising import time_tokenising

        return time_tokenising(Job(**job))

    def measure(self, calls: int) -> list[float]:
        """Run the next inputs in turn."""
        seconds = []
        for _ in range(calls):
            taken = self.inputs[self.calls % len(self.inputs)]
            self.calls += 1
            started = time.perf_counter_ns()
            self.runner.run(taken)
            seconds.append((time.perf_counter_ns() - started) / 1e9)
        return seconds


def memory() -> dict[str, int | None]:
    """Bytes in memory now, where the system tells, and at most so far."""
    resident = None
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        resident = int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:
        return {"resident_bytes": resident, "peak_bytes": None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"resident_bytes": resident, "peak_bytes": peak}


def main() -> None:
    """Serve until the other end closes."""
    # The parent ends its workers; a Ctrl-C reaches it as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    with answers() as out:
        server = Server()
        for line in sys.stdin:
            out.write(json.dumps(server.answer(json.loads(line))) + "\n")
            out.flush()


def answers() -> TextIO:
    """The pipe behind stdout, which frameworks then cannot print into: their prints go to stderr."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w", encoding="utf-8")


if __name__ == "__main__":
    main()
