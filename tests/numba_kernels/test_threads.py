"""Chunks run once each, whichever threads ask for how many threads at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ufbert.numba_kernels.threads import run_chunks


def test_every_chunk_runs_once_for_callers_on_several_threads() -> None:
    def call(threads: int) -> list[int]:
        done: list[int] = []
        run_chunks(done.append, 40, threads)
        return sorted(done)

    with ThreadPoolExecutor(8) as callers:
        for result in callers.map(call, [1 + i % 7 for i in range(400)]):
            assert result == list(range(40))


def test_a_chunks_error_reaches_the_caller() -> None:
    def fail(chunk: int) -> None:
        raise ValueError(f"chunk {chunk}")

    with pytest.raises(ValueError, match="chunk"):
        run_chunks(fail, 4, 2)
