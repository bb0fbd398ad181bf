"""Launch configurations, as properties over all sizes, and what a machine without a usable GPU is told."""

from __future__ import annotations

import builtins
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufbert.cuda import launcher, machine, plan
from ufbert.cuda.compiler import load_source
from ufbert.cuda.unavailable import CudaUnavailable

dtypes = st.sampled_from(sorted(plan.DTYPES))
hidden_sizes = st.integers(1, 4096) | st.integers(1, 1_000_000)
depths = st.integers(0, plan.MAXIMUM_DEPTH)
address = st.integers(0, 2**47)


@given(hidden_sizes, dtypes, st.lists(address, max_size=4).map(tuple))
def test_vector_width_is_the_widest_safe_one(hidden: int, dtype: str, addresses: tuple[int, ...]) -> None:
    size = plan.DTYPES[dtype][1]
    # Tensors are aligned to their elements at least.
    addresses = tuple(a // size * size for a in addresses)
    width = plan.vector_width(hidden, dtype, addresses)

    def safe(candidate: int) -> bool:
        return hidden % candidate == 0 and all(a % (candidate * size) == 0 for a in addresses)

    assert width == max(w for w in (1, 2, 4, 8) if w * size <= 16 and safe(w))


@given(dtypes, hidden_sizes, depths)
def test_a_layout_covers_the_row_and_fits_the_gpu(dtype: str, hidden: int, depth: int) -> None:
    layout = plan.specialize(dtype, hidden, depth, plan.vector_width(hidden, dtype, ()))
    threads = math.prod(layout.token_block)
    assert threads <= 1024
    assert layout.token_block == (32 * layout.warps, layout.tokens_per_block, 1)
    assert layout.warps == 1 or layout.tokens_per_block == 1
    chunk = 32 * layout.warps * layout.vector
    assert -(-hidden // chunk) * layout.vector <= 32 or layout.warps == 32
    assert layout.vector % layout.columns == 0
    covered = layout.slices * layout.columns * layout.weight_block[0]
    assert hidden <= covered < hidden + layout.columns * layout.weight_block[0]
    levels, size = depth + 1, plan.DTYPES[dtype][1]
    assert levels * (2 * layout.columns + 1) <= 96  # running sums in registers, of 255
    # Static shared memory of the tile kernel: tokens, places, coefficients, two batches of rows.
    shared = 32 * (8 + 8 + 16 * -(-2 * levels // 4)) + 2 * 8 * layout.weight_block[0] * layout.columns * size
    assert shared <= 48 * 1024


@given(dtypes, st.integers(1, 4096), st.integers(0, 16), st.integers(1, 64), st.integers(1, 2**34), st.integers(0, 3))
def test_tiles_cover_the_tokens_and_the_workspace_suffices(
    dtype: str, hidden: int, depth: int, trees: int, tokens: int, misalignment: int
) -> None:
    width = plan.vector_width(hidden, dtype, (misalignment * 4,))
    layout = plan.specialize(dtype, hidden, depth, width)
    tiling = plan.backward_plan(tokens, trees, depth, hidden, layout.slices)
    assert tiling.tiles * tiling.tile_tokens >= tokens > (tiling.tiles - 1) * tiling.tile_tokens
    assert tiling.tile_tokens >= plan.SMALLEST_TILE
    assert tiling.tiles * trees * layout.slices <= plan.TILE_BLOCKS + trees * layout.slices
    space = tiling.workspace
    rows = trees * tiling.tiles * 2 * (depth + 1)
    regions = [
        (space.coefficients, 4 * tokens * trees * 2 * (depth + 1)),
        (space.partial_w_in, 4 * rows * hidden),
        (space.partial_w_out, 4 * rows * hidden),
        (space.partial_b_in, 4 * rows),
    ]
    end = 0
    for offset, size in regions:
        assert offset % plan.ALIGNMENT == 0
        assert offset >= end
        end = offset + size
    assert end <= space.size
    assert space.size <= plan.backward_workspace(tokens=tokens, hidden=hidden, trees=trees, depth=depth)


@given(st.integers(0, 2**40), st.sampled_from([1, 4]))
def test_grids_are_launchable_and_complete(tokens: int, tokens_per_block: int) -> None:
    grid = plan.token_grid(tokens, tokens_per_block)
    assert grid <= 2**31 - 1
    assert grid * tokens_per_block >= tokens or grid == 2**31 - 1
    assert (grid - 1) * tokens_per_block < max(tokens, 1)
    assert plan.weight_grid(tokens) == min(tokens, 2**31 - 1)


def test_workspace_stays_small_beside_the_input() -> None:
    """The paper's layer, 131,072 tokens in bfloat16: x and grad_y are 384 MiB."""
    assert plan.backward_workspace(tokens=131072, hidden=768, trees=1, depth=11) < 80 * 2**20


def sizes(**changes: Any) -> dict[str, Any]:
    return {"tokens": 10, "hidden": 768, "trees": 2, "depth": 3, "dtype": "float32", **changes}


FORWARD: dict[str, Any] = dict.fromkeys(("x", "w_in", "b_in", "w_out", "y", "logits", "leaves"), 4096)
GRADIENTS = ("grad_x", "grad_w_in", "grad_b_in", "grad_w_out")
READ = ("grad_y", "x", "w_in", "w_out", "logits", "leaves", "order", "leaf_starts", "workspace")
BACKWARD: dict[str, Any] = dict.fromkeys((*READ, *GRADIENTS), 4096)


def test_the_launches_of_a_call() -> None:
    layout, launches = launcher.forward_launches(**FORWARD, **sizes())
    assert [(step.kernel, step.grid, step.block) for step in launches] == [("cmm_forward", 3, (32, 4, 1))]
    assert layout.vector == 4
    layout, launches = launcher.backward_launches(**BACKWARD, **sizes())
    assert [(step.kernel, step.grid) for step in launches] == [
        ("cmm_backward_tokens", 3),
        ("cmm_backward_tiles", 2 * 1 * layout.slices),
        ("cmm_backward_combine", 2 * 15 * layout.slices),
    ]
    for step in launches:
        assert len(step.arguments) == launcher.KERNELS[step.kernel]


def test_the_launches_without_tokens() -> None:
    assert launcher.forward_launches(**FORWARD, **sizes(tokens=0))[1] == []
    (step,) = launcher.backward_launches(**BACKWARD, **sizes(tokens=0))[1]
    assert step.kernel == "cmm_backward_combine"  # writes the zeros


def test_parameters_are_counted_as_in_the_source() -> None:
    source = load_source()
    for name, count in launcher.KERNELS.items():
        parameters = re.search(rf"\b{name}\((.*?)\) {{", source, flags=re.DOTALL)
        assert parameters is not None
        assert parameters[1].count(",") + 1 == count
    layout = plan.specialize("float32", 8, 2, 4)
    blocks = {step.kernel: step.block for step in launcher.idle_launches(layout)}
    real = launcher.backward_launches(**BACKWARD, **sizes(hidden=8, depth=2))[1]
    assert all(blocks[step.kernel] == step.block for step in real)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dtype": "float64"}, "the CUDA kernels take float32, float16, bfloat16, not float64"),
        ({"depth": 32}, "the CUDA kernels take depth 0 to 31 and a hidden size of at least 1"),
        ({"hidden": 0}, "the CUDA kernels take depth 0 to 31 and a hidden size of at least 1"),
        ({"trees": 0}, "the CUDA kernels take at least 1 tree and 0 tokens, not 0 and 10"),
    ],
)
def test_shapes_without_kernels_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        launcher.forward_launches(**FORWARD, **sizes(**changes))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`availability` asks anew, in the test and after it."""
    machine.availability.cache_clear()
    yield monkeypatch
    machine.availability.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, *, driver: tuple[int, int] | None, gpus: int) -> None:
    monkeypatch.setattr(machine, "_open_driver", lambda: None if driver is None else object())
    monkeypatch.setattr(machine, "driver_version", lambda: driver)
    monkeypatch.setattr(machine, "_gpu_count", lambda: gpus)


def check_refused(text: str) -> None:
    assert launcher.availability() == launcher.availability(0) == text
    with pytest.raises(CudaUnavailable, match=f"^{re.escape(text)}$"):
        launcher.forward(**FORWARD, **sizes(), device=0, stream=0)
    with pytest.raises(CudaUnavailable):
        launcher.prepare(hidden=768, depth=3, dtype="float32", device=0, stream=0)


def test_no_driver(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, driver=None, gpus=0)
    check_refused("the CUDA backend needs an NVIDIA GPU, and this machine has no NVIDIA driver")


def test_no_gpu(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, driver=(13, 0), gpus=0)
    check_refused("the CUDA backend needs an NVIDIA GPU, and the driver shows none (CUDA_VISIBLE_DEVICES may hide it)")


def test_missing_extra(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, driver=(13, 0), gpus=1)
    real = builtins.__import__

    def without_cuda_core(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("cuda."):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    fresh.setattr(builtins, "__import__", without_cuda_core)
    check_refused(
        "the CUDA backend needs cuda-core with the NVRTC compiler; install it with: pip install 'ufbert[cuda]'"
    )


def test_old_driver(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, driver=(12, 4), gpus=1)
    fresh.setattr(machine, "compiler_version", lambda: (13, 0))
    check_refused(
        "the NVIDIA driver supports CUDA 12.4, the installed cuda-core builds for CUDA 13; update the driver, "
        "or: pip install 'cuda-core[cu12]'"
    )


def test_usable(fresh: pytest.MonkeyPatch) -> None:
    pretend(fresh, driver=(13, 1), gpus=1)
    fresh.setattr(machine, "compiler_version", lambda: (13, 0))
    fresh.setattr(machine, "architecture", lambda _: "sm_90")
    fresh.setattr(machine, "supported_architectures", lambda: ["sm_75", "sm_90"])
    assert launcher.availability() is None
    machine.require(0)


@pytest.mark.parametrize(
    ("arch", "compiler", "advice"),
    [
        ("sm_61", (13, 0), "CUDA 12 may still: pip install 'cuda-core[cu12]'"),
        ("sm_37", (12, 9), "take a newer GPU, or backend reference"),
        ("sm_130", (13, 0), "update it: pip install --upgrade 'cuda-core[cu13]'"),
    ],
)
def test_a_gpu_that_the_compiler_does_not_build_for(
    fresh: pytest.MonkeyPatch, arch: str, compiler: tuple[int, int], advice: str
) -> None:
    pretend(fresh, driver=(13, 0), gpus=2)
    fresh.setattr(machine, "compiler_version", lambda: compiler)
    fresh.setattr(machine, "supported_architectures", lambda: ["sm_75", "sm_90", "sm_121"])
    fresh.setattr(machine, "architecture", lambda device: ("sm_90", arch)[device])
    text = (
        f"the installed NVRTC {compiler[0]}.{compiler[1]} builds for sm_75 to sm_121, and this GPU is of architecture "
        f"{arch}; {advice}"
    )
    assert launcher.availability() is None
    assert launcher.availability(0) is None
    assert launcher.availability(1) == text
    with pytest.raises(CudaUnavailable, match=f"^{re.escape(text)}$"):
        launcher.forward(**FORWARD, **sizes(), device=1, stream=0)


def test_the_driver_is_asked_without_the_extra() -> None:
    version = machine.driver_version()
    assert version == (0, 0) or version[0] >= 11
    assert (version == (0, 0)) == (machine._open_driver() is None)
