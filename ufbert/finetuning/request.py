"""What `ufbert finetune` is asked for: the checkpoint, the rows, the recipe and where the result goes.

Imported for `ufbert finetune --help` too, so nothing heavy is imported with it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ufbert.errors import ConfigError
from ufbert.settings.sections import FinetuningSettings
from ufbert.text.reading import Reading

__all__ = [
    "LABEL_COLUMN",
    "TEXT_COLUMN",
    "VALIDATION_FRACTION",
    "DataRequest",
    "FinetuningRequest",
    "GlueRequest",
    "parse_seeds",
]

WHOLE_GLUE = "glue"
TAGGING = "tag"
TEXT_COLUMN = "text"
LABEL_COLUMN = "label"
VALIDATION_FRACTION = 0.1
"""Share of the training rows that is held out unless another is asked for."""


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What to finetune on: a GLUE `task`, or `train` with its columns. Raises `ConfigError` for a bad mix.

    With the task `tag`, `train` has sentences whose words have tags.
    """

    task: str | None = None
    """`glue/NAME`, `glue` for all of them, or `tag`."""
    data: Path | None = None
    """Folder of the GLUE task's files, or its parent; None fetches them from the hub."""
    train: str | None = None
    """File, glob or folder of csv, tsv, jsonl or parquet."""
    validation: str | None = None
    """The same; None holds out `validation_fraction` of the training rows."""
    validation_fraction: float | None = None
    """Share of the training rows to hold out; None takes `VALIDATION_FRACTION`."""
    text_column: str | None = None
    """None takes `TEXT_COLUMN`, or for tags what the file has of `tokens` and `words`."""
    pair_column: str | None = None
    """Column of the second text."""
    label_column: str | None = None
    """None takes `LABEL_COLUMN`, or for tags what the file has of `ner_tags` and `tags`."""
    regression: bool | None = None
    """Whether labels are values; None decides by the labels."""
    label_separator: str | None = None
    """What stands between the labels of a row in csv and tsv; None where a row has one label."""
    encoding: str | None = None
    """Of text files; None takes UTF-8."""
    delimiter: str | None = None
    """Between the fields of csv and tsv; None finds it out."""
    no_header: bool = False
    """Whether csv and tsv have no header row; columns are then called 1, 2, 3, ..."""
    skip_bad: bool = False
    """Leave out rows that cannot be read."""
    skip_unlabelled: bool = False
    """Leave out rows whose label is missing or, for classes, negative."""
    max_train_rows: int | None = None
    """Train on a random sample of so many rows."""
    max_validation_rows: int | None = None
    """Validate on a random sample of so many rows (of each validation set)."""

    def __post_init__(self) -> None:
        if self.tagging:
            self._check_tagging()
            return
        if (self.task is None) == (self.train is None):
            raise ConfigError("give either --task glue/NAME or --train FILE to say what to finetune on")
        if self.task is not None:
            if not self.whole_glue:
                from .tasks import glue_task

                glue_task(self.task)
            for name in (
                "validation",
                "validation_fraction",
                "text_column",
                "pair_column",
                "label_column",
                "regression",
                "label_separator",
                "encoding",
                "delimiter",
                "no_header",
                "skip_bad",
                "skip_unlabelled",
            ):
                if getattr(self, name) not in (None, False) or (name == "regression" and self.regression is False):
                    option = "--" + name.replace("_", "-")
                    raise ConfigError(f"{option} goes with --train; a GLUE task has its own files and columns")
            return
        if self.data is not None:
            raise ConfigError("--data goes with --task; give your own files by --train and --validation")
        if self.label_separator is not None and (self.regression is not None or not self.label_separator.strip(" ")):
            raise ConfigError(
                "--label-separator takes a character such as ; or | for rows with several labels, "
                "which are neither values nor single classes"
            )
        self._check_validation()
        if repeated := [c for c in self.columns if self.columns.count(c) > 1]:
            raise ConfigError(f"column {repeated[0]!r} cannot be two of text, second text and label at once")

    def _check_validation(self) -> None:
        if self.validation is not None and self.validation_fraction is not None:
            raise ConfigError("give --validation or --validation-fraction, not both")
        if self.validation_fraction is not None and not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"--validation-fraction must lie between 0 and 1, not {self.validation_fraction}")

    def _check_tagging(self) -> None:
        if self.train is None:
            raise ConfigError("--task tag learns from your own words and tags; give --train FILE")
        for name in ("data", "pair_column", "label_separator", "delimiter", "no_header", "skip_unlabelled"):
            if getattr(self, name) not in (None, False):
                raise ConfigError(f"--{name.replace('_', '-')} does not go with --task tag; leave it out")
        if self.regression is not None:
            raise ConfigError("--regression and --classification are for labels of texts; leave them out of --task tag")
        self._check_validation()

    @property
    def reading(self) -> Reading:
        """How text files are to be understood. Raises `ConfigError`."""
        return Reading(encoding=self.encoding or "utf-8", delimiter=self.delimiter or "", header=not self.no_header)

    @property
    def whole_glue(self) -> bool:
        """Whether all tasks of GLUE are asked for, which `run_glue` takes one by one."""
        return self.task is not None and self.task.lower() == WHOLE_GLUE

    @property
    def tagging(self) -> bool:
        """Whether words are to be tagged."""
        return self.task is not None and self.task.lower() == TAGGING

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two text columns."""
        return (self.text_column or TEXT_COLUMN, *([self.pair_column] if self.pair_column else []))

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.texts, self.label_column or LABEL_COLUMN)

    @property
    def name(self) -> str:
        """What the task is called: the GLUE task's name or the training file's."""
        if self.task is not None and not self.tagging:
            from .tasks import glue_task

            return glue_task(self.task).name
        assert self.train is not None
        return Path(self.train).name.split(".")[0].strip("*?[]") or "files"


@dataclass(frozen=True)
class FinetuningRequest:
    """One finetuning run."""

    checkpoint: str | Path
    """Checkpoint folder or hub id."""
    data: DataRequest
    """What to finetune on."""
    settings: FinetuningSettings = field(default_factory=FinetuningSettings)
    """The recipe."""
    out: Path | None = None
    """Folder of the result; None takes the first free one of `runs/finetune-NAME`, `runs/finetune-NAME-2`, ..."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub; None takes its main branch."""
    tokenizer: Path | None = None
    """Tokenizer folder or file; None takes the checkpoint's."""
    command: str = ""
    """The command line for the model card; empty makes one up."""
    predict: str | None = None
    """`test` or a file of rows: write a GLUE task's predictions for the server."""

    def __post_init__(self) -> None:
        if self.predict is not None and (self.data.task is None or self.data.tagging):
            raise ConfigError(
                "--predict writes what the GLUE server takes and goes with --task; for your own rows: ufbert infer"
            )

    @property
    def command_line(self) -> str:
        """What the model card gives as the command."""
        if self.command:
            return self.command
        rows = ["--task", self.data.task] if self.data.task is not None else []
        rows += ["--train", self.data.train] if self.data.train is not None else []
        return shlex.join(["ufbert", "finetune", str(self.checkpoint), *rows])


