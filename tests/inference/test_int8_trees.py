"""Trees with weights of 8 bits: what they compute, for whom, and what becomes of numbers that fit badly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert import FFF
from ufbert.inference.engine.feedforward import Int8Trees, PackedFeedforward, pack_feedforward
from ufbert.inference.engine.linear import Int8Linear, PackedLinear
from ufbert.model.fff import masked_dense_fff

BITS = 15
"""Of x and of the paths' weights."""


def layer(hidden: int, trees: int, depth: int, *, output_bias: bool = False) -> FFF:
    module = FFF(hidden, trees, depth, output_bias=output_bias, initializer_range=hidden**-0.5)
    torch.nn.init.normal_(module.b_in, std=0.3)
    if module.b_out is not None:
        torch.nn.init.normal_(module.b_out)
    return module.requires_grad_(False)


def rounded(weights: torch.Tensor) -> torch.Tensor:
    """Each row to 255 steps, by the definition."""
    scale = weights.double().abs().amax(-1, keepdim=True) / 127
    return (weights.double() / scale).round() * scale


def expected(module: FFF, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(y of the layer with rounded rows, in float64, and whether no logit of a token is near zero)."""
    x = x.double()
    w_in, w_out = rounded(module.w_in), rounded(module.w_out)
    y = masked_dense_fff(x, w_in, module.b_in.double(), w_out)
    if module.b_out is not None:
        y = y + module.b_out.double()
    logits = torch.einsum("th,pnh->tpn", x, w_in) + module.b_in.double()
    return y, logits.abs().flatten(1).min(1).values > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.integers(1, 200),
    trees=st.integers(1, 9),
    depth=st.integers(1, 4),
    tokens=st.integers(0, 70),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_they_compute_the_layer_with_rounded_rows(
    hidden: int, trees: int, depth: int, tokens: int, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    module = layer(hidden, trees, depth, output_bias=seed % 2 > 0)
    x = torch.randn(tokens, hidden).bfloat16()
    residual = torch.randn(tokens, hidden).bfloat16() if seed % 3 else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = Int8Trees(module)(x, residual).double()
    finally:
        torch.set_num_threads(before)
    exact, clear = expected(module, x)
    if residual is not None:
        exact = exact + residual.double()
    # What is left is the rounding of x and of the weights of rows to 15 bits, and of y to bfloat16.
    torch.testing.assert_close(y[clear], exact[clear], rtol=2**-8, atol=2e-3)


def test_rounding_moves_the_layers_output_by_about_a_hundredth() -> None:
    module = layer(256, 2, 6)
    x = torch.randn(300, 256).bfloat16()
    exact = masked_dense_fff(x.double(), module.w_in.double(), module.b_in.double(), module.w_out.double())
    error = (Int8Trees(module)(x).double() - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0.002 < error.median() < 0.015
    assert (error > 0.05).double().mean() < 0.1  # those that took another path


@pytest.mark.parametrize(("trees", "depth"), [(1, 7), (6, 3)])
def test_a_tokens_result_does_not_depend_on_its_company(trees: int, depth: int) -> None:
    module = Int8Trees(layer(96, trees, depth, output_bias=True))
    x, residual = torch.randn(1500, 96).bfloat16(), torch.randn(1500, 96).bfloat16()
    together = module(x, residual)
    assert torch.equal(module(x.flip(0), residual.flip(0)).flip(0), together)
    for part in (slice(0, 1), slice(7, 40), slice(1490, 1500)):
        assert torch.equal(module(x[part], residual[part]), together[part])


def test_what_is_not_finite_stays_with_its_token() -> None:
    module = layer(64, 4, 3)
    x = torch.randn(6, 64).bfloat16()
    eight = Int8Trees(module)
    alone = eight(x)
    x[1, 5], x[3, 0] = torch.nan, torch.inf
    y = eight(x)
    assert torch.equal(y[[0, 2, 4, 5]], alone[[0, 2, 4, 5]])
    assert y[[1, 3]].isnan().all()


def test_zeros_and_tiny_numbers_meet_the_biases_alone() -> None:
    module = layer(64, 3, 2, output_bias=True)
    x = torch.zeros(3, 64).bfloat16()
    x[1] = 1e-38
    y = Int8Trees(module)(x)
    exact, _ = expected(module, x)
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=2e-3)
    with torch.no_grad():
        module.w_out.zero_()
        module.w_in[0].zero_()
    assert module.b_out is not None
    torch.testing.assert_close(Int8Trees(module)(x), module.b_out.bfloat16().expand(3, -1))


def test_the_largest_sums_do_not_overflow() -> None:
    """All numbers at their largest, of one sign: 32 bits would not hold x in 15 bits over so many columns."""
    module = layer(4096, 40, 1)
    with torch.no_grad():
        module.w_in.fill_(0.01)
        module.w_out.fill_(0.02)
        module.b_in.zero_()
    x = torch.ones(5, 4096).bfloat16()
    exact, _ = expected(module, torch.cat((x, -x)))
    torch.testing.assert_close(Int8Trees(module)(torch.cat((x, -x))).double(), exact, rtol=2**-8, atol=2e-3)


def test_they_are_the_same_without_the_processors_instruction(tmp_path: Path) -> None:
    """A processor without VNNI, or one that Numba is told to take for such: the same integers another way."""
    layers = [layer(72, trees, 3) for trees in (1, 5)]
    x = torch.randn(40, 72).bfloat16()
    torch.save((layers, x), tmp_path / "given")
    program = (
        "import sys, torch\n"
        "from ufbert.inference.engine.feedforward import Int8Trees\n"
        "layers, x = torch.load(sys.argv[1] + '/given', weights_only=False)\n"
        "torch.save([Int8Trees(layer)(x) for layer in layers], sys.argv[1] + '/computed')\n"
    )
    environment = {
        "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma",
        "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, env=environment)
    for module, other in zip(layers, torch.load(tmp_path / "computed"), strict=True):
        torch.testing.assert_close(Int8Trees(module)(x), other, rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("shared", [0, 3])
def test_trees_of_depth_0_are_a_dense_layer(shared: int) -> None:
    module = FFF(24, 10, 0, shared_neurons=shared, output_bias=True, initializer_range=0.3).requires_grad_(False)
    torch.nn.init.normal_(module.b_in)
    assert module.b_out is not None
    torch.nn.init.normal_(module.b_out)
    x, residual = torch.randn(7, 24), torch.randn(7, 24)
    packed = pack_feedforward(module, "gelu", torch.float32, lambda w, b: PackedLinear(w, b, torch.float32))
    assert isinstance(packed, PackedFeedforward)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x, residual), module(x) + residual)
        narrow = pack_feedforward(module, "gelu", torch.bfloat16, Int8Linear)(x.bfloat16(), residual.bfloat16())
    assert torch.cosine_similarity(narrow.float(), module(x) + residual).min() > 0.99
