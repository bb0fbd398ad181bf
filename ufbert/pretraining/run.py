"""Pretraining: masked language modelling by the paper's recipe, from a plan to a checkpoint folder.

A run is a function of its settings and its corpus: the order of the data, the masks and the dropout of a
step follow from the seed and the step's number, so a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ufbert.checkpoint.tokenizer import special_token_id, special_token_ids
from ufbert.errors import CheckpointError, ConfigError, OutputError
from ufbert.model.card import model_card
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.reporting import console, note
from ufbert.settings.sections import parse_duration
from ufbert.settings.toml import settings_to_toml
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.atomic import write_folder
from ufbert.system.devices import choose_device, choose_precision
from ufbert.system.interruption import Interruption
from ufbert.system.processes import World, join_world
from ufbert.text.corpus import PreparedCorpus, prepare_corpus
from ufbert.text.corpus_sources import corpus_name
from ufbert.training.display import TrainingDisplay, duration
from ufbert.training.memory import check_disk_space, check_training_memory, explain_out_of_memory
from ufbert.training.optimization import Schedule, build_optimizer

from .held_out import HeldOut
from .loss_curve import LOSS_CURVE_FILE, can_plot, draw_loss_curve, require_plot
from .mask_examples import example_sentences, fill_examples
from .metrics import METRICS_FILE, MetricsLog, keep_until, read_metrics
from .report import PretrainingReport, card_figures
from .run_folder import RunPlan
from .state import load_optimizer, write_state
from .step import StepResult, TrainingStep

__all__ = ["Pretraining", "pretrain"]

SETTINGS_FILE = "settings.toml"
# So many steps in a row without a finite loss are no accident.
NON_FINITE_STEPS = 10


def pretrain(plan: RunPlan, *, plot: bool | None = None) -> PretrainingReport:
    """Begin or continue the run of `plan` and train to its end, or until Ctrl-C or SIGTERM.

    `plot` draws the loss curve; None draws it where matplotlib is installed. Under torchrun all processes
    call this with the same plan, and the first one reports and saves.
    Raises any `UfbertError`; what was saved before one stays.
    """
    if plot:
        require_plot()
    if plan.resumed and plan.state.complete:
        return PretrainingReport(plan.folder, plan.state, already_complete=True)
    device = choose_device(plan.settings.training.device)
    with join_world(device) as world:
        if not world.leads:
            console().quiet = True
        if device.type == "cuda":
            device = torch.device("cuda", world.local_rank)
        else:
            keep_freed_memory()
        if plot is None and not can_plot():
            note("No loss curve: it needs matplotlib (pip install 'ufbert[plot]')")
        with explain_out_of_memory(device):
            return Pretraining(plan, world, device, can_plot() if plot is None else plot).run()


class Pretraining:
    """A run under way: the model, where it stands, and the folder it is saved in."""

    def __init__(self, plan: RunPlan, world: World, device: torch.device, plot: bool) -> None:
        self.plan, self.world, self.device, self.plot = plan, world, device, plot
        self.settings, self.state, self.folder = plan.settings, plan.state, plan.folder
        training = self.settings.training
        self.dtype = choose_precision(training.precision, device)
        self.schedule = Schedule(training)
        self.metrics = MetricsLog(self.folder / METRICS_FILE)
        # Told before the corpus is tokenised, which can take long; the vocabulary only adds to it.
        check_training_memory(self.settings.model.replace(vocab_size=1, pad_token_id=0), device)
        self.corpus = self._prepare_corpus()
        tokenizer = self.corpus.tokenizer
        mask_id, special_ids = special_token_id(tokenizer, "mask"), special_token_ids(tokenizer)
        self.model = self._build_model().train()
        self.optimizer = build_optimizer(self.model, training)
        if plan.resumed:
            load_optimizer(self.folder, self.model, self.optimizer)
        self.training_step = TrainingStep(
            self.model,
            self.optimizer,
            training,
            self.corpus.train,
            mask_id=mask_id,
            special_ids=special_ids,
            dtype=self.dtype,
            world=world,
        )
        self.held_out = HeldOut(
            self.corpus.validation,
            training.evaluation_sequences,
            special_ids=special_ids,
            mask_id=mask_id,
            vocab_size=self.model.config.vocab_size,
            probability=training.mlm_probability,
        )
        self.saved_step = self.state.steps
        self.clock_start = 0.0

    def run(self) -> PretrainingReport:
        """Train to the end of the run, or until it is interrupted."""
        with Interruption() as interruption:
            self._open()
            with TrainingDisplay(self._work()) as display:
                self._train(interruption, display)
            interrupted = self._progress() < 1.0
            if not interrupted:
                self._measure()
                self.metrics.add(**self._position(), held_out_loss=self.state.held_out.get("last"))
                self.state.complete = True
            try:
                self._save()
            except OutputError as error:
                raise OutputError(
                    f"{error}; the checkpoint of step {self.saved_step:,} stays, continue it with --resume"
                ) from error
        examples = []
        if not interrupted and self.world.leads:
            sentences = example_sentences(self.settings.data.corpus)
            examples = fill_examples(self.folder, sentences, self.device.type)
        files = (METRICS_FILE, LOSS_CURVE_FILE) if self.plot else (METRICS_FILE,)
        return PretrainingReport(
            self.folder, self.state, interrupted=interrupted, files=files, examples=tuple(examples)
        )

    def _prepare_corpus(self) -> PreparedCorpus:
        """The leading process tokenises, the others read what it has cached."""
        settings = self.settings

        def prepare() -> PreparedCorpus:
            return prepare_corpus(settings.data, settings.model.vocab_size, seed=settings.training.seed)

        corpus = prepare() if self.world.leads else None
        self.world.wait()
        corpus = corpus or prepare()
        if self.plan.resumed and corpus.fingerprint != self.state.corpus:
            raise ConfigError(
                f"{self.folder}: the corpus {corpus_name(settings.data.corpus)} or its tokenizer has changed since "
                "this run began; bring it back, or start another run with another --out"
            )
        self.state.corpus = corpus.fingerprint
        return corpus

    def _build_model(self) -> UltraFastBertForMaskedLM:
        """The model as it is trained; its config says what is saved, whose dropout is for finetuning."""
        dropout = self.settings.training.dropout
        dropouts: dict[str, Any] = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        tokenizer = self.corpus.tokenizer
        config = self.settings.model.replace(
            vocab_size=max(tokenizer.get_vocab().values()) + 1,
            pad_token_id=special_token_id(tokenizer, "pad"),
            architectures=(UltraFastBertForMaskedLM.__name__,),
        )
        check_training_memory(config, self.device)
        if self.plan.resumed:
            model = UltraFastBertForMaskedLM.from_pretrained(self.folder, **dropouts)
            if model.config.replace(**{k: getattr(config, k) for k in dropouts}) != config:
                raise CheckpointError(f"{self.folder}: config.json is not the one this run has written")
        else:
            torch.manual_seed(self.settings.training.seed)
            model = UltraFastBertForMaskedLM(config.replace(**dropouts))
        model.config = config
        return model.to(self.device)

    def _open(self) -> None:
        """Create the run's folder with what a reader needs, or bring its metrics back to the checkpoint."""
        if self.plan.resumed:
            self.state.sessions += 1
            if self.world.leads:
                keep_until(self.metrics.file, self.state.steps)
            note(f"Resuming {self.folder} after step {self.state.steps:,}, {duration(self.state.seconds)}")
        else:
            parameters = sum(p.numel() for p in self.model.parameters())
            config = self.model.config
            note(
                f"Training {parameters:,} parameters on {self.device.type}: {config.num_hidden_layers} layers of "
                f"{config.hidden_size}, {config.neurons_used:,} of {config.neurons_available:,} neurons used, "
                f"vocabulary of {config.vocab_size:,}, {str(self.dtype).removeprefix('torch.')}"
            )
            check_disk_space(self.folder, config)
            self._measure()
            self._write(replace=False)
            self.metrics.add(**self._position(), held_out_loss=self.state.held_out.get("last"))
        if self.world.leads:
            self.metrics.flush()
        self.clock_start = time.perf_counter() - self.state.seconds

    def _train(self, interruption: Interruption, display: TrainingDisplay) -> None:
        training, state = self.settings.training, self.state
        save_every = parse_duration(training.save_every)
        evaluate_every = parse_duration(training.evaluate_every)
        last_saved = last_measured = state.seconds
        non_finite = 0
        while self._progress() < 1.0 and not self.world.any(interruption.requested, self.device):
            progress = self._progress()
            rate, batch = self.schedule.learning_rate(progress), self._next_batch(progress)
            began = time.perf_counter()
            result = self.training_step.take(state.steps, state.sequences, batch, rate, lambda: interruption.requested)
            if result is None:
                break
            seconds = time.perf_counter() - began
            tokens = batch * self.corpus.train.sequence_length
            state.steps += 1
            state.sequences += batch
            state.tokens += tokens
            non_finite = 0 if result.applied else non_finite + 1
            self._tick()
            measured = {}
            if state.seconds - last_measured >= evaluate_every and self._progress() < 1.0:
                self._measure()
                measured = {"held_out_loss": state.held_out.get("last")}
                self._tick()
                last_measured = state.seconds
            self.metrics.add(
                **self._position(),
                loss=result.loss,
                learning_rate=rate,
                batch=batch,
                gradient_norm=result.gradient_norm,
                tokens_per_second=tokens / seconds,
                **measured,
            )
            self._note_step(result, non_finite)
            display.step(
                steps=state.steps,
                work=self._work(),
                loss=result.loss,
                held_out=state.held_out.get("last"),
                tokens=tokens,
                seconds=seconds,
                learning_rate=rate,
            )
            if state.seconds - last_saved >= save_every:
                self._save_on_the_way()
                self._tick()
                last_saved = state.seconds

    def _note_step(self, result: StepResult, non_finite: int) -> None:
        """Say that a step was skipped; give up, saving, when that goes on."""
        if result.applied:
            return
        self.state.skipped_steps += 1
        if non_finite == 1:
            note(f"Step {self.state.steps:,}: loss {result.loss}, gradient norm {result.gradient_norm}; skipped")
        if non_finite >= NON_FINITE_STEPS:
            self._save()
            raise ConfigError(
                f"training diverged: {non_finite} steps in a row up to step {self.state.steps:,} had no finite "
                f"loss or gradient; the last finite weights are in {self.folder}; "
                "lower training.peak_learning_rate"
            )

    def _next_batch(self, progress: float) -> int:
        """The schedule's batch, cut where the run's tokens end."""
        batch, training = self.schedule.batch(progress), self.settings.training
        if training.tokens:
            left = training.tokens - self.state.tokens
            batch = min(batch, math.ceil(left / self.corpus.train.sequence_length))
        return batch

    def _progress(self) -> float:
        """The share of the run that is done, as the schedule counts it."""
        return self.schedule.progress(self.state.steps, self.state.tokens, self.state.seconds)

    def _work(self) -> float:
        """The share of the run's computation that is done; early steps of a ramp are smaller than late ones."""
        length = self.corpus.train.sequence_length
        left = self.schedule.sequences_left(self.state.steps, self.state.tokens, length)
        if math.isnan(left):
            return self._progress()
        return self.state.sequences / max(1.0, self.state.sequences + left)

    def _tick(self) -> None:
        """Read the clock; all processes take the leading one's time."""
        seconds = time.perf_counter() - self.clock_start
        self.state.seconds = self.world.share([seconds], self.device)[0]

    def _position(self) -> dict[str, float]:
        return {"step": self.state.steps, "tokens": self.state.tokens, "seconds": round(self.state.seconds, 3)}

    def _measure(self) -> None:
        """The held-out loss, by the leading process."""
        if self.world.leads and len(self.held_out):
            batch = self.settings.training.micro_batch_size
            self.state.add_held_out(self.held_out.measure(self.model, batch, self.dtype))

    def _save_on_the_way(self) -> None:
        """A checkpoint that may fail: the run goes on and tries again later."""
        try:
            self._save()
        except OutputError as error:
            note(f"Not saved, will try again: {error}")

    def _save(self) -> None:
        """The checkpoint, in place of the one before it. Raises `OutputError`; the one before then stays."""
        if self.world.leads:
            self.metrics.flush()
            self._write(replace=True)

    def _write(self, *, replace: bool) -> None:
        if not self.world.leads:
            return
        state, config = self.state, self.model.config
        parameters = sum(p.numel() for p in self.model.parameters())
        precision = str(self.dtype).removeprefix("torch.")
        card = model_card(
            config,
            title=self.folder.absolute().name,
            origin=f"Pretrained from random weights by masked language modelling on the corpus "
            f"`{corpus_name(self.settings.data.corpus)}`. The settings of the run are in `{SETTINGS_FILE}`.",
            figures=card_figures(state, parameters, self.device.type, precision),
            command=f"ufbert pretrain --config {SETTINGS_FILE} --out NEW_FOLDER",
        )
        with write_folder(self.folder, replace=replace) as temporary:
            self.model.write(temporary, tokenizer=self.corpus.tokenizer, card=card)
            (temporary / SETTINGS_FILE).write_text(settings_to_toml(self.settings), encoding="utf-8")
            write_state(temporary, state, self.model, self.optimizer)
            if self.plot and replace:
                rows = read_metrics(self.metrics.file)
                draw_loss_curve(rows, temporary / LOSS_CURVE_FILE, self.folder.absolute().name)
        self.saved_step = state.steps
