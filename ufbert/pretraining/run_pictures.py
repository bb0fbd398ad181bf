"""The pictures of `report.html`, as PNG; they need the plot extra."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ufbert.training.html_page import Picture

from .loss_curve import count_tokens_along, draw_loss_curve, new_figure, running_mean

__all__ = ["Picture", "draw_pictures"]

# A long run has more steps than a picture has columns.
POINTS = 1000
COLOURS = "viridis"


def draw_pictures(rows: Sequence[dict[str, Any]], title: str) -> list[Picture]:
    """What the rows of `metrics.jsonl` show; a picture of nothing is left out.

    Raises `MissingExtraError` without matplotlib.
    """
    steps = [row for row in rows if "learning_rate" in row]
    measured = [row for row in rows if row.get("tree_health")]
    pictures: list[Picture] = []
    if rows:
        file = io.BytesIO()
        draw_loss_curve(rows, file, title)
        caption = "Cross-entropy of the masked tokens: each step, its running mean over 2 % of the run, held-out text."
        pictures.append(("Loss", caption, file.getvalue()))
    if steps:
        pictures += [_learning_rate(steps), _throughput(steps)]
    if measured:
        pictures += [_use_of_leaves(measured), _turns(measured[-1])]
    return pictures


def _learning_rate(steps: Sequence[dict[str, Any]]) -> Picture:
    figure = new_figure(8, 3)
    axes = figure.add_subplot()
    tokens = _thinned([row["tokens"] for row in steps])
    (rate,) = axes.plot(tokens, _thinned([row["learning_rate"] for row in steps]), color="tab:blue")
    axes.set(ylabel="learning rate", ylim=(0, None))
    count_tokens_along(axes)
    axes.grid(alpha=0.3)
    right = axes.twinx()
    (batch,) = right.plot(tokens, _thinned([row["batch"] for row in steps]), color="tab:gray", linestyle="--")
    right.set(ylabel="sequences of a step", ylim=(0, None))
    axes.legend([rate, batch], ["learning rate", "batch"], loc="lower center")
    return "Learning rate and batch", "What each optimiser step had.", _png(figure)


def _throughput(steps: Sequence[dict[str, Any]]) -> Picture:
    figure = new_figure(8, 3)
    axes = figure.add_subplot()
    tokens = _thinned([row["tokens"] for row in steps])
    speeds = [row["tokens_per_second"] for row in steps]
    axes.plot(tokens, _thinned(speeds), color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(tokens, _thinned(running_mean(speeds, max(1, len(speeds) // 50))), color="tab:blue")
    axes.set(ylabel="tokens/s", ylim=(0, None))
    count_tokens_along(axes)
    axes.grid(alpha=0.3)
    last = steps[-1]
    if last.get("mfu") and last["tokens_per_second"]:
        share = 100 * last["mfu"] / last["tokens_per_second"]  # the same curve by another measure
        right = axes.secondary_yaxis("right", functions=(lambda speed: speed * share, lambda mfu: mfu / share))
        right.set_ylabel("MFU, %")
    caption = "Of the steps alone, and the running mean over 2 % of the run; MFU: of what matrix products reach here."
    return "Throughput", caption, _png(figure)


def _use_of_leaves(measured: Sequence[dict[str, Any]]) -> Picture:
    figure = new_figure(8, 3.5)
    used, entropy = figure.subplots(1, 2, sharex=True)
    tokens = [row["tokens"] for row in measured]
    last = measured[-1]["tree_health"]
    layers = len(last)
    for number, colour in enumerate(_colours(layers)):
        health = [row["tree_health"][number] for row in measured]
        style = {"color": colour, "marker": "o", "markersize": 2.5, "linewidth": 1}
        used.plot(
            tokens,
            [100 * layer["used_leaves"] for layer in health],
            **style,
            label=f"layer {last[number]['layer'] + 1}",
        )
        # A tree of one node has one leaf, and nothing to be uncertain about.
        shares = [100 * layer["entropy_bits"] / (layer["maximum_entropy_bits"] or 1) for layer in health]
        entropy.plot(tokens, shares, **style)
    dashed = {"color": "black", "linestyle": "--", "linewidth": 1}
    for number, layer in enumerate({layer["maximum_entropy_bits"]: layer for layer in last}.values()):  # by depth
        used.axhline(100 * layer["expected_used_leaves"], **dashed, label="_" * (number > 0) + "uniform use")
        entropy.axhline(100 * layer["expected_entropy_bits"] / (layer["maximum_entropy_bits"] or 1), **dashed)
    used.set(ylabel="leaves in use, %", ylim=(0, 102))
    entropy.set(ylabel="entropy, % of its maximum", ylim=(0, 102))
    for axes in (used, entropy):
        count_tokens_along(axes)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(6, layers + 1), fontsize=8)
    caption = "Of the held-out tokens, by layer; dashed what as many tokens give if every leaf is equally likely."
    return "Use of the leaves", caption, _png(figure)


def _turns(row: dict[str, Any]) -> Picture:
    health = row["tree_health"]
    layers, depth = len(health), max(len(layer["right_share_by_level"]) for layer in health)
    shares = np.full((layers, depth), np.nan)  # a layer of shallower trees ends before the others
    for number, layer in enumerate(health):
        shares[number, : len(layer["right_share_by_level"])] = layer["right_share_by_level"]
    figure = new_figure(8, 1.6 + 0.25 * layers)
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="RdBu_r", vmin=0, vmax=100, aspect="auto") if depth else None
    axes.set(xlabel="level of the tree, from the root", ylabel="layer")
    axes.set_xticks(range(depth), [str(level + 1) for level in range(depth)])
    axes.set_yticks(range(layers), [str(layer["layer"] + 1) for layer in health])
    for number in range(layers):
        for level in range(len(health[number]["right_share_by_level"])):
            share = 100 * shares[number, level]
            axes.text(level, number, f"{share:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if abs(share - 50) > 35 else "black")  # fmt: skip
    if image is not None:
        figure.colorbar(image, label="turn right, %")
    caption = f"The share of the tokens that turns right at each level, after step {row['step']:,}; 50 % is balanced."
    return "Turns", caption, _png(figure)


def _colours(count: int) -> list[Any]:
    import matplotlib

    return list(matplotlib.colormaps[COLOURS](np.linspace(0, 0.9, count)))


def _thinned(values: Sequence[Any]) -> Any:
    """Means of neighbours, so that at most `POINTS` remain."""
    whole = np.array(values, dtype=float)
    width = -(-len(whole) // POINTS)
    return np.array([whole[start : start + width].mean() for start in range(0, len(whole), width)])


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
