"""Children that a process forks: one thread each, as the parent's threads are not in them.

torch and the tokenizers keep pools of threads. A child that was forked behind their first use waits for these pools
forever as soon as it computes on two threads, which `datasets.map(num_proc=2)` and `multiprocessing` on Linux do.
Processes that were spawned, as Ray's and Spark's, have pools of their own.
"""

from __future__ import annotations

import functools
import os

import torch

__all__ = ["work_alone_after_fork"]


@functools.cache
def work_alone_after_fork() -> None:
    """From here on, every child that this process forks computes and tokenises on one thread."""
    os.register_at_fork(after_in_child=_work_alone)


def _work_alone() -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # asked at each call
