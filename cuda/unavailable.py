"""The one error of a machine on which the CUDA backend cannot run; its text is one complete line."""

__all__ = ["INSTALL", "MISSING_EXTRA", "CudaUnavailable"]

INSTALL = "pip install 'ufbert[cuda]'"
MISSING_EXTRA = f"the CUDA backend needs cuda-core with the NVRTC compiler; install it with: {INSTALL}"


class CudaUnavailable(RuntimeError):
    """No NVIDIA driver, no GPU, a driver or GPU that is too old, or the `cuda` extra is not installed."""
