"""CPU backend of CMM: Numba kernels that visit only a token's path, and their checked NumPy wrappers.

A leaf of the package: it knows numpy and numba, neither torch nor the rest of ufbert.
"""

from .wrappers import backward, finish_rows_at, forward, forward_at, keep_paths, quantize_rows_at

__all__ = ["backward", "finish_rows_at", "forward", "forward_at", "keep_paths", "quantize_rows_at"]
