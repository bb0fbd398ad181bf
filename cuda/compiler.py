"""CUDA C++ to machine code at run time, with NVRTC: no nvcc and no C++ compiler is needed.

The compiled code is kept on disk (`cubin_cache.py`), so a layer shape is compiled once per machine.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from . import cubin_cache
from .unavailable import MISSING_EXTRA, CudaUnavailable

__all__ = [
    "MAIN_FILE",
    "CudaCompileError",
    "cache_key",
    "compile_cubin",
    "compiler_version",
    "cubin",
    "load_source",
    "supported_architectures",
]

MAIN_FILE = "cmm.cu"
STANDARD = "c++17"
FORMAT = 1  # of the cached files; a new number leaves the old ones unread


class CudaCompileError(RuntimeError):
    """The kernels did not compile: a fault of this package, so the text holds the numbered source and the log."""

    def __init__(self, source: str, arch: str, macros: tuple[tuple[str, str], ...], log: str) -> None:
        numbered = "\n".join(f"{number:5d}  {line}" for number, line in enumerate(source.splitlines(), 1))
        options = " ".join(f"-D{name}={value}" for name, value in macros)
        super().__init__(f"the CUDA kernels do not compile for {arch} with {options}\n{numbered}\n\n{log.strip()}")


@cache
def load_source(main_file: str = MAIN_FILE) -> str:
    """A .cu file with the files it includes put in their places: one text, whose line numbers the compiler names."""
    folder = Path(__file__).parent

    def paste(match: re.Match[str]) -> str:
        return (folder / match[1]).read_text(encoding="utf-8")

    main = (folder / main_file).read_text(encoding="utf-8")
    return re.sub(r'^#include "([a-z_]+\.cuh)"\n', paste, main, flags=re.MULTILINE)


def compiler_version() -> tuple[int, int]:
    """The CUDA version of NVRTC. Raises `CudaUnavailable` if it or cuda-core is not installed."""
    try:
        import cuda.core
        from cuda.bindings import nvrtc

        cuda.core.ObjectCode  # noqa: B018 - a release whose names are elsewhere is as good as none
        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, AttributeError, RuntimeError) as error:  # RuntimeError: bindings without the library
        raise CudaUnavailable(MISSING_EXTRA) from error
    return int(major), int(minor)


def supported_architectures() -> list[str]:
    """What NVRTC builds for, such as "sm_90", the oldest first. Raises `CudaUnavailable`."""
    compiler_version()
    from cuda.bindings import nvrtc

    return [f"sm_{number}" for number in sorted(_checked(nvrtc.nvrtcGetSupportedArchs()))]


def compile_cubin(source: str, macros: tuple[tuple[str, str], ...], arch: str, name: str = MAIN_FILE) -> bytes:
    """Machine code for `arch` (such as "sm_90"); the log calls the source `name`. Needs no GPU.

    NVRTC itself is called: cuda-core's `Program` says only in an exception of a private module what is wrong
    with a source. Raises `CudaCompileError`, `CudaUnavailable`.
    """
    compiler_version()
    from cuda.bindings import nvrtc

    options = [f"-arch={arch}", f"--std={STANDARD}", *(f"-D{macro}={value}" for macro, value in macros)]
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []))
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise CudaCompileError(source, arch, macros, log.rstrip(b"\0").decode(errors="replace"))
        code = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(answer: tuple[Any, ...]) -> Any:
    """What an NVRTC function gives beside its status. Raises `RuntimeError` for any status but success."""
    if answer[0].value:
        raise RuntimeError(f"NVRTC failed: {answer[0].name}")
    return answer[1] if len(answer) > 1 else None


def cache_key(
    source: str,
    macros: tuple[tuple[str, str], ...],
    arch: str,
    compiler: tuple[int, int],
    driver: tuple[int, int],
) -> str:
    """Hexadecimal name of what these inputs compile to; any difference in them gives another name."""
    parts = (str(FORMAT), source, repr(macros), arch, STANDARD, repr(compiler), repr(driver))
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def cubin(macros: tuple[tuple[str, str], ...], arch: str, driver: tuple[int, int], main_file: str = MAIN_FILE) -> bytes:
    """The kernels of a .cu file as machine code: from the cache on disk, or compiled and put there."""
    source = load_source(main_file)
    key = cache_key(source, macros, arch, compiler_version(), driver)
    code = cubin_cache.read(key)
    if code is None:
        code = compile_cubin(source, macros, arch, main_file)
        cubin_cache.write(key, code)
    return code
