"""Token rows added to what a layer is given, by a kernel that asks for them ahead."""

from __future__ import annotations

import torch
from torch import nn

from ufbert.model.token_rows import TokenRows

__all__ = ["PackedTokenRows"]


class PackedTokenRows(nn.Module):
    """`TokenRows` and the sum they go into, in one pass."""

    def __init__(self, rows: TokenRows, dtype: torch.dtype) -> None:
        super().__init__()
        self.tokens = rows.tokens
        self.storage = str(dtype).removeprefix("torch.")
        self.weight = rows.weight.detach().to(dtype).contiguous()

    def forward(self, x: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
        """x (rows, H) and ranks (rows,) -> x + each token's row."""
        from ufbert import numba_kernels  # a fifth of a second that models without rows need not wait

        x, ranks = x.contiguous(), ranks.contiguous()
        y = torch.empty_like(x)
        rows, columns = x.shape
        addresses = x.data_ptr(), ranks.data_ptr(), self.weight.data_ptr(), y.data_ptr()
        numba_kernels.add_table_rows_at(self.storage, addresses, rows, columns, self.tokens, torch.get_num_threads())
        return y
