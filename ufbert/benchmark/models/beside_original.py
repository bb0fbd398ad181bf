"""A distilled encoder beside its original as `ufbert infer` runs them on a CPU: both in turns, on the same texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ufbert.benchmark.machine.description import cpu_times, foreign_share, processor_name
from ufbert.benchmark.quality.speed import busy
from ufbert.benchmark.timing import Clock, Contestant, Spread, Threads, calibrate, race
from ufbert.cmm.operator import resolve_backend
from ufbert.conversion.distillation.speed import EncoderSpeed, MeasuredSpeed
from ufbert.inference.engine import prepare
from ufbert.inference.options import choose_inference_precision
from ufbert.model.encoder import UltraFastBertModel
from ufbert.system.resources import available_cores

__all__ = ["CPU", "INPUTS", "encoder_runner", "text_batch", "time_beside_original"]

CPU = torch.device("cpu")
# Of a call: some ten texts, so that a few seconds hold many samples also of a large model.
TOKENS = 512
# Different inputs in turn, as `bench encoder` has.
INPUTS = 8


def time_beside_original(
    original: UltraFastBertModel, student: UltraFastBertModel, texts: Sequence[Sequence[int]], seconds: float
) -> MeasuredSpeed:
    """Time both for about `seconds`, in float32 and in what `--precision auto` takes here.

    `texts` are token ids with special tokens. A call takes texts of `TOKENS` tokens in all, cut to one length, the same
    ones for all. Both models stay as they are; of each a copy of its layers is packed for each precision. Raises
    `BackendError` where the trees cannot be walked.
    """
    precisions = list(dict.fromkeys(("float32", choose_inference_precision("auto", CPU))))
    threads = available_cores()
    inputs = [text_batch(texts, number, TOKENS) for number in range(INPUTS)]
    contestants = []
    with Threads(threads):
        clock = Clock(CPU)
        for precision in precisions:
            for name, encoder in (("original", original), ("student", student)):
                contestant = Contestant((name, precision), [encoder_runner(encoder, precision)], inputs)
                calibrate(contestant, clock)
                contestants.append(contestant)
        before = cpu_times()
        race(contestants, clock, seconds)
        others = foreign_share(before, cpu_times())
    speeds: dict[str, list[EncoderSpeed]] = {"original": [], "student": []}
    for contestant in contestants:
        name, precision = contestant.key
        spread = Spread.of(contestant.samples)
        values = (TOKENS / spread.median, TOKENS / spread.upper, TOKENS / spread.lower)
        speeds[name].append(EncoderSpeed(precision, *values, samples=len(contestant.samples)))
    return MeasuredSpeed(processor_name(), threads, TOKENS, speeds["original"], speeds["student"], busy(others))


def encoder_runner(encoder: UltraFastBertModel, precision: str) -> Any:
    """Calls the encoder on (ids, mask), each (B, T)."""
    tables = {id(table): table for table in encoder.embeddings.parameters()}  # shared, as nothing changes them
    packed: Any = prepare(copy.deepcopy(encoder, tables), precision, CPU, resolve_backend("auto", CPU))

    def run(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            states: torch.Tensor = packed.encode(*batch)
        return states

    return run


def text_batch(texts: Sequence[Sequence[int]], number: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (B, T) of texts with so many tokens in all, the longest first; few texts repeat.

    With each `number` below `INPUTS` they are longer. Those of a batch are cut to one length, but for the last: `ufbert
    infer` sorts texts by length, so that of the many of a file few lengths meet in a batch.
    """
    ordered = sorted(texts, key=len)
    start, chosen, missing = number * len(texts) // INPUTS, [], tokens
    length = len(ordered[start])
    while missing:
        chosen.append(list(ordered[start % len(texts)][: min(length, missing)]))
        missing -= len(chosen[-1])
        start += 1
    chosen.sort(key=len, reverse=True)
    ids = np.zeros((len(chosen), len(chosen[0])), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(chosen):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
