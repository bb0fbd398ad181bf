"""Builds and runs the CPU emulator of the CUDA kernels (cuda_emulator.cpp), for several test files."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ufbert.cuda import launcher, naive
from ufbert.cuda.naive import NaiveLayout
from ufbert.cuda.plan import Specialization

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Layout = Specialization | NaiveLayout

SOURCE = Path(__file__).with_name("cuda_emulator.cpp")
KERNELS = Path(launcher.__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
NUMBERS = {name: number for kernels in (launcher.KERNELS, naive.KERNELS) for number, name in enumerate(kernels)}


def encode(values: Floats, dtype: str) -> Array:
    """The values in a storage format; bfloat16 as its bits."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(dtype)


def decode(stored: Array, dtype: str) -> Floats:
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def storage(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


@dataclass
class Emulator:
    """Builds one program per specialization and runs launches in it."""

    folder: Path
    compiler: str
    programs: dict[Layout, Path] = field(default_factory=dict)

    def program(self, layout: Layout) -> Path:
        if layout not in self.programs:
            target = self.folder / f"emulator-{len(self.programs)}"
            macros = [f"-D{name}={value}" for name, value in layout.macros]
            baseline = isinstance(layout, NaiveLayout)
            macros += ['-DKERNEL_FILE="naive.cu"', "-DNAIVE"] if baseline else ['-DKERNEL_FILE="cmm.cu"']
            command = [self.compiler, "-std=c++17", "-O0", "-Wno-unknown-pragmas", f"-I{KERNELS}", *SANITIZERS]
            command += [*macros, str(SOURCE), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            self.programs[layout] = target
        return self.programs[layout]

    def run(self, layout: Layout, launches: list[launcher.Launch], memory: Memory, backwards: bool = False) -> None:
        """Run the launches; the arrays in `memory` are updated in place."""
        numbers = [int(backwards), len(memory.arrays)]
        job = np.array(numbers, np.int64).tobytes()
        for array in memory.arrays:
            job += np.int64(array.nbytes).tobytes() + array.tobytes()
        job += np.int64(len(launches)).tobytes()
        for launch in launches:
            width, height, _ = launch.block
            numbers = [NUMBERS[launch.kernel], launch.grid, width, height, len(launch.arguments), *launch.arguments]
            job += np.array(numbers, np.int64).tobytes()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            (Path(folder) / "job").write_bytes(job)
            command = [str(self.program(layout)), f"{folder}/job", f"{folder}/result"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            result = (Path(folder) / "result").read_bytes()
        position = 0
        for array in memory.arrays:
            array.view(np.uint8).reshape(-1)[:] = np.frombuffer(result[position : position + array.nbytes], np.uint8)
            position += array.nbytes
        assert position == len(result)


class Memory:
    """Arrays and the addresses under which the emulator knows them."""

    def __init__(self) -> None:
        self.arrays: list[npt.NDArray[np.uint8]] = []

    def put(self, array: Array, offset: int = 0) -> int:
        """Store a copy, `offset` bytes into its allocation; returns the address."""
        self.arrays.append(np.concatenate([np.zeros(offset, np.uint8), array.reshape(-1).view(np.uint8)]))
        return (len(self.arrays) << 40) + offset

    def poisoned(self, bytes_: int) -> int:
        """Memory full of NaN, or of negative indices."""
        return self.put(np.full(bytes_, 0xFF, np.uint8))

    def get(self, address: int, dtype: npt.DTypeLike, *shape: int) -> Array:
        return self.arrays[(address >> 40) - 1][address & ((1 << 40) - 1) :].view(dtype).reshape(shape)


@contextlib.contextmanager
def built_emulator() -> Iterator[Emulator]:
    """An emulator in a folder of its own; skips the test where this machine cannot build one."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed; it builds the CPU emulator of the kernels")
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text("#include <ucontext.h>\n_Float16 half;\nint main() {}\n")
        command = [compiler, *SANITIZERS, str(probe), "-o", str(probe.with_suffix(""))]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this g++ lacks sanitizers, ucontext or _Float16; the emulator of the kernels needs them")
        yield Emulator(Path(folder), compiler)
