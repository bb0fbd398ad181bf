"""What a session of a run computes on, and what it means for the run when that changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["ComputedOn"]


@dataclass(frozen=True)
class ComputedOn:
    """Device, precision and processes of a session, none of which the settings fix."""

    device: str
    """`cpu` or `cuda`."""
    precision: str
    """Of matrix products: `float32`, `tf32` or `bfloat16`."""
    processes: int
    """Processes that share the micro-batches."""

    def to_dict(self) -> dict[str, Any]:
        """For the state of the run."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self | None:
        """What `to_dict` gave; None for an older run, which did not note it."""
        return cls(**values) if values else None

    def __str__(self) -> str:
        return f"{self.device}, {self.precision}, {self.processes} process{'es' if self.processes > 1 else ''}"

    def change_from(self, before: ComputedOn | None, dropout: float) -> str | None:
        """One line on what is no longer as it was in a run with that `dropout`; None if nothing changes."""
        if before is None or before == self:
            return None
        effects = []
        if before.precision != self.precision:
            effects.append(f"the precision changes ({_keep(before.precision)})")
        if dropout and (before.device, before.processes) != (self.device, self.processes):
            effects.append("dropout draws other numbers")
        effects.append("sums round differently")
        return (
            f"Computed on {before} until now, on {self} from here: {', '.join(effects)}; "
            "the order of the data and its masks stay"
        )


def _keep(precision: str) -> str:
    """How to go on in that precision."""
    if precision == "tf32":
        return "TF32 takes a GPU"
    return f"--set training.precision={precision} keeps {precision}"
