"""`ufbert pretrain`: a masked language model from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.settings.sections import DataSettings, TrainingSettings

from .shared_options import (
    ConfigOption,
    DelimiterOption,
    EncodingOption,
    NoHeaderOption,
    PresetOption,
    SetOption,
)

__all__ = ["pretrain"]

DEFAULTS = TrainingSettings()


def pretrain(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT...]", help="Corpora, the same as --corpus; what the shell makes of a glob."),
    ] = None,
    preset: PresetOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the settings of --preset, a TOML file for --config, and end.")
    ] = False,
    config: ConfigOption = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="PATH|GLOB|hub:NAME|embedded",
            help="Training text: txt, jsonl, json, csv, tsv, parquet (also .gz .zst .bz2 .xz), a folder, a glob, "
            "a hub data set, or the English that Python ships. May be repeated.",
            show_default="embedded",
        ),
    ] = None,
    validation_corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|GLOB|hub:NAME",
            help="Held-out text; else a share of the corpus's documents is held out. May be repeated.",
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column or key of the text; a txt file has none.", show_default=DataSettings().text_column),
    ] = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_header: NoHeaderOption = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A ready tokenizer's folder or file; else one is trained on the corpus."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Begin with the weights, the tokenizer and the model of this checkpoint of ours (folder or hub id).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the run; must not exist.",
            show_default="the next free of runs/pretrain, runs/pretrain-2, ...",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many optimiser steps, ...")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="... or after so many tokens, ...")] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="... or after a time such as 90s, 20m, 24h.", show_default=DEFAULTS.budget),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out (without --out: the latest in runs/).")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.", show_default=DEFAULTS.device)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initialisation, order and masks.", show_default=str(DEFAULTS.seed))
    ] = None,
    plot: Annotated[
        bool | None,
        typer.Option(
            "--plot/--no-plot",
            help="Draw the loss curve, loss.png, and the pictures of report.html.",
            show_default="if matplotlib is installed",
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Pretrain a masked language model on text; without options, a small one on Python's own English.

    Writes a checkpoint folder that the other commands read, with the training state beside the weights.
    Ctrl-C and SIGTERM save before it stops; --resume continues. Several processes: torchrun -m ufbert pretrain ...
    """
    if show:
        _show(preset)
        return
    from ufbert.pretraining.run import pretrain as run
    from ufbert.pretraining.run_folder import plan_run
    from ufbert.reporting import note, show_log

    show_log()
    corpora = [*(corpus or []), *(texts or [])]
    options = {
        "data.corpus": corpora or None,
        "data.validation_corpus": validation_corpus or None,
        "data.text_column": text_column,
        "data.encoding": encoding,
        "data.delimiter": delimiter,
        "data.header": False if no_header else None,
        "data.tokenizer": tokenizer,
        "training.initial_checkpoint": from_,
        "training.steps": steps,
        "training.tokens": tokens,
        "training.budget": budget,
        "training.device": device,
        "training.seed": seed,
    }
    plan = plan_run(out, resume=resume, config=config, overrides=set_ or [], options=options, preset=preset)
    report = run(plan, plot=plot)
    for line in report.lines():
        note(line)
    raise typer.Exit(report.exit_code)


def _show(preset: str | None) -> None:
    from ufbert.errors import ConfigError
    from ufbert.settings.presets import preset_names, preset_text

    if preset is None:
        raise ConfigError(f"--show prints a preset; name it with --preset: {', '.join(preset_names())}")
    typer.echo(preset_text(preset), nl=False)
