"""Rows of a table added to rows of x, beside torch's lookup and sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert.numba_kernels import add_table_rows_at


def summed(x: torch.Tensor, ranks: torch.Tensor, table: torch.Tensor, threads: int = 1) -> torch.Tensor:
    y = torch.full_like(x, torch.nan)
    addresses = x.data_ptr(), ranks.data_ptr(), table.data_ptr(), y.data_ptr()
    rows, columns = x.shape
    add_table_rows_at(str(x.dtype).removeprefix("torch."), addresses, rows, columns, len(table) - 1, threads)
    return y


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    columns=st.integers(1, 200),
    table=st.integers(1, 50),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_torchs_lookup_and_sum_bit_for_bit(
    rows: int, columns: int, table: int, dtype: torch.dtype, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, columns).to(dtype), torch.randn(table, columns).to(dtype)
    ranks = torch.randint(2 * table, (rows,))
    assert torch.equal(summed(x, ranks, weight, threads), x + weight[ranks.clamp(max=table - 1)])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_are_shared_between_threads(threads: int) -> None:
    x, weight = torch.randn(20_000, 300), torch.randn(100, 300)
    ranks = torch.randint(120, (len(x),))
    assert torch.equal(summed(x, ranks, weight, threads), x + weight[ranks.clamp(max=99)])
