"""Makes implementations ready to be timed at one batch size: prepared, held against the reference, calibrated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import LONG_CALL_SECONDS, Clock, Contestant, Threads, calibrate

from .capacity import check_memory
from .checking import Checker
from .implementations import Absent, Implementation, Situation
from .operands import INT8, Operands, Pool, Weights, operand_dtype
from .reference import Check

__all__ = ["Cell", "Preparation", "PreparedImplementation", "seconds_per_token"]

# A call of an implementation that works token by token gets as many tokens as take about this long.
PER_TOKEN_CALL_SECONDS = 0.02
# Of those tokens at least so many on a GPU, which fewer would leave idle.
GPU_TOKENS = 1024

# A call that copies rows for each token may take this share of the budget. No dense layer is ever left out for
# its time: what it is compared with would be slower.
MOST_GATHERING = 0.03


@dataclass(frozen=True)
class Cell:
    """One dtype and batch size, with what is computed there."""

    dtype_name: str
    """As on the command line."""
    batch: int
    operands: Operands
    pool: Pool
    checker: Checker

    @property
    def item_bytes(self) -> int:
        """Of a weight."""
        return 1 if self.dtype_name == INT8 else operand_dtype(self.dtype_name).itemsize


@dataclass
class PreparedImplementation:
    """One implementation at one batch size, prepared and checked."""

    implementation: Implementation
    functions: list[Callable[[Any], Any]]
    tokens: int
    check: Check
    neurons: int | None = None
    """Of other weights than the table's."""


def seconds_per_token(contestant: Contestant) -> float:
    """The estimate by `calibrate`."""
    entry: PreparedImplementation = contestant.key[0]
    return contestant.seconds_per_call / entry.tokens


class Preparation:
    """Of one device; what cannot be timed is added to `absent`."""

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        threads: Threads,
        layers: int,
        absent: list[Absent],
    ) -> None:
        self.settings, self.device, self.threads, self.layers, self.absent = settings, device, threads, layers, absent
        self.clock = Clock(device)

    def prepare(self, implementation: Implementation, cell: Cell) -> PreparedImplementation | None:
        """Prepared for all layers and found right; else None, with the reason among `absent`."""
        weights = cell.operands[implementation.layer, implementation.role]
        tokens = cell.batch
        if implementation.per_token:
            tokens = min(cell.batch, GPU_TOKENS if self.device.type == "cuda" else 4 * self.threads.threads)
        wrong = False
        try:
            check_memory(implementation, weights, tokens, self.settings.direction, self.device)
            functions = self.build(implementation, weights, cell.dtype_name, tokens)
            self.blas_setting(implementation, tokens)()
            first = implementation.convert(next(cell.pool.batches(tokens)))
            started = time.monotonic()
            result = functions[0](first)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.monotonic() - started
            check = cell.checker.check(implementation, implementation.restore(result), tokens)
            reason, wrong = check.failure, bool(check.failure)
            if implementation.per_token and tokens < cell.batch and not wrong:
                per_token = self.clock.time([(functions[0], first)]) / tokens
                wanted = int(PER_TOKEN_CALL_SECONDS / per_token) // tokens * tokens
                tokens = max(tokens, min(cell.batch, wanted))
            elif implementation.gathers and not wrong and seconds > max(0.5, MOST_GATHERING * self.settings.seconds):
                reason = f"a single call takes {seconds:.1f} s"
        except MemoryError as error:
            reason = str(error)
        except RuntimeError as error:  # torch reports failed compilations and allocations so
            reason = failure(error)
        if reason:
            self.leave_out(implementation, cell, reason, wrong=wrong)
            return None
        return PreparedImplementation(implementation, functions, tokens, check)

    def enter(self, entry: PreparedImplementation, cell: Cell) -> list[Contestant]:
        """The entry with one layer's weights, and with all of them in turn; calibrated."""
        inputs = [entry.implementation.convert(given) for given in cell.pool.batches(entry.tokens)]
        before = self.blas_setting(entry.implementation, entry.tokens)
        warm = Contestant((entry, "warm"), entry.functions[:1], inputs, before)
        calibrate(warm, self.clock)
        found = [warm]
        if self.device.type == "cuda":
            flushed = Contestant((entry, "flushed"), entry.functions[:1], inputs, before, flushed=True)
            calibrate(flushed, self.clock)
            found.append(flushed)
        if self.layers == 1:
            return found
        cycled = Contestant((entry, "cycled"), entry.functions, inputs, before)
        if warm.seconds_per_call > LONG_CALL_SECONDS:
            cycled.seconds_per_call = warm.seconds_per_call  # near enough, and a call is dear
        else:
            calibrate(cycled, self.clock)
        return [*found, cycled]

    def with_weights(
        self, entry: PreparedImplementation, weights: Weights, neurons: int, cell: Cell
    ) -> Contestant | None:
        """The same implementation, warm, with other weights of one layer: checked and calibrated; None if it fails."""
        implementation = entry.implementation
        try:
            check_memory(implementation, [weights], entry.tokens, self.settings.direction, self.device)
            functions = self.build(implementation, [weights], cell.dtype_name, entry.tokens)
            inputs = [implementation.convert(given) for given in cell.pool.batches(entry.tokens)]
            before = self.blas_setting(implementation, entry.tokens)
            before()
            result = implementation.restore(functions[0](inputs[0]))
        except MemoryError as error:
            self.leave_out(implementation, cell, f"{neurons:,} neurons: {error}")
            return None
        except RuntimeError as error:
            self.leave_out(implementation, cell, f"{neurons:,} neurons: {failure(error)}")
            return None
        check = cell.checker.check_weights(weights, implementation, result, entry.tokens)
        if check.failure:
            self.leave_out(implementation, cell, f"{neurons:,} neurons: {check.failure}", wrong=True)
            return None
        other = PreparedImplementation(implementation, functions, entry.tokens, check, neurons)
        contestant = Contestant((other, "warm"), functions, inputs, before)
        calibrate(contestant, self.clock)
        return contestant

    def fastest(
        self, entries: Iterable[PreparedImplementation], weights: Weights, neurons: int, cell: Cell
    ) -> list[Contestant]:
        """The entries with other weights, the one first that was the fastest in a few calls."""
        found = [self.with_weights(entry, weights, neurons, cell) for entry in entries]
        return sorted((contestant for contestant in found if contestant), key=seconds_per_token)

    def blas_setting(self, implementation: Implementation, tokens: int) -> Callable[[], None]:
        """Sets the threads inside BLAS for an implementation: one, if tokens are spread over threads outside."""
        number = 1 if implementation.own_threads and tokens > 1 else self.threads.threads
        return lambda: self.threads.set_blas(number)

    def leave_out(self, implementation: Implementation, cell: Cell, reason: str, *, wrong: bool = False) -> None:
        """Note among `absent` that an implementation is not timed at this batch size."""
        self.absent.append(
            Absent(
                layer=implementation.layer,
                implementation=implementation.name,
                dtype=cell.dtype_name,
                reason=f"batch {cell.batch}: {reason}",
                wrong=wrong,
            )
        )

    def build(
        self, implementation: Implementation, weights: list[Weights], dtype_name: str, tokens: int
    ) -> list[Callable[[Any], Any]]:
        """The function to time, for each layer."""
        situation = Situation(
            device=self.device,
            dtype=operand_dtype(dtype_name),
            int8=dtype_name == INT8,
            batch=tokens,
            threads=self.threads.threads,
            direction=self.settings.direction,
        )
        return [implementation.prepare(layer, situation) for layer in weights]


def failure(error: RuntimeError) -> str:
    """The first line of what went wrong."""
    return f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
