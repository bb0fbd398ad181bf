"""The table and the sentences of the results, for the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ufbert.benchmark.report.cells import times_cell
from ufbert.model.card import markdown_table

from .results import Comparison, Results, Row

__all__ = ["markdown", "show"]

TABLE_WIDTH = 220


def show(results: Results, title: str, remarks: Sequence[str]) -> None:
    """Everything on stdout."""
    console = Console(width=TABLE_WIDTH, highlight=False)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="")
    for number, name in enumerate(columns(results)):
        table.add_column(name, justify="right" if number else "left")
    for row in results.rows:
        table.add_row(*cells(results, row))
    console.print(table)
    for line in [*sentences(results), *remarks]:
        console.print(line, markup=False, soft_wrap=True)


def markdown(results: Results, title: str, remarks: Sequence[str], picture: str) -> str:
    """The same as a file, with the picture if there is one."""
    parts = [f"# {title}\n", markdown_table(columns(results), [cells(results, row) for row in results.rows])]
    parts += [f"![loss over time a token]({picture})\n"] if picture else []
    parts.append("".join(f"- {line}\n" for line in [*sentences(results), *remarks]))
    return "\n".join(parts)


def columns(results: Results) -> list[str]:
    """The head of the table."""
    speeds = [f"tokens/s {precision}" for precision in results.precisions]
    return [
        "variant", "neurons used", "neurons", "parameters", "tokens", "seeds", "loss", "gap closed", *speeds,
        f"time ({results.precision})", "front",
    ]  # fmt: skip


def cells(results: Results, row: Row) -> list[str]:
    """A row of the table."""
    facts = row.facts
    seeds = f"{len(row.runs)}" if len(row.runs) >= row.expected else f"{len(row.runs)} of {row.expected}"
    loss = f"{row.loss:.4f}" + ("" if row.deviation is None else f" ±{row.deviation:.4f}")
    gap, error = results.gap_closed(row), results.gap_deviation(row)
    closed = "-" if gap is None else f"{round(100 * gap)}%" + ("" if error is None else f" ±{100 * error:.0f}")
    on_front = [p for p in results.precisions if row in results.front(p)]
    return [
        row.name,
        f"{facts.neurons_used:,}",
        f"{facts.neurons_available:,}",
        f"{facts.parameters:,}",
        f"{facts.tokens:,}",
        seeds,
        loss,
        closed,
        *(_speed(row, precision) for precision in results.precisions),
        times_cell(results.relative_time(row)),
        ", ".join(on_front) or "-",
    ]


def _speed(row: Row, precision: str) -> str:
    timing = row.timings.get(precision)
    return "-" if timing is None else f"{timing.tokens_per_second:,.0f} ±{50 * timing.spread:.0f}%"


def sentences(results: Results) -> list[str]:
    """The noise, and each comparison in its terms."""
    noise = results.noise
    if noise is None:
        lines = ["Noise: unknown, as no variant has two finished seeds; no difference can be told from chance"]
    else:
        lines = [
            f"Noise: losses of one variant differ by a standard deviation of {noise:.4f} nats from seed to seed "
            "(pooled over the variants); differences below are in this unit (sd)"
        ]
    if scale := results.scale():
        lines.append(f"What there is to win: {_compared(scale)}")
    equal = results.equal_times()
    trees = [comparison for comparison in equal if comparison.first in _names(results, "fff")]
    for comparison in equal:
        best = ", the best trees" if trees[:1] == [comparison] and len(trees) > 1 else ""
        lines.append(f"Equal time{best}: {_compared(comparison)}")
    lacking = [name for name in _names(results, "fff") if name not in {comparison.first for comparison in equal}]
    if lacking:
        lines.append(f"Without dense layers of equal time beside them (dense:time:NAME): {', '.join(lacking)}")
    return lines


def _names(results: Results, feedforward: str) -> list[str]:
    return [row.name for row in results.rows if row.feedforward == feedforward]


def _compared(comparison: Comparison) -> str:
    difference, deviations = comparison.difference, comparison.deviations
    sign = "lower" if difference < 0 else "higher"
    text = f"the loss of {comparison.first} is {abs(difference):.4f} nats {sign} than that of {comparison.second}"
    if deviations is not None:
        text += f" ({abs(deviations):.1f} sd{', within the noise' if abs(deviations) < 2 else ''})"
    if comparison.times:
        shares = ", ".join(f"{ratio:.2f}x in {precision}" for precision, ratio in comparison.times.items())
        text += f", at {shares} of its time"
    return text
