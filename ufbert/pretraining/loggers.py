"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard and Weights & Biases, through their own writers.

A run that goes on continues what is there: TensorBoard drops what came after the checkpoint, Weights & Biases goes on
under the run's id.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ufbert.errors import MissingExtraError
from ufbert.reporting import note
from ufbert.settings.sections import Settings
from ufbert.settings.toml import settings_to_dict

from .state import TrainingState

__all__ = ["TENSORBOARD_FOLDER", "Loggers", "open_loggers", "require_loggers"]

TENSORBOARD_FOLDER = "tensorboard"
"""Of the event files, in the folder of the run."""
PROJECT = "ufbert"


class Logger(Protocol):
    """A writer of somebody else's."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """What was measured after a step."""

    def flush(self) -> None:
        """Bring what waits to the disk."""

    def close(self) -> None:
        """Nothing follows."""


class TensorBoardLogger:
    """Event files in `tensorboard/` of the run's folder: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path, settings: Settings, state: TrainingState) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = state.steps + 1 if state.steps else None
        self.writer: Any = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=purge)

    def log(self, step: int, values: dict[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Before the folder is exchanged."""
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandbLogger:
    """A run of Weights & Biases, in `./wandb` and, unless `WANDB_MODE=offline`, on their servers."""

    def __init__(self, folder: Path, settings: Settings, state: TrainingState) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=PROJECT,
            name=folder.absolute().name,
            id=state.run_id,
            resume="allow",
            config=settings_to_dict(settings),
        )
        # Their own count of calls must rise, and would drop what a resumed run computes again.
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        """All values at once."""
        self.run.log({"step": step, **values})

    def flush(self) -> None:
        """Their own process writes."""

    def close(self) -> None:
        """Wait until all is written or sent."""
        self.run.finish()


# By the name in `training.loggers`, which is also the package's and the extra's.
LOGGERS: dict[str, Callable[[Path, Settings, TrainingState], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


class Loggers:
    """All that a run has; one that fails is told and left out, for it is not worth the run."""

    def __init__(self) -> None:
        self.open: dict[str, Logger] = {}

    def log(self, row: dict[str, Any]) -> None:
        """A row of the metrics."""
        if self.open:
            values = _scalars(row)
            self._each(lambda logger: logger.log(row["step"], values))

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        """Nothing follows."""
        self._each(lambda logger: logger.close())
        self.open.clear()

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self.open.items()):
            try:
                act(logger)
            except Exception as error:  # noqa: BLE001  of foreign software, the network, the disk
                reason = " ".join(str(error).split()) or type(error).__name__
                note(f"training.loggers: {name} has failed and gets no more of this session: {reason}")
                del self.open[name]


def require_loggers(names: Sequence[str]) -> None:
    """Raise `MissingExtraError` for the first that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, name, f"training.loggers = {name}")


def open_loggers(loggers: Loggers, folder: Path, settings: Settings, state: TrainingState) -> None:
    """Begin, or continue after the step of `state`, what `training.loggers` names; `folder`, the run's, is there."""
    for name in settings.training.loggers:
        try:
            loggers.open[name] = LOGGERS[name](folder, settings, state)
        except Exception as error:  # noqa: BLE001  as above: no login, no network, no space
            reason = " ".join(str(error).split()) or type(error).__name__
            note(f"training.loggers: {name} cannot begin and gets nothing of this session: {reason}")


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row by name; those of a layer's trees as `trees/used_leaves/layer_1`."""
    values = {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}
    for layer in row.get("tree_health", ()):
        for name in ("used_leaves", "entropy_bits", "dead_subtrees"):
            values[f"trees/{name}/layer_{layer['layer'] + 1}"] = float(layer[name])
        for level, share in enumerate(layer["right_share_by_level"], 1):
            values[f"trees/right_share/layer_{layer['layer'] + 1}/level_{level}"] = float(share)
    return {name: value for name, value in values.items() if math.isfinite(value)}
