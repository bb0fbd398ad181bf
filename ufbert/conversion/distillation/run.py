"""Dense feedforward layers become others, or layers are dropped: initialise, regress each layer, train together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of
from ufbert.conversion.student import StudentRequest
from ufbert.errors import UfbertError
from ufbert.model.encoder import DenseFeedforward, Layer, UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.devices import choose_device, choose_precision
from ufbert.system.interruption import Interruption
from ufbert.text.corpus_sources import corpus_name
from ufbert.training.budget import TrainingBudget
from ufbert.training.display import duration

from .closing_report import ClosingReport
from .end_to_end import train_together
from .fingerprints import model_fingerprint
from .initialization import initialize_layer
from .kept_phase import KeptPhase, random_states, restore_random_states
from .layer_inputs import LayerSample
from .layer_regression import relative_error, train_layer
from .left_out import LeftOut, leave_out
from .partial import PartialConversion
from .recording import BATCH_TEXTS, forecast, record_samples
from .report import LayerErrors, measure, show
from .speed import MeasuredSpeed, SpeedTimer
from .stages import END_TO_END, MEASURING, READING, TIMING, Stages, layer_stage
from .student import StudentPlan, new_student, plan_student
from .texts import MAXIMUM_LENGTH, Batcher, Texts, read_distillation_texts

__all__ = ["Distilled", "distil"]

# Share of the time for the regression of the single layers: more brings them little. A layer of
# all-MiniLM-L6-v2 went from 0.597 to 0.541 in 150 steps, to 0.530 in 600 and to 0.528 in 1,500.
LAYERS_SHARE = 0.15
# The end-to-end phase gets the rest of the time, but never less than this share.
LEAST_SHARE = 0.5
SAMPLE_TOKENS = 100_000  # to regress on, if memory allows
# The speeds are timed for so long, or this share of the time spent before.
TIMING_SECONDS = 4.0
TIMING_SHARE = 0.1
STOPPING = "Ending the training here; the student is measured and written. Once more stops at once; --resume goes on."
TERMINATING = "Stopping after this step; --resume goes on."


@dataclass(frozen=True)
class Distilled:
    """A model with other feedforward layers than its original, or fewer layers, in evaluation mode on the CPU."""

    model: PretrainedModel
    report: ClosingReport

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
    time_speed: SpeedTimer | None = None,
) -> Distilled:
    """The student of `loaded` that is asked for, trained on `corpus`; shows its progress.

    `partial` keeps what is done on the way, and has what an interrupted session has done; `time_speed` times original
    and student at the end.
    Raises `CheckpointError` for a source without dense layers or tokenizer, `ConfigError` for layers that
    cannot be, `DataError` for a corpus that cannot be used, `OutputError` for one that is not that of `partial`.
    The first Ctrl-C ends the training early; after SIGTERM `ConversionStopped` is raised.
    """
    plan = plan_student(loaded, request)
    assert loaded.tokenizer is not None
    partial = partial or PartialConversion()
    config = loaded.model.config
    device = choose_device(settings.device)
    precision = choose_precision("auto", device)
    partial.claim("source", loaded.name, model_fingerprint(loaded))
    layers = plan.converted
    with Stages(layers) as stages:
        stages.begin(READING)
        stages.expect(0.0 if time_speed is None else TIMING_SECONDS, [TIMING])
        texts = read_distillation_texts(corpus, settings)
        partial.claim("corpus", corpus_name(corpus), texts.fingerprint)
        partial.start_clock()
        stages.go_on_after(partial.seconds)
        torch.manual_seed(settings.seed)
        maximum = min(MAXIMUM_LENGTH, config.max_position_embeddings)
        batcher = Batcher(loaded.tokenizer, maximum, config.type_vocab_size > 0, device)
        _note_beginning(plan, texts, partial)
        original = copy.deepcopy(loaded.model).to(device).requires_grad_(False)
        model = new_student(original, plan)
        teacher, student = encoder_of(original), encoder_of(model)
        pooling = loaded.model.embedder.pooling
        with Interruption(STOPPING, TERMINATING) as interruption:
            train: list[LayerSample] = []
            held_out: list[LayerSample] = []
            if partial.layers_done < len(layers):
                train, held_out = record_samples(
                    teacher, layers, batcher, texts, settings, SAMPLE_TOKENS, LAYERS_SHARE, stages, interruption
                )
            else:
                forecast(stages, settings, layers, LAYERS_SHARE)
            errors, means = train_layers(
                teacher, student, plan, train, held_out, settings, precision, interruption, partial, stages
            )
            del train, held_out
            budget = new_budget(end_to_end_seconds(settings, partial), settings, interruption)
            phase = KeptPhase(partial, END_TO_END, budget, interruption)
            curve = train_together(
                teacher, student, plan.targets, batcher, texts.train, settings, precision, pooling, phase, stages
            )
        spent = partial.seconds
        stages.begin(MEASURING, line=True)
        held_out_batches = batcher.ordered(texts.held_out, BATCH_TEXTS)
        measurement = measure(teacher, student, plan, means, held_out_batches, pooling, texts.held_out_from)
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
    report = ClosingReport(
        config, model.config, settings, errors, measurement, speed, curve.whole(), budget.steps_done, spent
    )
    return Distilled(student_model, report)


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


def _note_beginning(plan: StudentPlan, texts: Texts, partial: PartialConversion) -> None:
    note(
        f"Distilling {plan}, on {len(texts.train):,} pieces of text "
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


def new_budget(seconds: float | None, settings: DistillationSettings, interruption: Interruption) -> TrainingBudget:
    """Of one phase: so many seconds or the settings' steps, unless Ctrl-C comes first."""
    return TrainingBudget(seconds=seconds, steps=settings.steps or None, stopped=lambda: interruption.requested)


