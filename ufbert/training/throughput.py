"""How much of the hardware a training run uses: model FLOPs utilisation (MFU).

Source: Chowdhery et al. 2022, "PaLM", appendix B: the operations that the model needs, whatever the
implementation computes, as a share of what the hardware could do in that time. What the hardware can do is
measured here, by a large matrix product, rather than read from a data sheet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ufbert.model.config import UltraFastBertConfig

__all__ = ["PASSES", "Throughput", "matrix_product_peak", "training_operations"]

# The backward pass has two products for each one of the forward pass.
PASSES = 3
GPU_SIDE, CPU_SIDE = 8192, 1024
# Products that are timed at most, and the seconds after which no other one begins.
REPETITIONS, SECONDS = 8, 0.2


@dataclass
class Throughput:
    """Tokens trained on and the time they took, as a speed and as a share of the hardware."""

    operations_per_token: float
    """Of the model, forward and backward."""
    peak: float
    """FLOP/s of the matrix products of all devices in the run."""
    products: str
    """How those multiply, such as `bfloat16`."""
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """After a step."""
        self.tokens += tokens
        self.seconds += seconds

    def utilisation(self, tokens_per_second: float) -> float:
        """Model FLOPs utilisation at that speed, 1 being the peak."""
        return tokens_per_second * self.operations_per_token / self.peak

    def describe(self) -> str:
        """The utilisation over all steps added so far, and what it is a share of."""
        share = self.utilisation(self.tokens / max(1e-9, self.seconds))
        return f"{100 * share:.1f} % of the {self.peak / 1e9:,.0f} GFLOP/s that {self.products} products reach here"


def training_operations(config: UltraFastBertConfig, sequence_length: int, predicted: float) -> float:
    """Floating-point operations of one token's forward and backward pass through the masked language model.

    Only neurons on the token's path count, and the decoder only for the share `predicted` of the positions.
    Norms, activations and the embedding's look-up do not count; a multiplication and an addition are two.
    """
    hidden = config.hidden_size
    projections = 2 * hidden * (config.query_key_value_width + hidden)
    attention = 2 * 2 * sequence_length * hidden  # scores, and values weighted by them
    feedforward = 0
    for shape in config.layer_shapes:
        products = 3 if shape.kind == "dense" and config.is_gated_act else 2
        feedforward += 2 * products * hidden * shape.neurons_used
    decoder = 2 * hidden * (config.vocab_size + (hidden if config.head_transform else 0))
    layers = config.num_hidden_layers * (projections + attention) + feedforward
    return float(PASSES * (layers + predicted * decoder))


def matrix_product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product in `dtype`, as torch multiplies here and now; takes less than a second."""
    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    a = torch.ones(side, side, device=device, dtype=dtype)
    a @ a  # the first call loads and chooses kernels
    shortest, began = float("inf"), time.perf_counter()
    for _ in range(REPETITIONS):
        shortest = min(shortest, _seconds(a))
        if time.perf_counter() - began > SECONDS:
            break
    return 2.0 * side**3 / shortest


def _seconds(a: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began
