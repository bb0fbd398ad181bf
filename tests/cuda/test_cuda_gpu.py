"""What only a GPU can show: streams, graphs, autocast, no hidden wait, the benchmark's baseline. Skips without one.

`compute-sanitizer --tool memcheck python -m pytest tests/test_cuda_gpu.py` looks for wrong accesses (and `racecheck`
for races) on the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ufbert import FFF
from ufbert.benchmark.layer.gpu_layers import naive
from ufbert.benchmark.layer.implementations import Situation
from ufbert.benchmark.layer.operands import draw_inputs, draw_trees
from ufbert.benchmark.machine.gpu_limits import measure_gpu
from ufbert.cmm.operator import cmm
from ufbert.cuda import launcher

REASON = launcher.availability() or ("" if torch.cuda.is_available() else "this torch was built without CUDA")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
GPU = torch.device("cuda", 0)
SHAPES = [(257, 768, 1, 11), (131, 33, 3, 4), (65, 1100, 2, 1), (5, 1, 5, 0)]


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch fills what it does not initialise with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def layer(hidden: int, trees: int, depth: int, dtype: torch.dtype = torch.float32) -> FFF:
    return FFF(hidden, trees, depth, backend="cuda", initializer_range=hidden**-0.5, device=GPU, dtype=dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("tokens", "hidden", "trees", "depth"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_odd_shapes_fill_all_of_their_outputs(
    tokens: int, hidden: int, trees: int, depth: int, dtype: torch.dtype
) -> None:
    module = layer(hidden, trees, depth, dtype)
    x = torch.randn(tokens, hidden, device=GPU, dtype=dtype, requires_grad=True)
    y = module(x)
    y.float().square().sum().backward()
    for tensor in (y, x.grad, module.w_in.grad, module.b_in.grad, module.w_out.grad):
        assert tensor is not None
        assert tensor.isfinite().all()


def test_nothing_waits_for_the_gpu() -> None:
    module = layer(64, 2, 3)
    x = torch.randn(100, 64, device=GPU, requires_grad=True)
    module(x).sum().backward()  # compiles and loads
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_of_forward_and_backward_replays() -> None:
    module = layer(64, 2, 3)
    x = torch.randn(100, 64, device=GPU, requires_grad=True)
    inputs = (x, module.w_in, module.b_in, module.w_out)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(module(x).square().sum(), inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(x)
        gradients = torch.autograd.grad(y.square().sum(), inputs)
    with torch.no_grad():
        x.copy_(torch.randn(100, 64))
    graph.replay()
    expected = module(x)
    for found, right in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        assert torch.equal(found, right)
    assert torch.equal(y, expected)


def test_another_stream_is_followed() -> None:
    module = layer(768, 1, 11)
    x = torch.randn(4096, 768, device=GPU)
    expected = module(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        y = module(x * 1.0)
    stream.synchronize()
    assert torch.equal(y, expected)


def test_autocast_computes_in_its_dtype() -> None:
    module = layer(64, 2, 3)
    x = torch.randn(100, 64, device=GPU)
    with torch.autocast("cuda", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert module.w_in.grad is not None
    assert module.w_in.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_naive_baseline_is_right(dtype: torch.dtype) -> None:
    weights = draw_trees(768, 1, 11, 0, dtype, GPU)
    x = draw_inputs(513, 768, 1, dtype, GPU)
    situation = Situation(device=GPU, dtype=dtype, batch=513, threads=1, direction="forward")
    y, expected = naive(weights, situation)(x), cmm(x, weights.w_in, weights.b_in, weights.w_out, "cuda")
    error = (y.double() - expected.double()).norm(dim=1) / expected.double().norm(dim=1)
    assert float(error.median()) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_limits_are_measured() -> None:
    found = measure_gpu(GPU, ("float32", "bfloat16"))
    assert found["gigaflops"].keys() == {"float32", "tf32", "bfloat16"}
    assert found["gigabytes_per_second"]["L2"] > found["gigabytes_per_second"]["DRAM"] > 0
