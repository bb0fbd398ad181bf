"""Cores and memory: what a container's limits leave of the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ufbert.system import resources
from ufbert.system.resources import available_cores, available_memory, physical_memory


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of control groups on a machine of eight cores."""
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cores"), [("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8), ("900000 100000", 8), ("", 8)]
)
def test_a_containers_share_of_the_processor_is_kept(cgroups: Path, quota: str, cores: int) -> None:
    (cgroups / "cpu.max").write_text(quota)
    assert available_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000", 2), ("-1", 8)])
def test_so_it_is_with_the_first_version_of_control_groups(cgroups: Path, quota: str, cores: int) -> None:
    (cgroups / "cpu").mkdir()
    (cgroups / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroups / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_cores() == cores


def test_memory_is_the_machines_or_the_containers(cgroups: Path) -> None:
    installed = physical_memory()
    assert installed is not None
    assert 0 < (available_memory() or 1) <= installed
    (cgroups / "memory.max").write_text("1000000\n")
    assert physical_memory() == 1_000_000
    (cgroups / "memory.max").write_text("max\n")
    assert physical_memory() == installed
