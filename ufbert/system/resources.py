"""What the machine lets this process have: cores and memory, a container's limits included."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

__all__ = ["available_cores", "available_memory", "physical_memory"]

CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores this process may keep busy: its affinity, and a container's quota (`docker run --cpus`) rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def physical_memory() -> int | None:
    """Bytes of memory, or of a container's limit where that is less; None where the system does not tell."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [
        int(text)
        for file in ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1
        if (text := _read(CGROUPS / file)).isdigit()
    ]
    return min([installed, *limits])


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, or None where the system does not tell."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(match[1]) << 10 if match else None


def _cpu_quota() -> float | None:
    """Cores' worth of time in each period, by version 2 of control groups or version 1; None without a limit."""
    both = _read(CGROUPS / "cpu.max").split() or [
        _read(CGROUPS / "cpu" / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(both) != 2 or not all(part.isdigit() for part in both) or not int(both[1]):
        return None  # "max" and -1 stand for no limit
    return int(both[0]) / int(both[1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
