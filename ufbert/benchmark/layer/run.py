"""Times one layer, dense and fast feedforward, in every implementation, over batch sizes.

For each dtype and batch size: prepare every implementation for every layer of the cycle, check its result,
then let all of them take turns, each once with one layer's weights over and over (`warm`) and once with all
layers in turn (`cycled`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.benchmark.machine.limits import Traffic, share_of_limit
from ufbert.benchmark.report.results import Result, compare
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import LONG_CALL_SECONDS, Clock, Contestant, Spread, Threads, TimeBudget, calibrate, race

from .capacity import affordable_layers, check_memory
from .checking import Checker
from .implementations import Absent, Implementation, Situation
from .operands import Operands, Pool, TreeWeights, Weights, draw_dense, draw_trees
from .paths import path_statistics
from .pool import draw_pool
from .reference import Check, route
from .roster import available

__all__ = ["LayerBenchmark"]

# A call of an implementation that works token by token gets as many tokens as take about this long.
PER_TOKEN_CALL_SECONDS = 0.02
# Of those tokens at least so many on a GPU, which fewer would leave idle.
GPU_TOKENS = 1024

# A call that copies rows for each token may take this share of the budget. No dense layer is ever left out for
# its time: what it is compared with would be slower.
MOST_GATHERING = 0.03


@dataclass
class PreparedImplementation:
    """One implementation at one batch size, prepared and checked."""

    implementation: Implementation
    functions: list[Callable[[Any], Any]]
    tokens: int
    check: Check


class LayerBenchmark:
    """The layer benchmark of one device; `note` gets a line whenever something has been reached."""

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        limits: dict[str, Any],
        threads: Threads,
        budget: TimeBudget,
        note: Callable[[str], None],
        advance: Callable[[float], None] = lambda _share: None,
    ) -> None:
        self.settings, self.device, self.limits = settings, device, limits
        self.threads, self.budget, self.note, self.advance = threads, budget, note, advance
        self.clock = Clock(device)
        self.layers = affordable_layers(settings, device)
        self.results: list[Result] = []
        self.absent: list[Absent] = []
        self.paths: dict[str, Any] = {}

    def run(self, reserve: float = 0.0) -> None:
        """Time every dtype and batch size, leaving `reserve` seconds of the budget."""
        settings = self.settings
        weights = [cell_weight(settings.shape, batch) for _ in settings.dtypes for batch in settings.batches]
        budget = TimeBudget(max(1e-3, self.budget.left() - reserve))
        done = 0
        for name in settings.dtypes:
            dtype = getattr(torch, name)
            implementations, absent = available(self.device, name, settings.direction, settings.implementations)
            self.absent += absent
            operands = self.draw(dtype)
            pool = draw_pool(settings, operands["fff", "subject"][0], dtype, self.device)
            if not self.paths:
                self.paths = self.describe_paths(operands, pool)
            for batch in settings.batches:
                self.note(f"{name}, batch {batch:,}")
                seconds = budget.share(weights[done], sum(weights[done:]))
                self.cell(implementations, operands, pool, dtype, batch, seconds)
                done += 1
                self.advance(sum(weights[:done]) / sum(weights))
            del operands, pool  # before the next dtype's are drawn
        compare(self.results)

    def draw(self, dtype: torch.dtype) -> Operands:
        """Weights of all layers, and of the controls, which have as many neurons as a token visits."""
        shape, device = self.settings.shape, self.device
        hidden, used = shape.hidden_size, shape.neurons_visited
        seeds = [1000 * self.settings.seed + 4 * layer for layer in range(self.layers)]
        return {
            ("ff", "subject"): [draw_dense(hidden, shape.intermediate_size, s, dtype, device) for s in seeds],
            ("ff", "control"): [draw_dense(hidden, used, s + 1, dtype, device) for s in seeds],
            ("fff", "subject"): [draw_trees(hidden, shape.trees, shape.depth, s + 2, dtype, device) for s in seeds],
            ("fff", "control"): [draw_trees(hidden, used, 0, s + 3, dtype, device) for s in seeds],
        }

    def describe_paths(self, operands: Operands, pool: Pool) -> dict[str, Any]:
        """Where the pool's tokens go in the first layer's trees."""
        weights = operands["fff", "subject"][0]
        assert isinstance(weights, TreeWeights)
        leaves = route(pool.x, weights).cpu().numpy()
        return path_statistics(leaves, self.settings.shape.depth, self.settings.batches, self.settings.seed)

    def cell(
        self,
        implementations: list[Implementation],
        operands: Operands,
        pool: Pool,
        dtype: torch.dtype,
        batch: int,
        seconds: float,
    ) -> None:
        """One dtype and batch size."""
        training = self.settings.direction == "training"
        torch.compiler.reset()  # else the ninth batch size would hit the limit of recompilations
        budget = TimeBudget(seconds)
        with contextlib.nullcontext() if training else torch.inference_mode():
            checker = Checker(operands, pool, dtype, batch, training=training)
            entries = [
                entry
                for implementation in implementations
                if (entry := self.prepare(implementation, operands, pool, dtype, batch, checker))
            ]
            contestants = [contestant for entry in entries for contestant in self.enter(entry, pool)]
            race(contestants, self.clock, max(0.0, budget.left()))
        self.threads.set_blas(self.threads.threads)
        self.results += [self.result(contestant, dtype, batch) for contestant in contestants]

    def enter(self, entry: PreparedImplementation, pool: Pool) -> list[Contestant]:
        """The entry with one layer's weights, and with all of them in turn; calibrated."""
        inputs = [entry.implementation.convert(given) for given in pool.batches(entry.tokens)]
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

    def blas_setting(self, implementation: Implementation, tokens: int) -> Callable[[], None]:
        """Sets the threads inside BLAS for an implementation: one, if tokens are spread over threads outside."""
        number = 1 if implementation.own_threads and tokens > 1 else self.threads.threads
        return lambda: self.threads.set_blas(number)

    def prepare(
        self,
        implementation: Implementation,
        operands: Operands,
        pool: Pool,
        dtype: torch.dtype,
        batch: int,
        checker: Checker,
    ) -> PreparedImplementation | None:
        """Prepared for all layers and found right; else None, with the reason among `absent`."""
        weights = operands[implementation.layer, implementation.role]
        tokens = batch
        if implementation.per_token:
            tokens = min(batch, GPU_TOKENS if self.device.type == "cuda" else 4 * self.threads.threads)
        wrong = False
        try:
            check_memory(implementation, weights, tokens, self.settings.direction, self.device)
            functions = self.build(implementation, weights, dtype, tokens)
            self.blas_setting(implementation, tokens)()
            first = implementation.convert(next(pool.batches(tokens)))
            started = time.monotonic()
            result = functions[0](first)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.monotonic() - started
            check = checker.check(implementation, implementation.restore(result), tokens)
            reason, wrong = check.failure, bool(check.failure)
            if implementation.per_token and tokens < batch and not wrong:
                per_token = self.clock.time([(functions[0], first)]) / tokens
                wanted = int(PER_TOKEN_CALL_SECONDS / per_token) // tokens * tokens
                tokens = max(tokens, min(batch, wanted))
            elif implementation.gathers and not wrong and seconds > max(0.5, MOST_GATHERING * self.settings.seconds):
                reason = f"a single call takes {seconds:.1f} s"
        except MemoryError as error:
            reason = str(error)
        except RuntimeError as error:  # torch reports failed compilations and allocations so
            reason = f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        if reason:
            self.leave_out(implementation, dtype, batch, reason, wrong=wrong)
            return None
        return PreparedImplementation(implementation, functions, tokens, check)

    def leave_out(
        self, implementation: Implementation, dtype: torch.dtype, batch: int, reason: str, *, wrong: bool = False
    ) -> None:
        """Note among `absent` that an implementation is not timed at this batch size."""
        self.absent.append(
            Absent(
                layer=implementation.layer,
                implementation=implementation.name,
                dtype=str(dtype).removeprefix("torch."),
                reason=f"batch {batch}: {reason}",
                wrong=wrong,
            )
        )

    def build(
        self, implementation: Implementation, weights: list[Weights], dtype: torch.dtype, tokens: int
    ) -> list[Callable[[Any], Any]]:
        """The function to time, for each layer."""
        situation = Situation(
            device=self.device,
            dtype=dtype,
            batch=tokens,
            threads=self.threads.threads,
            direction=self.settings.direction,
        )
        return [implementation.prepare(layer, situation) for layer in weights]

    def result(self, contestant: Contestant, dtype: torch.dtype, batch: int) -> Result:
        """The figure, with its share of what the machine can do."""
        entry, kind = contestant.key
        implementation, check = entry.implementation, entry.check
        shape = self.settings.shape
        name = str(dtype).removeprefix("torch.")
        control = implementation.role == "control"
        conditional = implementation.layer == "fff"
        dense_neurons = shape.neurons_visited if control else shape.intermediate_size
        neurons = shape.neurons_available if conditional and not control else dense_neurons
        visited = shape.neurons_visited if conditional and not implementation.all_neurons else neurons
        spread = Spread.of(contestant.samples)
        layers = len(contestant.functions)
        item_bytes = dtype.itemsize
        one_by_one = implementation.per_token or (conditional and not control and not implementation.all_neurons)
        traffic = Traffic(shape, visited, entry.tokens, item_bytes, per_token=one_by_one)
        training = self.settings.direction == "training"
        return Result(
            layer=implementation.layer,
            implementation=implementation.name,
            level=implementation.level,
            role=implementation.role,
            device=self.device.type,
            dtype=name,
            threads=self.threads.threads,
            batch=batch,
            direction=self.settings.direction,
            weights=kind,
            layers=layers,
            trees=(shape.neurons_visited if control else shape.trees) if conditional else None,
            depth=(0 if control else shape.depth) if conditional else None,
            hidden_size=shape.hidden_size,
            neurons=neurons,
            neurons_visited=visited,
            timed_tokens=entry.tokens,
            spread=spread,
            samples=len(contestant.samples),
            calls_per_sample=contestant.calls_per_sample,
            checked_tokens=check.tokens,
            largest_error=check.error,
            diverted_tokens=check.diverted,
            tf32=implementation.tf32,
            limits=share_of_limit(
                traffic,
                spread.median,
                "tf32" if implementation.tf32 else name,
                2 * neurons * shape.hidden_size * item_bytes * layers,
                self.limits,
                passes=3.0 if training else 1.0,
                flushed=kind == "flushed",
            ),
        )


def cell_weight(shape: Shape, batch: int) -> float:
    """Expected seconds of a batch size's three rounds; only the proportions matter."""
    return 1.5 + 3e-3 * batch * shape.intermediate_size * shape.hidden_size / (4095 * 768)
