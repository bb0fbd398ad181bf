"""Dense feedforward layers become fast feedforward layers: initialise, regress layer by layer, train together."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ufbert.cmm.tree import check_shape
from ufbert.conversion.readers.source import Source, encoder_of
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.encoder import DenseFeedforward, Layer, UltraFastBertModel
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note, progress
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.devices import choose_device, choose_precision
from ufbert.system.interruption import Interruption
from ufbert.training.budget import Budget

from .end_to_end import StepReport, train_end_to_end
from .layer_inputs import LayerSample, collect_layer_samples
from .layer_regression import relative_error, train_layer
from .report import LayerErrors, measure, show
from .straight_through import StraightThroughFFF
from .texts import MAXIMUM_LENGTH, Batcher, read_distillation_texts
from .tree_initialization import initialize_trees

__all__ = ["distil"]

# Share of the time for the regression of the single layers: more brings them little. A layer of
# all-MiniLM-L6-v2 went from 0.597 to 0.541 in 150 steps, to 0.530 in 600 and to 0.528 in 1,500.
LAYERS_SHARE = 0.15
# The end-to-end phase gets the rest of the time, but never less than this share.
LEAST_SHARE = 0.5
# Tokens to regress on: so many, or as many as fit into this memory (x and y of all layers, bfloat16).
SAMPLE_TOKENS = 100_000
SAMPLE_BYTES = 2 << 30
HELD_OUT_TOKENS = 16_000
BATCH_TEXTS = 32  # where nothing is trained
STOPPING = "Ending the training here; the student is measured and written. Once more stops at once, without it."


def distil(source: Source, settings: DistillationSettings) -> dict[str, str]:
    """Replace `source.model` by its student, showing progress; returns the measured figures for the model card.

    Raises `CheckpointError` for a source without dense layers or tokenizer, `ConfigError` for trees that
    cannot be, `DataError` for a corpus that cannot be used. The first Ctrl-C ends the training early.
    """
    check_distillable(source, settings)
    assert source.tokenizer is not None
    config = source.model.config
    device = choose_device(settings.device)
    precision = choose_precision("auto", device)
    torch.manual_seed(settings.seed)
    texts = read_distillation_texts(settings)
    maximum = min(MAXIMUM_LENGTH, config.max_position_embeddings)
    batcher = Batcher(source.tokenizer, maximum, config.type_vocab_size > 0, device)
    begin = time.monotonic()
    note(
        f"Distilling {config.num_hidden_layers} dense layers of {config.intermediate_size:,} neurons into "
        f"{settings.trees} trees of depth {settings.depth}, on {len(texts.train):,} pieces of text "
        f"({len(texts.held_out):,} more held out)."
    )
    teacher = encoder_of(source.model.to(device).requires_grad_(False))
    model = new_student(source.model, settings)
    student = encoder_of(model)
    pooling = "cls" if config.provenance.get("pooling") == "cls" else "mean"
    with Interruption(STOPPING) as interruption:
        size = 4 * config.hidden_size * max(config.num_hidden_layers, 1)
        wanted = min(SAMPLE_TOKENS, SAMPLE_BYTES // size)
        train = collect_layer_samples(teacher, batcher.endless(texts.train, BATCH_TEXTS, settings.seed), wanted)
        held_out = collect_layer_samples(teacher, batcher.ordered(texts.held_out, BATCH_TEXTS), HELD_OUT_TOKENS)
        errors = train_layers(teacher, student, train, held_out, settings, precision, interruption)
        means = [sample.y.float().mean(0) for sample in train]
        del train, held_out
        seconds = settings.seconds
        if seconds is not None:
            seconds = max(LEAST_SHARE * seconds, seconds - (time.monotonic() - begin))
        budget = Budget(seconds=seconds, steps=settings.steps, stopped=lambda: interruption.requested)
        train_together(teacher, student, batcher, texts.train, settings, precision, pooling, budget)
    measurement = measure(teacher, student, means, batcher.ordered(texts.held_out, BATCH_TEXTS), pooling)
    show(measurement, errors, model.config)
    source.model = finished(model)
    return measurement.figures()


def check_distillable(source: Source, settings: DistillationSettings) -> None:
    """Raise unless trees of that shape can be made of this model."""
    config = source.model.config
    if config.feedforward != "dense":
        raise CheckpointError(
            f"{source.name}: its feedforward layers are trees already ({config.trees} of depth {config.depth}); "
            "only dense layers can be distilled into trees: convert it without --trees and --depth"
        )
    try:
        check_shape(config.hidden_size, settings.trees, settings.depth)
    except ConfigError as error:
        raise ConfigError(f"--trees {settings.trees} --depth {settings.depth}: {error}") from error
    if source.tokenizer is None:
        raise CheckpointError(f"{source.name}: has no tokenizer, and distilling on text needs the model's own")


def new_student(model: PretrainedModel, settings: DistillationSettings) -> PretrainedModel:
    """A copy of the model with trainable, still random trees in place of its dense layers."""
    config = model.config.replace(feedforward="fff", trees=settings.trees, depth=settings.depth)
    student = type(model)(config).to(model.device)
    state = {
        k: v for k, v in model.state_dict().items() if ".feedforward." not in k and not k.startswith("feedforward.")
    }
    student.load_state_dict(state, strict=False)
    for layer in encoder_of(student).layers:
        layer.feedforward = StraightThroughFFF(
            config.hidden_size, config.trees, config.depth, output_bias=config.use_bias, device=model.device
        )
    return student.eval()


def finished(model: PretrainedModel) -> PretrainedModel:
    """The same model with ordinary `FFF` layers, on the CPU."""
    plain = type(model)(model.config)
    plain.load_state_dict(model.cpu().state_dict())
    return plain.eval()


def train_layers(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    train: Sequence[LayerSample],
    held_out: Sequence[LayerSample],
    settings: DistillationSettings,
    precision: torch.dtype,
    interruption: Interruption,
) -> list[LayerErrors]:
    """Initialise and regress every layer; returns the held-out errors after each."""
    errors: list[LayerErrors] = []
    generator = torch.Generator().manual_seed(settings.seed)
    seconds = None if settings.seconds is None else LAYERS_SHARE * settings.seconds / max(len(train), 1)
    with progress("loss {task.fields[loss]:.3f}") as bar:
        task = bar.add_task("layers", total=len(train), loss=float("nan"))
        for index, sample in enumerate(train):
            theirs, ours = teacher.layers[index], student.layers[index].get_submodule("feedforward")
            assert isinstance(theirs, Layer)
            assert isinstance(theirs.feedforward, DenseFeedforward)
            assert isinstance(ours, StraightThroughFFF)
            mean = sample.y.float().mean(0)
            initialize_trees(ours, theirs.feedforward, teacher.config.hidden_act, sample.x, sample.y)
            initialized = relative_error(ours, theirs, held_out[index], mean)
            budget = Budget(seconds=seconds, steps=settings.steps, stopped=lambda: interruption.requested)
            train_layer(
                ours,
                theirs,
                sample,
                budget=budget,
                precision=precision,
                generator=generator,
                report=lambda loss: bar.update(task, loss=loss),
            )
            errors.append(LayerErrors(initialized, relative_error(ours, theirs, held_out[index], mean)))
            bar.update(task, advance=1)
            note(
                f"layer {index}: relative error {errors[-1].initialized:.3f} initialised, "
                f"{errors[-1].regressed:.3f} after {budget.steps_done} steps"
            )
    return errors


def train_together(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    batcher: Batcher,
    texts: Sequence[str],
    settings: DistillationSettings,
    precision: torch.dtype,
    pooling: str,
    budget: Budget,
) -> None:
    """The end-to-end phase, with its progress."""
    average: dict[str, float] = {}
    noted = 0
    with progress("hidden {task.fields[hidden]:.3f}", "cosine {task.fields[cosine]:.4f}") as bar:
        task = bar.add_task("end to end", total=1000, hidden=float("nan"), cosine=float("nan"))

        def report(step: StepReport) -> None:
            nonlocal noted
            for name, value in (("hidden", step.hidden), ("cosine", 1 - step.embedding)):
                average[name] = 0.95 * average.get(name, value) + 0.05 * value
            done = budget.fraction()
            bar.update(task, completed=int(1000 * done), hidden=average["hidden"], cosine=average["cosine"])
            if done * 10 >= noted + 1:
                noted = int(done * 10)
                note(
                    f"end to end {done:4.0%}, step {budget.steps_done}: hidden-state error "
                    f"{average['hidden'] ** 0.5:.3f}, cosine of embeddings {average['cosine']:.4f}"
                )

        train_end_to_end(
            student,
            teacher,
            batcher.endless(texts, settings.batch_size, settings.seed + 1),
            learning_rate=settings.learning_rate,
            budget=budget,
            precision=precision,
            pooling=pooling,
            report=report,
        )
