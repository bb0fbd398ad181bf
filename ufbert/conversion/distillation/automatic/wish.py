"""What the choice is for, `--speed` or `--keep` or both, and the choice by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ufbert.conversion.student import StudentRequest, name_layers
from ufbert.errors import ConfigError

from .choice import Option, furthest, least_error, walk
from .times import MeasuredTimes

__all__ = ["Choice", "Wish"]

Choice = tuple[Option, ...]
"""An option for each layer in question."""


@dataclass(frozen=True)
class Wish:
    """Raises `ConfigError` at once for a speed that no shapes reach."""

    request: StudentRequest
    times: MeasuredTimes
    before: Sequence[str]
    """The shapes of all layers of the original."""
    layers: Sequence[int]
    """Those in question."""

    def __post_init__(self) -> None:
        speed = self.request.speed
        if speed is None or self._whole / speed >= self._rest:
            return
        # Downwards, so that what is said can be had.
        largest = math.floor(100 * self._whole / self._rest) / 100
        where = "" if len(self.layers) == len(self.before) else f" in the layers {name_layers(tuple(self.layers))}"
        raise ConfigError(
            f"--speed {speed:g}x: without feedforward layers{where} the model would be {largest:.2f} times as fast; "
            f"give at most --speed {largest:.2f}x, or leave out whole layers with --drop-layers"
        )

    def choose(
        self, options: Sequence[Sequence[Option]], quality: Callable[[Choice], float] | None
    ) -> tuple[Choice, float | None, str]:
        """One of `options` for each layer, the quality expected before training, and which wish it goes by.

        `quality` measures a choice, and is there where a quality is to be kept. Raises `ConfigError` if none is enough.
        """
        keep, speed = self.request.keep, self.request.speed
        fast: Choice | None = None
        if speed is not None:
            fast = least_error(options, self._whole / speed - self._rest)
            assert fast is not None
            if keep is None or quality is None:
                return fast, None, f"Chosen for --speed {speed:g}x: {self._promise(fast)}"
        assert keep is not None
        assert quality is not None
        beside = ""
        if fast is not None:
            kept = quality(fast)
            if kept >= keep:
                binds = f"Chosen for --speed {speed:g}x, which binds before --keep {keep:g}: "
                return fast, kept, binds + self._promise(fast, kept)
            beside = f", which binds before --speed {speed:g}x (that would keep {kept:.4f} before training)"
        steps = walk(options)
        if len(steps) == 1:
            raise ConfigError(f"--keep {keep:g}: no shape of any layer is faster than what the model has")
        measured = {0: 1.0}

        def keeps(step: int) -> bool:
            measured[step] = quality(steps[step])
            return measured[step] >= keep

        last = furthest(len(steps), keeps)
        if not last:
            raise ConfigError(
                f"--keep {keep:g}: with the least change, one layer of {self._smallest(steps)}, the model keeps "
                f"{measured[1]:.4f} before training; give at most --keep {math.floor(1e4 * measured[1]) / 1e4:g}, or "
                "--speed"
            )
        binds = f"Chosen for --keep {keep:g}{beside}: "
        return steps[last], measured[last], binds + self._promise(steps[last], measured[last])

    @property
    def _whole(self) -> float:
        """Microseconds a token of the original."""
        return self.times.estimate(self.before, self.before)

    @property
    def _rest(self) -> float:
        """What the layers in question cannot save."""
        return max(0.0, self._whole - sum(self.times.shapes[self.before[layer]] for layer in self.layers))

    def _promise(self, chosen: Choice, kept: float | None = None) -> str:
        """The speed, and what is kept."""
        estimated = self._rest + sum(option.microseconds for option in chosen)
        speed = f"estimated to be {self._whole / max(estimated, 1e-9):.2f} times as fast as the original"
        return speed if kept is None else f"{speed}, and to keep {kept:.4f} before training"

    def _smallest(self, steps: Sequence[Choice]) -> str:
        """The shape that the first step gives a layer."""
        before, after = steps[:2]
        return next(new.shape for old, new in zip(before, after, strict=True) if old != new)
