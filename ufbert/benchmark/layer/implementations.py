"""What can be timed: every way to compute a layer, behind one interface.

`prepare` gets a layer's weights, does everything that a user would do once (packing, compiling), and returns
the function that is timed. In training that function returns (y, grad_x, grad_w_in, grad_b_in, grad_w_out), and then
the gradients of the shared neurons, if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .operands import DenseWeights, TreeWeights

__all__ = ["Absent", "Implementation", "Situation", "differentiated", "with_gradients"]

Function = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What an implementation is prepared for."""

    device: torch.device
    dtype: torch.dtype
    """Of the operands."""
    batch: int
    threads: int
    direction: str
    int8: bool = False
    """Whether products are to be of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """An implementation that could not be timed, and why."""

    layer: str
    implementation: str
    dtype: str
    reason: str
    wrong: bool = False
    """It ran, and gave a wrong result."""


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One row of the tables."""

    name: str
    layer: str
    """`ff` (all neurons) or `fff` (one path per tree)."""
    prepare: Callable[[Any, Situation], Function]
    """(DenseWeights | TreeWeights, situation) -> the function to time."""
    about: str
    """One line for the list of names and the documentation."""
    level: int | None = None
    """BLAS level of the calls it is made of; None where that says nothing."""
    role: str = "subject"
    """`subject`, or `control`: the neurons of one path as a dense layer, without any tree."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    directions: tuple[str, ...] = ("forward", "training")
    per_token: bool = False
    """Tokens are computed one after the other, so a few of them tell the time per token."""
    all_neurons: bool = False
    """A fast feedforward layer by computing every neuron."""
    own_threads: bool = False
    """It spreads tokens over threads itself, each calling a BLAS that then must use one thread only."""
    copies: float = 0.0
    """Memory that `prepare` takes for itself, as a multiple of the weights'."""
    gathers: bool = False
    """It copies the rows of the visited neurons for each token."""
    default_on: tuple[str, ...] = ("cpu", "cuda")
    """Devices on which it is timed without being asked for by name."""
    compiles: bool = False
    """Each shape of its weights costs seconds of compilation."""
    timed_with: tuple[bool, ...] = (False, True)
    """Whether it is timed without and with shared neurons beside the trees; `(False,)` cannot compute them."""
    tf32: bool = False
    """It rounds the operands of float32 products to TF32, which is compared apart."""
    convert: Callable[[Any], Any] = field(default=lambda x: x)
    """Input tensor (in training: x and the output's gradient) -> what the function takes; not timed."""
    restore: Callable[[Any], Any] = field(default=lambda y: y)
    """What the function returned -> tensors; not timed."""
    missing: Callable[[], str | None] = field(default=lambda: None)
    """Why this machine cannot run it, or None."""
    missing_on: Callable[[torch.device], str | None] = field(default=lambda _device: None)
    """The same for a device that it runs on elsewhere."""

    @property
    def full_name(self) -> str:
        """With the layer, since the dense and the fast feedforward one share some names."""
        return f"{self.layer}/{self.name}"


def differentiated(
    forward: Callable[..., torch.Tensor], weights: DenseWeights | TreeWeights, direction: str
) -> Function:
    """`forward(x, *weights.tensors)` as the function to time: alone, or with all gradients by autograd."""
    if direction == "forward":
        operands = weights.tensors
        return lambda x: forward(x, *operands)
    leaves = [w.detach().requires_grad_() for w in weights.tensors]
    return with_gradients(lambda x: forward(x, *leaves), leaves)


def with_gradients(forward: Callable[[torch.Tensor], torch.Tensor], leaves: Sequence[torch.Tensor]) -> Function:
    """The training step of `forward`: (x, grad_y) -> (y, grad_x, gradients of the leaves), by autograd."""

    def both(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        x, grad_y = pair
        x = x.detach().requires_grad_()
        y = forward(x)
        return (y.detach(), *torch.autograd.grad(y, (x, *leaves), grad_y))

    return both
