"""The runs of a recipe: an ordinary run of pretraining for each variant and seed, in a folder of its own.

FOLDER/runs/1x8/seed-1/         the run, as `ufbert pretrain` makes it
FOLDER/runs/1x8/seed-1.toml     its settings, as it was started with them
FOLDER/runs/1x8/seed-1.log      what it said
FOLDER/runs/1x8/seed-1.json     its loss over all of the held-out text
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ufbert.pretraining.run_folder import look_at_run
from ufbert.pretraining.state import TrainingState
from ufbert.settings.sections import Settings
from ufbert.settings.toml import settings_to_toml
from ufbert.system.atomic import write_file

from .recipe import Recipe, Variant

__all__ = ["QualityRun", "find_runs"]


@dataclass(frozen=True)
class QualityRun:
    """One variant with one seed."""

    variant: Variant
    seed: int
    folder: Path
    settings: Settings
    state: TrainingState | None
    """None before it has begun."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant.name} seed {self.seed}"

    @property
    def complete(self) -> bool:
        """Whether it has seen all its tokens."""
        return self.state is not None and self.state.complete

    @property
    def share_done(self) -> float:
        """Of its tokens, at its last checkpoint."""
        return 0.0 if self.state is None else min(1.0, self.state.tokens / self.settings.training.tokens)

    def beside(self, suffix: str) -> Path:
        """A file beside its folder."""
        return self.folder.with_name(f"{self.folder.name}{suffix}")

    def command(self) -> list[str]:
        """Begins or continues it; writes its settings down first."""
        file = self.beside(".toml")
        with write_file(file, replace=True) as temporary:
            temporary.write_text(settings_to_toml(self.settings), encoding="utf-8")
        command = [sys.executable, "-m", "ufbert", "pretrain", "--config", str(file), "--out", str(self.folder)]
        return command if self.state is None else [*command, "--resume"]


def find_runs(recipe: Recipe, root: Path, widths: Mapping[str, int], variants: Iterable[Variant]) -> list[QualityRun]:
    """The runs of `variants` as they are on disk, first seeds first, so that every variant has one early.

    `widths` are those of the dense layers that were found; variants that lack theirs are left out. Raises
    `ConfigError` for a run of other settings than the recipe's.
    """
    runs = []
    for seed in recipe.quality.seeds:
        for variant in variants:
            if variant.time_of and variant.name not in widths:
                continue
            settings = variant.of(seed, widths.get(variant.name))
            folder = root / "runs" / variant.folder / f"seed-{seed}"
            runs.append(QualityRun(variant, seed, folder, settings, look_at_run(folder, settings)))
    return runs
