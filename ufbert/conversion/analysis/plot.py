"""The picture of an analysis: error over neurons, a panel for each layer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from .results import CURVES, LayerCurves, Results

__all__ = ["can_plot", "draw_analysis"]

COLUMNS = 3
INCHES = (2.5, 2.1)  # of a panel
# Okabe & Ito's palette, and a marker for each curve, so that no reader needs the colours.
LINES = {
    "fixed": ("fixed: the same neurons for all tokens", "#E69F00", "s"),
    "rows": ("fixed, beside token rows", "#CC79A7", "v"),
    "linear": ("linear map of that rank", "#666666", "D"),
    "trees": ("trees as placed", "#0072B2", "o"),
    "oracle": ("oracle: the strongest neurons of each token", "#009E73", "^"),
}
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "ufbert",
}


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_analysis(results: Results, file: Path) -> None:
    """Write the figure as SVG; the same results give the same file. Raises `ImportError` without matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(results.layers))
    rows = -(-len(results.layers) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, INCHES[0] * columns), 0.8 + INCHES[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for index, curves in enumerate(results.layers):
            _draw_panel(axes[index], curves)
            axes[index].set_title(f"layer {index}", loc="left")
        for axis in axes[len(results.layers) :]:
            axis.set_axis_off()
        axes[0].set_ylim(bottom=0.0)
        figure.supxlabel("neurons that a token uses", fontsize=8)
        figure.supylabel("squared error, 1 is the mean output", fontsize=8)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_panel(axis: Any, curves: LayerCurves) -> None:
    for name in CURVES:
        label, colour, marker = LINES[name]
        points = getattr(curves, name)
        # No neurons have no place on a logarithmic axis.
        numbers = [point.neurons for point in points if point.neurons]
        errors = [point.error for point in points if point.neurons]
        axis.plot(numbers, errors, label=label, color=colour, marker=marker)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
