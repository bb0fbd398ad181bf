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
_lock = threading.Lock()


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_pool)


def _executor() -> ThreadPoolExecutor:
    """The one pool, never replaced, since another thread may be submitting to it; it starts threads on demand."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="ufbert-cmm")
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

    futures: list[Future[None]] = [_executor().submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        for future in futures:
            # A helper that never got a core before the work ran out is not waited for.
            if not future.cancel():
                future.result()
