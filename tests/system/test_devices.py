"""How float32 products are computed, and how that is called."""

from __future__ import annotations

import pytest
import torch

from ufbert.system.devices import describe_precision, tensor_float


@pytest.mark.parametrize(("on", "inside"), [(True, "high"), (False, "highest")])
def test_tf32_is_set_for_a_gpu_and_put_back(on: bool, inside: str) -> None:
    before = torch.get_float32_matmul_precision()
    with tensor_float(torch.device("cuda"), on):
        assert torch.get_float32_matmul_precision() == inside
    assert torch.get_float32_matmul_precision() == before


def test_a_cpu_is_left_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with tensor_float(torch.device("cpu"), not before.startswith("highest")):
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("device", "dtype", "tf32", "name"),
    [
        ("cuda", torch.float32, True, "tf32"),
        ("cuda", torch.float32, False, "float32"),
        ("cuda", torch.bfloat16, True, "bfloat16"),
        ("cpu", torch.float32, True, "float32"),
    ],
)
def test_precisions_have_names(device: str, dtype: torch.dtype, tf32: bool, name: str) -> None:
    assert describe_precision(torch.device(device), dtype, tf32) == name
