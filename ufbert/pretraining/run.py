"""Pretraining: masked language modelling by the paper's recipe, from a plan to a checkpoint folder.

A run is a function of its settings and its corpus: the order of the data and the masks follow from the seed and
the sequences' numbers, the dropout of a step from the seed and the step's number, so a run that was interrupted
goes on as if it had not been.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.encoder import set_dropout
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.reporting import console, note
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.compiler import no_compiler
from ufbert.system.devices import choose_device, choose_precision, describe_precision, tensor_float
from ufbert.system.interruption import Interruption
from ufbert.system.processes import MeetingPoint, World, described_world, join_world, take_gpu
from ufbert.text.corpus import PreparedCorpus
from ufbert.text.corpus_sources import corpus_name
from ufbert.training.display import duration
from ufbert.training.level_updates import begin_equal
from ufbert.training.memory import check_disk_space, check_training_memory, explain_out_of_memory
from ufbert.training.optimization import build_optimizer
from ufbert.training.throughput import Throughput, matrix_product_peak, training_operations

from .batches import MicroBatches
from .computed_on import ComputedOn
from .fit import Run, fit
from .held_out import HeldOut
from .html_report import REPORT_FILE
from .initial_checkpoint import initial_model
from .loggers import open_loggers, require_loggers
from .loss_curve import LOSS_CURVE_FILE, can_plot, require_plot
from .mask_examples import example_sentences, fill_examples
from .metrics import METRICS_FILE, MetricsLog, keep_until
from .report import PretrainingReport, card_figures
from .run_folder import RunPlan
from .run_model import run_config, run_masking
from .saving import CheckpointWriter
from .shared_corpus import prepare_shared_corpus
from .state import load_optimizer
from .step import TrainingStep

__all__ = ["pretrain"]


def pretrain(plan: RunPlan, *, plot: bool | None = None) -> PretrainingReport:
    """Begin or continue the run of `plan` and train to its end, or until Ctrl-C or SIGTERM.

    `plot` draws the loss curve; None draws it where matplotlib is installed. Under torchrun all processes
    call this with the same plan, and the first one reports and saves.
    Raises any `UfbertError`; what was saved before one stays.
    """
    if plot:
        require_plot()
    folder, settings, state = plan.folder, plan.settings, plan.state
    if plan.resumed and state.complete:
        return PretrainingReport(folder, state, already_complete=True)
    training = settings.training
    require_loggers(training.loggers)
    world = described_world()
    device = _own_device(training.device, world)
    _prepare_console(world, plot)
    with explain_out_of_memory(device), tensor_float(device, training.tf32):
        dtype = choose_precision(training.precision, device)
        computed_on = ComputedOn(device.type, describe_precision(device, dtype, training.tf32), world.size)
        if training.compile and (reason := no_compiler()):
            raise ConfigError(f"training.compile: {reason}; install one, or set training.compile=false")
        # Told before the corpus is tokenised, which can take long; the vocabulary only adds to it.
        check_training_memory(settings.model.replace(vocab_size=1, pad_token_id=0), device)

        meeting = MeetingPoint(world)
        corpus = prepare_shared_corpus(settings, meeting)
        _note_corpus(plan, corpus)
        tokenizer = corpus.tokenizer
        model = _build_model(plan, tokenizer, device)
        optimizer = build_optimizer(model, training)
        if plan.resumed:
            load_optimizer(folder, optimizer)

        masking = run_masking(settings, tokenizer)
        batches = MicroBatches(corpus.train, masking, training.seed, device)
        held_out = HeldOut(corpus.validation, training.evaluation_sequences, masking)
        metrics = MetricsLog(folder / METRICS_FILE)

        with join_world(meeting, device), Interruption() as interruption:
            throughput = _measure_hardware(model, batches, dtype, computed_on.precision, device, world)
            checkpoints = CheckpointWriter(
                folder,
                settings,
                state,
                model,
                optimizer,
                tokenizer,
                metrics,
                figures=lambda: card_figures(state, model, computed_on, throughput),
                examples=lambda: fill_examples(model, tokenizer, example_sentences(settings.data.corpus)),
                plot=can_plot() if plot is None else plot,
                leads=world.leads,
            )
            step = TrainingStep(model, optimizer, batches, training, dtype, world)
            run = Run(settings, state, world, device, step, held_out, metrics, checkpoints, throughput)

            if plan.resumed:
                _continue(run, computed_on)
            else:
                _begin(run, computed_on)
            run.start_clock()
            try:
                stopped_by = fit(run, interruption)
                if not stopped_by:
                    metrics.add(**run.position(), **run.measure())
                    state.complete = True
                try:
                    checkpoints.save_last()
                finally:
                    world.wait()  # torchrun ends all processes when one has left
            finally:
                metrics.loggers.close()

    examples = []
    if not stopped_by and world.leads:
        examples = checkpoints.examples()
    drawn = [LOSS_CURVE_FILE] if checkpoints.plot and (folder / LOSS_CURVE_FILE).is_file() else []
    drawn += [REPORT_FILE] if (folder / REPORT_FILE).is_file() else []
    return PretrainingReport(
        folder,
        state,
        stopped_by=stopped_by,
        files=(METRICS_FILE, *drawn),
        examples=tuple(examples),
        hardware=throughput.describe() if throughput.tokens else "",
    )


def _own_device(name: str, world: World) -> torch.device:
    """The device of this process."""
    device = choose_device(name)
    if device.type == "cpu":
        keep_freed_memory()
        return device
    take_gpu(world, device)
    return torch.device("cuda", world.local_rank)


def _prepare_console(world: World, plot: bool | None) -> None:
    """The first process speaks for all."""
    if not world.leads:
        console().quiet = True
    if plot is None and not can_plot():
        note("No loss curve: it needs matplotlib (pip install 'ufbert[plot]')")


def _note_corpus(plan: RunPlan, corpus: PreparedCorpus) -> None:
    """Into the state of a new run; raises `ConfigError` if that of a resumed one is another."""
    if plan.resumed and corpus.fingerprint != plan.state.corpus:
        raise ConfigError(
            f"{plan.folder}: the corpus {corpus_name(plan.settings.data.corpus)} or its tokenizer has changed since "
            "this run began; bring it back, or start another run with another --out"
        )
    plan.state.corpus = corpus.fingerprint


def _build_model(plan: RunPlan, tokenizer: Tokenizer, device: torch.device) -> UltraFastBertForMaskedLM:
    """The model on `device`, set to train."""
    training = plan.settings.training
    config = run_config(plan.settings, tokenizer)
    check_training_memory(config, device)
    if plan.resumed:
        model = UltraFastBertForMaskedLM.from_pretrained(plan.folder)
        if model.config != config:
            raise CheckpointError(f"{plan.folder}: config.json is not the one this run has written")
    else:
        torch.manual_seed(training.seed)
        if training.initial_checkpoint:
            model = initial_model(training.initial_checkpoint, config, tokenizer)
        else:
            model = UltraFastBertForMaskedLM(config)
        if training.level_updates and not training.initial_checkpoint:
            begin_equal(model)
    set_dropout(model, training.dropout)
    model.to(device).train()
    if training.compile:
        # The layers are alike, so one compilation serves all.
        for layer in model.encoder.layers:
            layer.compile()
    return model


def _measure_hardware(
    model: UltraFastBertForMaskedLM,
    batches: MicroBatches,
    dtype: torch.dtype,
    precision: str,
    device: torch.device,
    world: World,
) -> Throughput:
    """The speed to come, beside what the processes' devices reach all at once."""
    length = batches.sequence_length
    predicted = batches.masking.positions(length) / length
    peak = torch.tensor([matrix_product_peak(device, dtype) / 1e9], device=device)
    world.sum_([peak])
    return Throughput(training_operations(model.config, length, predicted), 1e9 * float(peak), precision)


