"""The picture of a run's loss, `loss.png`; needs the plot extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ufbert.training.figures import can_plot, new_figure, require_plot, running_mean

__all__ = [
    "LOSS_CURVE_FILE",
    "can_plot",
    "count_tokens_along",
    "draw_loss_curve",
    "new_figure",
    "require_plot",
    "running_mean",
]

LOSS_CURVE_FILE = "loss.png"


def count_tokens_along(axes: Any) -> None:
    """Tokens seen along the horizontal axis, as 250 k or 12 M."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(EngFormatter())


def draw_loss_curve(rows: Sequence[dict[str, Any]], destination: Path | IO[bytes], title: str) -> None:
    """Training and held-out loss over the tokens seen, as a PNG.

    `rows` are those of `metrics.jsonl`. The training loss is drawn as its running mean over 2 % of the run
    besides the single steps. Raises `MissingExtraError` without matplotlib.
    """
    trained = [(row["tokens"], row["loss"]) for row in rows if row.get("loss") is not None]
    held_out = [(row["tokens"], row["held_out_loss"]) for row in rows if row.get("held_out_loss") is not None]
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    if trained:
        tokens, losses = zip(*trained, strict=True)
        axes.plot(tokens, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(tokens, running_mean(losses, max(1, len(losses) // 50)), color="tab:blue", label="training loss")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="tab:orange", marker="o", markersize=3, label="held-out loss")
    axes.set(ylabel="cross-entropy of the masked tokens (nats)", title=title)
    count_tokens_along(axes)
    axes.grid(alpha=0.3)
    if trained or held_out:
        axes.legend()
    figure.savefig(destination, format="png")
