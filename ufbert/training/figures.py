"""Figures that know nothing of a screen; they need the plot extra."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Sequence
from typing import Any

from ufbert.errors import MissingExtraError

__all__ = ["can_plot", "new_figure", "png", "require_plot", "running_mean"]


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def require_plot() -> None:
    """Raise `MissingExtraError` without matplotlib."""
    if not can_plot():
        raise MissingExtraError("matplotlib", "plot", "drawing the loss curve")


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, which knows nothing of a screen. Raises `MissingExtraError`."""
    require_plot()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The figure as a file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and up to `width` - 1 values before it."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        means.append(total / min(i + 1, width))
    return means
