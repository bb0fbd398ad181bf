"""The figure of a layer benchmark: speedup over batch size, and time over depth."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ufbert.errors import ConfigError, MissingExtraError
from ufbert.system.atomic import write_file

from .results import REPORTED, Report, Result

__all__ = ["check_plot", "draw"]

FORMATS = (".svg", ".png", ".pdf")
# Okabe & Ito's palette, told apart by colour-blind readers; one colour a method, one line style a kind of weights.
COLOURS = {
    "ufbert": "#0072B2",
    "ufbert-kernel": "#56B4E9",
    "torch-bmm": "#E69F00",
    "blas-dot-axpy": "#009E73",
    "blas-gemv": "#CC79A7",
    "torch-masked": "#D55E00",
    "cuda-naive": "#F0E442",
}
LABELS = {
    "ufbert": "ours",
    "ufbert-kernel": "ours, kernel alone",
    "torch-bmm": "PyTorch BMM",
    "cuda-naive": "naive CUDA",
    "blas-dot-axpy": "BLAS Level 1",
    "blas-gemv": "BLAS Level 2",
    "torch-masked": "masked dense",
}
GREY = "#666666"
# Behind notes, so that a line below does not strike them through.
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
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
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 300,
}


def check_plot(path: Path) -> None:
    """Raise `ConfigError` for a format we do not write, `MissingExtraError` without matplotlib."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "bench --plot") from None


def draw(report: Report, path: Path) -> None:
    """Write the figure. Raises `OutputError` if `path` exists or cannot be written."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        dtypes = [dtype for dtype in report.settings.dtypes if any_speedup(report, dtype)]
        panels: list[Callable[[Any], None]] = [
            functools.partial(draw_speedups, report=report, dtype=dtype) for dtype in dtypes
        ]
        if report.sweep:
            panels += [functools.partial(draw_depths, sweep=report.sweep, alone=alone) for alone in (False, True)]
        columns = min(2, len(panels)) or 1
        rows = -(-len(panels) // columns) or 1
        figure = Figure(figsize=(3.5 * columns, 3.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, panel in itertools.zip_longest(axes, panels):
            if panel is None:
                axis.set_axis_off()
            else:
                panel(axis)
        share_range(axes[: len(dtypes)])
        with write_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata(path))


def share_range(axes: Any) -> None:
    """The same vertical range, so that the panels compare at a glance."""
    limits = [limit for axis in axes for limit in axis.get_ylim()]
    for axis in axes:
        axis.set_ylim(min(limits), max(limits))


def metadata(path: Path) -> dict[str, Any]:
    """No date, so that the same figures give the same file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})


def any_speedup(report: Report, dtype: str) -> bool:
    """Whether this dtype has anything to show."""
    return any(r.speedup_over_dense for r in report.results if r.dtype == dtype and r.layer == "fff")


def draw_speedups(axis: Any, report: Report, dtype: str) -> None:
    """Speedup over the fastest dense implementation, one line for each method and kind of weights."""
    results = [
        r
        for r in report.results
        if r.dtype == dtype and r.layer == "fff" and r.role == "subject" and r.speedup_over_dense
    ]
    order = list(COLOURS)
    names = sorted({r.implementation for r in results}, key=lambda n: order.index(n) if n in order else 99)
    for name in names:
        for weights, line in (("warm", "-"), ("cycled", (0, (2.5, 1.5))), ("flushed", (0, (1.0, 1.0)))):
            row = sorted(
                (r for r in results if (r.implementation, r.weights) == (name, weights)), key=lambda r: r.batch
            )
            if row:
                draw_line(axis, row, name, line, weights == "warm")
    bound = report.settings.shape.bound
    axis.axhline(bound, color=GREY, linewidth=0.8)
    annotate(axis, bound, f"bound {bound:,.0f}×")
    reported = False
    if dtype == "float32" and as_in_the_paper(report):
        for entry in REPORTED:
            if entry["device"] == "cpu" and "speedup_over_dense" in entry:
                value = float(entry["speedup_over_dense"])
                axis.axhline(value, color=GREY, linewidth=0.6, linestyle=":")
                note_beside(axis, value, f"{value:.0f}×")
                reported = True
    axis.axhline(1.0, color="black", linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlabel="batch (tokens)", ylabel="speedup over the fastest dense layer")
    axis.set_title(f"{dtype}, {threads(report.settings.threads)}", loc="left")
    batches = sorted({r.batch for r in results})
    axis.set_xticks(batches, tick_labels(batches))
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    handles, labels = axis.get_legend_handles_labels()
    from matplotlib.lines import Line2D

    handles.append(Line2D([], [], color=GREY, linestyle=(0, (2.5, 1.5))))
    labels.append(f"dashed: cycling {max((r.layers for r in results), default=1)} layers")
    if reported:
        handles.append(Line2D([], [], color=GREY, linewidth=0.6, linestyle=":"))
        labels.append("dotted: the paper's figures")
    legend_below(axis, handles, labels)


