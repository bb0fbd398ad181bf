"""Freed memory stays with the process, where the C library can be told."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from ufbert.system.allocation import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_tensors_are_not_mapped_anew() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library has no mallopt")
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(4_000_000)  # 16 MB, about 3,900 pages
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 4_000  # the heap has grown by then; mapped anew each time, they would be 78,000