def finished(model: PretrainedModel) -> PretrainedModel:
    """The same model with ordinary `FFF` layers, on the CPU."""
    plain = type(model)(model.config)
    plain.load_state_dict(model.cpu().state_dict())
    plain.take_embedder(model.embedder)
    return plain.eval()


def train_layers(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    plan: StudentPlan,
    train: Sequence[LayerSample],
    held_out: Sequence[LayerSample],
    settings: DistillationSettings,
    precision: torch.dtype,
    interruption: Interruption,
    partial: PartialConversion,
    stages: Stages,
) -> tuple[list[LayerErrors], list[torch.Tensor]]:
    """Initialise and regress every new layer that `partial` does not hold.

    Returns the held-out errors of all layers, and the mean outputs (H,) of those that are new.
    """
    errors = [LayerErrors(0.0, 0.0) for _ in student.layers]  # of what is the original's own
    means: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(settings.seed)
    seconds = None if settings.seconds is None else LAYERS_SHARE * settings.seconds / max(len(plan.converted), 1)
    for number, index in enumerate(plan.converted):
        theirs, layer = teacher.layers[index], student.layers[index]
        assert isinstance(theirs, Layer)
        assert isinstance(layer, Layer)
        ours = layer.feedforward
        if number < partial.layers_done:
            kept = partial.read_layer(number)
            if ours is None:
                LeftOut(*(kept[name].to(student.device) for name in ("scale", "shift"))).put_into(layer)
            else:
                ours.load_state_dict(with_prefix(kept, "weight/"))
            restore_random_states(kept, generator)
            means.append(kept["mean"].to(student.device))
            errors[index] = LayerErrors(**partial.journal.layers[number])
            continue
        means.append(train[number].y.float().mean(0))
        if ours is None:
            stages.begin(layer_stage(index))
            left_out = leave_out(layer, theirs, train[number])
            left_out.put_into(layer)
            error = left_out.relative_error(theirs, held_out[number], means[-1])
            errors[index], found = LayerErrors(error, error), {"scale": left_out.scale, "shift": left_out.shift}
            said = f"{error:.3f} without a feedforward layer"
        else:
            budget = new_budget(seconds, settings, interruption)
            phase = KeptPhase(partial, layer_stage(index), budget, interruption, generator)
            errors[index] = regress_layer(
                ours, theirs, train[number], held_out[number], means[-1], precision, generator, phase, stages,
                at_random=plan.random_routing,
            )  # fmt: skip
            found = {f"weight/{name}": tensor for name, tensor in ours.state_dict().items()}
            said = (
                f"{errors[index].initialized:.3f} initialised, {errors[index].regressed:.3f} after "
                f"{budget.steps_done} steps"
            )
        partial.finish_layer({**found, "mean": means[-1], **random_states(generator)}, asdict(errors[index]))
        note(f"layer {index}: relative error {said}{stages.left_text()}")
    return errors, means


def regress_layer(
    ours: FFF | DenseFeedforward,
    theirs: Layer,
    train: LayerSample,
    held_out: LayerSample,
    mean: torch.Tensor,
    precision: torch.dtype,
    generator: torch.Generator,
    phase: KeptPhase,
    stages: Stages,
    *,
    at_random: bool,
) -> LayerErrors:
    """Initialise one layer, unless an earlier session has, and train it; the held-out errors after each."""
    stages.begin(phase.name, done=phase.share_before)
    initialized: float | None = phase.kept.get("initialized")
    if initialized is None:
        initialize_layer(ours, theirs.feedforward, train, at_random=at_random)
        initialized = relative_error(ours, theirs, held_out, mean)
    phase.facts = lambda: {"initialized": initialized}
    train_layer(
        ours,
        theirs,
        train,
        budget=phase.budget,
        precision=precision,
        generator=generator,
        report=lambda loss: stages.show(phase.budget.fraction(), f"loss {loss:.3f}"),
        phase=phase,
    )
    return LayerErrors(initialized, relative_error(ours, theirs, held_out, mean))


def with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