def tick_labels(batches: list[int]) -> list[str]:
    """No label so near to the one before, on a logarithmic axis, that the two would overlap."""
    labels: list[str] = []
    last = 0
    for batch in batches:
        labels.append(f"{batch:,}" if batch >= 3 * last else "")
        last = batch if labels[-1] else last
    return labels


def draw_line(axis: Any, row: list[Result], name: str, line: Any, labelled: bool) -> None:
    """Medians, and the quartiles as a band."""
    colour = COLOURS.get(name, "black")
    batches = [r.batch for r in row]
    speedups = [r.speedup_over_dense or 0.0 for r in row]
    axis.plot(
        batches, speedups, color=colour, linestyle=line, marker="o" if labelled else None,
        label=LABELS.get(name, name) if labelled else None,
    )  # fmt: skip
    low = [s * r.spread.median / r.spread.upper for s, r in zip(speedups, row, strict=True)]
    high = [s * r.spread.median / r.spread.lower for s, r in zip(speedups, row, strict=True)]
    axis.fill_between(batches, low, high, color=colour, alpha=0.15, linewidth=0)


def annotate(axis: Any, value: float, text: str) -> None:
    """A note on a horizontal line, at the right edge just above it."""
    axis.annotate(
        text, xy=(1.0, value), xycoords=axis.get_yaxis_transform(), xytext=(0, 1.5), textcoords="offset points",
        ha="right", va="bottom", fontsize=6.5, color=GREY, bbox=HALO,
    )  # fmt: skip


def note_beside(axis: Any, value: float, text: str) -> None:
    """A note on a horizontal line, right of the axis, where it covers no figures."""
    axis.annotate(
        text, xy=(1.0, value), xycoords=axis.get_yaxis_transform(), xytext=(2, 0), textcoords="offset points",
        ha="left", va="center", fontsize=6.5, color=GREY,
    )  # fmt: skip


def legend_below(axis: Any, handles: list[Any], labels: list[str], distance: float = 0.2) -> None:
    """Below the axis, where it covers no line."""
    axis.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.45, -distance), ncols=2, frameon=False,
        handlelength=1.8, columnspacing=1.0, labelspacing=0.3,
    )  # fmt: skip


def as_in_the_paper(report: Report) -> bool:
    """Whether the paper's figures are of this shape and device."""
    shape = report.settings.shape
    return report.settings.device == "cpu" and (shape.trees, shape.depth, shape.hidden_size) == (1, 11, 768)


def draw_depths(axis: Any, sweep: list[Result], alone: bool) -> None:
    """Time over depth: neurons double with each level, the time of ours should grow by a constant.

    `alone` leaves the dense layer out and is linear, so that a straight line is one.
    """
    ours = sorted((r for r in sweep if r.layer == "fff"), key=lambda r: r.depth or 0)
    dense = sorted((r for r in sweep if r.layer == "ff"), key=lambda r: r.neurons)
    depths = [r.depth for r in ours]
    if dense and not alone:
        axis.plot(
            [(r.neurons + 1).bit_length() - 2 for r in dense], [r.microseconds_per_token for r in dense],
            color=GREY, marker="s", label=f"dense, as many neurons ({dense[0].implementation})",
        )  # fmt: skip
    colour = COLOURS["ufbert"]
    axis.plot(depths, [r.microseconds_per_token for r in ours], color=colour, marker="o", label=LABELS["ufbert"])
    scale = 1e6 / ours[0].timed_tokens
    low, high = [r.spread.lower * scale for r in ours], [r.spread.upper * scale for r in ours]
    axis.fill_between(depths, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="depth (neurons)", ylabel="microseconds a token")
    axis.set_xticks(depths[::3], [f"{r.depth}\n({r.neurons:,})" for r in ours[::3]])
    if alone:
        axis.set_ylim(bottom=0)
        axis.set_title("the same, ours alone, linear", loc="left")
    else:
        axis.set_yscale("log")
        axis.minorticks_off()
        axis.set_title(f"one tree, {ours[0].dtype}, batch {ours[0].batch:,}, {threads(ours[0].threads)}", loc="left")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if not alone:
        handles, labels = axis.get_legend_handles_labels()
        legend_below(axis, handles, labels, distance=0.3)


def threads(number: int) -> str:
    """In words."""
    return "1 thread" if number == 1 else f"{number} threads"
