"""Every backend against the plain definition: values, gradients, odd shapes, odd inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert import FFF
from ufbert.cmm.operator import _autocast_dtype, _operands, cmm, cmm_leaves, resolve_backend
from ufbert.cmm.tree import descend
from ufbert.errors import BackendError, ConfigError
from ufbert.model.fff import masked_dense_fff

CPU_BACKENDS = ["reference", "numba"]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def random_operands(
    tokens: int, hidden: int, trees: int, depth: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Operands:
    """x, w_in, b_in, w_out with logits of about unit size, so that every path is taken."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    nodes = 2 ** (depth + 1) - 1
    operands = (
        draw(tokens, hidden),
        draw(trees, nodes, hidden) / hidden**0.5,
        0.1 * draw(trees, nodes),
        draw(trees, nodes, hidden),
    )
    x, w_in, b_in, w_out = (t.to(dtype) for t in operands)
    return x, w_in, b_in, w_out


def differentiable(operands: Operands) -> Operands:
    """The same tensors, with gradients asked for."""
    for t in operands:
        t.requires_grad_()
    return operands


shapes = st.tuples(st.integers(0, 70), st.integers(1, 67), st.integers(1, 5), st.integers(0, 5))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(shape=shapes, dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_forward_is_the_plain_descent(
    backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    operands = random_operands(*shape, dtype=dtype, seed=seed)
    expected, logits, _ = descend(*(t.numpy() for t in operands))
    y = cmm(*operands, backend)
    assert y.shape == operands[0].shape
    assert y.dtype == dtype
    # A logit within rounding of zero may take either branch.
    certain = (np.abs(logits) > 1e-5).all(axis=(1, 2))
    np.testing.assert_allclose(
        y.numpy()[certain], expected[certain], rtol=0, atol=TOLERANCE[dtype] * max(1.0, np.abs(expected).max(initial=0))
    )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(shape=shapes, seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_gradients_are_the_masked_dense_layers(backend: str, shape: tuple[int, int, int, int], seed: int) -> None:
    operands = differentiable(random_operands(*shape, seed=seed))
    weight = torch.randn(operands[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = torch.autograd.grad((masked_dense_fff(*operands) * weight).sum(), operands)
    found = torch.autograd.grad((cmm(*operands, backend) * weight).sum(), operands)
    for name, a, b in zip(("x", "w_in", "b_in", "w_out"), found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10), f"gradient of {name}: off by {(a - b).abs().max()}"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradcheck(backend: str) -> None:
    def layer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        return cmm(x, w_in, b_in, w_out, backend)

    assert torch.autograd.gradcheck(layer, differentiable(random_operands(5, 4, 2, 2)))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_opcheck(backend: str) -> None:
    operands = differentiable(random_operands(5, 4, 2, 2, torch.float32))
    results = torch.library.opcheck(torch.ops.ufbert.cmm.default, (*operands, backend))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_compiled_layer_is_the_eager_one(backend: str) -> None:
    layer = FFF(12, 2, 3, backend=backend, initializer_range=0.5)
    x = torch.randn(7, 12)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    gradient = layer.w_in.grad
    layer.zero_grad()
    layer(x).sum().backward()
    torch.testing.assert_close(gradient, layer.w_in.grad)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_inference_mode_computes_the_same(backend: str) -> None:
    layer = FFF(12, 2, 3, backend=backend, initializer_range=0.5)
    x = torch.randn(7, 12)
    with torch.inference_mode():
        y = layer(x)
    torch.testing.assert_close(y, layer(x).detach(), rtol=0, atol=0)


F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    "dtypes",
    [
        (F64, F64, F64, F64),
        (BF16, BF16, BF16, BF16),
        (F16, F16, F16, F16),
        (BF16, F32, F32, F32),
        (F32, BF16, BF16, BF16),
        (F32, F64, F64, F64),
        (F64, F32, F32, F32),
        (F32, F32, F64, F32),
        (F32, F32, F32, F64),
        (F32, F64, F32, F32),
        (F32, F32, BF16, BF16),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_operands_of_any_types_are_widened_and_the_result_has_that_of_the_input(
    backend: str, dtypes: tuple[torch.dtype, ...], inference: bool
) -> None:
    x, w_in, b_in, w_out = (t.to(dtype) for t, dtype in zip(random_operands(30, 20, 2, 3), dtypes, strict=True))
    expected, logits, leaves = descend(*(t.double().numpy() for t in (x, w_in, b_in, w_out)))
    assert np.abs(logits).min() > 1e-5  # no branch that rounding decides
    with torch.inference_mode(inference):
        y = cmm(x, w_in, b_in, w_out, backend)
        found = cmm_leaves(x.view(5, 6, 20), w_in, b_in, w_out, backend)
    assert y.dtype == dtypes[0]
    assert y.is_inference() is inference
    spacing = torch.finfo(dtypes[0]).eps
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=spacing, atol=20 * max(spacing, 1e-15))
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), leaves)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("which", range(4))
def test_inference_takes_operands_of_any_layout(backend: str, which: int) -> None:
    operands = random_operands(7, 12, 2, 3, torch.float32)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) if i == which else t for i, t in enumerate(operands)]
    assert not turned[which].is_contiguous()
    x, w_in, b_in, w_out = turned
    with torch.inference_mode():
        assert torch.equal(cmm(x, w_in, b_in, w_out, backend), cmm(*operands, backend))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_token_harms_no_other(backend: str, bad: float) -> None:
    x, w_in, b_in, w_out = random_operands(9, 16, 2, 4, torch.float32)
    clean = cmm(x, w_in, b_in, w_out, backend)
    x[4, 3] = bad
    y = cmm(x, w_in, b_in, w_out, backend)
    others = [t for t in range(9) if t != 4]
    assert not y[4].isfinite().all()
    torch.testing.assert_close(y[others], clean[others])


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_tie_goes_left(backend: str) -> None:
    w_in = torch.zeros(1, 7, 3)
    b_in = torch.zeros(1, 7)
    w_out = torch.zeros(1, 7, 3)
    b_in[0, 3] = 1.0  # the leftmost leaf
    w_out[0, 3] = torch.tensor([1.0, 2.0, 3.0])
    y = cmm(torch.randn(2, 3), w_in, b_in, w_out, backend)
    torch.testing.assert_close(y, 0.8413447 * torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_bfloat16_input_keeps_its_type_and_gets_gradients(backend: str) -> None:
    layer = FFF(24, 2, 4, backend=backend, initializer_range=0.4)
    x = torch.randn(3, 5, 24, dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float()), rtol=1e-2, atol=1e-2)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert layer.w_in.grad is not None
    assert layer.w_in.grad.dtype == torch.float32
    half = FFF(24, 2, 4, backend=backend, dtype=torch.bfloat16)
    assert half(x).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_layouts_of_the_input(backend: str) -> None:
    layer = FFF(10, 2, 3, backend=backend, initializer_range=0.5)
    x = torch.randn(4, 10, 6)
    turned = x.transpose(1, 2)  # (4, 6, 10), not contiguous
    torch.testing.assert_close(layer(turned), layer(turned.contiguous()))
    torch.testing.assert_close(layer(turned[0, 0]), layer(turned)[0, 0])
    assert layer(torch.empty(2, 0, 10)).shape == (2, 0, 10)


@pytest.mark.parametrize("onednn", [True, False])
def test_depth_zero_is_a_dense_layer(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = FFF(8, trees=20, depth=0, initializer_range=0.5)
    torch.nn.init.normal_(layer.b_in)
    x = torch.randn(6, 8)
    hidden = torch.nn.functional.gelu(x @ layer.w_in[:, 0].T + layer.b_in[:, 0])
    torch.testing.assert_close(layer(x), hidden @ layer.w_out[:, 0])


def test_backends_and_thread_counts_agree() -> None:
    operands = differentiable(random_operands(300, 50, 3, 6, torch.float32))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = cmm(*operands, "numba")
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), operands)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert torch.equal(a, b)  # the same sums in the same order, whatever the thread count


