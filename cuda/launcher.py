"""Launches the CMM kernels on device memory that the caller owns: addresses, sizes and a stream, all plain ints.

Every array is row-contiguous on the GPU `device` and stays alive until the stream has passed the launch. Letters:
T tokens (any number, also 0), H hidden size, P trees, D depth (0 to 31), N = 2^(D+1) - 1 nodes, L = 2^D leaves.
"dtype" is "float32", "float16" or "bfloat16": the type of x, y, the weights and all gradients, one for all; the
sums are float32. Nothing here waits for the GPU or allocates memory on it, so calls may be captured into a CUDA
graph once the kernels are loaded, that is, after one call of the same dtype, H, D and alignment outside it.

What the caller has to do for the backward pass, in the terms of NumPy, for each tree p:

    order[p]       = argsort(leaves[:, p], kind="stable")                                    # (P, T) int64
    leaf_starts[p] = searchsorted(leaves[:, p][order[p]], arange(L - 1, 2 * L), side="left")  # (P, L + 1) int64

`leaf_starts` says where in the sorted order the tokens of each leaf begin, and ends with T. The sort has to be
stable for the gradients to be the same bits in every run.

A call makes `device` the current one of the calling thread, as the tensors' owner will have done already.
"""

from __future__ import annotations

from .compiler import MAIN_FILE
from .loading import Launch, enqueue
from .machine import availability
from .plan import Specialization, backward_plan, backward_workspace, specialize, token_grid, vector_width, weight_grid

__all__ = [
    "KERNELS",
    "Launch",
    "availability",
    "backward",
    "backward_launches",
    "backward_workspace",
    "forward",
    "forward_launches",
    "idle_launches",
    "prepare",
]

# Name of each kernel: how many parameters it has.
KERNELS = {
    "cmm_forward": 9,
    "cmm_backward_tokens": 9,
    "cmm_backward_tiles": 15,
    "cmm_backward_combine": 10,
}

# Those that give each token to a group of warps; the others sum weight gradients.
TOKEN_KERNELS = ("cmm_forward", "cmm_backward_tokens")


def forward(
    *,
    x: int,
    w_in: int,
    b_in: int,
    w_out: int,
    y: int,
    logits: int,
    leaves: int,
    tokens: int,
    hidden: int,
    trees: int,
    depth: int,
    dtype: str,
    device: int,
    stream: int,
) -> None:
    """Walk every token through every tree. Enqueues one kernel on `stream` and returns at once.

    Reads x (T, H), w_in (P, N, H), b_in (P, N), w_out (P, N, H), all of `dtype`. Writes all of y (T, H) of
    `dtype`, logits (T, P, D+1) float32 and leaves (T, P) int64, the node index of the leaf reached in each tree.
    `stream` is a cudaStream_t of `device`; 0 is the default stream.

    Raises `CudaUnavailable`, and `ValueError` for a dtype or shape without kernels.
    """
    layout, launches = forward_launches(
        x=x, w_in=w_in, b_in=b_in, w_out=w_out, y=y, logits=logits, leaves=leaves,
        tokens=tokens, hidden=hidden, trees=trees, depth=depth, dtype=dtype,
    )  # fmt: skip
    _run(layout, launches, device, stream)


def backward(
    *,
    grad_y: int,
    x: int,
    w_in: int,
    w_out: int,
    logits: int,
    leaves: int,
    order: int,
    leaf_starts: int,
    workspace: int,
    grad_x: int,
    grad_w_in: int,
    grad_b_in: int,
    grad_w_out: int,
    tokens: int,
    hidden: int,
    trees: int,
    depth: int,
    dtype: str,
    device: int,
    stream: int,
) -> None:
    """All four gradients from the gradient of y. Enqueues up to three kernels on `stream` and returns at once.

    Reads grad_y, x (T, H), w_in, w_out (P, N, H) of `dtype`; logits and leaves as `forward` wrote them; order
    (P, T) and leaf_starts (P, L+1) int64, see above. Writes all of grad_x (T, H), grad_w_in (P, N, H), grad_b_in
    (P, N), grad_w_out (P, N, H) of `dtype`, zeros where no token came; they need no initialisation.
    `workspace` is scratch memory of `backward_workspace(...)` bytes, aligned to 256 bytes, without content.
    The result is deterministic: no atomics, and an order of summation that depends on the sizes alone.

    Raises `CudaUnavailable`, and `ValueError` for a dtype or shape without kernels.
    """
    layout, launches = backward_launches(
        grad_y=grad_y, x=x, w_in=w_in, w_out=w_out, logits=logits, leaves=leaves, order=order,
        leaf_starts=leaf_starts, workspace=workspace, grad_x=grad_x, grad_w_in=grad_w_in, grad_b_in=grad_b_in,
        grad_w_out=grad_w_out, tokens=tokens, hidden=hidden, trees=trees, depth=depth, dtype=dtype,
    )  # fmt: skip
    _run(layout, launches, device, stream)


