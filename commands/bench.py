"""`ufbert bench`: time fast feedforward layers and models against their dense twins, look into trees, weigh quality."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ufbert.errors import ConfigError

from .one_process import run_on_one_process
from .shared_options import DelimiterOption, EncodingOption, NoHeaderOption, SetOption

__all__ = ["bench"]


class Subject(StrEnum):
    """What is timed, or counted."""

    layer = "layer"
    encoder = "encoder"
    training = "training"
    paths = "paths"
    quality = "quality"


class Device(StrEnum):
    """Where."""

    cpu = "cpu"
    cuda = "cuda"


class Direction(StrEnum):
    """How much of a layer's work."""

    forward = "forward"
    training = "training"


# What the subjects take that are no timing of random weights: `bench paths` and `bench quality`, each with the
# arguments it has, its own options, and those of the timed subjects that it has too.
ARGUMENTS = {Subject.paths: "CHECKPOINT FILE...", Subject.quality: "RECIPE"}
OWN = {
    Subject.paths: ("inputs", "text_column", "encoding", "delimiter", "no_header", "tokens"),
    Subject.quality: ("inputs", "out", "only", "jobs", "train", "corpus", "set_", "show"),
}
# What says the shape of a model that is built, and nothing to one that is there.
SHAPE = ("preset", "trees", "depth", "shared", "hidden_size", "intermediate_size", "layers", "key_value_heads")
TOO = {Subject.paths: ("device", "json"), Subject.quality: ("threads", "seconds")}


def bench(
    context: typer.Context,
    subject: Annotated[
        Subject,
        typer.Argument(
            help="Time one layer, the whole encoder's forward pass, or a training step; count the paths of a "
            "checkpoint's tokens; or pretrain the variants of a recipe and weigh their quality against their time."
        ),
    ] = Subject.layer,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT FILE...|RECIPE]",
            help="For paths: a checkpoint's folder or hub id, and text files, folders or globs as of ufbert infer. "
            "For quality: a TOML file, or the name of a recipe that ufbert ships.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB-ID",
            help="Time this checkpoint, one of ours or one that ufbert convert reads, beside other software on its own "
            "weights, in the place of a model that the options of shape build (encoder).",
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
    shared: Annotated[
        int, typer.Option(min=0, help="Dense neurons beside the trees, which every token uses (layer).")
    ] = 0,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="Width of a token.")] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Neurons of the dense layer; by default as many as the trees and --shared have, in the encoder "
            "4 x hidden size.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers whose weights are cycled through, or layers of the encoder."),
    ] = None,
    key_value_heads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Heads of keys and values of our encoder with trees; by default one a head (encoder)."
        ),
    ] = None,
    sequence_length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence (encoder, training).")] = 128,
    dtype: Annotated[
        str,
        typer.Option(help="Comma-separated: float32, bfloat16, and int8 for the encoder (by default all) and a layer."),
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
        float | None,
        typer.Option(
            min=0.0,
            help="Time budget of the whole run; by default 100, for the encoder 300. For quality: of its timings, by "
            "default the recipe's; 0 keeps those of the last call.",
        ),
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
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the runs and results; goes on with what is there (quality).")
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Train these variants only; all are reported (quality).")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, which share the threads (quality).")] = 1,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Or only measure and report the finished runs (quality).")
    ] = True,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="PATH|GLOB|hub:NAME|embedded",
            help="Training text, in the place of the recipe's. May be repeated (quality).",
        ),
    ] = None,
    set_: SetOption = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, and end (quality).")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the figure to this .svg, .png or .pdf file (needs ufbert\\[plot]).")
    ] = None,
) -> None:
    """Time fast feedforward layers and models against their dense twins, on inputs that reach many leaves.

    bench paths CHECKPOINT FILE... shows how the tokens of the files spread over a checkpoint's trees, layer by layer.
    bench quality RECIPE --out FOLDER pretrains every variant of a recipe, or goes on with that, and shows what each
    layer costs in time and gives in quality.
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
    if subject is Subject.quality:
        names = [name.strip() for name in only.split(",") if name.strip()]
        _run_quality(inputs or [], show, out, names, jobs, train, threads, seconds, set_ or [], corpus or [])
        return
    from ufbert.benchmark.run import run_benchmark
    from ufbert.benchmark.settings import BenchmarkSettings

    run_benchmark(
        BenchmarkSettings.from_options(
            subject=subject.value,
            model=model,
            device=device.value,
            preset=preset,
            batches=batch,
            threads=threads,
            trees=trees,
            depth=depth,
            shared_neurons=shared,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            layers=layers,
            key_value_heads=key_value_heads,
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


def _run_quality(
    inputs: list[str],
    show: bool,
    out: Path | None,
    only: list[str],
    jobs: int,
    train: bool,
    threads: int,
    seconds: float | None,
    overrides: list[str],
    corpus: list[str],
) -> None:
    from ufbert.benchmark.quality.recipe import recipe_names, recipe_text

    if show and len(inputs) < 2:
        typer.echo(recipe_text(inputs[0] if inputs else "quality"), nl=False)
        return
    if len(inputs) != 1 or out is None:
        raise ConfigError(
            "bench quality takes a recipe and a folder: ufbert bench quality RECIPE --out FOLDER, where RECIPE is a "
            f"TOML file or one of {', '.join(recipe_names())}"
        )
    from ufbert.benchmark.quality.run import QualityRequest, run_quality

    request = QualityRequest(
        recipe=inputs[0],
        out=out,
        only=only,
        jobs=jobs,
        train=train,
        threads=threads,
        seconds=seconds,
        overrides=overrides,
        corpus=corpus,
    )
    raise typer.Exit(run_quality(request))


def _check_options(context: typer.Context, subject: Subject) -> None:
    """Raise `ConfigError` for an argument or option that says nothing to the subject."""
    spellings = {parameter.name: parameter for parameter in context.command.params}
    taken = OWN.get(subject, ()) + TOO.get(subject, ())
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name == "subject" or name in taken:
            continue
        given = context.params[name]
        option = (given[0] + ":") if name == "inputs" else spellings[name].opts[0]
        if context.params["model"] is not None and subject is Subject.encoder and name in SHAPE:
            raise ConfigError(
                f"{option} shapes a model that is built; {context.params['model']} has a shape of its own: leave out "
                f"{option} or --model"
            )
        owner = next((other for other in OWN if name in OWN[other]), None)
        if owner is not None:
            alone = option if name == "inputs" else f"{option}:"
            owners = [f"bench {other.value} {ARGUMENTS[other]}" for other in OWN if name in OWN[other]]
            raise ConfigError(f"{alone} belongs to {' and '.join(owners)}; bench {subject.value} takes no such")
        if subject in OWN:
            own = [spellings[n].opts[0] for n in (*TOO[subject], *OWN[subject]) if n != "inputs"]
            raise ConfigError(
                f"{option} belongs to what is timed; bench {subject.value} takes {', '.join(own[:-1])} and {own[-1]}"
            )
