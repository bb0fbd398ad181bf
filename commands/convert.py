"""`ufbert convert`: a checkpoint of other software, or one of ours, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command_line import command_line
from .one_process import run_on_one_process

__all__ = ["convert"]


def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Checkpoint folder, or the name of a model on the Hugging Face hub.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="New folder for the result.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a SOURCE on the hub. Default: main.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", help="ultrafastbert, dense (Hugging Face layout) or onnx.")
    ] = "ultrafastbert",
    trees: Annotated[
        int | None, typer.Option(help="Turn dense layers into this many trees; needs --depth and --corpus.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Edges from root to leaf; a token uses depth + 1 neurons a tree.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Text to distil on: file, glob, folder, hub:NAME or embedded. May be repeated."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text in jsonl, csv, tsv and parquet files.")] = "text",
    minutes: Annotated[
        float | None, typer.Option(help="Time the distillation may take. Default: 10, unless --steps.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each layer and of the end-to-end training, in place of --minutes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Texts of an end-to-end step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of the end-to-end training.")] = 5e-4,
    max_texts: Annotated[int, typer.Option(help="Read at most so many pieces of text from the corpus.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the choice and order of texts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Convert SOURCE to DEST: exactly, or with --trees into fast feedforward layers by distillation."""
    from ufbert.conversion import DistillationSettings, convert_checkpoint, distillation_wanted

    run_on_one_process("convert")
    wanted = distillation_wanted(to=to, trees=trees, depth=depth, corpus=corpus or [])
    settings = None
    if wanted is not None:
        settings = DistillationSettings(
            trees=wanted[0],
            depth=wanted[1],
            corpus=tuple(corpus or ()),
            text_column=text_column,
            minutes=minutes,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_texts=max_texts,
            seed=seed,
            device=device,
        )
    convert_checkpoint(
        source, destination, to=to, revision=revision, distillation=settings, command=command_line(context)
    )
