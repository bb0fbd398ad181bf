"""`ufbert convert`: a checkpoint of other software, or one of ours, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.errors import ConfigError
from ufbert.settings.distillation import DistillationSettings

from .command_line import command_line
from .one_process import run_on_one_process
from .shared_options import ConfigOption, RevisionOption, SetOption

__all__ = ["convert"]

DEFAULTS = DistillationSettings()
# What only --analyse takes, and what it has no use for.
OF_THE_ANALYSIS = ("out", "neurons", "at", "tokens")
OF_STUDENT = (
    *("trees", "shared", "dense", "token_rows", "shape", "layers", "drop_layers", "random_routing", "keep", "speed"),
    *("relu", "teacher"),
)
OF_DISTILLATION = (
    *(*OF_STUDENT, "task", "pair_column", "budget", "minutes", "steps"),
    *("batch_size", "learning_rate", "sparsity", "resume"),
)
OF_CONVERSION = ("to", "drop_head", "push", "private", *OF_DISTILLATION)


def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Checkpoint folder, or the name of a model on the Hugging Face hub.")],
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="DEST", help="New folder for the result; with --analyse it may be left out.", show_default=False
        ),
    ] = None,
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
        int | None,
        typer.Option(help="Edges from root to leaf; a token uses depth + 1 neurons a tree. Also for --analyse."),
    ] = None,
    shared: Annotated[
        int, typer.Option(min=0, help="With --trees: neurons beside the trees, in each layer, that every token uses.")
    ] = 0,
    dense: Annotated[
        int | None,
        typer.Option(metavar="N", help="In place of --trees: dense layers of N of their neurons; 0 for no layers."),
    ] = None,
    token_rows: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="With --trees or --dense: beside the neurons of each layer a row for each of the N most frequent "
            "tokens of the corpus, which costs memory and a tenth of the time.",
        ),
    ] = 0,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE[,SHAPE]",
            help="In place of --trees: 12x6, 12x6+64, dense:216, dense:216+rows:8192 or none, one for all layers or "
            "one for each; or auto, which chooses them for --keep or --speed.",
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            metavar="K",
            help="With --shape auto: the fastest layers that are expected to keep this mean cosine of embeddings, or "
            "this agreement of a head, before training.",
        ),
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(
            metavar="2x", help="Choose the most exact layers that make the model so many times as fast on this machine."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="2-5|0,3", help="Convert these layers alone, from 0 on; the others stay as they are."),
    ] = None,
    drop_layers: Annotated[
        str | None, typer.Option(metavar="1,3", help="Leave whole layers out, and train the others to do their work.")
    ] = None,
    random_routing: Annotated[
        bool,
        typer.Option("--random-routing", help="With --trees: nodes take neurons at random, a control for the routing."),
    ] = False,
    relu: Annotated[
        bool,
        typer.Option(
            "--relu",
            help="Keep all dense layers and neurons, but with ReLU and few of them active for a token: an original for "
            "a second conversion. Give it a long --budget.",
        ),
    ] = False,
    sparsity: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            help="With --relu: weight of the share of active neurons in the loss; more leaves fewer active.",
            show_default=f"{DEFAULTS.sparsity:g}",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Checkpoint that the end-to-end training learns from, such as what --relu has made SOURCE of.",
            show_default="SOURCE",
        ),
    ] = None,
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
    pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text, to distil a classifier of pairs.", show_default="none")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="auto|embed|classify|tag|mlm",
            help="What the student shall agree with the original in: embeddings, or the outputs of its head.",
            show_default=DEFAULTS.task,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time the distillation may take, such as 90s, 30m or 1h30m.",
            show_default=f"{DEFAULTS.minutes:g}m",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="The same in minutes.", show_default=f"{DEFAULTS.minutes:g}")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of each layer and of the end-to-end training, in place of a time."),
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted distillation of the same command.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to distil.", show_default=DEFAULTS.device)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the choice and order of texts.", show_default=str(DEFAULTS.seed))
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="NAME", help="Send DEST to the Hugging Face hub too, as the model repository USER/MODEL."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: a private repository.")] = False,
    analyse: Annotated[
        bool,
        typer.Option(
            "--analyse",
            help="Convert nothing: measure on --corpus what choosing neurons for each token could be worth in each "
            "dense layer, and how much of it trees get.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="With --analyse: new folder for analysis.json, .md and .svg."),
    ] = None,
    neurons: Annotated[
        str | None,
        typer.Option(
            metavar="K[,K]",
            help="With --analyse: numbers of neurons that a token uses.",
            show_default="12,24,48,84,160,240,384,768",
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="With --analyse: the one of --neurons that the table is about.",
            show_default="nearest to a 16th of the layer",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="With --analyse: fit on so many tokens; up to half as many more are held out.", show_default="32768"
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Convert SOURCE to DEST: exactly, or with --trees into fast feedforward layers by distillation.

    --dense, --shape and --drop-layers distil into narrower, mixed or fewer layers alike; --keep and --speed choose the
    shapes by what is measured.

    With --analyse nothing is converted: the table of what trees could be worth goes to stdout.
    """
    from ufbert.conversion import ConversionRequest, ConversionStopped, convert_checkpoint
    from ufbert.settings.toml import load_settings

    _check_options(context, analyse)
    if sparsity is not None and not relu:
        raise ConfigError(
            f"--sparsity {sparsity:g} is the weight of few active neurons, which --relu trains; give that too"
        )
    run_on_one_process("convert")
    options = {
        "distillation.text_column": text_column,
        "distillation.task": task,
        "distillation.pair_column": pair_column,
        "distillation.budget": budget,
        "distillation.minutes": minutes,
        "distillation.steps": steps,
        "distillation.batch_size": batch_size,
        "distillation.learning_rate": learning_rate,
        "distillation.sparsity": sparsity,
        "distillation.max_texts": max_texts,
        "distillation.device": device,
        "distillation.seed": seed,
    }
    distillation = load_settings(config, set_ or [], options=options).distillation
    if analyse:
        from ufbert.conversion.analysis.request import NEURONS, TOKENS, AnalysisRequest, parse_neurons
        from ufbert.conversion.analysis.run import analyse_checkpoint

        if destination is not None and out is not None:
            raise ConfigError(f"--out {out}: the analysis goes to DEST {destination} already; give one of the two")
        analyse_checkpoint(
            AnalysisRequest(
                source,
                corpus=tuple(corpus or ()),
                out=out or destination,
                neurons=NEURONS if neurons is None else parse_neurons(neurons),
                at=at,
                tokens=TOKENS if tokens is None else tokens,
                depth=depth,
                revision=revision,
                family=family,
                distillation=distillation,
                command=command_line(context),
            )
        )
        return
    if destination is None:
        context.fail("Missing argument 'DEST'.")
    request = ConversionRequest(
        source,
        destination,
        to=to,
        trees=trees,
        depth=depth,
        shared=shared,
        dense=dense,
        token_rows=token_rows,
        shape=() if shape is None else tuple(part.strip() for part in shape.split(",")),
        layers=layers,
        drop_layers=drop_layers,
        random_routing=random_routing,
        keep=keep,
        speed=speed,
        relu=relu,
        teacher=teacher,
        corpus=tuple(corpus or ()),
        revision=revision,
        family=family,
        drop_head=drop_head,
        distillation=distillation,
        resume=resume,
        push=push,
        private=private,
        command=command_line(context),
    )
    try:
        if request.student is None:
            convert_checkpoint(request)
        else:
            from ufbert.benchmark.models.beside_original import time_beside_original
            from ufbert.benchmark.models.feedforward_shapes import time_shapes
            from ufbert.conversion.distillation.instruments import Instruments
            from ufbert.inference.engine import pack_encoder

            convert_checkpoint(request, Instruments(time_beside_original, time_shapes, pack_encoder))
    except ConversionStopped as stop:
        raise typer.Exit(stop.exit_code) from stop


def _check_options(context: typer.Context, analyse: bool) -> None:
    """Raise `ConfigError` for an option that would be ignored."""
    spellings = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in OF_CONVERSION if analyse else OF_THE_ANALYSIS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            if analyse:
                raise ConfigError(f"{spellings[name]}: --analyse converts nothing, and has no use for it; leave it out")
            raise ConfigError(f"{spellings[name]} belongs to --analyse; give that too, or leave it out")