@dataclass(frozen=True)
class GlueRequest:
    """All GLUE tasks with several checkpoints and seeds. Raises `ConfigError` for checkpoints it cannot tell apart."""

    checkpoints: tuple[str, ...]
    """Checkpoint folders or hub ids."""
    data: DataRequest
    """`task` is `glue`; its folder and row limits."""
    settings: FinetuningSettings = field(default_factory=FinetuningSettings)
    """The recipe; the seeds below take the place of its own."""
    seeds: tuple[int, ...] = (0,)
    """A run of every task with every checkpoint for each."""
    relative_to: str | None = None
    """The checkpoint of whose scores the others' shares are given."""
    out: Path = Path("runs/glue")
    """Folder of all runs and the tables; runs that it holds are not repeated."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoints on the hub."""
    tokenizer: Path | None = None
    """Tokenizer folder or file; None takes each checkpoint's."""
    command: str = ""
    """The command line for the model cards."""
    predict: bool = False
    """Write every run's predictions of the test sets for the GLUE server."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            repeated = next(n for n in self.labels if self.labels.count(n) > 1)
            raise ConfigError(f"two checkpoints are called {repeated!r}; give each once, from folders of unlike names")
        if self.relative_to is not None:
            self.label_of(self.relative_to)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the checkpoints are called: the last part of their paths, or the last two where those are equal."""
        parts = [Path(c).absolute().parts if Path(c).exists() else tuple(c.split("/")) for c in self.checkpoints]
        names = [p[-1] for p in parts]
        return tuple(n if names.count(n) == 1 else "-".join(p[-2:]) for n, p in zip(names, parts, strict=True))

    def label_of(self, checkpoint: str) -> str:
        """What one of the checkpoints is called, given as it was or by that name. Raises `ConfigError`."""
        for given, label in zip(self.checkpoints, self.labels, strict=True):
            if checkpoint in (given, label) or (Path(given).exists() and Path(checkpoint) == Path(given)):
                return label
        raise ConfigError(
            f"--relative-to {checkpoint}: is none of the checkpoints given ({', '.join(self.checkpoints)})"
        )


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1,2,3` as numbers. Raises `ConfigError`."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds takes different whole numbers from 0 with commas between (1,2,3), not {text!r}")
    return seeds
