"""The one error of a machine on which the CUDA backend cannot run; its text is one complete line."""

__all__ = ["CudaUnavailable"]


class CudaUnavailable(RuntimeError):
    """No NVIDIA driver, no GPU, a driver that is too old, or the `cuda` extra is not installed."""
