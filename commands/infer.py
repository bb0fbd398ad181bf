"""`ufbert infer`: text in, predictions out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["infer"]


def infer(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or a model's id on the hub.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, globs, folders (.txt .jsonl .csv .tsv, also .gz or .zst; .parquet), or - for stdin.",
            metavar="INPUT...",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(help="fill-mask, classify or embed; by default what the checkpoint was made for."),
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
    text_column: Annotated[str, typer.Option(help="Column or key of the text; a txt file has none.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text, encoded together with the first.")
    ] = None,
    id_column: Annotated[
        list[str] | None, typer.Option(help="Column to carry into the output; may be repeated.")
    ] = None,
    keep_text: Annotated[bool, typer.Option(help="Whether the output repeats the text.")] = True,
    input_format: Annotated[
        str | None, typer.Option(help="Format of standard input: txt, jsonl, csv or tsv.", show_default="txt")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and count bad rows instead of stopping at the first.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(help="Candidates for each mask.", show_default="5")] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="Embedding from the tokens' mean or from cls.", show_default="the checkpoint's, or mean"),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Embeddings of length 1.",
            show_default="the checkpoint's, or not",
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Cut texts at so many tokens.", show_default="the model's maximum")
    ] = None,
    long_text: Annotated[
        str,
        typer.Option(help="truncate longer texts, or window: read them whole in windows and join the results."),
    ] = "truncate",
    stride: Annotated[
        int | None, typer.Option(help="Tokens that neighbouring windows share.", show_default="a quarter of them")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Texts in a batch.", show_default="about 4,096 tokens on a CPU")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or int8; auto takes bfloat16 where the hardware has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="one for each core")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    backend: Annotated[str, typer.Option(help="Of the feedforward layers: auto, reference, numba or cuda.")] = "auto",
) -> None:
    """Fill masks, classify or embed texts. Memory does not grow with the input, and its order is kept."""
    from ufbert.inference.run import infer_files
    from ufbert.reporting import show_log

    show_log()
    infer_files(
        checkpoint,
        inputs,
        task=task,
        output=output,
        overwrite=overwrite,
        resume=resume,
        text_column=text_column,
        pair_column=pair_column,
        id_columns=id_column or (),
        keep_text=keep_text,
        input_format=input_format,
        skip_bad=skip_bad,
        threads=threads,
        top_k=top_k,
        pooling=pooling,
        normalize=normalize,
        max_length=max_length,
        long_text=long_text,
        stride=stride,
        batch_size=batch_size,
        precision=precision,
        device=device,
        backend=backend,
    )
