"""The fast feedforward layer as a module: its parameters, their first values, and what stands in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize, prune

from ufbert import FFF
from ufbert.cmm import reference
from ufbert.model.fff import masked_dense_fff


def test_all_parameters_have_the_device_and_the_type() -> None:
    layer = FFF(6, 2, 1, shared_neurons=3, output_bias=True, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "w_in": (2, 3, 6),
        "b_in": (2, 3),
        "w_out": (2, 3, 6),
        "b_out": (6,),
        "shared.linear_in.weight": (3, 6),
        "shared.linear_in.bias": (3,),
        "shared.linear_out.weight": (6, 3),
    }
    assert [name for name, _ in FFF(6, 2, 1).named_parameters()] == ["w_in", "b_in", "w_out"]


def test_weights_start_normal_and_biases_at_zero() -> None:
    layer = FFF(64, 4, 5, shared_neurons=200, output_bias=True, initializer_range=0.5)
    for _ in range(2):
        for name, parameter in layer.named_parameters():
            if name.split(".")[-1].startswith("b"):
                assert not parameter.any(), name
            else:
                assert parameter.std().item() == pytest.approx(0.5, rel=0.05), name
                assert parameter.mean().item() == pytest.approx(0, abs=0.05), name
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(3.0)
        layer.reset_parameters()


class Twice(torch.nn.Module):
    """A parametrization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.parametrize("name", ["w_in", "b_in", "w_out"])
@pytest.mark.parametrize("inference", [False, True])
def test_parametrized_and_pruned_weights_are_those_that_are_walked(name: str, inference: bool) -> None:
    layer = FFF(10, 3, 3, initializer_range=0.5)
    torch.nn.init.normal_(layer.b_in)
    x = torch.randn(20, 10)
    operands = {key: p.detach().clone() for key, p in layer.named_parameters()}
    parametrize.register_parametrization(layer, name, Twice())
    with torch.inference_mode(inference):
        torch.testing.assert_close(layer(x), masked_dense_fff(x, **{**operands, name: 2 * operands[name]}))
    parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
    mask = (torch.rand_like(operands[name]) < 0.5).float()
    prune.custom_from_mask(layer, name, mask)
    with torch.inference_mode(inference):
        torch.testing.assert_close(layer(x), masked_dense_fff(x, **{**operands, name: mask * operands[name]}))


def test_the_backend_that_is_named_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def watch(part: str) -> None:
        run = getattr(reference, part)

        def watched(*operands: torch.Tensor) -> Any:
            called.append(part)
            return run(*operands)

        monkeypatch.setattr(reference, part, watched)

    for part in ("forward", "backward", "infer"):
        watch(part)
    x = torch.randn(4, 8)
    for backend, expected in (("auto", set()), ("numba", set()), ("reference", {"forward", "backward", "infer"})):
        called.clear()
        layer = FFF(8, 2, 3, backend=backend)
        layer(x).sum().backward()
        with torch.inference_mode():
            layer(x)
        assert set(called) == expected, backend
