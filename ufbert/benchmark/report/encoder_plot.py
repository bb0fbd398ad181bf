"""The figure of an encoder benchmark: tokens a second of every implementation, and where a token's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufbert.system.atomic import write_file

from .encoder_results import Breakdown, EncoderResult
from .plot import GREY, STYLE, metadata, threads
from .results import Report

__all__ = ["draw_encoders"]

OURS, TWIN, PEERS = "#0072B2", "#56B4E9", "#999999"
# Okabe & Ito's palette again, by part.
PART_COLOURS = ("#E69F00", "#F0E442", "#009E73", "#CC79A7", "#0072B2", "#999999")
INCHES_PER_BAR = 0.19


def draw_encoders(report: Report, path: Path) -> None:
    """Write the figure: a panel for each batch size, and one of the parts. Raises `OutputError`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    by_batch = {b: [r for r in report.encoders if r.batch == b] for b in report.settings.batches}
    heights = [len(results) for results in by_batch.values() if results]
    if report.breakdowns:
        heights.append(len(report.breakdowns) + 2)
    with rc_context({**STYLE, "axes.grid.axis": "x", "axes.axisbelow": True}):
        rows = max(len(heights), 1)
        size = (5.5, INCHES_PER_BAR * sum(heights) + 0.75 * rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, 1, squeeze=False, height_ratios=heights or [1]).ravel()
        for axis, batch in zip(axes, (b for b, results in by_batch.items() if results), strict=False):
            draw_batch(axis, by_batch[batch], f"batch {batch:,}, {threads(report.settings.threads)}")
        if report.breakdowns:
            draw_parts(axes[-1], report.breakdowns)
        with write_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata(path))


def draw_batch(axis: Any, results: list[EncoderResult], title: str) -> None:
    """Bars of tokens a second, the fastest on top, with the quartiles."""
    results = sorted(results, key=lambda r: r.tokens_per_second)
    values = [r.tokens_per_second for r in results]
    low = [v - v * r.spread.median / r.spread.upper for v, r in zip(values, results, strict=True)]
    high = [v * r.spread.median / r.spread.lower - v for v, r in zip(values, results, strict=True)]
    colours = [PEERS if r.peer else OURS if r.layer == "fff" else TWIN for r in results]
    axis.barh(range(len(results)), values, color=colours, height=0.75, xerr=(low, high), error_kw={"linewidth": 0.7})
    axis.set_yticks(range(len(results)), [r.name for r in results])
    for place, result in enumerate(results):
        factor = "" if result.speedup_over_peer is None else f"  ({result.speedup_over_peer:.1f}×)"
        axis.annotate(
            f"{result.tokens_per_second:,.0f}{factor}", xy=(values[place] + high[place], place), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=6.5, color=GREY,
        )  # fmt: skip
    axis.set_xlim(0, 1.22 * max(v + h for v, h in zip(values, high, strict=True)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_xlabel("tokens a second (× the fastest peer)")
    axis.set_title(title, loc="left")


def draw_parts(axis: Any, breakdowns: list[Breakdown]) -> None:
    """Stacked bars of microseconds a token, one for each precision and batch size."""
    entries = breakdowns[::-1]
    left = [0.0] * len(entries)
    for part, colour in zip(breakdowns[0].parts, PART_COLOURS, strict=True):
        widths = [entry.parts[part] for entry in entries]
        axis.barh(range(len(entries)), widths, left=left, color=colour, height=0.75, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(entries)), [f"{e.dtype}, batch {e.batch:,}" for e in entries])
    axis.set_xlabel("microseconds a token")
    axis.set_title("where a token's time goes in ufbert", loc="left")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.35), ncols=6, frameon=False, handlelength=1.0)
