"""Runs the chunks of a kernel on several threads.

Why not Numba's `prange`: its barrier waits for every thread, so a core that another process keeps busy
holds up the whole call, and its OpenMP layer keeps spinning on cores that torch needs next. Here the
kernels release the GIL, the calling thread works too, and whoever is free takes the next chunk, so a
descheduled thread delays at most the one chunk it holds.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["run_chunks"]

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)


def _executor(helpers: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < helpers:
            # The smaller pool is left to finish; its idle threads end with it.
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_size = ThreadPoolExecutor(helpers, thread_name_prefix="ufbert-cmm"), helpers
        return _pool


def run_chunks(work: Callable[[int], None], chunks: int, threads: int) -> None:
    """Call `work(0) ... work(chunks - 1)`, each once, on up to `threads` threads; returns when all are done.

    The chunks must write disjoint memory. An exception of any chunk is raised here.
    """
    helpers = min(threads, chunks) - 1
    if helpers < 1:
        for chunk in range(chunks):
            work(chunk)
        return
    counter = itertools.count()  # next() on it is atomic under the GIL

    def drain() -> None:
        while (chunk := next(counter)) < chunks:
            work(chunk)

    futures: list[Future[None]] = [_executor(helpers).submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        for future in futures:
            # A helper that never got a core before the work ran out is not waited for.
            if not future.cancel():
                future.result()
