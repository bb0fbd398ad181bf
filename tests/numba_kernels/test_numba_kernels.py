"""The CPU kernels by themselves: storage types, the ways large and small batches take, what must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from ufbert import FFF, numba_kernels
from ufbert.cmm import shallow
from ufbert.cmm.operator import cmm
from ufbert.cmm.tree import descend
from ufbert.numba_kernels.activation import gelu_gradient_into, gelu_into
from ufbert.numba_kernels.vectors import has_feature

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def operands(tokens: int, hidden: int, trees: int, depth: int, seed: int = 0) -> Arrays:
    """x, w_in, b_in, w_out in float32, with logits of about unit size."""
    generator = np.random.default_rng(seed)
    nodes = 2 ** (depth + 1) - 1

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        return generator.standard_normal(shape, dtype=np.float32)

    scale = np.float32(hidden**-0.5)
    return (
        draw(tokens, hidden),
        draw(trees, nodes, hidden) * scale,
        draw(trees, nodes) * np.float32(0.1),
        draw(trees, nodes, hidden),
    )


def certain(logits: npt.NDArray[Any], margin: float = 1e-4) -> npt.NDArray[np.bool_]:
    """The tokens none of whose decisions lies within rounding."""
    result: npt.NDArray[np.bool_] = (np.abs(logits) > margin).all(axis=(1, 2))
    return result


@pytest.mark.parametrize(
    ("tokens", "hidden", "trees", "depth"),
    [
        (700, 768, 1, 7),  # in blocks first, then sorted by node; y is written past the caches
        (450, 768, 1, 11),  # the same, with most tokens alone at the end
        (2000, 48, 1, 12),  # more levels than one sweep adds up
        (130, 64, 7, 3),  # several trees together, the last group smaller
        (90, 33, 3, 8),  # rows that end within a vector
        (70, 1, 2, 4),
        (60, 270, 3, 5),  # a large piece of a row, a small one, and the rest
        (1100, 768, 2, 3),  # two blocks through all trees
        (400, 768, 1, 0),
        (400, 768, 2, 1),
        (1, 768, 1, 11),  # few tokens, and so on below
        (5, 48, 1, 12),
        (32, 33, 11, 3),
        (3, 16, 50, 2),
        (60, 768, 40, 3),  # work enough for several threads
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_way_of_routing_is_the_plain_descent(
    tokens: int, hidden: int, trees: int, depth: int, threads: int
) -> None:
    arrays = operands(tokens, hidden, trees, depth)
    expected, expected_logits, leaves = descend(*(a.astype(np.float64) for a in arrays))
    y, logits, reached = numba_kernels.forward(*arrays, threads=threads)
    sure = certain(expected_logits)
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(reached[sure], leaves[sure])
    np.testing.assert_allclose(logits[sure], expected_logits[sure], atol=2e-5)
    np.testing.assert_allclose(y[sure], expected[sure], atol=2e-5 * np.abs(expected).max())


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 90), st.integers(1, 4), st.integers(3, 7)),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_tokens_result_does_not_depend_on_its_company(
    shape: tuple[int, int, int, int], seed: int, data: st.DataObject
) -> None:
    x, w_in, b_in, w_out = operands(*shape, seed=seed)
    together = numba_kernels.forward(x, w_in, b_in, w_out)
    order = np.array(data.draw(st.permutations(range(len(x)))))
    for theirs, ours in zip(together, numba_kernels.forward(x[order], w_in, b_in, w_out, threads=2), strict=True):
        np.testing.assert_array_equal(theirs[order], ours)
    alone = data.draw(st.integers(0, len(x) - 1))
    for theirs, ours in zip(together, numba_kernels.forward(x[alone : alone + 1], w_in, b_in, w_out), strict=True):
        np.testing.assert_array_equal(theirs[alone : alone + 1], ours)


def test_blocks_and_sorting_change_no_bit() -> None:
    x, w_in, b_in, w_out = operands(1200, 768, 1, 9)
    y, logits, leaves = numba_kernels.forward(x, w_in, b_in, w_out)
    for start in range(0, 1200, 100):
        part = slice(start, start + 100)
        for whole, piece in zip((y, logits, leaves), numba_kernels.forward(x[part], w_in, b_in, w_out), strict=True):
            np.testing.assert_array_equal(whole[part], piece)


@pytest.mark.parametrize("tokens", [7, 80])
@pytest.mark.parametrize(("trees", "depth"), [(1, 5), (1, 12), (3, 4)])
def test_bfloat16_weights_give_the_rounded_float32_result(trees: int, depth: int, tokens: int) -> None:
    narrow = [torch.from_numpy(a).bfloat16() for a in operands(tokens, 72, trees, depth)]
    wide = [t.float() for t in narrow]
    with torch.inference_mode():
        exact = cmm(wide[0], wide[1], wide[2], wide[3], "numba")
        y = cmm(narrow[0], narrow[1], narrow[2], narrow[3], "numba")
    assert y.dtype == torch.bfloat16
    if not has_feature("avx512bf16"):
        assert torch.equal(y, exact.bfloat16())
        return
    # Logits of pairs differ in their last bits, and y's rounding turns where it hangs on those.
    torch.testing.assert_close(y, exact.bfloat16(), rtol=2**-7, atol=1e-5)
    assert (y == exact.bfloat16()).double().mean() > 0.98


def test_bfloat16_trains_like_its_float32_twin() -> None:
    layer = FFF(24, 2, 4, initializer_range=0.3, backend="numba").bfloat16()
    twin = FFF(24, 2, 4, backend="numba")
    twin.load_state_dict({name: value.float() for name, value in layer.state_dict().items()})
    x = torch.randn(50, 24).bfloat16()
    for module, tokens in ((layer, x), (twin, x.float())):
        module(tokens).float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        expected = twin.get_parameter(name).grad
        assert parameter.grad is not None
        assert expected is not None
        torch.testing.assert_close(parameter.grad.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_gelu_and_its_gradient_are_those_of_the_normal_distribution() -> None:
    s = np.linspace(-12, 12, 100_001, dtype=np.float32)
    exact = s.astype(np.float64)
    density = np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    y = np.empty_like(s)
    gelu_into(s, y)
    np.testing.assert_allclose(y, exact * ndtr(exact), atol=1.5e-6, rtol=0)
    slope = np.full_like(s, 2.0)
    gelu_gradient_into(s, slope)
    np.testing.assert_allclose(slope, 2 * (ndtr(exact) + exact * density), atol=1.5e-6, rtol=0)
    odd = np.array([np.nan, np.inf], np.float32)
    result = np.empty(2, np.float32)
    gelu_into(odd, result)
    assert np.isnan(result[0])
    assert result[1] == np.inf


@pytest.mark.parametrize("depth", [1, 5])
def test_a_token_that_is_not_a_number_spoils_no_other(depth: int) -> None:
    x, w_in, b_in, w_out = operands(40, 32, 2, depth)
    clean, _, _ = numba_kernels.forward(x, w_in, b_in, w_out)
    x[7, 3] = np.nan
    y, _, leaves = numba_kernels.forward(x, w_in, b_in, w_out)
    assert np.isnan(y[7]).all()
    assert (leaves[7] == 2**depth - 1).all()  # no comparison with it is true: always left
    others = np.arange(40) != 7
    np.testing.assert_array_equal(y[others], clean[others])


@pytest.mark.parametrize("tokens", [1, 50])  # walked, and by dense products
@pytest.mark.parametrize(("trees", "depth"), [(5, 0), (4, 1), (3, 2)])
def test_shallow_trees_take_the_same_paths_either_way(trees: int, depth: int, tokens: int) -> None:
    assert shallow.is_faster(tokens, 2 ** (depth + 1) - 1, torch.float32) == (tokens == 50)
    arrays = operands(tokens, 40, trees, depth)
    expected, logits, leaves = descend(*(a.astype(np.float64) for a in arrays))
    tensors = [torch.from_numpy(a) for a in arrays]
    sure = certain(logits)
    y, met, reached = torch.ops.ufbert.cmm(*tensors, "numba")
    np.testing.assert_array_equal(reached.numpy()[sure], leaves[sure])
    np.testing.assert_allclose(met.numpy()[sure], logits[sure], atol=2e-5)
    with torch.inference_mode():
        for result in (y, cmm(tensors[0], tensors[1], tensors[2], tensors[3], "numba")):
            np.testing.assert_allclose(result.numpy()[sure], expected[sure], atol=1e-4)


def test_wrong_arrays_are_refused_by_name() -> None:
    x, w_in, b_in, w_out = operands(4, 8, 1, 3)
    with pytest.raises(ValueError, match="balanced tree"):
        numba_kernels.forward(x, w_in[:, :6], b_in[:, :6], w_out[:, :6])
    with pytest.raises(TypeError, match="w_out is float64"):
        numba_kernels.forward(x, w_in, b_in, w_out.astype(np.float64))
    with pytest.raises(ValueError, match="no contiguous array of whole trees"):
        numba_kernels.keep_paths(np.zeros((2, 1, 4), np.float32), None, None)
    with pytest.raises(ValueError, match=r"logits \(2, 8\) is no contiguous array of 2 whole trees"):
        numba_kernels.path_activations("float32", np.zeros((2, 8), np.float32), 2)
    logits = np.zeros((2, 6), np.float32)
    with pytest.raises(TypeError, match="gains is float64; float32 is stored as float32"):
        numba_kernels.branch_gradients("float32", logits, logits.astype(np.float64), 2, 0.3)
    with pytest.raises(ValueError, match=r"gains \(1, 6\) do not match logits \(2, 6\)"):
        numba_kernels.branch_gradients("float32", logits, logits[:1], 2, 0.3)
