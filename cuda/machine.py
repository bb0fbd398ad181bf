"""Whether this machine can run the kernels, and what its GPUs are. The driver is asked directly, through ctypes,
so that the answer is right also where the `cuda` extra is missing."""

from __future__ import annotations

import ctypes
from functools import cache

from .compiler import compiler_version, supported_architectures
from .unavailable import CudaUnavailable

__all__ = ["architecture", "availability", "driver_version", "require"]

NO_DRIVER = "the CUDA backend needs an NVIDIA GPU, and this machine has no NVIDIA driver"
NO_GPU = "the CUDA backend needs an NVIDIA GPU, and the driver shows none (CUDA_VISIBLE_DEVICES may hide it)"


def _open_driver() -> ctypes.CDLL | None:
    """The driver's library, or None where no driver is installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def driver_version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports, or (0, 0) without a driver."""
    driver = _open_driver()
    number = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return 0, 0
    return number.value // 1000, number.value % 1000 // 10


def _gpu_count() -> int:
    """GPUs that the driver shows to this process."""
    driver = _open_driver()
    number = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return 0
    return number.value


@cache
def availability(device: int | None = None) -> str | None:
    """None if this process can compile and launch the kernels, else one line that says what is missing.

    With `device`, the number of a GPU, also whether the compiler still, or already, builds for that GPU.
    """
    if _open_driver() is None:
        return NO_DRIVER
    if _gpu_count() == 0:
        return NO_GPU
    try:
        compiler = compiler_version()
    except CudaUnavailable as error:
        return str(error)
    driver = driver_version()
    if driver[0] < compiler[0]:
        return (
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}, the installed cuda-core builds for CUDA "
            f"{compiler[0]}; update the driver, or: pip install 'cuda-core[cu{driver[0]}]'"
        )
    return None if device is None else _too_old_or_new(architecture(device), compiler)


def _too_old_or_new(arch: str, compiler: tuple[int, int]) -> str | None:
    """One line if NVRTC does not build for an architecture, as CUDA drops old ones and learns of new ones."""
    supported = supported_architectures()
    if arch in supported:
        return None
    oldest, newest = supported[0], supported[-1]
    if _number(arch) > _number(oldest):
        advice = f"update it: pip install --upgrade 'cuda-core[cu{compiler[0]}]'"
    elif compiler[0] > 12:
        advice = "CUDA 12 may still: pip install 'cuda-core[cu12]'"
    else:
        advice = "take a newer GPU, or backend reference"
    return (
        f"the installed NVRTC {compiler[0]}.{compiler[1]} builds for {oldest} to {newest}, and this GPU is of "
        f"architecture {arch}; {advice}"
    )


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def require(device: int) -> None:
    """Raise `CudaUnavailable` with the line of `availability`, if there is one."""
    reason = availability(device)
    if reason is not None:
        raise CudaUnavailable(reason)


@cache
def architecture(device: int) -> str:
    """Name of a GPU's architecture for the compiler, such as "sm_90". Needs a usable GPU."""
    from cuda.core import Device

    major, minor = Device(device).compute_capability
    return f"sm_{major}{minor}"
