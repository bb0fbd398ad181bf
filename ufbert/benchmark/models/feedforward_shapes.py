"""What feedforward layers of each shape take of a model's time, as `ufbert infer` runs them on a CPU: all in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ufbert.benchmark.machine.description import cpu_times, foreign_share, processor_name
from ufbert.benchmark.quality.speed import busy
from ufbert.benchmark.timing import Clock, Contestant, Spread, Threads, calibrate, race
from ufbert.cmm.operator import resolve_backend
from ufbert.conversion.distillation.automatic.times import MeasuredTimes
from ufbert.inference.engine import prepare
from ufbert.inference.options import choose_inference_precision
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.shapes import FeedforwardShape
from ufbert.system.resources import available_cores

from .beside_original import CPU, INPUTS, encoder_runner, text_batch

__all__ = ["time_shapes"]

TOKENS = 1024  # of a call
LONGEST_SAMPLE = 0.05  # seconds
WHOLE = "whole"


def time_shapes(
    original: UltraFastBertModel, shapes: Sequence[FeedforwardShape], texts: Sequence[Sequence[int]], seconds: float
) -> MeasuredTimes:
    """Time the original's encoder, and one layer of each shape with its norm and residual, for about `seconds`.

    In the precision that `--precision auto` takes here. The encoder gets texts (token ids) of `TOKENS` tokens in all;
    the layers have random weights, and get as many random tokens, which spread evenly over the leaves of trees. The
    original stays as it is. Raises `BackendError` where the trees cannot be walked.
    """
    precision, threads = choose_inference_precision("auto", CPU), available_cores()
    generator = torch.Generator().manual_seed(0)
    width = original.config.hidden_size
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    tokens = [torch.randn(TOKENS, width, generator=generator).to(dtype) for _ in range(INPUTS)]
    batches = [text_batch(texts, number, TOKENS) for number in range(INPUTS)]
    contestants = [Contestant(WHOLE, [encoder_runner(original, precision)], batches)]
    contestants += [
        Contestant(str(shape), [_layer_runner(original.config, shape, precision)], tokens)
        for shape in shapes
        if not shape.absent
    ]
    with Threads(threads):
        clock = Clock(CPU)
        for contestant in contestants:
            calibrate(contestant, clock)
            # Whoever else runs here interrupts long samples more surely than short ones, and would seem to slow the
            # whole alone: so the layers' are about as long.
            lasting = min(contestants[0].seconds_per_call, LONGEST_SAMPLE) / contestant.seconds_per_call
            contestant.calls_per_sample = max(contestant.calls_per_sample, round(lasting))
        before = cpu_times()
        race(contestants, clock, seconds)
        others = busy(foreign_share(before, cpu_times()))
    medians = {c.key: 1e6 * Spread.of(c.samples).median / TOKENS for c in contestants}
    machine = f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"
    machine += f"; meanwhile {others}" if others else ""
    return MeasuredTimes(
        medians[WHOLE], {str(shape): medians.get(str(shape), 0.0) for shape in shapes}, precision, TOKENS, machine
    )


def _layer_runner(
    config: UltraFastBertConfig, shape: FeedforwardShape, precision: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Calls the second half of an encoder's layer on tokens (total, H)."""
    # A model of this one layer, so that it is packed as the layers of a whole model are; its table has few rows.
    least = max(config.pad_token_id + 1, shape.token_rows)
    own = config.replace(num_hidden_layers=1, feedforward_layers=(str(shape),), vocab_size=least)
    packed: Any = prepare(UltraFastBertModel(own), precision, CPU, resolve_backend("auto", CPU))
    layer = packed.layers[0]

    ranks = torch.randint(shape.token_rows, (TOKENS,)) if shape.token_rows else None

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            y: torch.Tensor = layer.feed(x, ranks)
        return y

    return run
