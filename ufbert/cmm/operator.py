"""CMM as one torch operator, `ufbert::cmm`, with its backward, its fake kernel and the choice of backend.

The operator returns (y, logits, leaves): what the walk computed, what it met, where it ended. The last two
are what the backward needs, so that it revisits exactly the neurons of the forward.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any, Protocol

import torch

from ufbert.errors import BackendError, ConfigError

from .tree import visited_count

__all__ = ["BACKENDS", "cmm", "cmm_leaves", "resolve_backend"]

# Named as strings and imported only when asked for: none of them is needed to read a checkpoint.
_MODULES = {
    "reference": "ufbert.cmm.reference",
    "numba": "ufbert.cmm.numba",
    "cuda": "ufbert.cmm.cuda",
}
BACKENDS = ("auto", *_MODULES)


class Backend(Protocol):
    """A module under `ufbert.cmm`; all tensors are contiguous, on one device, of one native dtype.

    Logits are float64 for float64 operands and float32 for all others.
    """

    NATIVE_DTYPES: frozenset[torch.dtype]
    NARROWS_WEIGHTS: bool
    """Whether weights wider than a native x are rounded to its dtype; else x is widened to theirs."""

    def unavailable(self, device: torch.device) -> str | None:
        """None if tensors on `device` can be computed here, else the reason in one line."""

    def forward(
        self, x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (tokens, H) -> y (tokens, H), logits (tokens, P, D + 1), leaves (tokens, P) int64."""

    def infer(self, x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        """The y of `forward` alone."""

    def backward(
        self,
        x: torch.Tensor,
        w_in: torch.Tensor,
        w_out: torch.Tensor,
        grad_y: torch.Tensor,
        logits: torch.Tensor,
        leaves: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, w_in, b_in and w_out."""


@functools.cache
def load_backend(name: str) -> Backend:
    """Import a backend by its name. Raises `ConfigError` for an unknown one, listing the known ones."""
    if name not in _MODULES:
        raise ConfigError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    module: Any = importlib.import_module(_MODULES[name])
    backend: Backend = module
    return backend


def resolve_backend(name: str, device: torch.device) -> str:
    """The backend that runs tensors on `device`: `auto` takes the fastest usable one, never failing.

    Raises `BackendError` when the named backend cannot run there.
    """
    if name == "auto":
        preferred = {"cpu": "numba", "cuda": "cuda"}.get(device.type)
        if preferred is None:
            return "reference"
        if reason := _unavailable(preferred, device):
            _tell_slow(reason)
            return "reference"
        return preferred
    if reason := _unavailable(name, device):
        raise BackendError(reason)
    return name


@functools.cache
def _unavailable(name: str, device: torch.device) -> str | None:
    return load_backend(name).unavailable(device)


@functools.cache
def _tell_slow(reason: str) -> None:
    """Once a process: what is missing, while torch computes everything."""
    logging.getLogger("ufbert").warning("%s; until then torch computes every neuron and masks most of them", reason)


def cmm(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, backend: str = "auto"
) -> torch.Tensor:
    """y = sum over the visited nodes of gelu(x . w_in[node] + b_in[node]) * w_out[node].

    x (..., H), w_in and w_out (P, N, H), b_in (P, N); returns the shape and dtype of x. Differentiable in
    all four; the descent itself has no gradient. Under autocast on a GPU all four are cast and the result has
    autocast's dtype, as with `torch.nn.Linear`. Raises `ConfigError` for shapes that do not fit and
    `BackendError` for a backend that cannot run on x's device.
    """
    shape = trees, nodes, hidden = w_in.shape
    if x.ndim == 0 or x.shape[-1] != hidden or w_out.shape != shape or b_in.shape != (trees, nodes):
        raise ConfigError(
            f"shapes do not fit: x {tuple(x.shape)}, w_in {tuple(w_in.shape)}, b_in {tuple(b_in.shape)}, "
            f"w_out {tuple(w_out.shape)}; x must end in the hidden size {hidden}"
        )
    if nodes < 1 or (nodes + 1) & nodes:
        raise ConfigError(f"w_in has {nodes} nodes a tree; a balanced tree has 2^(depth+1) - 1")
    # Here and not in the operator, so that the backward gets the converted weights and compiled graphs the casts.
    # Asked for by flags: x.device.type builds two objects.
    if dtype := _autocast_dtype("cuda" if x.is_cuda else "cpu", x.dtype):
        x, w_in, b_in, w_out = x.to(dtype), w_in.to(dtype), b_in.to(dtype), w_out.to(dtype)
    rows = x if x.ndim == 2 else x.reshape(-1, hidden)
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        # Calling an operator would load torch._dynamo, 1.2 s of a start, and cost 15 us each time.
        y = _infer(rows, w_in, b_in, w_out, backend)
    else:
        y, _, _ = torch.ops.ufbert.cmm(rows, w_in, b_in, w_out, backend)
    return y if x.ndim == 2 else y.reshape(x.shape)


def cmm_leaves(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, backend: str = "auto"
) -> torch.Tensor:
    """Where `cmm` ends for the same arguments: node indices (tokens, P), tokens being the rows of x (..., H)."""
    if dtype := _autocast_dtype("cuda" if x.is_cuda else "cpu", x.dtype):
        x, w_in, b_in, w_out = x.to(dtype), w_in.to(dtype), b_in.to(dtype), w_out.to(dtype)
    return _walk(x.reshape(-1, x.shape[-1]), w_in, b_in, w_out, backend)[2]


def _autocast_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype that autocast wants for x and weights, if it is on; none on a CPU, where few weights are read."""
    if device_type != "cuda" or dtype == torch.float64 or not torch.is_autocast_enabled("cuda"):
        return None
    return torch.get_autocast_dtype("cuda")


@functools.cache
def _backend_for(name: str, device: torch.device) -> Backend:
    return load_backend(resolve_backend(name, device))


def _infer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, backend: str) -> torch.Tensor:
    chosen = _backend_for(backend, x.device)
    dtype = x.dtype
    if not (
        dtype is w_in.dtype is w_out.dtype is b_in.dtype
        and dtype in chosen.NATIVE_DTYPES
        and x.is_contiguous()
        and w_in.is_contiguous()
        and b_in.is_contiguous()
        and w_out.is_contiguous()
    ):
        x, w_in, b_in, w_out = _operands(chosen, x, w_in, b_in, w_out)
    y = chosen.infer(x, w_in, b_in, w_out)
    return y if y.dtype == dtype else y.to(dtype)


def _logits_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Decisions at the nodes are made in float32, or in float64 if any operand has it."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _operands(
    backend: Backend, x: torch.Tensor, second: torch.Tensor, third: torch.Tensor, fourth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All as the backend takes them: in the dtype of x if it computes in that, else widened; contiguous.

    Nothing is copied that has the type and layout already.
    """
    dtype = _logits_dtype(x, second, third, fourth)
    if dtype == torch.float32 and x.dtype in backend.NATIVE_DTYPES:
        same = x.dtype == second.dtype == third.dtype == fourth.dtype
        dtype = x.dtype if same or backend.NARROWS_WEIGHTS else dtype
    a, b, c, d = (t.detach().to(dtype).contiguous() for t in (x, second, third, fourth))
    return a, b, c, d


def _walk(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, backend: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # The choice is made here, inside the operator, so that compiled graphs hold no trace of it.
    chosen = _backend_for(backend, x.device)
    y, logits, leaves = chosen.forward(*_operands(chosen, x, w_in, b_in, w_out))
    return y.to(x.dtype), logits, leaves


_cmm = torch.library.custom_op("ufbert::cmm", _walk, mutates_args=())


@_cmm.register_fake
def _(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, backend: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    trees, nodes, _ = w_in.shape
    levels = visited_count(nodes.bit_length() - 1)
    dtype = _logits_dtype(x, w_in, b_in, w_out)
    return (
        x.new_empty(x.shape),
        x.new_empty((x.shape[0], trees, levels), dtype=dtype),
        x.new_empty((x.shape[0], trees), dtype=torch.int64),
    )


@torch.library.custom_op("ufbert::cmm_backward", mutates_args=())
def _cmm_backward(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    w_in: torch.Tensor,
    b_in: torch.Tensor,
    w_out: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    chosen = load_backend(resolve_backend(backend, x.device))
    gradients = chosen.backward(*_operands(chosen, x, w_in, w_out, grad_y), logits, leaves)
    grad_x, grad_w_in, grad_b_in, grad_w_out = (
        g.to(t.dtype) for g, t in zip(gradients, (x, w_in, b_in, w_out), strict=True)
    )
    return grad_x, grad_w_in, grad_b_in, grad_w_out


@_cmm_backward.register_fake
def _(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    w_in: torch.Tensor,
    b_in: torch.Tensor,
    w_out: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        x.new_empty(x.shape),
        w_in.new_empty(w_in.shape),
        b_in.new_empty(b_in.shape),
        w_out.new_empty(w_out.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, w_in, b_in, w_out, backend = inputs
    _, logits, leaves = output
    ctx.mark_non_differentiable(logits, leaves)
    ctx.save_for_backward(x, w_in, b_in, w_out, logits, leaves)
    ctx.backend = backend


def _differentiate(ctx: Any, grad_y: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    gradients = torch.ops.ufbert.cmm_backward(grad_y, *ctx.saved_tensors, ctx.backend)
    return (*gradients, None)


_cmm.register_autograd(_differentiate, setup_context=_setup_context)
