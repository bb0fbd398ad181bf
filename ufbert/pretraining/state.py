"""The state of a pretraining run beside its weights: the folder `training/` of a checkpoint.

`state.json` holds where the run is, `optimizer.safetensors` AdamW's moments. No random number generator is
kept: what is random in a step follows from the seed, the step's number and the numbers of its sequences.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ufbert.checkpoint.folder import read_json, write_tensors
from ufbert.errors import CheckpointError
from ufbert.training.optimization import named_parameters

__all__ = ["STATE_FILE", "TrainingState", "load_optimizer", "read_state", "write_state"]

FOLDER = "training"
STATE_FILE = f"{FOLDER}/state.json"
OPTIMIZER_FILE = f"{FOLDER}/optimizer.safetensors"


@dataclass(kw_only=True)
class TrainingState:
    """Where a run is."""

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Names the run where others keep count of runs."""
    corpus: str = ""
    """Fingerprint of the token blocks."""
    steps: int = 0
    """Optimiser steps done, the skipped ones included."""
    sequences: int = 0
    """Sequences seen, which is also the position in the data."""
    tokens: int = 0
    """Tokens seen."""
    seconds: float = 0.0
    """Time spent in the run, over all its sessions, measuring and saving included."""
    skipped_steps: int = 0
    """Steps left out because their loss or gradient was not finite."""
    sessions: int = 1
    """Times the run was started or resumed."""
    computed_on: dict[str, Any] = field(default_factory=dict)
    """What the last session ran on: `device`, `precision` and `processes`. Empty in older runs."""
    held_out: dict[str, float] = field(default_factory=dict)
    """Held-out loss: `first`, `last` and `best`."""
    measured_step: int = -1
    """The step after which the last measurement was made; -1 before there was one."""
    tree_health: list[dict[str, Any]] = field(default_factory=list)
    """Of the last measurement, by layer; empty in a model without trees."""
    complete: bool = False
    """Whether the run has come to its end."""

    def add_held_out(self, loss: float, tree_health: list[dict[str, Any]]) -> None:
        """Note a measurement of the weights as they are."""
        self.measured_step = self.steps
        self.tree_health = tree_health
        self.held_out.setdefault("first", loss)
        self.held_out["last"] = loss
        self.held_out["best"] = min(loss, self.held_out.get("best", loss))


def read_state(run: Path) -> tuple[TrainingState, dict[str, dict[str, Any]] | None]:
    """The state in the folder of a run, and the settings that older runs keep in it, else None.

    Raises `CheckpointError` if the folder holds none.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such folder, so there is no run to resume")
    file = run / STATE_FILE
    if not file.is_file():
        raise CheckpointError(f"{run}: holds no pretraining run to resume (no {STATE_FILE})")
    values = read_json(file)
    settings = values.pop("settings", None)
    try:
        return TrainingState(**values), settings
    except TypeError as error:
        raise CheckpointError(f"{file}: not the state of a run by this version: {error}") from error


def write_state(folder: Path, state: TrainingState, optimizer: torch.optim.Optimizer) -> None:
    """Write `training/` into a folder that exists."""
    (folder / FOLDER).mkdir()
    content = json.dumps(dataclasses.asdict(state), indent=2) + "\n"
    (folder / STATE_FILE).write_text(content, encoding="utf-8")
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in named_parameters(optimizer).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    write_tensors(tensors, folder / OPTIMIZER_FILE)


def load_optimizer(run: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give `optimizer` the moments it had. Raises `CheckpointError` for a file that does not fit the model."""
    file = run / OPTIMIZER_FILE
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: missing or damaged: {error}; the run cannot be resumed") from error
    parameters = named_parameters(optimizer)
    for key, value in tensors.items():
        name, _, kind = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise CheckpointError(f"{file}: {key} does not fit the model in {run}")
        # A fused optimiser wants its step count where the parameter is.
        optimizer.state[parameter][kind] = value.to(parameter.device)
