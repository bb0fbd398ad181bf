"""Which device a command computes on, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ufbert.errors import BackendError, ConfigError

__all__ = ["autocast", "choose_device", "choose_precision", "describe_precision", "tensor_float"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one. Raises `BackendError` for `cuda` without one."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; known: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None:
            raise BackendError(
                f"no CUDA: this torch ({torch.__version__}) is a CPU build; use --device cpu, or install a CUDA build"
            )
        raise BackendError("no CUDA device found on this machine; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: `auto` takes bfloat16 where the hardware multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}; known: auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Matrix products in `dtype`, weights and sums in float32; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def tensor_float(device: torch.device, on: bool) -> Iterator[None]:
    """Within the block, float32 products on a GPU use TF32 or do not; on a CPU nothing changes."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def describe_precision(device: torch.device, dtype: torch.dtype, tf32: bool) -> str:
    """How matrix products are computed: `float32`, `bfloat16`, or `tf32` for float32 within `tensor_float`."""
    if dtype == torch.float32 and tf32 and device.type == "cuda":
        return "tf32"
    return str(dtype).removeprefix("torch.")
