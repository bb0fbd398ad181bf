"""Pure torch: every neuron is computed and the unvisited ones are masked out, on any device.

These are the semantics of the paper's training code, and the truth the fast backends are held to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["NARROWS_WEIGHTS", "NATIVE_DTYPES", "backward", "forward", "infer", "unavailable"]

NATIVE_DTYPES = frozenset((torch.float32, torch.float64))
NARROWS_WEIGHTS = False


def unavailable(device: torch.device) -> str | None:
    """None: torch runs everywhere."""
    return None


def paths(logits_all: torch.Tensor) -> torch.Tensor:
    """The nodes visited per tree, root first: (tokens, P, N) logits -> (tokens, P, D + 1) int64."""
    tokens, trees, nodes = logits_all.shape
    node = torch.zeros((tokens, trees, 1), dtype=torch.int64, device=logits_all.device)
    path = [node]
    for _ in range(nodes.bit_length() - 1):
        node = 2 * node + 1 + (logits_all.gather(2, node) > 0)
        path.append(node)
    return torch.cat(path, dim=2)


def forward(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All logits as a dense product, then only the path's activations survive."""
    trees, nodes, hidden = w_in.shape
    logits_all = (x @ w_in.reshape(-1, hidden).T + b_in.reshape(-1)).reshape(x.shape[0], trees, nodes)
    path = paths(logits_all)
    logits = logits_all.gather(2, path)
    y = _scatter(F.gelu(logits), path, nodes) @ w_out.reshape(-1, hidden)
    return y, logits, path[:, :, -1].contiguous()


def infer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """The y of `forward` alone."""
    return forward(x, w_in, b_in, w_out)[0]


def backward(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    grad_y: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The chain rule written with the same masked dense products."""
    trees, nodes, hidden = w_in.shape
    path = _ancestors(leaves, nodes.bit_length())
    activations = _scatter(F.gelu(logits), path, nodes)
    grad_activations = (grad_y @ w_out.reshape(-1, hidden).T).reshape(len(leaves), trees, nodes).gather(2, path)
    grad_logits = _scatter(torch.ops.aten.gelu_backward(grad_activations, logits), path, nodes)
    return (
        grad_logits @ w_in.reshape(-1, hidden),
        (grad_logits.T @ x).reshape(w_in.shape),
        grad_logits.sum(0).reshape(trees, nodes),
        (activations.T @ grad_y).reshape(w_out.shape),
    )


def _ancestors(leaves: torch.Tensor, levels: int) -> torch.Tensor:
    """Leaves (tokens, P) -> the whole paths (tokens, P, D + 1), root first."""
    path = [leaves]
    for _ in range(levels - 1):
        path.append((path[-1] - 1) // 2)
    return torch.stack(path[::-1], dim=2)


def _scatter(values: torch.Tensor, path: torch.Tensor, nodes: int) -> torch.Tensor:
    """Values of the visited nodes (tokens, P, D + 1) among zeros: (tokens, P * N)."""
    tokens, trees, _ = path.shape
    everywhere = values.new_zeros((tokens, trees, nodes))
    return everywhere.scatter(2, path, values).reshape(tokens, trees * nodes)
