"""`ufbert finetune`: a classifier or regressor of texts, or a tagger of words, from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.finetuning.request import (
    LABEL_COLUMN,
    TEXT_COLUMN,
    VALIDATION_FRACTION,
    DataRequest,
    FinetuningRequest,
    GlueRequest,
    parse_seeds,
)
from ufbert.settings.sections import FinetuningSettings

from .command_line import command_line
from .one_process import run_on_one_process
from .shared_options import (
    ConfigOption,
    DelimiterOption,
    EncodingOption,
    NoHeaderOption,
    PresetOption,
    RevisionOption,
    SetOption,
)

__all__ = ["finetune"]

DEFAULTS = FinetuningSettings()


def finetune(
    context: typer.Context,
    checkpoint: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT...",
            help="Checkpoint folder, or the name of a model on the Hugging Face hub; several with --task glue.",
        ),
    ],
    revision: RevisionOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="glue/NAME|glue|tag",
            help="A GLUE task: cola, sst2, mrpc, stsb, rte, wnli, qnli, qqp or mnli; glue for all of them and a table; "
            "tag to find entities, by --train with words and tags.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the task's files, or its parent; else they come from the hub."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="With --task glue: a run of every task for each.", show_default="that of --seed"
        ),
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT", help="With --task glue: show what the others keep of this checkpoint's scores."
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Training rows: csv, tsv, jsonl, json or parquet; a glob or a folder too. With --task tag: "
            "lists in jsonl, json or parquet, or columns in conll, bio, txt or tsv.",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Validation rows; else --validation-fraction of --train is held out."),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of --train to hold out when there is no --validation.", show_default=str(VALIDATION_FRACTION)
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Column of the text in --train.", show_default=f"{TEXT_COLUMN}; tokens or words for tag"),
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text, if there is one.")] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the label in --train.", show_default=f"{LABEL_COLUMN}; ner_tags or tags for tag"),
    ] = None,
    regression: Annotated[
        bool | None,
        typer.Option(
            "--regression/--classification",
            help="Whether labels are values or classes.",
            show_default="values if they are numbers with a decimal point",
        ),
    ] = None,
    label_separator: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Rows of csv or tsv have several labels with this between; in jsonl and parquet lists say so.",
        ),
    ] = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_header: NoHeaderOption = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and count rows that cannot be read instead of stopping there.")
    ] = False,
    skip_unlabelled: Annotated[
        bool, typer.Option("--skip-unlabelled", help="Leave out rows whose label is missing, - or a negative class.")
    ] = False,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="test|FILE",
            help="With a GLUE task: write predictions of its test set, or of FILE, as the GLUE server takes them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the result; must not exist. With --task glue: of all runs; complete ones are skipped.",
            show_default="the next free of runs/finetune-NAME, ...-2; runs/glue",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Tokenizer folder or file, if the checkpoint has none.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training rows.", show_default=str(DEFAULTS.epochs))
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of an optimiser step.", show_default=str(DEFAULTS.batch_size))
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default=f"{DEFAULTS.learning_rate:g}")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a row; longer ones are cut, or for tag read in windows.",
            show_default=str(DEFAULTS.max_length),
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="best|last", help="Which epoch's weights to save.", show_default=DEFAULTS.keep),
    ] = None,
    max_train_rows: Annotated[int | None, typer.Option(min=1, help="Train on a random sample of so many rows.")] = None,
    max_validation_rows: Annotated[
        int | None, typer.Option(min=1, help="Validate on a random sample of so many rows.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.", show_default=DEFAULTS.device)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the new head, the order, dropout and samples.", show_default=str(DEFAULTS.seed)),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Finetune CHECKPOINT on a GLUE task, your own labelled texts or tagged words, with the paper's recipe.

    Writes a checkpoint folder that `ufbert infer` runs (classify or tag), with the figures in its README.md
    and metrics.jsonl. The folder is brought up to date after every epoch; Ctrl-C keeps the best one so far.

    `--task glue` runs all tasks with several checkpoints and seeds, and writes glue.md, glue.csv and glue.json.
    """
    from ufbert.errors import ConfigError
    from ufbert.finetuning.run import finetune as run
    from ufbert.reporting import show_log
    from ufbert.settings.toml import load_settings

    run_on_one_process("finetune")
    show_log()
    data_request = DataRequest(
        task=task,
        data=data,
        train=train,
        validation=validation,
        validation_fraction=validation_fraction,
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        regression=regression,
        label_separator=label_separator,
        encoding=encoding,
        delimiter=delimiter,
        no_header=no_header,
        skip_bad=skip_bad,
        skip_unlabelled=skip_unlabelled,
        max_train_rows=max_train_rows,
        max_validation_rows=max_validation_rows,
    )
    options = {
        "finetuning.epochs": epochs,
        "finetuning.batch_size": batch_size,
        "finetuning.learning_rate": learning_rate,
        "finetuning.max_length": max_length,
        "finetuning.keep": keep,
        "finetuning.device": device,
        "finetuning.seed": seed,
    }
    settings = load_settings(config, set_ or [], options=options, preset=preset).finetuning
    if data_request.whole_glue:
        from ufbert.finetuning.glue_suite import run_glue

        if seeds is not None and seed is not None:
            raise ConfigError("give --seed or --seeds, not both")
        if predict not in (None, "test"):
            raise ConfigError(
                f"--predict {predict}: a file goes with a single task; with --task glue give --predict test"
            )
        run_glue(
            GlueRequest(
                tuple(checkpoint),
                data_request,
                settings,
                seeds=(settings.seed,) if seeds is None else parse_seeds(seeds),
                relative_to=relative_to,
                out=out or GlueRequest.out,
                revision=revision,
                tokenizer=tokenizer,
                command=command_line(context),
                predict=predict is not None,
            )
        )
        return
    for option, value in (("--seeds", seeds), ("--relative-to", relative_to)):
        if value is not None:
            raise ConfigError(f"{option} goes with --task glue; a single run has --seed")
    if len(checkpoint) > 1:
        raise ConfigError(
            f"{len(checkpoint)} checkpoints are compared with --task glue; finetune on other data one by one"
        )
    request = FinetuningRequest(
        checkpoint[0],
        data_request,
        settings,
        out=out,
        revision=revision,
        tokenizer=tokenizer,
        command=command_line(context),
        predict=predict,
    )
    run(request)
