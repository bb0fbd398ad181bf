"""A run's folder: the checkpoint with its state and settings, exchanged as one; loss curve and report beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

from .html_report import REPORT_FILE, RunReport
from .kept_checkpoints import KeptCheckpoint, KeptCheckpoints, card_kept, keep_checkpoint, read_kept
from .loss_curve import LOSS_CURVE_FILE, draw_loss_curve
from .mask_examples import FilledMask
from .metrics import MetricsLog, read_metrics
from .report import card_health
from .run_folder import SETTINGS_FILE
from .run_pictures import Picture, draw_pictures
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
    examples: Callable[[], list[FilledMask]]
    """Gaps that the model fills now, for the report."""
    plot: bool
    """Whether to draw the loss curve and the pictures of the report."""
    leads: bool
    """Whether this process writes; the others' do nothing."""
    saved_step: int = field(init=False)
    """The step of the checkpoint on the disk."""

    _told: set[str] = field(init=False, default_factory=set)
    """Why there was no picture so far."""

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
            write_state(temporary, self.state, self.optimizer)
            rows: list[dict[str, Any]] = []
            with self._tolerate("No pictures"):
                rows = read_metrics(self.metrics.file)
            if self.plot and replace:
                with self._tolerate(f"No loss curve: {LOSS_CURVE_FILE} cannot be drawn", temporary / LOSS_CURVE_FILE):
                    draw_loss_curve(rows, temporary / LOSS_CURVE_FILE, self._title)
            with self._tolerate(f"No {REPORT_FILE}", temporary / REPORT_FILE):
                self._report(temporary / REPORT_FILE, rows, kept)
            # The report is linked if there is one, if need be that of the checkpoint before.
            reported = any((folder / REPORT_FILE).is_file() for folder in (temporary, self.folder))
            link = f"\nThe course of the run: [{REPORT_FILE}]({REPORT_FILE})\n" if reported else ""
            (temporary / "README.md").write_text(self._card(link + card_kept(kept)), encoding="utf-8")
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

    def _report(self, file: Path, rows: list[dict[str, Any]], kept: KeptCheckpoints) -> None:
        pictures: list[Picture] = []
        why = "Without pictures, as the run asks (--no-plot) or matplotlib is not there (pip install 'ufbert[plot]')."
        if self.plot:
            why = ""
            with self._tolerate(f"No pictures in {REPORT_FILE}: they cannot be drawn"):
                pictures = draw_pictures(rows, self._title)
        report = RunReport(self._title, self.settings, self.state, self.figures(), pictures, why, self.examples(), kept)
        file.write_text(report.html(), encoding="utf-8")

    @contextlib.contextmanager
    def _tolerate(self, what: str, file: Path | None = None) -> Iterator[None]:
        """Pictures for people; without them a checkpoint is as good. `file` is what the block makes."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  of matplotlib, its fonts, the disk: none is worth the run
            if file is not None:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            reason = f"{what}: {' '.join(str(error).split()) or type(error).__name__}"
            if reason not in self._told:
                note(reason)
            self._told.add(reason)

    @property
    def _title(self) -> str:
        return self.folder.absolute().name
