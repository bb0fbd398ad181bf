"""What takes turns with the rows of the table, to compare ours with dense layers of other widths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ufbert.benchmark.report.comparisons import DenseWidth, SharedPart
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Contestant

from .ladder import dense_width, rungs
from .preparation import Cell, Preparation, seconds_per_token
from .shared_part import parts, shared_parts

__all__ = ["Comparison"]


class Comparison:
    """At one dtype and batch size, with warm weights; empty unless ours and a dense layer are timed."""

    def __init__(
        self,
        preparation: Preparation,
        cell: Cell,
        contestants: Sequence[Contestant],
        settings: BenchmarkSettings,
        seconds: float,
    ) -> None:
        self._cell, self._settings = cell, settings
        self._ours = ours(contestants)
        self._dense = full_dense(contestants)
        self._ladder: list[Contestant] = []
        self._parts: list[Contestant] = []
        if not self._ours or not self._dense:
            return
        if settings.direction == "forward":
            self._ladder = rungs(preparation, cell, self._ours[0], self._dense, settings.shape, seconds)
        if settings.shape.shared_neurons:
            self._parts = parts(preparation, cell, self._ours[0], self._dense, settings.shape)

    def order(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """All that race, what is compared one after the other."""
        last = {id(contestant) for contestant in self._ours}
        others = [contestant for contestant in contestants if id(contestant) not in last]
        return [*others, *self._ladder, *self._ours, *self._parts]

    def dense_widths(self) -> list[DenseWidth]:
        """After the race."""
        if not self._ladder:
            return []
        return [dense_width(self._ours[0], self._ladder, self._dense, self._cell, self._settings.shape)]

    def shared_parts(self) -> list[SharedPart]:
        """After the race, of the module and of the packed layer."""
        return shared_parts(self._ours, self._parts, self._cell, self._settings) if self._parts else []


def ours(contestants: Iterable[Contestant]) -> list[Contestant]:
    """The module, and the packed layer where it is timed, which in int8 stands alone; empty without either."""
    found = {c.key[0].implementation.full_name: c for c in contestants if c.key[1] == "warm"}
    return [found[name] for name in ("fff/ufbert", "fff/ufbert-packed") if name in found]


def full_dense(contestants: Iterable[Contestant]) -> list[Contestant]:
    """The dense layers of the table in the precision of ours, the fastest first as calibrated."""
    found = []
    for contestant in contestants:
        entry, kind = contestant.key
        implementation = entry.implementation
        if (
            kind == "warm"
            and (implementation.layer, implementation.role) == ("ff", "subject")
            and not implementation.tf32
        ):
            found.append(contestant)
    return sorted(found, key=seconds_per_token)
