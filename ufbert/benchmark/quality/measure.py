"""The held-out loss of finished runs: over all of the held-out text, with the same masks for all, measured once."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import torch

from ufbert.checkpoint.folder import read_json
from ufbert.errors import CheckpointError
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.pretraining.held_out import HeldOut
from ufbert.pretraining.run_model import run_masking
from ufbert.reporting import note
from ufbert.settings.sections import Settings
from ufbert.system.atomic import write_file
from ufbert.system.devices import choose_device
from ufbert.text.corpus import PreparedCorpus

from .runs import QualityRun

__all__ = ["Losses", "Measured"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of a finished run."""

    run_id: str
    """Of the run that was measured; another one in its folder is measured anew."""
    corpus: str
    """Fingerprint of its tokens."""
    loss: float
    """Mean cross-entropy in nats over the masked positions of the held-out text, in float32."""
    blocks: int
    """Of the held-out text."""
    tokens: int
    """That it has seen."""
    seconds: float
    """That it took."""
    parameters: int
    neurons_used: int
    """By a token in each layer; the mean of layers that differ."""
    neurons_available: int
    """In each layer, or the mean of layers that differ."""


class Losses:
    """Measures runs, with the masked text at hand from the first one that needs it."""

    def __init__(self, corpus: PreparedCorpus, settings: Settings) -> None:
        self.corpus, self.settings = corpus, settings
        self._held_out: HeldOut | None = None

    def measure(self, run: QualityRun) -> Measured:
        """The measured values of a complete run, from beside it or anew. Raises `CheckpointError`."""
        assert run.state is not None
        file = run.beside(".json")
        stored = read_json(file) if file.is_file() else {}
        known = stored.keys() == {f.name for f in dataclasses.fields(Measured)}
        if known and (stored["run_id"], stored["corpus"]) == (run.state.run_id, self.corpus.fingerprint):
            return Measured(**stored)
        if run.state.corpus != self.corpus.fingerprint:
            raise CheckpointError(
                f"{run.folder}: was trained on other tokens than the recipe's corpus gives now; bring the corpus back, "
                "or begin anew with another --out"
            )
        note(f"{run.name}: measuring the loss on {len(self.corpus.validation):,} held-out blocks")
        device = choose_device(run.settings.training.device)
        model = UltraFastBertForMaskedLM.from_pretrained(run.folder).to(device)
        config = model.config
        loss = self.held_out().measure(model, run.settings.training.micro_batch_size, torch.float32)
        measured = Measured(
            run_id=run.state.run_id,
            corpus=self.corpus.fingerprint,
            loss=loss.loss,
            blocks=len(self.corpus.validation),
            tokens=run.state.tokens,
            seconds=run.state.seconds,
            parameters=sum(p.numel() for p in model.parameters()),
            neurons_used=config.neurons_used,
            neurons_available=config.neurons_available,
        )
        with write_file(file, replace=True) as temporary:
            temporary.write_text(json.dumps(vars(measured), indent=2) + "\n", encoding="utf-8")
        return measured

    def held_out(self) -> HeldOut:
        """All blocks, masked as at every measurement of a run."""
        if self._held_out is None:
            masking = run_masking(self.settings, self.corpus.tokenizer)
            self._held_out = HeldOut(self.corpus.validation, 0, masking)
        return self._held_out