def prepare(*, hidden: int, depth: int, dtype: str, device: int, stream: int) -> None:
    """Compile and load the kernels of aligned tensors ahead of time, for instance before capturing a graph.

    Launches each of them once without work: CUDA may put off loading until then.
    """
    specialize(dtype, hidden, depth, 1)
    layout = specialize(dtype, hidden, depth, vector_width(hidden, dtype, ()))
    _run(layout, idle_launches(layout), device, stream)


def forward_launches(
    *,
    x: int,
    w_in: int,
    b_in: int,
    w_out: int,
    y: int,
    logits: int,
    leaves: int,
    tokens: int,
    hidden: int,
    trees: int,
    depth: int,
    dtype: str,
) -> tuple[Specialization, list[Launch]]:
    """The constants and the launches of `forward`, without doing them."""
    layout = _specialization(dtype, hidden, depth, trees, tokens, (x, w_in, w_out, y))
    if tokens == 0:
        return layout, []
    arguments = (tokens, trees, x, w_in, b_in, w_out, y, logits, leaves)
    grid = token_grid(tokens, layout.tokens_per_block)
    return layout, [Launch("cmm_forward", grid, layout.token_block, arguments)]


def backward_launches(
    *,
    grad_y: int,
    x: int,
    w_in: int,
    w_out: int,
    logits: int,
    leaves: int,
    order: int,
    leaf_starts: int,
    workspace: int,
    grad_x: int,
    grad_w_in: int,
    grad_b_in: int,
    grad_w_out: int,
    tokens: int,
    hidden: int,
    trees: int,
    depth: int,
    dtype: str,
) -> tuple[Specialization, list[Launch]]:
    """The constants and the launches of `backward`, without doing them."""
    rows = (grad_y, x, w_in, w_out, grad_x, grad_w_in, grad_w_out)
    layout = _specialization(dtype, hidden, depth, trees, tokens, rows)
    plan = backward_plan(tokens, trees, depth, hidden, layout.slices)
    coefficients = workspace + plan.workspace.coefficients
    gradients = (
        grad_w_in,
        grad_b_in,
        grad_w_out,
        workspace + plan.workspace.partial_w_in,
        workspace + plan.workspace.partial_b_in,
        workspace + plan.workspace.partial_w_out,
    )
    differentiate = Launch(
        "cmm_backward_tokens",
        token_grid(tokens, layout.tokens_per_block),
        layout.token_block,
        (tokens, trees, grad_y, w_in, w_out, logits, leaves, grad_x, coefficients),
    )
    add_up = Launch(
        "cmm_backward_tiles",
        weight_grid(trees * plan.tiles * layout.slices),
        layout.weight_block,
        (tokens, trees, plan.tiles, plan.tile_tokens, x, grad_y, leaves, order, coefficients, *gradients),
    )
    combine = Launch(
        "cmm_backward_combine",
        weight_grid(trees * ((2 << depth) - 1) * layout.slices),
        layout.weight_block,
        (trees, plan.tiles, plan.tile_tokens, leaf_starts, *gradients),
    )
    return layout, [differentiate, add_up, combine] if tokens else [combine]


def idle_launches(layout: Specialization) -> list[Launch]:
    """One launch of each kernel that reads and writes nothing: no tokens, no trees, no addresses."""
    return [
        Launch(name, 1, layout.token_block if name in TOKEN_KERNELS else layout.weight_block, (0,) * count)
        for name, count in KERNELS.items()
    ]


def _specialization(
    dtype: str, hidden: int, depth: int, trees: int, tokens: int, rows: tuple[int, ...]
) -> Specialization:
    """The layout for arrays at these addresses."""
    if trees < 1 or tokens < 0:
        raise ValueError(f"the CUDA kernels take at least 1 tree and 0 tokens, not {trees} and {tokens}")
    specialize(dtype, hidden, depth, 1)  # names what is wrong before a width is looked for
    return specialize(dtype, hidden, depth, vector_width(hidden, dtype, rows))


def _run(layout: Specialization, launches: list[Launch], device: int, stream: int) -> None:
    """Enqueue the launches, in order, on a stream of `device`."""
    enqueue(MAIN_FILE, layout.macros, tuple(KERNELS), launches, device, stream)
