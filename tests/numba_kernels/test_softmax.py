"""Softmax of rows of bfloat16, beside torch's in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert.numba_kernels import softmax_rows_at


def softmax(x: torch.Tensor, threads: int = 1) -> torch.Tensor:
    y = x.clone()
    rows, columns = y.shape
    softmax_rows_at(y.data_ptr(), rows, columns, threads)
    return y


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    columns=st.integers(1, 200),
    spread=st.sampled_from([0.01, 1.0, 30.0, 1e4]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_torchs_rounded_to_bfloat16(rows: int, columns: int, spread: float, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = (spread * torch.randn(rows, columns)).bfloat16()
    # Half of the last bit, and the polynomial's error.
    torch.testing.assert_close(softmax(x, threads).double(), x.double().softmax(-1), rtol=2**-8, atol=1e-30)


def test_threads_and_company_change_no_bit() -> None:
    x = torch.randn(50_000, 70).bfloat16()
    whole = softmax(x, 2)
    assert torch.equal(whole, softmax(x, 1))
    assert torch.equal(whole[33:35], softmax(x[33:35]))


@pytest.mark.parametrize("columns", [5, 16, 33])
def test_hidden_scores_get_nothing_and_what_is_not_finite_stays_in_its_row(columns: int) -> None:
    x = torch.randn(4, columns).bfloat16()
    x[0, 1:] = -torch.inf
    x[1, 2], x[2, 0] = torch.nan, torch.inf
    y = softmax(x)
    assert y[0, 0] == 1
    assert y[0, 1:].max() < 1e-30
    assert y[1:3].isnan().all()
    torch.testing.assert_close(y[3].double(), x[3].double().softmax(-1), rtol=2**-8, atol=0)
