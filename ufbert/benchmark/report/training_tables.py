"""The training benchmark's tables."""

from __future__ import annotations

from rich.table import Table

from .cells import significant, times_cell
from .results import ModelResult, Report

__all__ = ["step_parts_table", "step_table"]


def step_table(report: Report) -> Table:
    """Tokens a second of whole models in training, a section for each batch size."""
    settings = report.settings
    table = Table(
        title="Training step: forward, backward, clipping, AdamW: "
        f"{settings.layers} layers, sequences of {settings.sequence_length} tokens",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in ("batch", "feedforward", "implementation", "dtype"):
        table.add_column(name)
    for name in ("tokens/s", "spread", "over dense", "over masked", "kept for backward"):
        table.add_column(name, justify="right")
    for number, batch in enumerate(settings.batches):
        if number:
            table.add_section()
        for result in (r for r in report.models if r.batch == batch):
            table.add_row(
                str(batch),
                "dense" if result.layer == "ff" else "FFF",
                result.implementation,
                result.dtype,
                f"{result.tokens_per_second:,.0f}",
                f"±{50 * result.spread.relative:.0f}%",
                times_cell(result.speedup_over_dense),
                times_cell(result.speedup_over_masked),
                f"{result.saved_bytes:,} B" if result.saved_bytes else "-",
            )
    table.caption = (
        "over dense, over masked: against the fastest of their precisions at that batch size; kept for backward: bytes "
        "a token of all feedforward layers, without their inputs"
    )
    return table


def step_parts_table(report: Report) -> Table:
    """Microseconds a token by part, at the largest batch size, of everything that can be taken apart."""
    largest = max(report.settings.batches)
    shown = [r for r in report.models if r.parts and r.batch == largest]
    table = Table(
        title=f"Where the time of a step of {largest} sequences goes: microseconds a token", title_justify="left",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("part")
    for result in shown:
        table.add_column(f"{result.implementation} {result.dtype}", justify="right")
    for part in shown[0].parts if shown else ():
        table.add_row(part, *(_cell(result, part) for result in shown))
    table.add_section()
    table.add_row("sum of the parts", *(significant(sum(r.parts.values())) + " 100%" for r in shown))
    table.add_row("without timers", *(significant(1e6 / r.tokens_per_second) + "     " for r in shown))
    table.caption = (
        "attention: without its projections; forward rest: residual sums; backward rest: those, the embedding's "
        "gradient, and what autograd adds up"
    )
    return table


def _cell(result: ModelResult, part: str) -> str:
    share = result.parts[part] / sum(result.parts.values())
    return f"{significant(result.parts[part])}  {100 * share:3.0f}%"
