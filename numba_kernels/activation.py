"""GELU and its derivative of a whole array at once.

float32 uses a rational function for erf, since a call of the C library's keeps a loop from becoming vector
code: 5 ns a token of 12 logits instead of 80. The coefficients are our own minimax fit of x P(x^2) / Q(x^2) on
|x| <= 3.92, beyond which erf is 1 in float32; its error is 2e-8 in exact arithmetic and 4e-7 as computed here. The
derivative less one half is odd too: s P(s^2) / Q(s^2) on |s| <= 5.6, off by 2e-9, and by 3e-7 as computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .compilation import kernel

__all__ = ["gelu_gradient_into", "gelu_into"]

SQRT_HALF = math.sqrt(0.5)
INVERSE_SQRT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)
LARGEST = np.float32(3.92)
P0, P1, P2, P3, P4, P5 = (
    np.float32(number) for number in (1.1283790e0, 1.9275643e-1, 5.3059287e-2, 3.8679393e-3, 2.8746050e-4, 2.0346678e-6)
)
Q1, Q2, Q3, Q4, Q5 = (
    np.float32(number) for number in (5.0415761e-1, 1.1508129e-1, 1.5171541e-2, 1.1880012e-3, 3.8068940e-5)
)
LARGEST_SLOPE = np.float32(5.6)
S0, S1, S2, S3, S4, S5, S6, S7 = (
    np.float32(number)
    for number in (
        7.9788455e-1, -2.7112638e-2, 1.3935428e-2, 1.2160372e-4,
        3.2112706e-5, 6.9916286e-7, 1.0462162e-8, -2.8126779e-11,
    )
)  # fmt: skip
T1, T2, T3, T4, T5, T6 = (
    np.float32(number)
    for number in (2.9935250e-1, 4.2250175e-2, 3.6883770e-3, 2.1849088e-4, 8.7170035e-6, 2.5329889e-7)
)


@kernel
def gelu_into(logits: Any, activations: Any) -> None:
    """activations[i] = gelu(logits[i]) over flat arrays of float32 or float64; a NaN stays one."""
    one = logits.dtype.type(1)
    half = logits.dtype.type(0.5)
    scale = logits.dtype.type(SQRT_HALF)
    if logits.itemsize == 8:
        for i in range(logits.size):
            s = logits[i]
            activations[i] = half * s * (one + math.erf(s * scale))
        return
    for i in range(logits.size):
        s = logits[i]
        z = s * scale
        z = LARGEST if z > LARGEST else z
        z = -LARGEST if z < -LARGEST else z
        u = z * z
        p = ((((P5 * u + P4) * u + P3) * u + P2) * u + P1) * u + P0
        q = ((((Q5 * u + Q4) * u + Q3) * u + Q2) * u + Q1) * u + one
        activations[i] = half * s * (one + z * p / q)


@kernel
def gelu_gradient_into(logits: Any, gradients: Any) -> None:
    """gradients[i] *= gelu'(logits[i]) over flat arrays of float32 or float64; a NaN stays one."""
    one = logits.dtype.type(1)
    half = logits.dtype.type(0.5)
    if logits.itemsize == 8:
        for i in range(logits.size):
            s = logits[i]
            density = INVERSE_SQRT_TWO_PI * math.exp(-half * s * s)
            gradients[i] *= half * (one + math.erf(s * SQRT_HALF)) + s * density
        return
    for i in range(logits.size):
        s = logits[i]
        s = LARGEST_SLOPE if s > LARGEST_SLOPE else s
        s = -LARGEST_SLOPE if s < -LARGEST_SLOPE else s
        u = s * s
        p = ((((((S7 * u + S6) * u + S5) * u + S4) * u + S3) * u + S2) * u + S1) * u + S0
        q = (((((T6 * u + T5) * u + T4) * u + T3) * u + T2) * u + T1) * u + one
        gradients[i] *= half + s * p / q
