"""What kernels hand each other: named tuples, which Numba passes as the fields they hold.

That costs nothing (within 1 % of separate parameters at batch 1 to 8,192, in turns within one process), if a record
made within a loop holds numbers only: arrays in it are counted up and down each time. Adding up a token's path took
40 ns longer so.

From Python a named tuple of seven numbers takes 1.1 us more than the numbers, where a token takes 3, and a plain
tuple 0.1 us less: the forward kernels take a plain one from Python, the backward ones, which run for long, named ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "ByteTrees", "Gradients", "Group", "Met", "Neurons", "Output", "Paths", "RoutingSpace", "Rows", "Tokens", "Tree",
    "Trees", "Walked",
]  # fmt: skip

# Of int64 in a kernel, whether Python calls it an int or NumPy's.
Integer = Any


class Tree(NamedTuple):
    """The rows of w_in that tokens are multiplied with: of one tree, or of all trees one after the other."""

    like: Any
    """An array in whose storage the rows lie, empty for all it says."""
    w_at: Integer
    """The address of the first node's row."""
    b_n: Any
    """The nodes' biases, flat."""
    hidden: Integer
    """Numbers in a row."""
    row: Integer
    """Bytes of a row, of x too."""
    levels: Integer


class Tokens(NamedTuple):
    """Tokens on their way through a tree."""

    x_at: Integer
    """The address of token 0's x."""
    order_t: Any
    """All tokens; those at one node stand together."""
    cold: bool
    """x comes from memory."""


class Met(NamedTuple):
    """Where it is written what tokens meet in a tree."""

    logits: Any
    """Flat; those of one token stand together, root first."""
    width: Integer
    """Between the logits of two tokens."""
    leaves_t: Any
    """The leaf reached, as a node; above the leaves the node last visited."""


class Group(NamedTuple):
    """The tokens order_t[low:high], which stand at `node` on `level`."""

    low: Integer
    high: Integer
    node: Integer
    level: Integer


class RoutingSpace(NamedTuple):
    """What routing works in, made once: a tree may take less time than making it. Letters: t up to all tokens."""

    spare_t: Any
    choices_t: Any
    """Which child, or grandchild, each token goes to. One longer, for the second of a pair that is none."""
    stack: Any
    """Groups that wait (4 levels + 4, 4)."""
    queues: Any
    """Walkers that wait on each level (levels, 5, WALKERS); see `walk`."""
    queued: Any
    """How many wait on each level; zero between two trees."""
    ends: Any
    """Where each choice's tokens end (4,)."""
    out: Any
    """Logits of one product (WALKERS,)."""


class Rows(NamedTuple):
    """Rows to be added up, and the weight of each.

    Numbers only, since there is one for each token.
    """

    rows_at: Integer
    """The address of the rows' addresses (int64)."""
    weights_at: Integer
    """The address of their weights, float32 (float64 where rows are)."""
    count: Integer
    """At least one."""
    hidden: Integer
    """Numbers in a row."""


class Paths(NamedTuple):
    """Tokens that have been routed. Letters: t tokens, p trees, k levels of all trees, tree by tree."""

    activations_tk: Any
    leaves_pt: Any
    order_t: Any


class Trees(NamedTuple):
    """The rows of w_out of the trees that tokens were routed through."""

    like: Any
    """An array in whose storage the rows lie."""
    w_at: Integer
    """The address of the first tree's first row."""
    tree: Integer
    """Bytes of a tree."""
    row: Integer
    """Bytes of a row."""
    hidden: Integer
    """Numbers in a row."""
    levels: Integer


class Output(NamedTuple):
    """Where y goes, row by row."""

    like: Any
    """An array in whose storage it lies."""
    y_at: Integer
    """The address of token 0's row."""
    row: Integer
    """Bytes of a row."""


class Neurons(NamedTuple):
    """What backward knows of the neurons visited, (tokens, P, D + 1) each."""

    logits_tpd: Any
    activations_tpd: Any
    grad_logits_tpd: Any


class Gradients(NamedTuple):
    """The gradients of one tree."""

    w_in_nh: Any
    b_in_n: Any
    w_out_nh: Any


class ByteTrees(NamedTuple):
    """All trees of a layer with weights of 8 bits."""

    known_nk: Any
    """For each node of all trees the scale of its row of w_in, its bias, and the scale of its row of w_out."""
    w_in_at: Integer
    """The address of the first node's row."""
    w_out_at: Integer
    width: Integer
    """Bytes of a row."""
    nodes: Integer
    """Nodes of a tree."""
    levels: Integer


class Walked(NamedTuple):
    """What tokens met in such trees, (tokens, levels of all trees) each."""

    logits_tk: Any
    scales_tk: Any
    """Of the rows of w_out."""
    rows_tk: Any
    """The addresses of these rows."""
