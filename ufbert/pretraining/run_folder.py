"""Which folder a pretraining run lives in, and whether it begins there or goes on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufbert.errors import CheckpointError, ConfigError, OutputError
from ufbert.settings.toml import Settings, differences, load_settings, settings_from_dict
from ufbert.system.atomic import check_new

from .initial_checkpoint import with_initial_checkpoint
from .state import STATE_FILE, TrainingState, read_state

__all__ = ["SETTINGS_FILE", "RunPlan", "look_at_run", "plan_run"]

SETTINGS_FILE = "settings.toml"
"""All settings of a run, in its folder."""
DEFAULT_FOLDER = Path("runs/pretrain")
# What may differ when a run goes on: it says where and how often, not what is computed.
FREE = {
    "training.device",
    "training.save_every",
    "training.keep_checkpoints",
    "training.loggers",
    "training.evaluate_every",
    "data.workers",
    "data.cache_dir",
}
# Sections that a run of pretraining does not read.
OTHER_SECTIONS = ("finetuning.", "distillation.", "inference.")


@dataclass
class RunPlan:
    """A run about to begin or to go on."""

    folder: Path
    settings: Settings
    state: TrainingState
    resumed: bool


def plan_run(
    folder: Path | None = None,
    *,
    resume: bool = False,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> RunPlan:
    """A new run in `folder`, or the run there that goes on with `resume`; nothing is written yet.

    Without a folder, a new run takes the first free one of `runs/pretrain`, `runs/pretrain-2`, ..., and
    `resume` the last of those. The other arguments are those of `load_settings`. A resumed run keeps its
    own settings; `./ufbert.toml` has no say in it, and the other arguments may repeat them.

    Raises `OutputError` if a new run's folder exists, `CheckpointError` if there is no run to resume, and
    `ConfigError` for settings that cannot be, or differ from those of the run to resume.
    """
    if not resume:
        settings = with_initial_checkpoint(load_settings(config, overrides, options=options, preset=preset), overrides)
        chosen = _free_folder() if folder is None else folder
        if (chosen / STATE_FILE).is_file():
            raise OutputError(f"{chosen}: holds a run already; continue it with --resume, or choose another --out")
        check_new(chosen, "run")
        return RunPlan(chosen, settings, TrainingState(), False)
    chosen = _last_folder() if folder is None else folder
    state, older_settings = read_state(chosen)
    stored = _stored_settings(chosen, older_settings)
    settings = load_settings(config, overrides, options=options, base=stored, preset=preset)
    _check_same(chosen, stored, settings, state)
    return RunPlan(chosen, settings, state, True)


def look_at_run(folder: Path, settings: Settings) -> TrainingState | None:
    """The state of the run in `folder`, which was to have these settings; None if there is no run.

    Raises `ConfigError` for a run of other settings, `CheckpointError` for one that cannot be read.
    """
    if not (folder / STATE_FILE).is_file():
        return None
    state, older_settings = read_state(folder)
    _check_same(folder, _stored_settings(folder, older_settings), settings, state)
    return state


def _check_same(folder: Path, stored: Settings, settings: Settings, state: TrainingState) -> None:
    """Raise `ConfigError` if a run of the `stored` settings cannot go on with these."""
    for key, (old, new) in differences(stored, settings).items():
        # What `auto` has meant so far may be named, to keep it on another machine.
        same = key == "training.precision" and old == "auto" and new == state.computed_on.get("precision")
        if key not in FREE and not same and not key.startswith(OTHER_SECTIONS):
            raise ConfigError(
                f"{folder}: this run has {key} = {old!r}, not {new!r}; resume it without that change, "
                "or start another run with another --out"
            )


def _stored_settings(run: Path, older: dict[str, dict[str, Any]] | None) -> Settings:
    """The settings of a run; `older` runs kept them in their state. Raises `CheckpointError` if there are none."""
    file = run / SETTINGS_FILE
    if older is not None:
        # They were made before there was a choice, when torch's default was theirs.
        older.setdefault("training", {}).setdefault("tf32", False)
        return settings_from_dict(older, str(run / STATE_FILE))
    if not file.is_file():
        raise CheckpointError(f"{file}: missing, so the run cannot be resumed")
    return load_settings(file, base=Settings())


def _free_folder() -> Path:
    names = itertools.chain([DEFAULT_FOLDER], (_numbered(n) for n in itertools.count(2)))
    return next(path for path in names if not path.exists() and not path.is_symlink())


def _last_folder() -> Path:
    runs = []
    for path in DEFAULT_FOLDER.parent.glob(f"{DEFAULT_FOLDER.name}*"):
        match = re.fullmatch(rf"{DEFAULT_FOLDER.name}(?:-(\d+))?", path.name)
        if match and (path / STATE_FILE).is_file():
            runs.append((int(match[1] or 1), path))
    if not runs:
        raise CheckpointError(f"{DEFAULT_FOLDER}: no such run to resume; name its folder with --out")
    return max(runs)[1]


def _numbered(number: int) -> Path:
    return DEFAULT_FOLDER.with_name(f"{DEFAULT_FOLDER.name}-{number}")
