"""CPU backend of CMM: Numba kernels that visit only a token's path, and their checked NumPy wrappers.

A leaf of the package: it knows numpy and numba, neither torch nor the rest of ufbert.
"""

from .wrappers import backward, forward, forward_at, keep_paths, quantize_at

__all__ = ["backward", "forward", "forward_at", "keep_paths", "quantize_at"]
