"""Dense feedforward layers become others, or layers are dropped: initialise, regress each layer, train together."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of
from ufbert.conversion.student import StudentRequest
from ufbert.model.encoder import Layer, UltraFastBertModel
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.devices import choose_device, choose_precision
from ufbert.system.interruption import Interruption
from ufbert.training.budget import TrainingBudget
from ufbert.training.display import ProgressDisplay

from .end_to_end import StepReport, train_end_to_end
from .initialization import initialize_layer
from .layer_inputs import LayerSample, collect_layer_samples
from .layer_regression import relative_error, train_layer
from .left_out import leave_out
from .report import LayerErrors, measure, show
from .student import StudentPlan, new_student, plan_student
from .texts import MAXIMUM_LENGTH, Batcher, read_distillation_texts

__all__ = ["Distilled", "distil"]

# Share of the time for the regression of the single layers: more brings them little. A layer of
# all-MiniLM-L6-v2 went from 0.597 to 0.541 in 150 steps, to 0.530 in 600 and to 0.528 in 1,500.
LAYERS_SHARE = 0.15
# The end-to-end phase gets the rest of the time, but never less than this share.
LEAST_SHARE = 0.5
# Tokens to regress on: so many, or as many as fit into this memory (x and y of all layers, bfloat16).
SAMPLE_TOKENS = 100_000
SAMPLE_BYTES = 2 << 30
HELD_OUT_TOKENS = 16_000
MILESTONE = 0.1  # share of the end-to-end training after which a line says how it stands
BATCH_TEXTS = 32  # where nothing is trained
STOPPING = "Ending the training here; the student is measured and written. Once more stops at once, without it."


@dataclass(frozen=True)
class Distilled:
    """A model with other feedforward layers than its original, or fewer layers, in evaluation mode on the CPU."""

    model: PretrainedModel
    figures: dict[str, str]
    """Measured quantity -> value, for the model card."""


def distil(
    loaded: LoadedCheckpoint, request: StudentRequest, corpus: Sequence[str], settings: DistillationSettings
) -> Distilled:
    """The student of `loaded` that is asked for, trained on `corpus`; shows its progress.

    Raises `CheckpointError` for a source without dense layers or tokenizer, `ConfigError` for layers that
    cannot be, `DataError` for a corpus that cannot be used. The first Ctrl-C ends the training early.
    """
    plan = plan_student(loaded, request)
    assert loaded.tokenizer is not None
    config = loaded.model.config
    device = choose_device(settings.device)
    precision = choose_precision("auto", device)
    torch.manual_seed(settings.seed)
    texts = read_distillation_texts(corpus, settings)
    maximum = min(MAXIMUM_LENGTH, config.max_position_embeddings)
    batcher = Batcher(loaded.tokenizer, maximum, config.type_vocab_size > 0, device)
    begin = time.monotonic()
    note(
        f"Distilling {plan}, on {len(texts.train):,} pieces of text "
        f"({len(texts.held_out):,} more held out, from {texts.held_out_from})."
    )
    if not texts.documents_apart:
        note(
            "note: too few documents to hold whole ones out, so what is measured is other text of the documents "
            "trained on; give a --corpus of more documents for figures on unseen ones"
        )
    original = copy.deepcopy(loaded.model).to(device).requires_grad_(False)
    model = new_student(original, plan)
    teacher, student = encoder_of(original), encoder_of(model)
    pooling = loaded.model.embedder.pooling
    with Interruption(STOPPING) as interruption:
        new = plan.converted
        wanted = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * config.hidden_size * max(len(new), 1)))
        train = collect_layer_samples(teacher, batcher.endless(texts.train, BATCH_TEXTS, settings.seed), wanted, new)
        held_out = collect_layer_samples(teacher, batcher.ordered(texts.held_out, BATCH_TEXTS), HELD_OUT_TOKENS, new)
        errors = train_layers(teacher, student, plan, train, held_out, settings, precision, interruption)
        means = [sample.y.float().mean(0) for sample in train]
        del train, held_out
        seconds = settings.seconds
        if seconds is not None:
            seconds = max(LEAST_SHARE * seconds, seconds - (time.monotonic() - begin))
        budget = new_budget(seconds, settings, interruption)
        train_together(teacher, student, plan, batcher, texts.train, settings, precision, pooling, budget)
    held_out_batches = batcher.ordered(texts.held_out, BATCH_TEXTS)
    measurement = measure(teacher, student, plan, means, held_out_batches, pooling, texts.held_out_from)
    show(measurement, errors, model.config)
    return Distilled(finished(model), measurement.figures())


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
) -> list[LayerErrors]:
    """Initialise and regress every new layer; returns the held-out errors of all, after each."""
    errors = [LayerErrors(0.0, 0.0) for _ in student.layers]  # of what is the original's own
    generator = torch.Generator().manual_seed(settings.seed)
    seconds = None if settings.seconds is None else LAYERS_SHARE * settings.seconds / max(len(train), 1)
    with ProgressDisplay("layers", len(train)) as display:

        def report(number: int, loss: float) -> None:
            display.show("layers", number, f"loss {loss:.3f}")

        for number, (index, sample) in enumerate(zip(plan.converted, train, strict=True)):
            theirs, layer = teacher.layers[index], student.layers[index]
            assert isinstance(theirs, Layer)
            assert isinstance(layer, Layer)
            mean = sample.y.float().mean(0)
            if layer.feedforward is None:
                left_out = leave_out(layer, theirs, sample)
                left_out.put_into(layer)
                error = left_out.relative_error(theirs, held_out[number], mean)
                errors[index] = LayerErrors(error, error)
                note(f"layer {index}: relative error {error:.3f} without a feedforward layer")
                continue
            ours = initialize_layer(layer.feedforward, theirs.feedforward, sample, at_random=plan.random_routing)
            initialized = relative_error(ours, theirs, held_out[number], mean)
            budget = new_budget(seconds, settings, interruption)
            train_layer(
                ours,
                theirs,
                sample,
                budget=budget,
                precision=precision,
                generator=generator,
                report=partial(report, number),
            )
            display.show("layers", number + 1)
            errors[index] = LayerErrors(initialized, relative_error(ours, theirs, held_out[number], mean))
            note(
                f"layer {index}: relative error {errors[index].initialized:.3f} initialised, "
                f"{errors[index].regressed:.3f} after {budget.steps_done} steps"
            )
    return errors


def train_together(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    plan: StudentPlan,
    batcher: Batcher,
    texts: Sequence[str],
    settings: DistillationSettings,
    precision: torch.dtype,
    pooling: str,
    budget: TrainingBudget,
) -> None:
    """The end-to-end phase, with its progress."""
    average: dict[str, float] = {}
    with ProgressDisplay("end to end", 100, share=MILESTONE) as display:

        def report(step: StepReport) -> None:
            for name, value in (("hidden", step.hidden), ("cosine", 1 - step.embedding)):
                average[name] = 0.95 * average.get(name, value) + 0.05 * value
            done = budget.fraction()
            error, cosine = average["hidden"] ** 0.5, average["cosine"]
            state = f"hidden-state error {error:.3f}, cosine of embeddings {cosine:.4f}"
            display.show("end to end", 100 * done, state, position=f"{done:.0%}, step {budget.steps_done}")

        train_end_to_end(
            student,
            teacher,
            batcher.endless(texts, settings.batch_size, settings.seed + 1),
            targets=plan.targets,
            learning_rate=settings.learning_rate,
            budget=budget,
            precision=precision,
            pooling=pooling,
            report=report,
        )
