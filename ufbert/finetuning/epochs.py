"""The course of a finetuning run: epochs of training and validation, each followed by a save.

What the rows are, how they are learned and judged, is said by `classification_run` and `tagging_run`.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from ufbert.errors import ConfigError
from ufbert.reporting import console, note
from ufbert.settings.sections import FinetuningSettings
from ufbert.system.atomic import write_folder
from ufbert.system.devices import autocast, choose_precision
from ufbert.training.display import duration
from ufbert.training.optimization import parameter_groups, set_learning_rate
from ufbert.training.schedules import warm_up_then_decay

from .class_report import ClassReport
from .model import LoadedModel
from .report import EpochReport, FinetuningDisplay, FinetuningReport
from .sequence_batches import Sequences, training_batches
from .task_data import TrainingData
from .tasks import Scores

__all__ = ["FinetuningRun"]

RECORDS_PER_EPOCH = 20
METRICS_FILE = "metrics.jsonl"


class FinetuningRun(abc.ABC):
    """A run: the model and its rows, trained epoch by epoch and saved after each."""

    label_kind = "classes"
    """What the names of labels are called."""

    def __init__(
        self,
        loaded: LoadedModel[Any],
        tokenizer: Tokenizer,
        data: TrainingData,
        settings: FinetuningSettings,
        device: torch.device,
        out: Path,
        source: str,
        command: str,
    ) -> None:
        model = loaded.model
        self.data, self.settings, self.out, self.source, self.command = data, settings, out, source, command
        self.tokenizer, self.device, self.head = tokenizer, device, loaded.head
        self.dtype = choose_precision(settings.precision, device)
        self.max_length = min(settings.max_length, model.config.max_position_embeddings)
        self.model = model.to(device)
        self.train_sequences = self._encode(data.train)
        self.validation_sequences: Sequence[Sequences] = [self._encode(split) for split in data.validation]
        self.steps_per_epoch = math.ceil(len(self.train_sequences) / settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        self.step = 0
        self.started = time.perf_counter()
        self.training_seconds = 0.0
        self.saved = False
        self.provenance = dict(model.config.provenance)
        self.best: EpochReport | None = None
        self.report = self._new_report()

    @abc.abstractmethod
    def _encode(self, split: Any) -> Sequences:
        """The tokens of a set of rows."""

    @abc.abstractmethod
    def _baseline(self) -> tuple[str, tuple[Scores, ...]]:
        """What is predicted without reading a text: its name, and its figures on every validation set."""

    @abc.abstractmethod
    def _loss(self, rows: npt.NDArray[np.int64], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of a training batch, the tokens of `rows`, on the device and under autocast."""

    @abc.abstractmethod
    def _validate(self) -> tuple[float, tuple[Scores, ...]]:
        """The mean loss over all validation sets, and the figures of each."""

    @abc.abstractmethod
    def _class_report(self) -> ClassReport | None:
        """The figures of each label, of what was last validated."""

    @abc.abstractmethod
    def _length_notes(self) -> list[str]:
        """What happens to rows that do not fit."""

    def _write_weights(self, folder: Path) -> None:
        """The model, without disturbing the one in training."""
        self.model.write(folder, tokenizer=self.tokenizer)

    def _new_report(self) -> FinetuningReport:
        data = self.data
        name, baseline = self._baseline()
        report = FinetuningReport(data, name, baseline, self.settings.keep, self.settings.epochs)
        report.record(
            event="start",
            task=data.name,
            train_rows=len(data.train),
            validation_rows={split.name: len(split) for split in data.validation},
            classes=data.label_names,
            baseline=report.by_split(baseline),
            steps=self.total_steps,
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
        )
        return report

    def introduce(self) -> None:
        """Say what is about to happen, and what the reader of the figures must know."""
        data = self.data
        classes = "values" if data.label_names is None else f"{self.label_kind} {', '.join(data.label_names[:10])}"
        if data.label_names is not None and len(data.label_names) > 10:
            classes += f" and {len(data.label_names) - 10} more"
        validation = " and ".join(f"{len(split):,} of {split.source}" for split in data.validation)
        note(
            f"{data.name}: {len(data.train):,} training rows of {data.train.source}, validation {validation}; {classes}"
        )
        precision = str(self.dtype).removeprefix("torch.")
        note(f"{self.source}: {self.head}; {self.total_steps:,} steps on {self.device.type} in {precision}")
        for text in (*self._length_notes(), *data.notes):
            note(f"note: {text}")

    def train(self) -> FinetuningReport:
        """All epochs. Raises `KeyboardInterrupt` once what there is has been saved."""
        settings, report = self.settings, self.report
        self.introduce()
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            fused=True,
        )
        self.started = time.perf_counter()
        try:
            with FinetuningDisplay(self.total_steps, settings.epochs) as display:
                for epoch in range(1, settings.epochs + 1):
                    started = time.perf_counter()
                    total = 0.0
                    for loss, rows in self._train_epoch(optimizer, epoch, display):
                        total += loss * rows
                    self.training_seconds += time.perf_counter() - started
                    display.validating(epoch)
                    loss, scores = self._validate()
                    if not math.isfinite(loss):
                        self._diverged(loss, self.step, "validation")
                    done = EpochReport(
                        epoch,
                        total / len(self.train_sequences),
                        loss,
                        scores,
                        self.data.measure.headline(scores),
                        time.perf_counter() - started,
                    )
                    self._finish(done)
                    display.epoch(report)
                    if report.stopped_early:
                        note(f"stopped after epoch {epoch}: {report.stop_words()}")
                        break
        except KeyboardInterrupt:
            if self.step == 0:
                note("interrupted before the first step; nothing is saved")
                raise
            report.interrupted_at = self.step
            report.record(event="interrupted", step=self.step)
            self._save(weights=report.kept is None)
            note(
                f"interrupted at step {self.step:,} of {self.total_steps:,}; saved to {self.out}: {report.kept_words()}"
            )
            raise
        console().print(report.table())
        ended = report.records[-1]
        note(f"{ended['step_seconds']:.4g} s a step, {duration(ended['seconds'])} in all with validation")
        note(f"saved to {self.out}: {report.kept_words()}")
        note(report.summary())
        return report

    def _train_epoch(
        self, optimizer: torch.optim.Optimizer, epoch: int, display: FinetuningDisplay
    ) -> Iterator[tuple[float, int]]:
        """Yield (mean loss of the batch, its rows)."""
        settings, config = self.settings, self.model.config
        generator = np.random.default_rng((settings.seed, epoch))
        interval = max(1, self.steps_per_epoch // RECORDS_PER_EPOCH)
        first = (epoch - 1) * self.steps_per_epoch
        recent: list[tuple[float, int]] = []
        began = time.perf_counter()
        self.model.train()
        batches = training_batches(self.train_sequences, settings.batch_size, generator)
        for step, rows in enumerate(batches, first + 1):
            share = warm_up_then_decay(
                step - 1, self.total_steps, warmup_fraction=settings.warmup_fraction, decay=settings.schedule
            )
            rate = settings.learning_rate * share
            set_learning_rate(rate, optimizer)
            batch = self.train_sequences.batch(rows.tolist(), config.pad_token_id, config.type_vocab_size > 1)
            with autocast(self.device, self.dtype):
                loss = self._loss(rows, {k: v.to(self.device) for k, v in batch.items()})
            value = float(loss.detach())
            if not math.isfinite(value):
                self._diverged(value, step)
            loss.backward()
            if settings.gradient_clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip)
            optimizer.step()
            self.step = step
            optimizer.zero_grad(set_to_none=True)
            recent.append((value, len(rows)))
            if step % interval == 0 or step == first + self.steps_per_epoch:
                now = time.perf_counter()
                count = sum(n for _, n in recent)
                mean = sum(v * n for v, n in recent) / count
                seconds = round(now - self.started, 3)
                self.report.record(event="step", epoch=epoch, step=step, loss=mean, learning_rate=rate, seconds=seconds)
                display.step(epoch, step, mean, count / max(1e-9, now - began))
                recent, began = [], now
            yield value, len(rows)

    def _diverged(self, loss: float, step: int, which: str = "training") -> None:
        kept = f"; {self.out} holds {self.report.kept_words()}" if self.report.kept is not None else ""
        raise ConfigError(
            f"the {which} loss became {loss} at step {step:,} of {self.total_steps:,}; lower "
            f"finetuning.learning_rate ({self.settings.learning_rate:g}) or set finetuning.gradient_clip{kept}"
        )

    def _finish(self, epoch: EpochReport) -> None:
        """Take an epoch into the report and save: its weights if they are to be kept, its figures always."""
        report = self.report
        keep = self.settings.keep == "last" or epoch.better_than(report.kept)
        previous = report.kept
        report.epochs.append(epoch)
        report.record_epoch(epoch)
        if keep:
            report.kept = epoch
        if epoch.better_than(self.best):
            self.best = epoch
        patience, waited = self.settings.patience, epoch.epoch - (self.best or epoch).epoch
        report.stopped_early = 0 < patience <= waited and epoch.epoch < self.settings.epochs
        if report.stopped_early or epoch.epoch == self.settings.epochs:
            self._record_end()
        try:
            self._save(weights=keep)
        except BaseException:
            report.kept = previous  # what the folder holds
            raise

    def _record_end(self) -> None:
        """The last line of metrics.jsonl, by which a complete run is told from an interrupted one."""
        kept = self.report.kept
        self.report.record(
            event="end",
            kept=None if kept is None else kept.epoch,
            steps=self.step,
            step_seconds=self.training_seconds / self.step,
            seconds=round(time.perf_counter() - self.started, 3),
        )

    def _save(self, *, weights: bool) -> None:
        kept = self.report.kept
        finetuning = {"task": self.data.name, "from": self.source, "epoch": None if kept is None else kept.epoch}
        config = self.model.config.replace(
            provenance={**self.provenance, "finetuning": finetuning}, architectures=(type(self.model).__name__,)
        )
        self.model.config = config
        with write_folder(self.out, replace=self.saved) as folder:
            if weights:
                self._write_weights(folder)
                if kept is not None and (classes := self._class_report()) is not None:
                    self.report.classes = classes
                    classes.write(folder)
            card = self.report.card(config, self.source, self.command)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / METRICS_FILE).write_text(self.report.metrics_lines(), encoding="utf-8")
        self.saved = True
