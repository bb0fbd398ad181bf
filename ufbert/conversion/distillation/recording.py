"""The first work on a corpus: what the layers to be replaced see and say on it, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ufbert.model.encoder import UltraFastBertModel
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.interruption import Interruption

from .batch import Batch
from .kept_phase import stop_if_terminated
from .layer_inputs import LayerSample, collect_layer_samples
from .stages import END_TO_END, MEASURING, RECORDING, Stages, layer_stage
from .texts import Batcher, Texts

__all__ = ["BATCH_TEXTS", "forecast", "record_samples"]

SAMPLE_BYTES = 2 << 30  # x and y of all layers, bfloat16
HELD_OUT_TOKENS = 16_000
BATCH_TEXTS = 32  # where nothing is trained
# To foretell how long later stages take, in forward passes of the original over as many tokens.
PASSES_OF_A_STEP, PASSES_OF_MEASURING = 6, 4
TOKENS_OF_A_TEXT = 24


def record_samples(
    teacher: UltraFastBertModel,
    layers: Sequence[int],
    batcher: Batcher,
    texts: Texts,
    settings: DistillationSettings,
    sample_tokens: int,
    layers_share: float,
    stages: Stages,
    interruption: Interruption,
) -> tuple[list[LayerSample], list[LayerSample]]:
    """Inputs and outputs of each of `layers`: of `sample_tokens` to regress on, if memory allows, and held out.

    `layers_share` of the time is for the layers' regression, by which the later stages are foretold.
    """
    size = 4 * teacher.config.hidden_size * max(len(layers), 1)
    wanted = min(sample_tokens, SAMPLE_BYTES // size)
    stages.begin(RECORDING, line=True)
    begin, tokens = time.monotonic(), 0

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal tokens
        for batch in batches:
            stop_if_terminated(interruption)
            yield batch
            tokens += int(batch.attention_mask.sum())
            stages.show(tokens / (wanted + HELD_OUT_TOKENS))

    endless = watched(batcher.endless(texts.train, BATCH_TEXTS, settings.seed))
    ordered = watched(batcher.ordered(texts.held_out, BATCH_TEXTS))
    train = collect_layer_samples(teacher, endless, wanted, layers)
    held_out = collect_layer_samples(teacher, ordered, HELD_OUT_TOKENS, layers)
    seconds_per_token = (time.monotonic() - begin) / max(1, tokens)
    forecast(stages, settings, layers, layers_share, seconds_per_token)
    return train, held_out


def forecast(
    stages: Stages,
    settings: DistillationSettings,
    layers: Sequence[int],
    layers_share: float,
    seconds_per_token: float = 0.0,
) -> None:
    """What the later stages will take, given the time of a token in the original's forward pass, if that is known."""
    each = [layer_stage(index) for index in layers]
    if settings.seconds is not None:
        stages.expect(layers_share * settings.seconds / max(len(layers), 1), each)
        stages.expect((1 - layers_share) * settings.seconds, [END_TO_END])
    elif seconds_per_token:
        step = PASSES_OF_A_STEP * seconds_per_token * settings.batch_size * TOKENS_OF_A_TEXT
        stages.expect(settings.steps * step, [END_TO_END])
    stages.expect(PASSES_OF_MEASURING * seconds_per_token * HELD_OUT_TOKENS, [MEASURING])
