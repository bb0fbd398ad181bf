"""`ufbert infer`: text in, predictions out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.checkpoint.poolings import POOLINGS
from ufbert.settings.inference import AGGREGATIONS, AUTO, LONG_TEXTS, PRECISIONS, TASKS, InferenceSettings

from .shared_options import (
    ConfigOption,
    DelimiterOption,
    EncodingOption,
    NoHeaderOption,
    RevisionOption,
    SetOption,
)

__all__ = ["infer"]

DEFAULTS = InferenceSettings()


def infer(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or a model's id on the hub.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, globs, folders (.txt .jsonl .json .csv .tsv, also .gz .zst .bz2 .xz; .parquet), "
            "or - for stdin.",
            metavar="INPUT...",
        ),
    ],
    revision: RevisionOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((AUTO, *TASKS)),
            help="What to predict; auto: what the checkpoint was made for.",
            show_default=DEFAULTS.task,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Result file .jsonl, .csv, .parquet or .npy; else jsonl to standard output.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing --output.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the --output of an interrupted run of the same command.")
    ] = False,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column or key of the text; a txt file has none.", show_default=DEFAULTS.text_column),
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text, encoded together with the first.")
    ] = None,
    id_column: Annotated[
        list[str] | None, typer.Option(help="Column to carry into the output; may be repeated.")
    ] = None,
    keep_text: Annotated[
        bool | None,
        typer.Option(
            "--keep-text/--no-keep-text",
            help="Whether the output repeats the text.",
            show_default="yes" if DEFAULTS.keep_text else "no",
        ),
    ] = None,
    input_format: Annotated[
        str | None, typer.Option(help="Format of standard input: txt, jsonl, csv or tsv.", show_default="txt")
    ] = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_header: NoHeaderOption = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and count bad rows instead of stopping at the first.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(help="Candidates for each mask.", show_default=str(DEFAULTS.top_k))
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="WORD,WORD,...",
            help="Score these words for each mask, one token each; all of them, or the --top-k best.",
        ),
    ] = None,
    aggregation: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(AGGREGATIONS),
            help="Entities from the tokens' tags, as transformers joins them; none: each token by itself.",
            show_default=DEFAULTS.aggregation,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((AUTO, *POOLINGS)),
            help="Embedding from the tokens' states; several joined by +; auto: the checkpoint's, or mean.",
            show_default=DEFAULTS.pooling,
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Embeddings of length 1; auto: the checkpoint's, or not.",
            show_default=str(DEFAULTS.normalize),
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|TEXT",
            help="Before each text to embed: a prompt of the checkpoint, or a text; '' for none; auto: its default.",
            show_default=DEFAULTS.prompt,
        ),
    ] = None,
    truncate_dim: Annotated[
        int | None,
        typer.Option(
            help="Keep so many numbers of an embedding; auto: the checkpoint's, or all.",
            show_default=str(DEFAULTS.truncate_dim),
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Cut texts at so many tokens; auto: the model's maximum.", show_default=str(DEFAULTS.max_length)
        ),
    ] = None,
    long_text: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((AUTO, *LONG_TEXTS)),
            help="Truncate longer texts, or window: read them whole in windows; auto: window for tag, else truncate.",
            show_default=DEFAULTS.long_text,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens that neighbouring windows share; auto: a quarter of them.", show_default=str(DEFAULTS.stride)
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Texts in a batch; auto: about 4,096 tokens on a CPU.", show_default=str(DEFAULTS.batch_size)
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((AUTO, *PRECISIONS)),
            help="Of the matrix products; auto: bfloat16 where the hardware has it.",
            show_default=DEFAULTS.precision,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; auto: one for each core.", show_default=str(DEFAULTS.threads))
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="auto|cpu|cuda", help="Where to compute.", show_default=DEFAULTS.device),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="auto|reference|numba|cuda", help="Of the feedforward layers.", show_default=DEFAULTS.backend
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Fill masks, classify, find entities or embed texts. Memory does not grow with the input; its order is kept."""
    from ufbert.system.quick_start import quick_start

    with quick_start():
        from ufbert.inference.request import InferenceRequest
        from ufbert.inference.run import infer_files
        from ufbert.reporting import show_log
        from ufbert.settings.toml import load_settings
        from ufbert.text.reading import Reading

    show_log()
    options = {
        "inference.task": task,
        "inference.text_column": text_column,
        "inference.pair_column": pair_column,
        "inference.keep_text": keep_text,
        "inference.top_k": top_k,
        "inference.targets": targets.split(",") if targets is not None else None,
        "inference.aggregation": aggregation,
        "inference.pooling": pooling,
        "inference.normalize": normalize,
        "inference.prompt": prompt,
        "inference.truncate_dim": truncate_dim,
        "inference.max_length": max_length,
        "inference.long_text": long_text,
        "inference.stride": stride,
        "inference.batch_size": batch_size,
        "inference.precision": precision,
        "inference.threads": threads,
        "inference.device": device,
        "inference.backend": backend,
    }
    request = InferenceRequest(
        checkpoint=checkpoint,
        inputs=tuple(inputs),
        revision=revision,
        settings=load_settings(config, set_ or [], options=options).inference,
        asked=frozenset(name.partition(".")[2] for name, value in options.items() if value is not None),
        output=output,
        overwrite=overwrite,
        resume=resume,
        id_columns=tuple(id_column or ()),
        input_format=input_format,
        reading=Reading(encoding=encoding or "utf-8", delimiter=delimiter or "", header=not no_header),
        skip_bad=skip_bad,
    )
    infer_files(request)
