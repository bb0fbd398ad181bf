"""Whether this machine can run the kernels, and what its GPUs are. The driver is asked directly, through ctypes,
so that the answer is right also where the `cuda` extra is missing."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from .unavailable import CudaUnavailable

__all__ = ["INSTALL", "architecture", "availability", "driver_version", "require"]

INSTALL = "pip install 'ufbert[cuda]'"
MISSING_EXTRA = f"the CUDA backend needs cuda-core with the NVRTC compiler; install it with: {INSTALL}"
NO_DRIVER = "the CUDA backend needs an NVIDIA GPU, and this machine has no NVIDIA driver"
NO_GPU = "the CUDA backend needs an NVIDIA GPU, and the driver shows none (CUDA_VISIBLE_DEVICES may hide it)"


def _open_driver() -> ctypes.CDLL | None:
    """The driver's library, or None where no driver is installed."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
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


def _compiler_version() -> tuple[int, int]:
    """The CUDA version of the installed NVRTC. Raises `CudaUnavailable` where the extra is missing."""
    from .compiler import compiler_version

    return compiler_version()


@cache
def availability() -> str | None:
    """None if this process can compile and launch the kernels, else one line that says what is missing."""
    if _open_driver() is None:
        return NO_DRIVER
    if _gpu_count() == 0:
        return NO_GPU
    try:
        compiler = _compiler_version()
    except CudaUnavailable as error:
        return str(error)
    driver = driver_version()
    if driver[0] < compiler[0]:
        return (
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}, the installed cuda-core builds for CUDA "
            f"{compiler[0]}; update the driver, or: pip install 'cuda-core[cu{driver[0]}]'"
        )
    return None


def require() -> None:
    """Raise `CudaUnavailable` with the line of `availability`, if there is one."""
    reason = availability()
    if reason is not None:
        raise CudaUnavailable(reason)


@cache
def architecture(device: int) -> str:
    """Name of a GPU's architecture for the compiler, such as "sm_90". Needs a usable GPU."""
    from cuda.core import Device

    major, minor = Device(device).compute_capability
    return f"sm_{major}{minor}"
