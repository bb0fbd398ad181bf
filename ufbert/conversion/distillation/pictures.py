"""The pictures of a distillation's report, as PNG; they need the plot extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ufbert.training.figures import new_figure, png
from ufbert.training.html_page import Picture

from .report import LayerErrors, Measurement

__all__ = ["draw_pictures"]

NAMES = {
    "hidden": "hidden states",
    "embedding": "1 - cosine of embeddings",
    "head": "head's outputs",
    "active": "active neurons",
}


def draw_pictures(
    errors: Sequence[LayerErrors], measurement: Measurement, curve: Sequence[Mapping[str, float]]
) -> list[Picture]:
    """What there is to show; a picture of nothing is left out. Raises `MissingExtraError` without matplotlib."""
    pictures = [_layers(errors, measurement)]
    if len(curve) > 1:
        pictures.append(_losses(curve))
    if measurement.health:
        pictures.append(_leaves(measurement.health))
    return pictures


def _layers(errors: Sequence[LayerErrors], measurement: Measurement) -> Picture:
    figure = new_figure(8, 3.5)
    axes = figure.add_subplot()
    layers = measurement.plan.kept
    lines = {
        "initialised, alone": ([e.initialized for e in errors], "tab:gray", "s"),
        "regressed, alone": ([e.regressed for e in errors], "tab:orange", "D"),
        "trained, whole run": (measurement.student_errors[: len(errors)], "tab:blue", "o"),
        "control, whole run": (measurement.control_errors[: len(errors)], "black", "x"),
    }
    for label, (values, colour, marker) in lines.items():
        axes.plot(layers, values, color=colour, marker=marker, markersize=4, linewidth=1, label=label)
    axes.set(xlabel="layer", ylabel="relative error", ylim=(0, None))
    axes.set_xticks(layers)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    caption = (
        "On held-out text; 0 is exact, 1 the mean output. Alone: one layer on the original's inputs. Control: "
        f"{measurement.plan.control}."
    )
    return "Errors by layer", caption, png(figure)


def _losses(curve: Sequence[Mapping[str, float]]) -> Picture:
    figure = new_figure(8, 3.5)
    axes = figure.add_subplot()
    minutes = [point["seconds"] / 60 for point in curve]
    for name, label in NAMES.items():
        values = [point.get(name) for point in curve]
        if any(values):
            axes.plot(minutes, values, linewidth=1, label=label)
    axes.set(xlabel="minutes of the end-to-end training", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    caption = "The parts of the end-to-end loss, on the texts trained on; means of neighbouring steps."
    return "End-to-end loss", caption, png(figure)


def _leaves(health: Sequence[Mapping[str, Any]]) -> Picture:
    figure = new_figure(8, 3)
    used, entropy = figure.subplots(1, 2)
    layers = [layer["layer"] for layer in health]
    dashed = {"color": "black", "linestyle": "--", "linewidth": 1, "label": "uniform use"}
    used.bar(layers, [100 * layer["used_leaves"] for layer in health], color="tab:blue")
    used.plot(layers, [100 * layer["expected_used_leaves"] for layer in health], **dashed)
    # A tree of one node has one leaf, and nothing to be uncertain about.
    for name, draw in (("entropy_bits", entropy.bar), ("expected_entropy_bits", entropy.plot)):
        shares = [100 * layer[name] / (layer["maximum_entropy_bits"] or 1) for layer in health]
        draw(layers, shares, **({"color": "tab:blue"} if name == "entropy_bits" else dashed))
    used.set(xlabel="layer", ylabel="leaves reached, %", ylim=(0, 102))
    entropy.set(xlabel="layer", ylabel="entropy, % of its maximum", ylim=(0, 102))
    for axes in (used, entropy):
        axes.set_xticks(layers)
        axes.grid(alpha=0.3)
    used.legend(fontsize=8)
    caption = "Of the held-out tokens, by layer; dashed what as many tokens give if every leaf is equally likely."
    return "Use of the leaves", caption, png(figure)