def test_unvisited_neurons_get_exact_zeros() -> None:
    operands = differentiable(random_operands(3, 16, 1, 7, torch.float32))
    _, _, leaves = descend(*(t.detach().numpy() for t in operands))
    visited = {n for leaf in leaves[:, 0] for n in [(leaf + 1 >> k) - 1 for k in range(8)]}
    cmm(*operands, "numba").sum().backward()
    gradient = operands[1].grad
    assert gradient is not None
    nonzero = set(gradient[0].abs().sum(1).nonzero().squeeze(1).tolist())
    assert nonzero == visited


@pytest.mark.parametrize(
    ("dtypes", "narrows", "expected"),
    [
        ((BF16, BF16, BF16, BF16), False, BF16),
        ((BF16, F32, F32, F32), False, F32),
        ((BF16, BF16, BF16, F32), False, F32),
        ((BF16, F32, F32, F32), True, BF16),
        ((F32, BF16, BF16, BF16), False, F32),
        ((F16, F16, F16, F16), False, F32),
        ((F16, F16, F16, F16), True, F32),
        ((F64, F32, F32, F32), True, F64),
        ((BF16, F64, BF16, BF16), True, F64),
        ((BF16, BF16, F64, BF16), True, F64),
        ((BF16, BF16, BF16, F64), True, F64),
    ],
)
def test_the_type_that_a_backend_is_given(
    dtypes: tuple[torch.dtype, ...], narrows: bool, expected: torch.dtype
) -> None:
    backend: Any = SimpleNamespace(NATIVE_DTYPES=frozenset((F32, F64, BF16)), NARROWS_WEIGHTS=narrows)
    a, b, c, d = (torch.ones(2, 3, dtype=dtype).T for dtype in dtypes)
    for t in _operands(backend, a, b, c, d):
        assert t.dtype == expected
        assert t.is_contiguous()


