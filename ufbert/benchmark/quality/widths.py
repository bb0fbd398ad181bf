"""The width of a dense layer that takes the time of another layer: found by timing whole encoders, then kept.

FOLDER/widths.json    by variant: the width, and the times that led to it
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ufbert.benchmark.machine.description import cpu_times, foreign_share
from ufbert.checkpoint.folder import read_json
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.pretraining.run_model import run_config
from ufbert.reporting import note
from ufbert.system.atomic import write_file
from ufbert.system.resources import available_cores
from ufbert.text.corpus import PreparedCorpus

from .recipe import Recipe, Variant
from .speed import busy, time_encoders

__all__ = ["STEP", "find_width", "known_widths", "settle_width"]

WIDTHS_FILE = "widths.json"
STEP = 8
"""Widths are multiples of this."""
MOST = 1 << 16
# Races of a search, of which the last gets as long as the others together.
RACES = 12

Measure = Callable[[list[int], float], tuple[float, dict[int, float]]]
"""Widths and seconds -> microseconds a token of the layer to meet, and of the dense layers of these widths."""


def known_widths(root: Path) -> dict[str, int]:
    """By variant, the widths that were found before. Raises `CheckpointError` for a damaged file."""
    return {name: int(entry["width"]) for name, entry in _read(root).items()}


def settle_width(recipe: Recipe, variant: Variant, root: Path, corpus: PreparedCorpus, trained: Path | None) -> int:
    """Find the width of a variant `dense:time:NAME` and write it into the folder of the recipe.

    `trained` is a finished run of NAME, whose trees are used as training has left them; without one, random
    weights stand in for it.
    """
    speed, target = recipe.speed, recipe.variants[variant.time_of]
    note(f"{variant.name}: timing encoders in {speed.precision} for the width that takes the time of {target.name}")
    with tempfile.TemporaryDirectory(prefix="ufbert-widths-") as temporary:
        folder = Path(temporary)

        def random_encoder(config: UltraFastBertConfig, name: str) -> Path:
            if not (folder / name).exists():
                _random_model(config).save_pretrained(folder / name, tokenizer=corpus.tokenizer)
            return folder / name

        met = trained or random_encoder(run_config(target.settings, corpus.tokenizer), "target")
        dense = run_config(variant.settings, corpus.tokenizer)

        def measure(widths: list[int], seconds: float) -> tuple[float, dict[int, float]]:
            folders = {"target": met}
            folders |= {str(w): random_encoder(dense.replace(intermediate_size=w), str(w)) for w in widths}
            timings = time_encoders(folders, [speed.precision], corpus.validation, speed, seconds)
            taken = {name: timing.microseconds for (name, _), timing in timings.items()}
            return taken["target"], {w: taken[str(w)] for w in widths}

        before = cpu_times()
        width, target_time, times = find_width(measure, speed.seconds)
        others = foreign_share(before, cpu_times())
    entry = {
        "width": width,
        "time_of": target.name,
        "trained": trained is not None,
        "precision": speed.precision,
        "batch": speed.batch,
        "threads": speed.threads or available_cores(),
        "others_during": others,
        "microseconds_per_token": {"target": target_time, **{str(w): taken for w, taken in times.items()}},
    }
    root.mkdir(parents=True, exist_ok=True)
    with write_file(root / WIDTHS_FILE, replace=True) as new:
        new.write_text(json.dumps({**_read(root), variant.name: entry}, indent=2) + "\n", encoding="utf-8")
    note(
        f"{variant.name}: {width} neurons, {times[width]:.2f} us a token against {target_time:.2f} of {target.name}"
        + ("; no width is narrower" if width == STEP and times[width] > target_time else "")
    )
    if said := busy(others):
        note(f"warning: the machine was busy meanwhile: {said}; without {root / WIDTHS_FILE} it is searched again")
    return width


def find_width(measure: Measure, seconds: float) -> tuple[int, float, dict[int, float]]:
    """(width, the target's time, times of the last widths): the widest multiple of 8 that takes no longer.

    Doubles the width until it takes longer than the target, halves the interval, and lets the ends of the last
    interval and their neighbours race for half of the time; wider ones too, as long as the widest takes no longer.
    A single timing may err, and where widths hardly differ in time the widest is the fair one to compare trees with.
    """
    share = seconds / 2 / RACES

    def too_long(width: int) -> bool:
        target, times = measure([width], share)
        return times[width] > target

    low, high = 0, STEP
    while high < MOST and not too_long(high):
        low, high = high, 2 * high
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (low, middle) if too_long(middle) else (middle, high)
    last = [width for width in range(low - STEP, high + STEP + 1, STEP) if width > 0]
    while True:
        target, times = measure(last, seconds / 2)
        widest = max((width for width in last if times[width] <= target), default=last[0])
        if widest < last[-1] or widest >= MOST:
            return widest, target, times
        last = [widest + step * STEP for step in range(len(last))]


def _random_model(config: UltraFastBertConfig) -> UltraFastBertModel:
    torch.manual_seed(0)
    model = UltraFastBertModel(config).eval()
    for module in model.modules():
        if isinstance(module, FFF):  # else all tokens of an untrained tree turn alike
            torch.nn.init.normal_(module.b_in, std=config.initializer_range)
    return model


def _read(root: Path) -> Mapping[str, Any]:
    return read_json(root / WIDTHS_FILE) if (root / WIDTHS_FILE).is_file() else {}
