"""What inference needs of the kernels, by addresses: softmax, and what int8 has beside its products."""

from __future__ import annotations

from collections.abc import Callable

from .byte_layer import forward_bytes
from .byte_products import most_of_sum
from .quantization import finish_rows, quantize_rows
from .softmax import softmax_rows
from .threads import run_chunks
from .wrappers import FEWEST_NUMBERS_PER_CHUNK, STORAGES, chunks_of

__all__ = ["finish_rows_at", "forward_bytes_at", "quantize_rows_at", "softmax_rows_at"]

# 0.06 ms of one core: waking a second one takes as long.
NUMBERS_PER_CHUNK = 1 << 21


def quantize_rows_at(x_at: int, result_at: int, scales_at: int, rows: int, columns: int, threads: int = 1) -> None:
    """`rows` of bfloat16 numbers at `x_at` to as many bytes at `result_at`, unchecked.

    A byte is x / scale rounded, plus 128; the scale of a row, its largest |x| over 127, goes to `scales_at` (float32).
    """
    like, like_scales = STORAGES["bfloat16"]

    def work(start: int, stop: int) -> None:
        quantize_rows(like, like_scales, x_at, result_at, scales_at, columns, start, stop)

    _run_rows(work, rows, columns, threads)


def finish_rows_at(
    addresses: tuple[int, int, int, int], rows: int, columns: int, gelu: bool = False, threads: int = 1
) -> None:
    """y = gelu(y * the row's scale + bias) + residual in place, unchecked.

    `addresses` are those of y, scales, bias and residual: y and residual bfloat16, the others float32. The last two
    may be 0 for what is not there.
    """
    like, like_scales = STORAGES["bfloat16"]
    has_bias, adds = bool(addresses[2]), bool(addresses[3])

    def work(start: int, stop: int) -> None:
        finish_rows(like, like_scales, addresses, columns, has_bias, gelu, adds, start, stop)

    _run_rows(work, rows, columns, threads)


def _run_rows(work: Callable[[int, int], None], rows: int, columns: int, threads: int) -> None:
    """`work` on chunks of rows, each worth a thread."""
    piece = max(1, NUMBERS_PER_CHUNK // columns, -(-rows // threads))

    def chunk(number: int) -> None:
        work(number * piece, min((number + 1) * piece, rows))

    run_chunks(chunk, -(-rows // piece), threads)


def softmax_rows_at(x_at: int, rows: int, columns: int, threads: int = 1) -> None:
    """Softmax of each of the `rows` of bfloat16 numbers at `x_at`, in place, unchecked."""
    like, like_numbers = STORAGES["bfloat16"]

    def work(start: int, stop: int) -> None:
        softmax_rows(like, like_numbers, x_at, columns, start, stop)

    _run_rows(work, rows, columns, threads)


def forward_bytes_at(
    addresses: tuple[int, ...], tokens: int, trees: int, nodes: int, hidden: int, threads: int = 1
) -> None:
    """CMM with weights of 8 bits (`byte_rows`), unchecked: y = residual + bias + the trees' sum.

    `addresses` are those of x (tokens, H), of each node's scale of w_in, bias and scale of w_out (P, N, 3), of w_in and
    w_out, y, the residual (tokens, H) and the bias (H,). x, y and the residual are bfloat16, scales and biases float32;
    the last two may be 0 for what is not there.
    """
    like, like_numbers = STORAGES["bfloat16"]
    numbers = trees * nodes.bit_length() * hidden
    most = most_of_sum(hidden), most_of_sum(trees * nodes.bit_length())
    alone = threads == 1 or tokens * numbers <= FEWEST_NUMBERS_PER_CHUNK
    chunks = [(0, tokens)] if alone else chunks_of(tokens, threads, numbers)

    def work(chunk: int) -> None:
        forward_bytes(like, like_numbers, addresses, *chunks[chunk], trees, nodes, hidden, *most)

    run_chunks(work, len(chunks) if tokens else 0, threads)
