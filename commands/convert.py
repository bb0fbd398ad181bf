"""`ufbert convert`: a checkpoint of other software, or one of ours, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.settings.distillation import DistillationSettings

from .command_line import command_line
from .one_process import run_on_one_process
from .shared_options import ConfigOption, RevisionOption, SetOption

__all__ = ["convert"]

DEFAULTS = DistillationSettings()


def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Checkpoint folder, or the name of a model on the Hugging Face hub.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="New folder for the result.")],
    revision: RevisionOption = None,
    to: Annotated[
        str, typer.Option("--to", help="ultrafastbert, dense (Hugging Face layout) or onnx.")
    ] = "ultrafastbert",
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Read SOURCE as a bert, roberta, ..., where its config.json has no model_type or an unknown one.",
        ),
    ] = None,
    drop_head: Annotated[
        bool, typer.Option("--drop-head", help="Take the encoder alone; a head that cannot be read is an error else.")
    ] = False,
    trees: Annotated[
        int | None, typer.Option(help="Turn dense layers into this many trees; needs --depth and --corpus.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Edges from root to leaf; a token uses depth + 1 neurons a tree.")
    ] = None,
    shared: Annotated[
        int, typer.Option(min=0, help="With --trees: neurons beside the trees, in each layer, that every token uses.")
    ] = 0,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Text to distil on: file, glob, folder, hub:NAME or embedded. May be repeated."),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the text in jsonl, csv, tsv and parquet files.", show_default=DEFAULTS.text_column
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time the distillation may take, unless --steps.", show_default=f"{DEFAULTS.minutes:g}"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each layer and of the end-to-end training, in place of --minutes."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Texts of an end-to-end step.", show_default=str(DEFAULTS.batch_size))
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak rate of the end-to-end training.", show_default=f"{DEFAULTS.learning_rate:g}"),
    ] = None,
    max_texts: Annotated[
        int | None,
        typer.Option(help="Read at most so many pieces of text from the corpus.", show_default=str(DEFAULTS.max_texts)),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to distil.", show_default=DEFAULTS.device)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the choice and order of texts.", show_default=str(DEFAULTS.seed))
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Convert SOURCE to DEST: exactly, or with --trees into fast feedforward layers by distillation."""
    from ufbert.conversion import ConversionRequest, convert_checkpoint
    from ufbert.settings.toml import load_settings

    run_on_one_process("convert")
    options = {
        "distillation.text_column": text_column,
        "distillation.minutes": minutes,
        "distillation.steps": steps,
        "distillation.batch_size": batch_size,
        "distillation.learning_rate": learning_rate,
        "distillation.max_texts": max_texts,
        "distillation.device": device,
        "distillation.seed": seed,
    }
    request = ConversionRequest(
        source,
        destination,
        to=to,
        trees=trees,
        depth=depth,
        shared=shared,
        corpus=tuple(corpus or ()),
        revision=revision,
        family=family,
        drop_head=drop_head,
        distillation=load_settings(config, set_ or [], options=options).distillation,
        command=command_line(context),
    )
    convert_checkpoint(request)
