"""The tables of a run, on stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.settings import Shape

from .cells import percent_cell, significant, times_cell
from .comparison_tables import shared_table, width_table
from .encoder_tables import agreement_table, breakdown_table, describe_model, encoder_table, process_lines
from .results import REPORTED, SOURCE, Report, Result
from .training_tables import step_parts_table, step_table

__all__ = ["show"]

# Where the output is no terminal, lines are kept whole.
FILE_WIDTH = 160
ROLES = {"subject": 0, "control": 1}
KINDS = {
    "warm": "one layer over and over",
    "flushed": "one layer, the GPU's L2 cache overwritten before each call",
    "cycled": "cycling through {layers} layers",
}


def show(report: Report) -> None:
    """Everything a reader needs to judge the figures, in tables."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else FILE_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)
    console.print(describe(report), markup=False)
    console.print()
    if report.models:
        console.print(step_table(report))
        console.print(step_parts_table(report))
    if report.encoders:
        console.print(encoder_table(report))
        if report.model:
            console.print(agreement_table(report))
    if report.breakdowns:
        console.print(breakdown_table(report.breakdowns))
    if lines := process_lines(report):
        console.print(lines, markup=False)
    for dtype in report.settings.dtypes:
        for weights in KINDS:
            chosen = [r for r in report.results if (r.dtype, r.weights) == (dtype, weights)]
            if chosen:
                console.print(time_table(chosen, report))
                if any(r.speedup_over_dense for r in chosen if r.layer == "fff"):
                    console.print(speedup_table(chosen, report))
        if widths := [entry for entry in report.dense_widths if entry.dtype == dtype]:
            console.print(width_table(widths, report.settings.shape))
        if shared := [entry for entry in report.shared_parts if entry.dtype == dtype]:
            console.print(shared_table(shared))
    if report.results:
        console.print(reported_table())
    if report.sweep:
        console.print(sweep_table(report.sweep))
    if report.paths:
        console.print(path_lines(report.paths), markup=False)
    if lines := absent_lines(report.absent):
        console.print(lines, markup=False)


def describe(report: Report) -> str:
    """Machine, limits and settings in a few lines."""
    machine, settings = report.machine, report.settings
    limits = machine["limits"]
    shape = settings.shape
    gigaflops = ", ".join(f"{value:,.0f} in {dtype}" for dtype, value in limits["gigaflops"].items())
    gigabytes = ", ".join(f"{level} {value:,.0f}" for level, value in limits["gigabytes_per_second"].items())
    where = machine.get("gpu") or f"{machine['processor']} ({', '.join(machine['instruction_sets'])})"
    lines = [
        f"{where}, {settings.threads} of {machine['usable_cores']} cores; torch {machine['torch']}, "
        f"numba {machine['numba']}, numpy {machine['numpy']}",
        f"measured limits: {gigaflops} GFLOP/s; reading {gigabytes} GB/s",
    ]
    if report.model:
        return "\n".join([*lines, *describe_model(report)])
    lines.append(
        f"layer: hidden size {shape.hidden_size:,}, trees x depth {shape.name}: "
        f"{shape.neurons_visited:,} of {shape.neurons_available:,} neurons visited, "
        f"against {shape.intermediate_size:,} dense neurons; bound {shape.bound:,.1f}x"
    )
    sizes = (shape.weight_bytes(n, 4) / 2**20 for n in (shape.neurons_available, shape.intermediate_size))
    memory = "weights of one layer in float32: FFF {:,.0f} MiB, dense {:,.0f} MiB".format(*sizes)
    if peak := machine.get("peak_memory_bytes"):
        memory += f"; the run took {peak / 2**30:.1f} GiB at most"
    lines.append(memory)
    if settings.subject == "layer":
        lines.append(f"direction: {settings.direction}; medians of interleaved samples, ± half the quartile distance")
    return "\n".join(lines)


def time_table(results: Sequence[Result], report: Report) -> Table:
    """Microseconds a token of every implementation, batch sizes as columns."""
    first = results[0]
    how = KINDS[first.weights].format(layers=first.layers) + beside(report.settings.shape)
    table = Table(title=f"Microseconds a token, {first.dtype}, {how}", title_justify="left", caption_justify="left")
    for name in ("layer", "implementation", "level"):
        table.add_column(name)
    batches = sorted({r.batch for r in results})
    for batch in batches:
        table.add_column(f"batch {batch:,}", justify="right")
    table.add_column("of limit", justify="right")
    rows = rows_of(results)
    section = None
    for (role, layer, name), row in rows.items():
        label = "control" if role == "control" else "dense" if layer == "ff" else "FFF"
        if section not in (None, label):
            table.add_section()
        section = label
        some = next(iter(row.values()))
        table.add_row(
            label,
            name,
            str(some.level or ""),
            *(time_cell(row.get(batch)) for batch in batches),
            limit_cell(row[max(row)]),
        )
        if (role, layer, name) == ("subject", "fff", "blas-gemv"):
            table.add_row(label, "(does not exist)", "3", *("-" for _ in batches), "")
    table.caption = "of limit: share of the measured GFLOP/s (c) or GB/s (m), whichever is larger, at the largest batch"
    return table


def beside(shape: Shape) -> str:
    """What a heading says of shared neurons."""
    return f", {shape.shared_neurons:,} shared neurons" if shape.shared_neurons else ""


def rows_of(results: Sequence[Result]) -> dict[tuple[str, str, str], dict[int, Result]]:
    """By role, layer and name, in the order they are shown; within a row by batch."""
    rows: dict[tuple[str, str, str], dict[int, Result]] = {}
    for result in sorted(results, key=lambda r: (ROLES[r.role], r.layer == "fff")):
        rows.setdefault((result.role, result.layer, result.implementation), {})[result.batch] = result
    return rows


