"""The table and the sentences of an analysis, for the screen and as Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ufbert.model.card import markdown_table

from .results import CURVES, MARGIN, Results, percent

__all__ = ["markdown", "show"]

HEAD = ("layer", "neurons", "fixed", "beside rows", "linear", "trees", "oracle", "shape", "of the way")
TABLE_WIDTH = 120


def show(results: Results) -> None:
    """The errors at the chosen number of neurons, and what each layer comes to, on stdout."""
    out = Console(width=TABLE_WIDTH, highlight=False)
    out.print(_title(results), markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="")
    for name in HEAD:
        table.add_column(name, justify="right")
    for index in range(len(results.layers)):
        table.add_row(*_cells(results, index, results.at))
    out.print(table)
    for line in [*_remarks(results), *_conclusions(results)]:
        out.print(line, markup=False, soft_wrap=True)


def markdown(results: Results, picture: str) -> str:
    """The same as a file, with all numbers of neurons, and the picture if there is one."""
    parts = [f"# {_title(results)}\n", f"    {results.facts['command']}\n"]
    parts.append("".join(f"- {line}\n" for line in _conclusions(results)))
    parts += [f"![error over neurons, by layer]({picture})\n"] if picture else []
    rows = [_cells(results, index, k) for index in range(len(results.layers)) for k in results.neurons]
    parts += [markdown_table(HEAD, rows), "".join(f"- {line}\n" for line in _remarks(results))]
    return "\n".join(parts)


def _title(results: Results) -> str:
    text = results.facts["text"]
    return (
        f"{results.source}: error of each dense layer's substitutes, {text['held_out_tokens']:,} tokens held out from "
        f"{text['held_out_from']}"
    )


def _cells(results: Results, index: int, neurons: int) -> list[str]:
    curves = results.layers[index]
    points, share = curves.at(neurons), curves.share_of_way(neurons)
    errors = [f"{points[name].error:.3f}" if name in points else "-" for name in CURVES]
    shape = points["trees"].shape if "trees" in points else "-"
    return [str(index), f"{neurons:,}", *errors, shape, "-" if share is None else percent(share)]


def _conclusions(results: Results) -> list[str]:
    return [f"layer {index}: {curves.conclusion(results.at)}" for index, curves in enumerate(results.layers)]


def _remarks(results: Results) -> list[str]:
    behind = "behind the norm" if results.facts["model"]["norm_position"] == "post" else "of the bare output"
    lines = [
        f"error: squared, {behind}, relative to always putting out the mean (which is removed so): 0 exact, 1 the mean "
        "output; its root is what convert --trees prints",
        "fixed: the same neurons for all tokens (matching pursuit); beside rows: the same with a row for each "
        "frequent token, as convert --token-rows has them; linear: a map of that rank; trees: as convert "
        "places them, before training; oracle: for each token its neurons of the greatest |activation| |w_out|. Output "
        f"weights of all are fitted by ridge regression on {results.facts['text']['fitting_tokens']:,} other tokens",
        f"of the way: from fixed (0 %) to oracle (100 %); - where they are within {MARGIN:g}. The oracle knows every "
        "neuron's activation, which costs the whole layer: it is what routing aims at, not what it can reach",
    ]
    if results.facts["model"]["gated"]:
        lines.append(
            "gated layers: a neuron is a product of two, and costs three rows where a tree's node and a rank cost two"
        )
    return lines
