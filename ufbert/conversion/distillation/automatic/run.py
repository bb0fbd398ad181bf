"""Shapes chosen for a model: their times, their errors in each layer, and the choice by what is wished for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from ufbert.conversion.distillation.heads import Head
from ufbert.conversion.distillation.partial import PartialConversion
from ufbert.conversion.distillation.recording import BATCH_TEXTS
from ufbert.conversion.distillation.stages import SURVEYING, Stages
from ufbert.conversion.distillation.texts import Batcher, Texts
from ufbert.conversion.distillation.token_rows import RankedTokens
from ufbert.conversion.student import StudentRequest
from ufbert.errors import ConfigError, DataError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings

from .candidates import candidate_shapes
from .measuring import HELD_OUT_TOKENS, fit_all, record, some_texts
from .quality import ExpectedQuality
from .survey import Survey, show_survey
from .times import ShapeTimer
from .wish import Choice, Wish

__all__ = ["choose_shapes"]

# Of the time of the whole distillation; shapes for which that does not suffice are not fitted.
SURVEY_SHARE = 0.15
# Of the survey's time: for recording, and until a quality that is to be kept is measured.
RECORDING_SHARE, SHARE_BEFORE_QUALITY = 0.3, 0.7
TIMING_SECONDS, TIMING_SHARE = 4.0, 0.02
MEASUREMENTS_OF_QUALITY = 9  # the original's own outputs, and 7 to bisect a walk of 100 steps


def choose_shapes(
    request: StudentRequest,
    layers: Sequence[int],
    original: UltraFastBertModel,
    teacher: UltraFastBertModel,
    batcher: Batcher,
    texts: Texts,
    pooling: str,
    head: Head | None,
    settings: DistillationSettings,
    partial: PartialConversion,
    stages: Stages,
    time_shapes: ShapeTimer | None,
    tokens: RankedTokens | None,
) -> Survey:
    """The shapes that `request` wishes for, of `layers` of the teacher; shown, and kept in `partial`.

    `teacher` is a copy of `original`, which is timed, on the device of the distillation; `tokens` are for shapes with
    token rows.

    What an interrupted conversion has chosen stays chosen. Raises `ConfigError` where no shapes fulfil the wish, and
    for a `head` whose answers are never the same.
    """
    if partial.journal.survey:
        return Survey.from_dict(partial.journal.survey)
    if time_shapes is None:
        raise ConfigError(f"{request.options}: shapes are chosen by measured times, and nothing is there to time them")
    if request.keep is not None and head is not None and head.kind == "values":
        raise ConfigError(
            f"--keep {request.keep:g}: the model's scores are plain values, which are never the same; give --speed, or "
            "--task embed for the cosine of embeddings"
        )
    begun, config = time.monotonic(), teacher.config
    stages.begin(SURVEYING, line=True)
    held_out, ids = some_texts(texts.held_out, batcher, HELD_OUT_TOKENS)
    if not ids:
        raise DataError("the texts that are held out have no token; give another --corpus")
    rows = request.token_rows
    candidates = {layer: candidate_shapes(config.layer_shape(layer).intermediate_size, rows) for layer in layers}
    distinct = dict.fromkeys((*config.layer_shapes, *(shape for shapes in candidates.values() for shape in shapes)))
    stages.show(0.0, "timing layers")
    seconds = TIMING_SECONDS if settings.seconds is None else min(TIMING_SECONDS, TIMING_SHARE * settings.seconds)
    times = time_shapes(original, list(distinct), ids, seconds)
    before = [str(shape) for shape in config.layer_shapes]
    wish = Wish(request, times, before, layers)
    whole = math.inf if settings.seconds is None else SURVEY_SHARE * settings.seconds
    end = begun + whole
    sample = record(teacher, layers, batcher, texts.train, held_out, settings.seed, RECORDING_SHARE * whole)
    until = end if request.keep is None else begun + SHARE_BEFORE_QUALITY * whole
    fits = fit_all(teacher, candidates, times, sample, tokens, until, stages, keeps_layers=request.keep is not None)
    if skipped := [shape for shape in times.shapes if any(shape in layer.skipped for layer in fits.layers)]:
        note(f"warning: no time to fit every layer by {', '.join(skipped)}; a longer --budget gives more")
    quality: ExpectedQuality | None = None
    if request.keep is not None:
        # As many texts as can be measured often enough in what is left of the share.
        count = min(HELD_OUT_TOKENS, (end - time.monotonic()) / sample.pace / MEASUREMENTS_OF_QUALITY)
        compared, _ = some_texts(held_out, batcher, count)
        quality = ExpectedQuality(teacher, batcher.ordered(compared, BATCH_TEXTS), pooling, head, tokens)

    def kept(choice: Choice) -> float:
        assert quality is not None
        stages.show(0.95, "measuring choices")
        changed = zip(layers, choice, strict=True)
        return quality.of({i: fits.fitted[i, o.shape] for i, o in changed if o.shape != before[i]})

    choice, expected, binds = wish.choose(fits.options, None if quality is None else kept)
    after = dict(zip(layers, (option.shape for option in choice), strict=True))
    survey = Survey(
        request.keep,
        request.speed,
        times,
        layers=[replace(layer, chosen=after[layer.layer]) for layer in fits.layers],
        before=before,
        after=[after.get(layer, shape) for layer, shape in enumerate(before)],
        binds=binds,
        quality="mean cosine of embeddings" if head is None else "agreement with the original",
        expected=expected,
        tokens=sample.tokens,
        seconds=time.monotonic() - begun,
    )
    partial.keep_survey(survey.to_dict())
    show_survey(survey)
    return survey