def test_auto_is_the_fastest_backend_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_backend("auto", torch.device("cpu")) == "numba"
    assert resolve_backend("auto", torch.device("meta")) == "reference"
    told: list[str] = []
    monkeypatch.setattr("ufbert.cmm.operator._tell_slow", told.append)
    monkeypatch.setattr("ufbert.cmm.operator._unavailable", lambda name, device: f"no {name} for {device}")
    assert resolve_backend("auto", torch.device("cuda", 0)) == "reference"
    assert told == ["no cuda for cuda:0"]
    with pytest.raises(BackendError, match="no numba for cpu"):
        resolve_backend("numba", torch.device("cpu"))
    assert len(told) == 1


def test_only_a_gpus_autocast_changes_the_operands() -> None:
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        for enabled, expected in ((True, torch.bfloat16), (False, None)):
            torch.set_autocast_enabled("cuda", enabled)
            assert _autocast_dtype("cuda", torch.float32) == expected
            assert _autocast_dtype("cuda", torch.float64) is None
            assert _autocast_dtype("cpu", torch.float32) is None
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    layer, x = FFF(8, 2, 3), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32


def test_wrong_requests_are_one_clear_line() -> None:
    x, w_in, b_in, w_out = random_operands(2, 4, 1, 2)
    with pytest.raises(ConfigError, match="must end in the hidden size 4"):
        cmm(x[:, :3], w_in, b_in, w_out)
    with pytest.raises(ConfigError, match=r"2\^\(depth\+1\) - 1"):
        cmm(x, w_in[:, :6], b_in[:, :6], w_out[:, :6])
    with pytest.raises(ConfigError, match="unknown backend 'tpu'; known: auto, reference, numba, cuda"):
        FFF(4, 1, 1, backend="tpu")
    with pytest.raises(BackendError, match="computes on the CPU"):
        resolve_backend("numba", torch.device("meta"))


def test_module_shows_its_shape_and_moves() -> None:
    layer = FFF(6, 2, 1, output_bias=True)
    assert "hidden_size=6, trees=2, depth=1, shared_neurons=0, output_bias=True" in repr(layer)
    assert layer.double()(torch.randn(3, 6, dtype=torch.float64)).dtype == torch.float64
    assert [tuple(p.shape) for p in layer.parameters()] == [(2, 3, 6), (2, 3), (2, 3, 6), (6,)]
