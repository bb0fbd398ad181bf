"""CPU backend of CMM: Numba kernels that visit only a token's path, and their checked NumPy wrappers.

A leaf of the package: it knows numpy and numba, neither torch nor the rest of ufbert.
"""

from .branch_wrappers import branch_gradients, path_activations
from .byte_rows import byte_rows
from .row_wrappers import finish_rows_at, forward_bytes_at, quantize_rows_at, softmax_rows_at
from .wrappers import backward, forward, forward_at, keep_paths

__all__ = [
    "backward", "branch_gradients", "byte_rows", "finish_rows_at", "forward", "forward_at", "forward_bytes_at",
    "keep_paths", "path_activations", "quantize_rows_at", "softmax_rows_at",
]  # fmt: skip