def _begin(run: Run, computed_on: ComputedOn) -> None:
    """Create the folder of a new run with what a reader needs."""
    model = run.training_step.model
    config = model.config
    mean = " on average" if config.feedforward_layers else ""
    note(
        f"Training {sum(p.numel() for p in model.parameters()):,} parameters on {computed_on.device}: "
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.neurons_used:,} of "
        f"{config.neurons_available:,} neurons used{mean}, vocabulary of {config.vocab_size:,}, {computed_on.precision}"
    )
    run.state.computed_on = computed_on.to_dict()
    check_disk_space(run.checkpoints.folder, config, run.settings.training.keep_checkpoints)
    measured = run.measure()
    run.checkpoints.create()
    _open_loggers(run)
    run.metrics.add(**run.position(), **measured)
    if run.world.leads:
        run.metrics.flush()


def _continue(run: Run, computed_on: ComputedOn) -> None:
    """Bring the metrics of a resumed run back to its checkpoint, and say what is no longer as it was."""
    state = run.state
    note(f"Resuming {run.checkpoints.folder} after step {state.steps:,}, {duration(state.seconds)}")
    before = ComputedOn.from_dict(state.computed_on)
    if change := computed_on.change_from(before, run.settings.training.dropout):
        note(change)
    state.computed_on = computed_on.to_dict()
    state.sessions += 1
    if run.world.leads:
        keep_until(run.metrics.file, state.steps)
    _open_loggers(run)


def _open_loggers(run: Run) -> None:
    """By the process that reports, once the run has its folder."""
    if run.world.leads:
        open_loggers(run.metrics.loggers, run.checkpoints.folder, run.settings, run.state)
