"""The fast feedforward layer, and the masked dense layer that defines it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.cmm.operator import BACKENDS, cmm
from ufbert.cmm.reference import paths
from ufbert.cmm.tree import check_shape, node_count
from ufbert.errors import ConfigError

__all__ = ["FFF", "SharedNeurons", "masked_dense_fff"]


class SharedNeurons(nn.Module):
    """Dense neurons that every token uses, beside the trees: `linear_in` (S, H) with a bias, exact GELU, `linear_out`.

    In mixtures of experts such shared parts carry what all tokens have in common, so that the routed part need
    not repeat it on every path. Source: DeepSeekMoE, Dai et al. 2024, section 3.2.
    """

    def __init__(
        self, hidden_size: int, neurons: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.linear_in = nn.Linear(hidden_size, neurons, device=device, dtype=dtype)
        self.linear_out = nn.Linear(neurons, hidden_size, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> (..., H)."""
        y: torch.Tensor = self.linear_out(F.gelu(self.linear_in(x)))
        return y

    def add_to(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """y + forward(x), both (..., H) and y contiguous; in inference mode y itself is overwritten."""
        beside: torch.Tensor
        if not torch.is_inference_mode_enabled() or torch.compiler.is_compiling():
            beside = self(x)
            return y + beside.to(y.dtype)
        inner, out = F.gelu(self.linear_in(x)), self.linear_out
        plain = type(out) is nn.Linear and not (out._forward_hooks or out._forward_pre_hooks)
        if not plain or not y.dtype == inner.dtype == out.weight.dtype:
            beside = out(inner)
            return y.add_(beside)
        # The product adds to what the trees left in the cache: no second result that is written and read again.
        hidden, neurons = out.weight.shape
        y.view(-1, hidden).addmm_(inner.reshape(-1, neurons), out.weight.t())
        return y


class FFF(nn.Module):
    """Feedforward layer whose neurons stand in `trees` balanced binary trees of `depth` edges.

    A token uses `trees * (depth + 1)` of the `trees * (2^(depth + 1) - 1)` neurons. Depth 0 is an ordinary
    dense layer of `trees` neurons. Parameters: `w_in` (P, N, H), `b_in` (P, N), `w_out` (P, N, H), and
    `b_out` (H,) if `output_bias`, which a layer converted from a dense one carries. With `shared_neurons` it has
    that many neurons more in `shared`, which every token uses.

    Raises `ConfigError` for a shape that cannot exist or does not fit into memory, or an unknown backend.
    Source: Belcak & Wattenhofer 2023, section 2.
    """

    def __init__(
        self,
        hidden_size: int = 768,
        trees: int = 1,
        depth: int = 11,
        *,
        shared_neurons: int = 0,
        output_bias: bool = False,
        backend: str = "auto",
        initializer_range: float = 0.02,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_shape(hidden_size, trees, depth)
        self.hidden_size, self.trees, self.depth = hidden_size, trees, depth
        self.backend = backend
        self.initializer_range = initializer_range
        nodes = node_count(depth)
        self.w_in = nn.Parameter(torch.empty(trees, nodes, hidden_size, device=device, dtype=dtype))
        self.b_in = nn.Parameter(torch.empty(trees, nodes, device=device, dtype=dtype))
        self.w_out = nn.Parameter(torch.empty(trees, nodes, hidden_size, device=device, dtype=dtype))
        self.b_out = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype)) if output_bias else None
        self.shared = SharedNeurons(hidden_size, shared_neurons, device, dtype) if shared_neurons else None
        self.reset_parameters()

    @property
    def nodes(self) -> int:
        """Neurons of one tree."""
        return node_count(self.depth)

    @property
    def shared_neurons(self) -> int:
        """Neurons beside the trees that every token uses."""
        return 0 if self.shared is None else self.shared.linear_in.out_features

    @property
    def backend(self) -> str:
        """`auto`, `reference`, `numba` or `cuda`; `auto` takes the fastest that runs where the input is."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        if name not in BACKENDS:
            raise ConfigError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
        self._backend = name

    def reset_parameters(self) -> None:
        """Normal(0, initializer_range) weights and zero biases, as in the published recipe."""
        nn.init.normal_(self.w_in, std=self.initializer_range)
        nn.init.normal_(self.w_out, std=self.initializer_range)
        nn.init.zeros_(self.b_in)
        if self.b_out is not None:
            nn.init.zeros_(self.b_out)
        if self.shared is not None:
            nn.init.normal_(self.shared.linear_in.weight, std=self.initializer_range)
            nn.init.zeros_(self.shared.linear_in.bias)
            nn.init.normal_(self.shared.linear_out.weight, std=self.initializer_range)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) of any floating dtype -> the same shape and dtype; on a GPU under autocast its dtype."""
        y = self.walk(x)
        return y if self.shared is None else self.shared.add_to(y, x)

    def walk(self, x: torch.Tensor) -> torch.Tensor:
        """What the trees alone give, with the output bias: shapes as in `forward`."""
        own: dict[str, Any] = self._parameters
        if "w_in" in own and "b_in" in own and "w_out" in own:
            # By its name a module finds a parameter in 0.4 us, and a token takes 3 us.
            w_in, b_in, w_out = own["w_in"], own["b_in"], own["w_out"]
        else:  # parametrized or pruned
            w_in, b_in, w_out = self.w_in, self.b_in, self.w_out
        y = cmm(x, w_in, b_in, w_out, self._backend)
        return y if self.b_out is None else y + self.b_out.to(y.dtype)

    def extra_repr(self) -> str:
        """The shape, for `print(model)`."""
        return (
            f"hidden_size={self.hidden_size}, trees={self.trees}, depth={self.depth}, "
            f"shared_neurons={self.shared_neurons}, "
            f"output_bias={self.b_out is not None}, backend={self._backend!r}"
        )


def masked_dense_fff(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """The definition by autograd alone: all neurons, masked to the path; x (tokens, H) -> (tokens, H).

    This is what the paper's training code computes. It shares no backward with the operator, so tests hold
    the gradients of every backend against it.
    """
    trees, nodes, hidden = w_in.shape
    logits = (x @ w_in.reshape(-1, hidden).T + b_in.reshape(-1)).reshape(x.shape[0], trees, nodes)
    mask = torch.zeros_like(logits).scatter(2, paths(logits.detach()), 1.0)
    return (F.gelu(logits) * mask).reshape(x.shape[0], trees * nodes) @ w_out.reshape(-1, hidden)
