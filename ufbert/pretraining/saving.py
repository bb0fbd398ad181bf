"""A run's folder: the checkpoint with its state and settings, exchanged as one; the loss curve beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ufbert.errors import OutputError
from ufbert.model.card import model_card
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.reporting import note
from ufbert.settings.sections import Settings
from ufbert.settings.toml import settings_to_toml
from ufbert.system.atomic import write_folder
from ufbert.text.corpus_sources import corpus_name

from .kept_checkpoints import KeptCheckpoint, KeptCheckpoints, card_kept, keep_checkpoint, read_kept
from .loss_curve import LOSS_CURVE_FILE, draw_loss_curve
from .metrics import MetricsLog, read_metrics
from .report import card_health
from .run_folder import SETTINGS_FILE
from .state import TrainingState, write_state

__all__ = ["CheckpointWriter"]


@dataclass
class CheckpointWriter:
    """Writes what a run has come to."""

    folder: Path
    settings: Settings
    state: TrainingState
    model: UltraFastBertForMaskedLM
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    metrics: MetricsLog
    figures: Callable[[], dict[str, str]]
    """What has been measured so far, for the model card."""
    plot: bool
    """Whether to draw the loss curve."""
    leads: bool
    """Whether this process writes; the others' do nothing."""
    saved_step: int = field(init=False)
    """The step of the checkpoint on the disk."""

    _told: str = field(init=False, default="")
    """Why there was no picture last time."""

    def __post_init__(self) -> None:
        self.saved_step = self.state.steps

    def create(self) -> None:
        """The folder of a new run with its first checkpoint. Raises `OutputError`, also if it exists."""
        self._write(replace=False)

    def save(self) -> None:
        """The checkpoint, in place of the one before it. Raises `OutputError`; the one before then stays."""
        if self.leads:
            self.metrics.flush()
        self._write(replace=True)

    def save_last(self) -> None:
        """The checkpoint that ends a session. Raises `OutputError` that names the one before, which stays."""
        try:
            self.save()
        except OutputError as error:
            raise OutputError(
                f"{error}; the checkpoint of step {self.saved_step:,} stays, continue it with --resume"
            ) from error

    def save_on_the_way(self) -> None:
        """A checkpoint that may fail: the run goes on and tries again later."""
        try:
            self.save()
        except OutputError as error:
            note(f"Not saved, will try again: {error}")

    def _write(self, *, replace: bool) -> None:
        if not self.leads:
            return
        with write_folder(self.folder, replace=replace) as temporary:
            self.model.write(temporary, tokenizer=self.tokenizer)
            (temporary / SETTINGS_FILE).write_text(settings_to_toml(self.settings), encoding="utf-8")
            kept = self._keep(temporary)
            (temporary / "README.md").write_text(self._card(card_kept(kept)), encoding="utf-8")
            write_state(temporary, self.state, self.model, self.optimizer)
            if self.plot and replace:
                self._draw(temporary / LOSS_CURVE_FILE)
        self.saved_step = self.state.steps

    def _keep(self, temporary: Path) -> KeptCheckpoints:
        """The checkpoints that the new folder has beside its own; of random weights none."""
        state, count = self.state, self.settings.training.keep_checkpoints
        if not count or not state.steps:
            return read_kept(self.folder)
        loss = state.held_out["last"] if state.measured_step == state.steps else None
        return keep_checkpoint(temporary, self.folder, KeptCheckpoint(state.steps, loss), count, self._card())

    def _card(self, sections: str = "") -> str:
        return model_card(
            self.model.config,
            title=self._title,
            origin=f"Pretrained from random weights by masked language modelling on the corpus "
            f"`{corpus_name(self.settings.data.corpus)}`. The settings of the run are in `{SETTINGS_FILE}`.",
            figures=self.figures(),
            command=f"ufbert pretrain --config {SETTINGS_FILE} --out NEW_FOLDER",
            sections=card_health(self.state) + sections,
        )

    def _draw(self, file: Path) -> None:
        """The loss curve; without one a checkpoint is as good."""
        try:
            draw_loss_curve(read_metrics(self.metrics.file), file, self._title)
        except Exception as error:  # noqa: BLE001  of matplotlib, its fonts, the disk: none is worth the run
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            reason = " ".join(str(error).split()) or type(error).__name__
            if reason != self._told:
                note(f"No loss curve: {LOSS_CURVE_FILE} cannot be drawn: {reason}")
            self._told = reason

    @property
    def _title(self) -> str:
        return self.folder.absolute().name
