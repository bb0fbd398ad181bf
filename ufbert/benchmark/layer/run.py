"""Times one layer, dense and fast feedforward, in every implementation, over batch sizes.

For each dtype and batch size: prepare every implementation for every layer of the cycle, check its result,
then let all of them take turns, each once with one layer's weights over and over (`warm`) and once with all
layers in turn (`cycled`). Dense layers of other widths, and the parts of a layer with shared neurons, take turns
with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from ufbert.benchmark.report.comparisons import DenseWidth, SharedPart
from ufbert.benchmark.report.results import Result, compare
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Threads, TimeBudget, race

from .capacity import affordable_layers
from .checking import Checker
from .comparison import Comparison
from .figures import figure
from .implementations import Absent, Implementation
from .operands import INT8, Operands, Pool, TreeWeights, draw_dense, draw_trees, operand_dtype
from .paths import path_statistics
from .pool import draw_pool
from .preparation import Cell, Preparation
from .reference import route
from .roster import available

__all__ = ["LayerBenchmark"]


class LayerBenchmark:
    """The layer benchmark of one device; `note` gets a line whenever something has been reached.

    With `compared` also how ours stands beside dense layers of other widths.
    """

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        limits: dict[str, Any],
        threads: Threads,
        budget: TimeBudget,
        note: Callable[[str], None],
        advance: Callable[[float], None] = lambda _share: None,
        *,
        compared: bool = True,
    ) -> None:
        self.settings, self.device, self.limits = settings, device, limits
        self.threads, self.budget, self.note, self.advance = threads, budget, note, advance
        self.compared = compared
        self.layers = affordable_layers(settings, device)
        self.results: list[Result] = []
        self.dense_widths: list[DenseWidth] = []
        self.shared_parts: list[SharedPart] = []
        self.absent: list[Absent] = []
        self.paths: dict[str, Any] = {}
        self.preparation = Preparation(settings, device, threads, self.layers, self.absent)

    def run(self, reserve: float = 0.0) -> None:
        """Time every dtype and batch size, leaving `reserve` seconds of the budget."""
        settings = self.settings
        weights = [cell_weight(settings.shape, batch) for _ in settings.dtypes for batch in settings.batches]
        budget = TimeBudget(max(1e-3, self.budget.left() - reserve))
        done = 0
        for name in settings.dtypes:
            dtype = operand_dtype(name)
            implementations, absent = available(
                self.device,
                name,
                settings.direction,
                settings.implementations,
                shared=settings.shape.shared_neurons > 0,
            )
            self.absent += absent
            operands = self.draw(dtype)
            pool = draw_pool(settings, operands["fff", "subject"][0], dtype, self.device)
            if not self.paths:
                self.paths = self.describe_paths(operands, pool)
            for batch in settings.batches:
                self.note(f"{name}, batch {batch:,}")
                seconds = budget.share(weights[done], sum(weights[done:]))
                self.cell(implementations, operands, pool, name, batch, seconds)
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
            ("fff", "subject"): [
                draw_trees(hidden, shape.trees, shape.depth, s + 2, dtype, device, shape.shared_neurons) for s in seeds
            ],
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
        dtype_name: str,
        batch: int,
        seconds: float,
    ) -> None:
        """One dtype and batch size."""
        settings, preparation = self.settings, self.preparation
        training = settings.direction == "training"
        torch.compiler.reset()  # else the ninth batch size would hit the limit of recompilations
        budget = TimeBudget(seconds)
        with contextlib.nullcontext() if training else torch.inference_mode():
            dtype = operand_dtype(dtype_name)
            checker = Checker(operands, pool, dtype, training=training, int8=dtype_name == INT8)
            cell = Cell(dtype_name, batch, operands, pool, checker)
            entries = [entry for chosen in implementations if (entry := preparation.prepare(chosen, cell))]
            contestants = [contestant for entry in entries for contestant in preparation.enter(entry, cell)]
            comparison = Comparison(preparation, cell, contestants if self.compared else [], settings, seconds)
            race(comparison.order(contestants), preparation.clock, max(0.0, budget.left()))
        self.threads.set_blas(self.threads.threads)
        self.dense_widths += comparison.dense_widths()
        self.shared_parts += comparison.shared_parts()
        self.results += [figure(contestant, cell, settings, self.limits) for contestant in contestants]


def cell_weight(shape: Shape, batch: int) -> float:
    """Expected seconds of a batch size's three rounds; only the proportions matter."""
    return 1.5 + 3e-3 * batch * shape.intermediate_size * shape.hidden_size / (4095 * 768)
