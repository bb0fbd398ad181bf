"""Times a training step of whole models, with fast feedforward and with dense layers.

Both models have the same shapes but for the feedforward layers, random weights, and random tokens as input.
The random encoder of fast feedforward layers reaches many leaves, which the path statistics show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ufbert.benchmark.layer.gpu_layers import no_kernels_on
from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.report.results import ModelResult, compare_steps
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Clock, Contestant, Spread, TimeBudget, calibrate, race
from ufbert.errors import ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.system.compiler import no_compiler
from ufbert.text.masking import mask_tokens
from ufbert.training.memory import check_training_memory

from .paths import describe_paths
from .runner import VARIANTS, ModelRunner, Variant

__all__ = ["ModelBenchmark"]

VOCABULARY = 32768
SPECIAL_IDS, MASK_ID = (0, 1, 2, 3, 4), 4
BATCHES_OF_INPUT = 8
# Tokens whose paths are counted.
PATH_TOKENS = 4096
STEPS_TAKEN_APART = 5


class ModelBenchmark:
    """The training benchmark of one device."""

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        budget: TimeBudget,
        note: Callable[[str], None],
        advance: Callable[[float], None] = lambda _share: None,
    ) -> None:
        self.settings, self.device = settings, device
        self.budget, self.note, self.advance = budget, note, advance
        self.clock = Clock(device)
        self.results: list[ModelResult] = []
        self.absent: list[Absent] = []
        self.paths: dict[str, Any] = {}

    def config(self, feedforward: str) -> UltraFastBertConfig:
        """The crammed BERT of the settings' shape, without dropout."""
        shape = self.settings.shape
        return UltraFastBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.hidden_size,
            num_hidden_layers=self.settings.layers,
            num_attention_heads=self.settings.heads,
            max_position_embeddings=self.settings.sequence_length,
            feedforward=feedforward,
            trees=shape.trees,
            depth=shape.depth,
            intermediate_size=shape.intermediate_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def variants(self) -> list[Variant]:
        """Those to time, by the settings. Raises `ConfigError` for an unknown name, listing all."""
        names = self.settings.implementations
        known = [v.name for v in VARIANTS]
        for name in names:
            if name not in known:
                raise ConfigError(f"unknown implementation {name!r}; known: {', '.join(known)}")
        chosen = [v for v in VARIANTS if not names or v.name in names]
        if reason := no_compiler():
            for variant in chosen:
                if variant.compiled:
                    layer = "ff" if variant.feedforward == "dense" else "fff"
                    self.absent.append(Absent(layer=layer, implementation=variant.name, dtype="", reason=reason))
            chosen = [v for v in chosen if not v.compiled]
        if reason := no_kernels_on(self.device):
            ours = [v for v in chosen if v.feedforward == "fff" and not v.masked]
            self.absent += [Absent(layer="fff", implementation=v.name, dtype="", reason=reason) for v in ours]
            chosen = [v for v in chosen if v not in ours]
        return chosen

    def run(self) -> None:
        """Time every dtype and batch size; fills `results`, `absent` and `paths`."""
        settings = self.settings
        variants = self.variants()
        for feedforward in {v.feedforward for v in variants}:
            check_training_memory(self.config(feedforward), self.device)
        runners = {v: ModelRunner(self.config(v.feedforward), v, self.device, seed=settings.seed) for v in variants}
        fff = next((r for v, r in runners.items() if v.feedforward == "fff" and not v.masked), None)
        if fff:
            sequences = max(1, PATH_TOKENS // settings.sequence_length)
            self.paths = describe_paths(fff.encoder, self.inputs(sequences)[0][0], settings.seed)
        cells = [(dtype, batch) for dtype in settings.dtypes for batch in settings.batches]
        for done, (dtype, batch) in enumerate(cells):
            self.note(f"{dtype}, {batch} x {settings.sequence_length} tokens")
            weights = [b for _, b in cells[done:]]
            cell = TimeBudget(self.budget.share(weights[0], sum(weights)))
            torch.compiler.reset()
            contestants = []
            for variant, runner in runners.items():
                inputs = self.inputs(batch)
                if failure := runner.wrong(inputs[0], dtype):
                    self.absent.append(
                        Absent(layer="fff", implementation=variant.name, dtype=dtype, reason=failure, wrong=True)
                    )
                    continue
                contestant = Contestant((variant, runner), [runner.step(dtype)], inputs)
                calibrate(contestant, self.clock)
                contestants.append(contestant)
            race(contestants, self.clock, max(0.0, cell.left()))
            self.results += self.cell_results(contestants, dtype, batch)
            self.advance((done + 1) / len(cells))
        compare_steps(self.results)

    def inputs(self, batch: int) -> list[Any]:
        """Several batches of random tokens: input_ids (B, T) and labels (B, T)."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        batches: list[Any] = []
        for _ in range(BATCHES_OF_INPUT):
            size = (batch, self.settings.sequence_length)
            ids = torch.randint(len(SPECIAL_IDS), VOCABULARY, size, generator=generator)
            masked, labels = mask_tokens(ids, SPECIAL_IDS, MASK_ID, VOCABULARY, rng=generator)
            batches.append((masked.to(self.device), labels.to(self.device)))
        return batches

    def cell_results(self, contestants: list[Contestant], dtype: str, batch: int) -> list[ModelResult]:
        """The figures of one dtype and batch size."""
        results = []
        for contestant in contestants:
            variant, runner = contestant.key
            seconds = runner.take_apart(contestant.inputs, dtype, STEPS_TAKEN_APART)
            tokens = batch * self.settings.sequence_length
            results.append(
                ModelResult(
                    layer="ff" if variant.feedforward == "dense" else "fff",
                    implementation=variant.name,
                    device=self.device.type,
                    dtype=dtype,
                    threads=self.settings.threads,
                    batch=batch,
                    sequence_length=self.settings.sequence_length,
                    layers=self.settings.layers,
                    spread=Spread.of(contestant.samples),
                    samples=len(contestant.samples),
                    calls_per_sample=contestant.calls_per_sample,
                    parameters=sum(p.numel() for p in runner.model.parameters()),
                    parts={part: 1e6 * value / tokens for part, value in seconds.items()},
                    saved_bytes=0 if variant.compiled else runner.saved_bytes(contestant.inputs[0], dtype) // tokens,
                )
            )
        return results
