"""What one call of `ufbert infer` asks for, and the pipeline that this makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.model.pretrained import read_config
from ufbert.settings.inference import AUTO, InferenceSettings
from ufbert.text.reading import Reading

from .options import OWNERS, choose_long_text, choose_task
from .pipeline import Pipeline

__all__ = ["InferenceRequest", "build_pipeline"]


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """A checkpoint, its input and where the results go."""

    checkpoint: str
    """A folder, or a model's id on the hub."""
    inputs: tuple[str, ...]
    """What `text.files.expand_paths` takes."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub; None takes its main branch."""
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    asked: frozenset[str] = frozenset()
    """The settings that were asked for in this very call, not by a file that may serve several tasks."""
    output: Path | None = None
    """The result file; None means JSON lines on standard output."""
    overwrite: bool = False
    """Replace an existing output."""
    resume: bool = False
    """Continue the results of an interrupted run."""
    id_columns: tuple[str, ...] = ()
    """Columns that are carried into the output."""
    input_format: str | None = None
    """Of standard input: txt, jsonl, csv or tsv; None means txt."""
    reading: Reading = field(default_factory=Reading)
    """How text files are to be understood."""
    skip_bad: bool = False
    """Count and leave out bad rows instead of stopping at the first."""

    @property
    def pair_column(self) -> str | None:
        """The column of a second text, if there is one."""
        return self.settings.pair_column or None

    @property
    def carried_columns(self) -> tuple[str, ...]:
        """The columns of the input that the output has, too."""
        return (*self.id_columns, *self.kept_names)

    @property
    def kept_names(self) -> tuple[str, ...]:
        """What the output calls the one or two texts that it repeats: as the input, but for columns by number."""
        if not self.settings.keep_text:
            return ()
        named = {self.settings.text_column: "text", self.pair_column: "pair"}
        return tuple(
            usual if not self.reading.header and name.isdecimal() else name
            for name, usual in named.items()
            if name is not None
        )


def build_pipeline(request: InferenceRequest) -> Pipeline:
    """The pipeline with the request's settings. Raises what `Pipeline` raises.

    A setting that does not concern the task or the checkpoint is an error if it was asked for in this call; from a
    file, which serves others too, it is passed over.
    """
    settings = request.settings
    folder = locate_checkpoint(request.checkpoint, request.revision)
    config = read_config(folder)
    task = choose_task(None if settings.task == AUTO else settings.task, config, request.checkpoint)
    irrelevant = {name for name, owner in OWNERS.items() if owner != task}
    if choose_long_text(settings.long_text, task) != "window":
        irrelevant.add("stride")
    if config.feedforward_kind != "fff":
        irrelevant.add("backend")
    irrelevant -= request.asked

    if settings.targets and "top_k" not in request.asked:
        irrelevant.add("top_k")  # the best of all tokens; of those named, all are wanted

    def option(name: str) -> Any:
        value = getattr(settings, name)
        return None if value == AUTO or name in irrelevant else value

    return Pipeline(
        folder,
        task,
        top_k=option("top_k"),
        targets=option("targets"),
        aggregation=option("aggregation"),
        pooling=option("pooling"),
        normalize=option("normalize"),
        prompt=option("prompt"),
        truncate_dim=option("truncate_dim"),
        max_length=option("max_length"),
        long_text=settings.long_text,
        stride=option("stride"),
        batch_size=option("batch_size"),
        precision=settings.precision,
        device=settings.device,
        backend=option("backend") or AUTO,
    )