def time_cell(result: Result | None) -> str:
    """Median and spread; the fastest dense implementation is marked."""
    if result is None:
        return "-"
    value = result.microseconds_per_token
    text = f"{significant(value)} ±{50 * result.spread.relative:.0f}%"
    fastest = (result.fastest_dense, result.fastest_dense_tf32)
    if result.layer == "ff" and result.role == "subject" and result.implementation in fastest:
        return f"[bold]*{text}[/bold]"
    return text


def limit_cell(result: Result) -> str:
    """The larger share of the limits."""
    compute, memory = result.limits["share_of_compute_limit"], result.limits["share_of_memory_limit"]
    if memory > compute:
        return f"{100 * memory:.0f}% m ({result.limits['memory_level']})"
    return f"{100 * compute:.0f}% c"


def speedup_table(results: Sequence[Result], report: Report) -> Table:
    """In the manner of the paper's inference table: over the same method, over the fastest dense, of the bound."""
    first = results[0]
    how = KINDS[first.weights].format(layers=first.layers) + beside(report.settings.shape)
    table = Table(title=f"Speedup, measured, {first.dtype}, {how}", title_justify="left", caption_justify="left")
    for name in ("implementation", "level", "speedup"):
        table.add_column(name)
    batches = sorted({r.batch for r in results})
    for batch in batches:
        table.add_column(f"batch {batch:,}", justify="right")
    for (role, layer, name), row in rows_of(results).items():
        if layer == "ff" and role == "subject":
            continue
        level = str(next(iter(row.values())).level or "")
        if any(r.speedup_over_same_method for r in row.values()):
            cells = [times_cell(row[b].speedup_over_same_method if b in row else None) for b in batches]
            table.add_row(name, level, "over the same method", *cells)
        cells = [times_cell(row[b].speedup_over_dense if b in row else None) for b in batches]
        table.add_row(name, level, "over the fastest dense *", *cells)
        if any(r.speedup_over_dense_tf32 for r in row.values()):
            cells = [times_cell(row[b].speedup_over_dense_tf32 if b in row else None) for b in batches]
            table.add_row(name, level, "over the fastest dense in TF32 *", *cells)
        if role == "subject":
            cells = [percent_cell(row[b].share_of_bound if b in row else None) for b in batches]
            table.add_row(name, level, "share of the bound", *cells)
        table.add_section()
    table.caption = "path-*: as many neurons as a token visits, without any tree"
    return table


def reported_table() -> Table:
    """The paper's figures, so labelled."""
    table = Table(
        title="Reported by the paper for 1x11 (not measured here)", title_justify="left", caption_justify="left"
    )
    for name in ("layer", "implementation", "over the fastest dense", "over the same method"):
        table.add_column(name)
    for entry in REPORTED:
        table.add_row(
            "FFF",
            str(entry["implementation"]),
            times_cell(entry.get("speedup_over_dense")),
            times_cell(entry.get("speedup_over_same_method")),
        )
    table.caption = SOURCE
    return table


def sweep_table(sweep: Sequence[Result]) -> Table:
    """Time over the depth of one tree."""
    first = sweep[0]
    table = Table(
        title=f"Microseconds a token over the depth, batch {first.batch:,}, {first.dtype}, one layer",
        title_justify="left",
    )
    for name in ("depth", "neurons", "visited", "ufbert", "dense", "speedup"):
        table.add_column(name, justify="right")
    dense = {r.neurons: r for r in sweep if r.layer == "ff"}
    for result in (r for r in sweep if r.layer == "fff"):
        other = dense.get(result.neurons)
        table.add_row(
            str(result.depth),
            f"{result.neurons:,}",
            str(result.neurons_visited),
            time_cell(result),
            f"{significant(other.microseconds_per_token)} ({other.implementation})" if other else "-",
            times_cell(result.speedup_over_dense if other else None),
        )
    return table


def path_lines(paths: dict[str, Any]) -> str:
    """How the inputs spread over the leaves."""
    shares = paths["right_share_by_level"]
    layers = f" (mean of {paths['layers']} layers)" if "layers" in paths else ""
    lines = [
        f"Paths{layers}: {paths['tokens']:,.0f} tokens reach {paths['distinct_leaves']:,.0f} of "
        f"{paths['leaves_per_tree']:,.0f} leaves; uniformly random ones would reach "
        f"{paths['expected_distinct_leaves']:,.0f}",
        f"  entropy of their use {paths['entropy_bits']:.2f} bits; uniformly random "
        f"{paths['expected_entropy_bits']:.2f}, at most {paths['maximum_entropy_bits']:.0f}",
    ]
    if shares:
        lines.append("  share going right, level by level: " + " ".join(f"{s:.2f}" for s in shares))
    lines += [
        f"  a batch of {entry['batch']:,}: {entry['distinct_leaves']:,.1f} distinct leaves, "
        f"uniformly random {entry['expected_distinct_leaves']:,.1f}"
        for entry in paths.get("batches", ())
    ]
    return "\n".join(lines)


def absent_lines(absent: Sequence[Absent]) -> str:
    """What was not timed, one line for each reason."""
    by_reason: dict[tuple[bool, str, str], list[str]] = {}
    for entry in absent:
        by_reason.setdefault((entry.wrong, entry.dtype, entry.reason), []).append(
            f"{entry.layer} {entry.implementation}"
        )
    return "\n".join(
        f"{'WRONG RESULT, not timed' if wrong else 'Not timed'}{f' in {dtype}' if dtype else ''}: "
        f"{', '.join(names)} ({reason})"
        for (wrong, dtype, reason), names in by_reason.items()
    )
