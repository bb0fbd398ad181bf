"""The texts of a survey, and every shape of every layer fitted to them as far as the time goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ufbert.conversion.distillation.batch import Batch, Text
from ufbert.conversion.distillation.layer_inputs import LayerSample, collect_layer_samples
from ufbert.conversion.distillation.recording import BATCH_TEXTS, SAMPLE_BYTES
from ufbert.conversion.distillation.stages import Stages
from ufbert.conversion.distillation.texts import Batcher
from ufbert.conversion.distillation.token_rows import RankedTokens
from ufbert.model.encoder import Layer, UltraFastBertModel
from ufbert.model.shapes import FeedforwardShape

from .choice import Option, useful
from .errors import Fitted, LayerFits, Pace, fit_shapes
from .quality import stored
from .survey import LayerSurvey
from .times import MeasuredTimes

__all__ = ["HELD_OUT_TOKENS", "Fits", "Sample", "fit_all", "record", "some_texts"]

# Enough for the placement of trees, and for the regressions some ten for each neuron of a layer.
FITTING_TOKENS = 16_384
HELD_OUT_TOKENS, HELD_OUT_TEXTS = 16_384, 256
TRAIN_SHARE = 0.7  # of the time for recording them


@dataclass(frozen=True)
class Sample:
    """Inputs and outputs of each layer in question."""

    train: Sequence[LayerSample]
    held_out: Sequence[LayerSample]
    pace: float
    """Seconds of a token in the original's forward pass."""

    @property
    def tokens(self) -> tuple[int, int]:
        """To fit on, and held out."""
        return len(self.train[0].x), len(self.held_out[0].x)


@dataclass
class Fits:
    """What has been fitted."""

    layers: list[LayerSurvey] = field(default_factory=list)
    """Nothing chosen yet."""
    options: list[list[Option]] = field(default_factory=list)
    """Of each, the original's own shape among them."""
    fitted: dict[tuple[int, str], Fitted] = field(default_factory=dict)
    """By layer and shape, those that may be chosen; empty unless they were to be kept."""


def some_texts(texts: Sequence[Text], batcher: Batcher, tokens: float) -> tuple[list[Text], list[list[int]]]:
    """The first texts with so many tokens in all, or a few more, one at least; and the token ids of those with any."""
    chosen: list[Text] = []
    ids: list[list[int]] = []
    for text in texts[:HELD_OUT_TEXTS]:
        if chosen and sum(map(len, ids)) >= tokens:
            break
        chosen.append(text)
        ids += batcher.token_ids([text])
    return chosen, ids


def record(
    teacher: UltraFastBertModel,
    layers: Sequence[int],
    batcher: Batcher,
    train: Sequence[Text],
    held_out: Sequence[Text],
    seed: int,
    seconds: float,
) -> Sample:
    """A smaller sample than the one for training, which leaves its memory free again before that is recorded.

    Of fewer tokens where recording them would take longer than `seconds`, a batch to fit on at least.
    """
    begun = time.monotonic()
    most = SAMPLE_BYTES // (4 * teacher.config.hidden_size * len(layers)) // 2

    def until_then(batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            if number and time.monotonic() - begun > TRAIN_SHARE * seconds:
                return
            yield batch

    endless = until_then(batcher.endless(train, BATCH_TEXTS, seed))
    fitting = collect_layer_samples(teacher, endless, min(FITTING_TOKENS, most), layers)
    pace = (time.monotonic() - begun) / len(fitting[0].x)
    some, _ = some_texts(held_out, batcher, min(HELD_OUT_TOKENS, most, (1 - TRAIN_SHARE) * seconds / pace))
    measuring = collect_layer_samples(teacher, batcher.ordered(some, BATCH_TEXTS), HELD_OUT_TOKENS, layers)
    return Sample(fitting, measuring, pace)


def fit_all(
    teacher: UltraFastBertModel,
    candidates: Mapping[int, Sequence[FeedforwardShape]],
    times: MeasuredTimes,
    sample: Sample,
    tokens: RankedTokens | None,
    end: float,
    stages: Stages,
    *,
    keeps_layers: bool,
) -> Fits:
    """Fit the candidates of each layer that are faster than what it has; until `end`, by `time.monotonic`.

    Each layer may take an equal part of the time, and what those before it have left. `tokens` are for
    candidates with token rows.
    """
    fits, pace, begun = Fits(), Pace(), time.monotonic()
    for number, (index, shapes) in enumerate(candidates.items()):
        layer, before = teacher.layers[index], str(teacher.config.layer_shape(index))
        assert isinstance(layer, Layer)
        faster = [shape for shape in shapes if times.shapes[str(shape)] < times.shapes[before]]
        here = LayerFits(layer, teacher.config, sample.train[number], sample.held_out[number], tokens)
        if not number and end < math.inf:
            here.warm_up(faster)
        deadline = begun + (end - begun) * (number + 1) / len(candidates)
        found = fit_shapes(
            here,
            faster,
            pace,
            deadline,
            lambda shape: stages.show(number / len(candidates), f"layer {index}: {shape}"),  # noqa: B023  called here
        )
        errors = {str(shape): error for shape, (error, _) in found.items()}
        fits.layers.append(
            LayerSurvey(
                index,
                before,
                errors,
                slower=[str(shape) for shape in shapes if shape not in faster],
                skipped=[str(shape) for shape in faster if shape not in found],
                chosen=before,
            )
        )
        options = [Option(before, 0.0, times.shapes[before])]
        options += [Option(shape, error, times.shapes[shape]) for shape, error in errors.items()]
        fits.options.append(options)
        if keeps_layers:
            may_be_chosen = {option.shape for option in useful(options)}
            kept = {(index, str(s)): stored(layer) for s, (_, layer) in found.items() if str(s) in may_be_chosen}
            fits.fitted |= kept
    return fits
