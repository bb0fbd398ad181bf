"""What a pretraining session did: for the person at the end of it, and for the model card."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ufbert.model.card import markdown_table
from ufbert.model.tree_health import HEALTH_COLUMNS, health_rows, summarise_health
from ufbert.training.display import duration
from ufbert.training.throughput import Throughput

from .computed_on import ComputedOn
from .mask_examples import FilledMask
from .state import TrainingState

__all__ = ["PretrainingReport", "card_figures", "card_health"]


@dataclass(frozen=True)
class PretrainingReport:
    """The end of a session of a run."""

    folder: Path
    state: TrainingState
    stopped_by: int = 0
    """Number of the signal that ended it before its time: SIGINT, which is Ctrl-C, or SIGTERM."""
    already_complete: bool = False
    """Whether there was nothing left to do."""
    files: tuple[str, ...] = ()
    """Beside the checkpoint."""
    examples: tuple[FilledMask, ...] = ()
    """Gaps that the model has filled."""
    hardware: str = ""
    """What share of the hardware the session has used, by `Throughput.describe`."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it before its time."""
        return self.stopped_by > 0

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 and the signal's number, else 0."""
        return 128 + self.stopped_by if self.stopped_by else 0

    def lines(self) -> list[str]:
        """The summary, line by line."""
        folder = shlex.quote(str(self.folder))
        state = self.state
        seen = f"{state.steps:,} steps, {state.tokens:,} tokens, {duration(state.seconds)}"
        if self.already_complete:
            return [f"{self.folder}: this run is complete ({seen}); nothing is left to resume"]
        if self.interrupted:
            return [
                f"Stopped after {seen}; saved in {self.folder}",
                f"Continue with: ufbert pretrain --resume --out {folder}",
            ]
        lines = [f"Trained: {seen} ({_speed(state):,.0f} tokens/s)"]
        if self.hardware:
            lines.append(f"Hardware: {self.hardware} (MFU, neurons on the path alone)")
        if state.held_out:
            lines.append(f"Held-out loss: {state.held_out['first']:.3f} before, {state.held_out['last']:.3f} after")
        if state.tree_health:
            lines.append(f"Trees: {summarise_health(state.tree_health)}")
        if state.skipped_steps:
            lines.append(f"Skipped: {state.skipped_steps:,} steps whose loss or gradient was not finite")
        lines.append(f"Saved: {self.folder} (checkpoint{''.join(f', {name}' for name in self.files)})")
        if self.examples:
            width = max(len(example.sentence) for example in self.examples)
            lines += ["", "The model fills masks:"]
            for example in self.examples:
                guesses = "  ".join(f"{token} {100 * share:.0f} %" for token, share in example.candidates)
                lines.append(f"  {example.sentence:<{width}}  {guesses}")
            sentence = shlex.quote(self.examples[0].sentence)
            lines += ["", f"Next: echo {sentence} | ufbert infer {folder} - --task fill-mask"]
        return lines


def card_figures(
    state: TrainingState, model: nn.Module, computed_on: ComputedOn, throughput: Throughput
) -> dict[str, str]:
    """Measured quantities with their units, for the model card."""
    figures = {
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "optimiser steps": f"{state.steps:,}",
        "tokens seen": f"{state.tokens:,}",
        "time": duration(state.seconds),
    }
    if state.tokens:
        figures["training speed"] = f"{_speed(state):,.0f} tokens/s"
    if throughput.tokens:
        figures["share of the hardware (MFU, neurons on the path alone)"] = throughput.describe()
    if state.held_out:
        figures["held-out loss before training"] = f"{state.held_out['first']:.4f} nats per masked token"
        figures["held-out loss"] = f"{state.held_out['last']:.4f} nats per masked token"
    if state.tree_health:
        figures["trees"] = summarise_health(state.tree_health)
    figures["computed on"] = f"{computed_on.device} ({platform.machine()}), {computed_on.precision}"
    return figures


def card_health(state: TrainingState) -> str:
    """The section of the model card on the trees of each layer; empty without trees."""
    if not state.tree_health:
        return ""
    tokens = state.tree_health[0]["tokens"]
    return (
        f"\n## Tree health\n\nWhere {tokens:,} tokens of the held-out text go; in brackets what as many tokens would "
        "give if every leaf were equally likely. A dead subtree has two leaves or more, none of them reached.\n\n"
        + markdown_table(HEALTH_COLUMNS, health_rows(state.tree_health))
    )


def _speed(state: TrainingState) -> float:
    return state.tokens / max(1e-9, state.seconds)
