"""The machine a figure was measured on, and whether somebody else was using it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ufbert.system.resources import available_cores, physical_memory

__all__ = [
    "CpuTimes", "cache_sizes", "cpu_times", "describe_machine", "foreign_share",
    "peak_memory",

]  # fmt: skip

# Flags of /proc/cpuinfo that decide how fast a matrix product or a dot product can be.
INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
PACKAGES = ("torch", "numpy", "scipy", "numba")

# Where the system does not tell: sizes of a common server core.
ASSUMED_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, caches, memory, software: the constant part of `machine` in the JSON file."""
    machine: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": available_cores(),
        "instruction_sets": instruction_sets(),
        "cache_bytes": cache_sizes(),
        "memory_bytes": physical_memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "blas": loaded_blas(),
        # How long OpenMP threads wait for work before they sleep; a wake-up costs every implementation that uses them.
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        # Whether torch asks for huge pages for large tensors, which are everyone's weights and inputs here.
        "thp_mem_alloc_enable": os.environ.get("THP_MEM_ALLOC_ENABLE"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu"] = properties.name
        machine["gpu_memory_bytes"] = properties.total_memory
        machine["gpu_compute_capability"] = f"{properties.major}.{properties.minor}"
        machine["cuda"] = torch.version.cuda
    return machine


def processor_name() -> str:
    """The processor's marketing name, or the architecture where the system does not tell."""
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Vector and matrix extensions, by their Linux names."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    if match:
        flags = set(match[1].split())
        return [name for name in INSTRUCTION_SETS if name in flags]
    return [torch.backends.cpu.get_cpu_capability()]


def cache_sizes() -> dict[str, int]:
    """Bytes of one core's data caches and of the shared last level."""
    sizes: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = "L" + (index / "level").read_text().strip()
            number, unit = re.fullmatch(r"(\d+)([KM]?)", (index / "size").read_text().strip()).groups()  # type: ignore[union-attr]
        except (OSError, AttributeError):
            continue
        if kind != "Instruction":
            sizes[level] = int(number) << {"": 0, "K": 10, "M": 20}[unit]
    return sizes or dict(ASSUMED_CACHES)


def peak_memory() -> int | None:
    """The most bytes of memory this process has held at once, or None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def loaded_blas() -> list[str]:
    """The BLAS libraries in this process, as threadpoolctl names them."""
    import scipy.linalg.blas  # noqa: F401  loads SciPy's, which the Level 1 to 3 rows use
    from threadpoolctl import threadpool_info

    return sorted(
        {
            f"{library['internal_api']} {library['version']}"
            for library in threadpool_info()
            if library["user_api"] == "blas"
        }
    )


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds since some fixed moment: of the whole system, of this process, and stolen by the host."""

    system: float
    own: float
    stolen: float
    wall: float


def cpu_times() -> CpuTimes | None:
    """Now; None where /proc/stat is not to be had."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    ticks = [int(f) / os.sysconf("SC_CLK_TCK") for f in fields]
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts, stolen = ticks[:8]
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return CpuTimes(user + nice + system + interrupts + soft_interrupts, own, stolen, times.elapsed)


def foreign_share(before: CpuTimes | None, after: CpuTimes | None) -> dict[str, float] | None:
    """Cores that other processes (`busy`) and other virtual machines (`stolen`) used between two moments."""
    if before is None or after is None or after.wall <= before.wall:
        return None
    wall = after.wall - before.wall
    others = (after.system - before.system) - (after.own - before.own)
    return {
        "busy_cores": round(min(float(os.cpu_count() or 1), max(0.0, others / wall)), 3),
        "stolen_cores": round(max(0.0, (after.stolen - before.stolen) / wall), 3),
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
