"""One contract for the backends that users run: Numba's, and CUDA's on a GPU and, without one, in the emulator.

In the emulator the tensors are the CPU's, and only streams and launches are replaced: what `ufbert.cmm.cuda`
does around the kernels is all there.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cuda_emulator import Emulator, Memory

from ufbert import FFF
from ufbert.cmm import cuda
from ufbert.cmm import operator as operator
from ufbert.cmm.operator import cmm
from ufbert.cuda import launcher
from ufbert.model.fff import masked_dense_fff

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
WRITTEN = {
    True: ("y", "logits", "leaves"),
    False: ("workspace", "grad_x", "grad_w_in", "grad_b_in", "grad_w_out"),
}


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor, in place; an empty one may have strides that no view takes."""
    return tensor.view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


class Emulated:
    """Stands in for the launcher: keeps the tensors of a call, runs it in the emulator, writes the results back."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.memory = Memory()
        self.tensors: list[torch.Tensor] = []

    def addresses(self, arrays: dict[str, torch.Tensor]) -> dict[str, int]:
        self.memory, self.tensors = Memory(), list(arrays.values())
        for name in WRITTEN["y" in arrays]:
            raw(arrays[name]).fill_(0xFF)  # NaN, or negative indices
        return {name: self.memory.put(raw(tensor).numpy()) for name, tensor in arrays.items()}

    def run(self, layout: Any, launches: list[launcher.Launch], device: int, stream: int) -> None:
        self.emulator.run(layout, launches, self.memory)
        for tensor, array in zip(self.tensors, self.memory.arrays, strict=True):
            raw(tensor).copy_(torch.from_numpy(array))


@pytest.fixture(params=["numba", "cuda-emulated", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, torch.device]]:
    """Name of a backend and the device of its tensors."""
    if request.param == "numba":
        yield "numba", torch.device("cpu")
        return
    if request.param == "cuda":
        if reason := launcher.availability():
            pytest.skip(reason)
        yield "cuda", torch.device("cuda", torch.cuda.current_device())
        return
    emulated = Emulated(request.getfixturevalue("emulator"))
    monkeypatch.setattr(operator, "_unavailable", lambda *_: None)
    monkeypatch.setattr(cuda, "_addresses", emulated.addresses)
    monkeypatch.setattr(launcher, "_run", emulated.run)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(cuda_stream=0))
    operator._backend_for.cache_clear()
    yield "cuda", torch.device("cpu")
    operator._backend_for.cache_clear()  # that the CPU has this backend is no more true for the tests that follow


def draw(tokens: int, hidden: int, trees: int, depth: int, dtype: torch.dtype, device: torch.device) -> Operands:
    """x, w_in, b_in, w_out whose values the dtype holds exactly; logits of about unit size."""
    nodes = 2 ** (depth + 1) - 1
    operands = (
        torch.randn(tokens, hidden),
        torch.randn(trees, nodes, hidden) / hidden**0.5,
        0.1 * torch.randn(trees, nodes),
        torch.randn(trees, nodes, hidden),
    )
    x, w_in, b_in, w_out = (t.to(dtype).to(device) for t in operands)
    return x, w_in, b_in, w_out


def wide(operands: Operands) -> Operands:
    """In float64, with gradients asked for."""
    x, w_in, b_in, w_out = (t.detach().double().cpu().requires_grad_() for t in operands)
    return x, w_in, b_in, w_out


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.double().cpu() - expected).norm() / expected.norm().clamp(min=1e-30))


CASES = [
    pytest.param((33, 12, 2, 3, torch.float32), id="float32"),
    pytest.param((70, 8, 1, 4, torch.bfloat16), id="bfloat16"),
    pytest.param((9, 8, 3, 0, torch.float16), id="dense-float16"),
]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_masked_dense_layers(
    backend: tuple[str, torch.device], case: tuple[int, int, int, int, torch.dtype]
) -> None:
    name, device = backend
    operands = draw(*case, device)
    for tensor in operands:
        tensor.requires_grad_()
    grad_y = torch.randn(operands[0].shape).to(case[-1]).to(device)
    expected = wide(operands)
    y = masked_dense_fff(*expected)
    wanted = (y, *torch.autograd.grad(y, expected, grad_y.double().cpu()))
    found = cmm(*operands, name)
    assert found.dtype == case[-1]
    gradients = torch.autograd.grad(found, operands, grad_y)
    for part, value, right in zip(("y", "x", "w_in", "b_in", "w_out"), (found, *gradients), wanted, strict=True):
        assert value.dtype == case[-1]
        assert relative_error(value.detach(), right.detach()) < TOLERANCE[case[-1]], part


def test_the_same_input_gives_the_same_bits(backend: tuple[str, torch.device]) -> None:
    name, device = backend
    operands = draw(33, 12, 2, 3, torch.float32, device)
    for tensor in operands:
        tensor.requires_grad_()
    runs = []
    for _ in range(2):
        y = cmm(*operands, name)
        runs.append((y, *torch.autograd.grad(y.square().sum(), operands)))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_inputs_of_other_shapes_and_layouts(backend: tuple[str, torch.device]) -> None:
    name, device = backend
    x, w_in, b_in, w_out = draw(33, 12, 2, 3, torch.float32, device)
    y = cmm(x, w_in, b_in, w_out, name)
    assert torch.equal(cmm(x.view(3, 11, 12), w_in, b_in, w_out, name), y.view(3, 11, 12))
    assert torch.equal(cmm(x.T.contiguous().T, w_in, b_in, w_out, name), y)
    with torch.inference_mode():
        assert torch.equal(cmm(x, w_in, b_in, w_out, name), y)
    empty = x[:0].requires_grad_()
    for weight in (w_in, b_in, w_out):
        weight.requires_grad_()
    nothing = cmm(empty, w_in, b_in, w_out, name)
    assert nothing.shape == (0, 12)
    for gradient in torch.autograd.grad(nothing.sum(), (empty, w_in, b_in, w_out)):
        assert not gradient.any()


def test_mixed_types_follow_the_backend(backend: tuple[str, torch.device]) -> None:
    """Weights of float32 and x in bfloat16: the result has the dtype of x, the gradients those of the weights."""
    name, device = backend
    x, *weights = draw(70, 8, 1, 4, torch.bfloat16, device)
    weights = [w.float().requires_grad_() for w in weights]
    y = cmm(x, weights[0], weights[1], weights[2], name)
    assert y.dtype == torch.bfloat16
    expected = masked_dense_fff(*wide((x, weights[0], weights[1], weights[2])))
    assert relative_error(y.detach(), expected.detach()) < TOLERANCE[torch.bfloat16]
    gradients = torch.autograd.grad(y.float().sum(), weights)
    assert {g.dtype for g in gradients} == {torch.float32}


def test_a_compiled_layer_is_the_eager_one(backend: tuple[str, torch.device]) -> None:
    name, device = backend
    layer = FFF(12, 2, 3, backend=name, initializer_range=0.5).to(device)
    x = torch.randn(33, 12, device=device)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for run in (layer, compiled):
        layer.zero_grad()
        y = run(x)
        y.square().sum().backward()
        assert layer.w_in.grad is not None
        results.append((y.detach(), layer.w_in.grad.clone()))
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(other, eager)
