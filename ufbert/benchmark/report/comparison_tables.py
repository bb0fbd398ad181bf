"""The tables of ours beside dense layers of other widths."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ufbert.benchmark.settings import Shape
from ufbert.benchmark.timing import Spread

from .cells import significant
from .comparisons import DenseWidth, SharedPart, Timed

__all__ = ["shared_table", "width_table"]


def width_table(entries: Sequence[DenseWidth], shape: Shape) -> Table:
    """How many dense neurons take the time of ours, a row for each batch size."""
    table = Table(
        title=f"In dense neurons, {entries[0].dtype}, one layer over and over, {shape.name} at hidden size "
        f"{shape.hidden_size:,}",
        title_justify="left",
        caption_justify="left",
    )
    for name in (
        "batch", "ufbert, us a token", "neurons visited", "dense width of the same time", "between (us a token)",
        f"dense {shape.intermediate_size:,}", "visited over dense neuron",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for entry in entries:
        full = entry.rungs[-1].time
        table.add_row(
            f"{entry.batch:,}",
            timed_cell(entry.ours),
            f"{entry.neurons_visited:,}",
            f"{entry.width} ({entry.lower} to {entry.upper})",
            bracket_cell(entry),
            f"{timed_cell(full)} ({full.implementation})",
            f"{entry.neuron_ratio:.2f}",
        )
    table.caption = (
        "dense width: of the fastest dense layers timed in the same turns, interpolated between two of them; in "
        "brackets from the quartiles; < and >: beyond all"
    )
    return table


def bracket_cell(entry: DenseWidth) -> str:
    """The dense layers timed next to the width, with their implementation where it is not that of the full one."""
    found = entry.width
    below = [rung for rung in entry.rungs if rung.neurons <= found.neurons and found.beyond != "<"][-1:]
    above = [rung for rung in entry.rungs if rung.neurons > found.neurons or found.beyond == "<"][:1]
    return ", ".join(f"{rung.neurons:,}: {significant(rung.time.microseconds)}" for rung in (*below, *above))


def shared_table(entries: Sequence[SharedPart]) -> Table:
    """What the shared neurons cost, a row for each batch size and way to compute them."""
    first = entries[0]
    direction = "" if first.direction == "forward" else ", forward and backward"
    table = Table(
        title=f"{first.shared_neurons:,} shared neurons, {first.dtype}, microseconds a token{direction}, "
        "one layer over and over",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("batch", "whole layer", "trees alone", "dense layer of the shared", "whole / (trees + dense)",
                 "(whole - trees) / dense"):  # fmt: skip
        table.add_column(name, justify="right")
    for entry in entries:
        table.add_row(
            f"{entry.batch:,}",
            f"{timed_cell(entry.whole)} ({entry.whole.implementation})",
            timed_cell(entry.trees),
            f"{timed_cell(entry.dense)} ({entry.dense.implementation})",
            ratio_cell(entry.ratio),
            ratio_cell(entry.part),
        )
    table.caption = "ratios: medians of those of each turn, in which the three follow each other, and their quartiles"
    return table


def timed_cell(timed: Timed) -> str:
    """Median and spread."""
    return f"{significant(timed.microseconds)} ±{50 * timed.relative:.0f}%"


def ratio_cell(spread: Spread) -> str:
    """Median and quartiles."""
    return f"{spread.median:.2f} ({spread.lower:.2f} to {spread.upper:.2f})"
