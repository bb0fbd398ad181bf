"""`ufbert bench`: time fast feedforward layers and models against their dense twins, and look into their trees."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ufbert.errors import ConfigError

from .one_process import run_on_one_process
from .shared_options import DelimiterOption, EncodingOption, NoHeaderOption

__all__ = ["bench"]


class Subject(StrEnum):
    """What is timed, or counted."""

    layer = "layer"
    encoder = "encoder"
    training = "training"
    paths = "paths"


class Device(StrEnum):
    """Where."""

    cpu = "cpu"
    cuda = "cuda"


class Direction(StrEnum):
    """How much of a layer's work."""

    forward = "forward"
    training = "training"


# The options that belong to `bench paths`; those that it alone has, and those that the timed subjects have too.
PATHS_ONLY = ("inputs", "text_column", "encoding", "delimiter", "no_header", "tokens")
PATHS_TOO = ("subject", "device", "json")


def bench(
    context: typer.Context,
    subject: Annotated[
        Subject,
        typer.Argument(
            help="Time one layer, the whole encoder's forward pass, or a training step; or count the paths of a "
            "checkpoint's tokens."
        ),
    ] = Subject.layer,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT FILE...]",
            help="For paths: a checkpoint's folder or hub id, and text files, folders or globs as of ufbert infer.",
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    preset: Annotated[
        str, typer.Option(help="Shape: bert-base, bert-large or gpt3. The options below change parts of it.")
    ] = "bert-base",
    batch: Annotated[
        str,
        typer.Option(help="Comma-separated batch sizes: tokens for a layer, sequences otherwise."),
    ] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for every implementation; 0: all cores.")] = 0,
    trees: Annotated[int | None, typer.Option(min=1, help="Trees of the fast feedforward layer.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Edges from root to leaf.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="Width of a token.")] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Neurons of the dense layer; by default as many as the trees have, in the encoder 4 x hidden size.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers whose weights are cycled through, or layers of the encoder."),
    ] = None,
    sequence_length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence (encoder, training).")] = 128,
    dtype: Annotated[
        str,
        typer.Option(help="Comma-separated: float32, bfloat16, and int8 for the encoder; by default all."),
    ] = "",
    direction: Annotated[
        Direction, typer.Option(help="A layer's forward pass alone, or forward and backward.")
    ] = Direction.forward,
    implementations: Annotated[
        str,
        typer.Option(
            help="Comma-separated names to time, such as ufbert or ff/torch-bmm; a wrong name lists them all."
        ),
    ] = "",
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Time budget of the whole run; by default 100, for the encoder 300.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and inputs.")] = 0,
    text_column: Annotated[
        str, typer.Option(help="Column of the text in jsonl, csv, tsv and parquet (paths).")
    ] = "text",
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_header: NoHeaderOption = False,
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens to count at least, from the first text on; 0: all (paths).")
    ] = 65_536,
    json: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the figure to this .svg, .png or .pdf file (needs ufbert\\[plot]).")
    ] = None,
) -> None:
    """Time fast feedforward layers and models against their dense twins, on inputs that reach many leaves.

    bench paths CHECKPOINT FILE... shows how the tokens of the files spread over a checkpoint's trees, layer by layer.
    The results go to stdout as tables; progress, notes and warnings go to stderr.
    """
    _check_options(context, subject)
    run_on_one_process("bench")
    if subject is Subject.paths:
        from ufbert.benchmark.models.checkpoint_paths import PathsRequest, run_paths
        from ufbert.text.reading import Reading

        checkpoint, *files = inputs or [""]
        if not files:
            raise ConfigError("bench paths takes a checkpoint and text files: ufbert bench paths CHECKPOINT FILE...")
        run_paths(
            PathsRequest(
                checkpoint=checkpoint,
                files=files,
                text_column=text_column,
                reading=Reading(encoding=encoding or "utf-8", delimiter=delimiter or "", header=not no_header),
                tokens=tokens,
                device=device.value,
                json_file=json,
            )
        )
        return
    from ufbert.benchmark.run import run_benchmark
    from ufbert.benchmark.settings import BenchmarkSettings

    run_benchmark(
        BenchmarkSettings.from_options(
            subject=subject.value,
            device=device.value,
            preset=preset,
            batches=batch,
            threads=threads,
            trees=trees,
            depth=depth,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            layers=layers,
            sequence_length=sequence_length,
            dtypes=dtype,
            direction=direction.value,
            implementations=implementations,
            seconds=seconds,
            seed=seed,
        ),
        json_file=json,
        plot_file=plot,
    )


def _check_options(context: typer.Context, subject: Subject) -> None:
    """Raise `ConfigError` for an argument or option that says nothing to the subject."""
    paths = subject is Subject.paths
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if paths and name not in PATHS_ONLY + PATHS_TOO:
            raise ConfigError(
                f"--{name.replace('_', '-')} belongs to what is timed; bench paths takes --device, --text-column, "
                "--encoding, --delimiter, --no-header, --tokens and --json"
            )
        if not paths and name in PATHS_ONLY:
            given = context.params[name]
            what = given[0] if name == "inputs" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{what}: belongs to bench paths CHECKPOINT FILE...; bench {subject.value} takes no such")
