"""What the benchmark says of the machine, and the limits it measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_figures import LIMITS

from ufbert.benchmark.machine import description as machine
from ufbert.benchmark.machine.description import CpuTimes, describe_machine, foreign_share
from ufbert.benchmark.machine.limits import Traffic, measure_limits, share_of_limit
from ufbert.benchmark.settings import Shape
from ufbert.numba_kernels.memory_probe import read_bandwidth
from ufbert.system.resources import available_memory

CPU = torch.device("cpu")


class TestMachine:
    def test_description(self) -> None:
        found = describe_machine(CPU)
        assert found["processor"]
        assert found["usable_cores"] >= 1
        assert found["cache_bytes"]["L1"] >= 8 << 10
        assert found["torch"] == torch.__version__
        assert found["blas"]

    def test_without_proc_and_sys_it_still_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise FileNotFoundError

        def nothing(*_: Any) -> Iterator[Path]:
            return iter(())

        monkeypatch.setattr(Path, "read_text", refuse)
        monkeypatch.setattr(Path, "glob", nothing)
        assert machine.processor_name()
        assert machine.instruction_sets()
        assert machine.cache_sizes() == machine.ASSUMED_CACHES
        assert available_memory() is None
        assert machine.cpu_times() is None
        assert foreign_share(None, None) is None

    def test_foreign_work_is_what_is_not_ours(self) -> None:
        before = CpuTimes(system=100.0, own=10.0, stolen=0.0, wall=50.0)
        after = CpuTimes(system=112.0, own=18.0, stolen=1.0, wall=60.0)
        assert foreign_share(before, after) == {"busy_cores": 0.4, "stolen_cores": 0.1}
        assert foreign_share(before, before) is None

    def test_limits_are_measured(self) -> None:
        found = measure_limits(CPU, ("float32",), 1)
        assert found["gigaflops"]["float32"] > 0
        assert {"L1", "L2", "DRAM"} <= set(found["gigabytes_per_second"])
        assert read_bandwidth(1 << 14, threads=2, seconds=0.01) > 0

    def test_share_of_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "ufbert.benchmark.machine.limits.cache_sizes", lambda: {"L1": 1000, "L2": 10**6, "L3": 10**7}
        )
        shape = Shape(hidden_size=100, trees=1, depth=1, intermediate_size=3)
        whole = Traffic(shape, 3, 10, 4, per_token=False)
        assert whole.operations == 4 * 3 * 100 * 10
        assert whole.bytes == 2 * 3 * 100 * 4 + 2 * 10 * 100 * 4
        single = Traffic(shape, 2, 10, 4, per_token=True)
        assert single.bytes == 10 * (2 * 2 * 100 * 4 + 2 * 100 * 4)
        found = share_of_limit(single, 1e-6, "float32", 2400, LIMITS)
        assert found["memory_level"] == "L2"
        assert found["gigabytes_per_second"] == pytest.approx(24.0)
        assert found["share_of_memory_limit"] == pytest.approx(0.24)
        assert found["share_of_compute_limit"] == pytest.approx(8000 / 1e-6 / 1e9 / 100)
        assert share_of_limit(single, 1e-6, "float32", 10**9, LIMITS)["memory_level"] == "DRAM"
