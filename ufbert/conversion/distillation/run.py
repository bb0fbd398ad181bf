"""Dense feedforward layers become others, or layers are dropped: initialise, regress each layer, train together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of
from ufbert.conversion.student import StudentRequest
from ufbert.errors import UfbertError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.devices import choose_device, choose_precision
from ufbert.system.interruption import Interruption
from ufbert.text.corpus_sources import corpus_name
from ufbert.training.display import duration

from .active_neurons import measure_active
from .automatic.candidates import choosable_layers
from .automatic.run import choose_shapes
from .automatic.survey import Survey
from .batch import Masker
from .closing_report import ClosingReport
from .end_to_end import train_together
from .fingerprints import model_fingerprint
from .heads import choose_task, head_of
from .instruments import Instruments
from .kept_phase import KeptPhase, new_budget
from .layer_inputs import LayerSample
from .layers import LAYERS_SHARE, train_layers
from .other_teacher import check_teacher
from .partial import PartialConversion
from .recording import BATCH_TEXTS, forecast, record_samples
from .report import measure, show
from .speed import MeasuredSpeed, SpeedTimer
from .stages import END_TO_END, MEASURING, READING, TIMING, Stages
from .student import StudentPlan, new_student, plan_student
from .task_texts import longest_text, read_task_texts
from .teacher import Teacher
from .texts import Batcher, Texts
from .token_rows import tokens_of

__all__ = ["Distilled", "distil"]

# The end-to-end phase gets the rest of the time, but never less than this share.
LEAST_SHARE = 0.5
SAMPLE_TOKENS = 100_000  # to regress on, if memory allows
# The speeds are timed for so long, or this share of the time spent before.
TIMING_SECONDS = 4.0
TIMING_SHARE = 0.1
PIECES = {
    "embed": "pieces of text",
    "mlm": "pieces of text with masks, for what fills them",
    "classify": "texts, for the classifier's outputs",
    "tag": "texts, for the tags of their tokens",
}
STOPPING = "Ending the training here; the student is measured and written. Once more stops at once; --resume goes on."
TERMINATING = "Stopping after this step; --resume goes on."


@dataclass(frozen=True)
class Distilled:
    """A model with other feedforward layers than its original, or fewer layers, in evaluation mode on the CPU."""

    model: PretrainedModel
    report: ClosingReport
    request: StudentRequest
    """What was asked for, with the shapes that were chosen."""

    @property
    def figures(self) -> dict[str, str]:
        """Measured quantity -> value, for the model card."""
        return self.report.figures()


def distil(
    loaded: LoadedCheckpoint,
    request: StudentRequest,
    corpus: Sequence[str],
    settings: DistillationSettings,
    partial: PartialConversion | None = None,
    instruments: Instruments | None = None,
    other: LoadedCheckpoint | None = None,
) -> Distilled:
    """The student of `loaded` that is asked for, trained on `corpus`; shows its progress.

    `partial` keeps what is done on the way, and has what an interrupted session has done. `other` is learned from in
    the end-to-end training, in place of `loaded`.
    Raises `CheckpointError` for a source without dense layers or tokenizer, `ConfigError` for layers that
    cannot be, `DataError` for a corpus that cannot be used, `OutputError` for one that is not that of `partial`.
    The first Ctrl-C ends the training early; after SIGTERM `ConversionStopped` is raised.
    """
    layers = choosable_layers(loaded, request) if request.automatic else plan_student(loaded, request).converted
    task = choose_task(settings.task, loaded, settings.pair_column)
    assert loaded.tokenizer is not None
    partial, instruments = partial or PartialConversion(), instruments or Instruments()
    time_speed = instruments.time_speed
    config = loaded.model.config
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    precision = choose_precision("auto", device)
    partial.claim("source", loaded.name, model_fingerprint(loaded))
    if other is not None:
        check_teacher(other, loaded, task, longest_text(task, config))
        partial.claim("teacher", other.name, model_fingerprint(other))
    survey: Survey | None = None
    with Stages(layers, surveyed=request.automatic) as stages:
        stages.begin(READING)
        stages.expect(0.0 if time_speed is None else TIMING_SECONDS, [TIMING])
        maximum = longest_text(task, config)
        texts = read_task_texts(task, corpus, settings, maximum, lambda rows: stages.show(rows / settings.max_texts))
        partial.claim("corpus", corpus_name(corpus), texts.fingerprint)
        partial.start_clock()
        stages.go_on_after(partial.seconds)
        masker = Masker(loaded.tokenizer) if task == "mlm" else None
        batcher = Batcher(loaded.tokenizer, maximum, config.type_vocab_size > 0, device, masker)
        original = copy.deepcopy(loaded.model).to(device).requires_grad_(False)
        source, pooling, head = encoder_of(original), loaded.model.embedder.pooling, head_of(task, original, loaded)
        teacher = source if other is None else encoder_of(other.model).to(device).requires_grad_(False)
        tokens = tokens_of(source, batcher, texts.train) if request.has_token_rows else None
        if request.automatic:
            survey = choose_shapes(
                request, layers, encoder_of(loaded.model), source, batcher, texts, pooling, head, settings, partial,
                stages, instruments.time_shapes, tokens,
            )  # fmt: skip
            request = replace(request, shapes=survey.shapes)
        plan = plan_student(loaded, request)
        layers = plan.converted
        stages.regress_only(layers)
        _note_beginning(plan, task, texts, partial)
        torch.manual_seed(settings.seed)
        model = new_student(original, plan)
        student = encoder_of(model)
        if tokens is not None and plan.config.has_token_rows:
            student.embeddings.token_ranks = tokens.ranks
        with Interruption(STOPPING, TERMINATING) as interruption:
            train: list[LayerSample] = []
            held_out: list[LayerSample] = []
            if partial.layers_done < len(layers):
                train, held_out = record_samples(
                    source, layers, batcher, texts, settings, SAMPLE_TOKENS, LAYERS_SHARE, stages, interruption
                )
            else:
                forecast(stages, settings, layers, LAYERS_SHARE)
            errors, means = train_layers(
                source, student, plan, train, held_out, settings, precision, interruption, partial, stages
            )
            del train, held_out
            budget = new_budget(end_to_end_seconds(settings, partial), settings, interruption)
            if budget.seconds is not None:
                stages.expect(budget.seconds, [END_TO_END])
            phase = KeptPhase(partial, END_TO_END, budget, interruption)
            curve = train_together(
                Teacher(teacher, precision, instruments.pack), student, plan, batcher, texts.train, settings,
                precision, pooling, head, phase, stages,
            )  # fmt: skip
        spent = partial.seconds
        stages.begin(MEASURING, line=True)
        held_out_batches = batcher.ordered(texts.held_out, BATCH_TEXTS)
        measurement = measure(
            teacher, student, source, plan, means, held_out_batches, pooling, texts.held_out_from, head
        )
        if other is not None:
            measurement = replace(measurement, learned_from=other.name)
        if plan.sparse:
            active = [
                measure_active(encoder, plan.converted, batcher.ordered(texts.held_out, BATCH_TEXTS))
                for encoder in (source, student)
            ]
            measurement = replace(measurement, active=tuple(zip(*active, strict=True)))
        student_model, speed = finished(model), None
        ids = batcher.token_ids(texts.held_out)
        if time_speed is not None and ids:
            stages.begin(TIMING, line=True)
            speed = timed(time_speed, encoder_of(loaded.model), encoder_of(student_model), ids, TIMING_SHARE * spent)
    show(measurement, errors, model.config)
    if speed is not None:
        for numbers, theirs, ours, times in speed.rows():
            note(f"{numbers}: {ours}; original {theirs}: {times} as fast")
        note(f"({speed.where})")
    if request.keep is not None and measurement.kept < request.keep:
        note(
            f"warning: --keep {request.keep:g} was asked for, and the student keeps {measurement.kept:.4f}: give a "
            "longer --budget, or a higher --keep, which takes layers nearer to the original's"
        )
    report = ClosingReport(
        config, model.config, settings, errors, measurement, speed, curve.whole(), budget.steps_done, spent, survey
    )
    return Distilled(student_model, report, request)


def timed(
    time_speed: SpeedTimer,
    original: UltraFastBertModel,
    student: UltraFastBertModel,
    ids: Sequence[Sequence[int]],
    seconds: float,
) -> MeasuredSpeed | None:
    """What was measured in `seconds`, at most `TIMING_SECONDS`; None, with a note, where nothing can be."""
    try:
        return time_speed(original, student, ids, min(TIMING_SECONDS, seconds))
    except UfbertError as error:
        note(f"note: not timed: {error}")
        return None


def _note_beginning(plan: StudentPlan, task: str, texts: Texts, partial: PartialConversion) -> None:
    note(
        f"Distilling {plan}, on {len(texts.train):,} {PIECES[task]} "
        f"({len(texts.held_out):,} more held out, from {texts.held_out_from})."
    )
    if not texts.documents_apart:
        note(
            "note: too few documents to hold whole ones out, so what is measured is other text of the documents "
            "trained on; give a --corpus of more documents for figures on unseen ones"
        )
    if partial.resumed:
        phase = partial.journal.training
        within = f", {phase['phase']} at step {phase['steps']:,}" if phase else ""
        note(
            f"Going on with {partial.folder}: {partial.layers_done} of {len(plan.converted)} layers are "
            f"regressed{within}, after {duration(partial.seconds)}."
        )


def end_to_end_seconds(settings: DistillationSettings, partial: PartialConversion) -> float | None:
    """Time of the end-to-end phase: what is left, or what it was given by the session that began it."""
    if settings.seconds is None:
        return None
    left = max(LEAST_SHARE * settings.seconds, settings.seconds - partial.seconds)
    return float(partial.training(END_TO_END).get("allotted", left))


def finished(model: PretrainedModel) -> PretrainedModel:
    """The same model with ordinary `FFF` layers, on the CPU."""
    plain = type(model)(model.config)
    plain.load_state_dict(model.cpu().state_dict())
    plain.take_embedder(model.embedder)
    return plain.eval()
