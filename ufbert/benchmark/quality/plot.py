"""The picture: held-out loss over the measured time of a token, with the front of the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ufbert.benchmark.report.plot import GREY, STYLE, metadata
from ufbert.system.atomic import write_file

from .results import Results

__all__ = ["draw_quality"]

# Okabe & Ito's palette, and a shape for each kind, so that no reader needs the colours.
KINDS = {"fff": ("trees", "#0072B2", "o"), "dense": ("dense", "#E69F00", "s"), "none": ("none", GREY, "D")}
INCHES = 3.8


def draw_quality(results: Results, title: str, paths: Sequence[Path]) -> None:
    """Write the same figure to all `paths`, a panel for each precision that was timed. Raises `OutputError`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    precisions = [p for p in results.precisions if any(p in row.timings for row in results.rows)]
    with rc_context(STYLE):
        figure = Figure(figsize=(INCHES * len(precisions), 3.4), layout="constrained")
        axes = figure.subplots(1, len(precisions), squeeze=False, sharey=True).ravel()
        for axis, precision in zip(axes, precisions, strict=True):
            _draw_panel(axis, results, precision)
        axes[0].set_ylabel("held-out loss (nats a masked token)")
        figure.suptitle(title, fontsize=8)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2 if len(precisions) == 1 else 4, frameon=False
        )
        for path in paths:
            with write_file(path, replace=True) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], metadata=metadata(path))


def _draw_panel(axis: Any, results: Results, precision: str) -> None:
    """One precision: bars are standard deviations over the seeds and quartiles of the time."""
    for kind, (label, colour, marker) in KINDS.items():
        rows = [row for row in results.rows if row.feedforward == kind and precision in row.timings]
        if not rows:
            continue
        timings = [row.timings[precision] for row in rows]
        times = [timing.microseconds for timing in timings]
        reach = [[t.microseconds - t.lower for t in timings], [t.upper - t.microseconds for t in timings]]
        axis.errorbar(
            times, [row.loss for row in rows], yerr=[row.deviation or 0.0 for row in rows], xerr=reach, label=label,
            color=colour, marker=marker, linestyle="none", elinewidth=0.8, capsize=1.5, zorder=3,
        )  # fmt: skip
        for row, time in zip(rows, times, strict=True):
            axis.annotate(
                row.name, xy=(time, row.loss), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=colour
            )
    best = results.front(precision)
    axis.plot(
        [row.timings[precision].microseconds for row in best], [row.loss for row in best],
        color="black", linestyle=(0, (2.5, 1.5)), linewidth=0.8, drawstyle="steps-post", zorder=4,
        marker="o", markersize=8, markerfacecolor="none", markeredgewidth=0.8,
        label="front: no other is both faster and better",
    )  # fmt: skip
    axis.margins(x=0.18, y=0.12)
    axis.set_xlabel("microseconds a token")
    axis.set_title(precision, loc="left")
