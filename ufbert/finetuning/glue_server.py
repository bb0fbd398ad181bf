"""Predictions in the form that the GLUE server takes: a tsv file for each test set, `index` and `prediction`.

The server names RTE's, QNLI's and MNLI's classes and numbers all others; STS-B's values lie from 0 to 5. AX, the
diagnostic set, is predicted by a model of MNLI. Source: https://gluebenchmark.com/faq.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import DataError
from ufbert.model.heads import UltraFastBertForSequenceClassification
from ufbert.reporting import note
from ufbert.settings.sections import FinetuningSettings
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.atomic import write_file
from ufbert.system.devices import choose_device, choose_precision
from ufbert.text.files import expand_paths, file_format, read_rows
from ufbert.text.hub import quiet_loading

from .evaluation import predict_logits
from .glue_data import HUB_NAME, split_files, task_folder
from .sequence_batches import encode_sequences
from .tasks import GlueTask

__all__ = ["SERVER_FILES", "ServerSet", "find_test_sets", "write_predictions"]

SERVER_FILES = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX")
"""What a submission is made of."""
NAMED_CLASSES = ("mnli", "qnli", "rte")
INDEX_COLUMNS = ("index", "idx", "id")
DIAGNOSTIC = ("ax", "diagnostic")


@dataclass
class ServerRows:
    """Texts without labels, with the numbers that the server knows them by."""

    texts: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    """Second texts, or empty."""
    indices: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ServerSet:
    """A test set and the name of its file for the server."""

    name: str
    """`MNLI-mm`, without `.tsv`."""
    task: GlueTask
    """The task whose model predicts it."""
    paths: tuple[Path, ...] = ()
    hub: tuple[str, str] = ("", "")
    """Configuration and split of the hub's copy, where there are no paths."""

    def read(self) -> ServerRows:
        """Its rows. Raises `DataError` with `file:line` for a bad row and for an index that comes twice."""
        rows = self._from_files() if self.paths else self._from_hub()
        if len(set(rows.indices)) < len(rows.indices):
            repeated = next(i for i in rows.indices if rows.indices.count(i) > 1)
            source = ", ".join(map(str, self.paths)) or f"{HUB_NAME} {self.hub[0]}"
            raise DataError(f"{source}: index {repeated} comes twice; the GLUE server takes each row once")
        return rows

    def _from_files(self) -> ServerRows:
        rows = ServerRows()
        for path in self.paths:
            columns: Sequence[str] = self.task.columns
            if file_format(path) == "tsv":
                header = next(read_rows(path, format="txt")).fields["text"].split("\t")
                if not set(columns) <= set(header):  # not Hugging Face's names, so GLUE's own
                    columns = self.task.tsv_columns or columns
            for row in read_rows(path, text_columns=columns):
                rows.texts.append(row.fields[columns[0]])
                if len(columns) == 2:
                    rows.pairs.append(row.fields[columns[1]])
                rows.indices.append(_index(row.fields, len(rows.indices)))
        return rows

    def _from_hub(self) -> ServerRows:
        import datasets

        name, split = self.hub
        with quiet_loading(f"glue/{name}", "check the network, or give the task's files by --data DIR", HUB_NAME):
            table: Any = datasets.load_dataset(HUB_NAME, name, split=split)
        first, *second = self.task.columns
        return ServerRows(list(table[first]), list(table[second[0]]) if second else [], list(table["idx"]))


def find_test_sets(task: GlueTask, data: Path | None, predict: str) -> list[ServerSet]:
    """The sets that `predict` asks for: `test`, those of the data; or a file, a glob or a folder of rows.

    Raises `DataError` where there are none.
    """
    if predict != "test":
        paths = expand_paths([predict])
        return [ServerSet(_name_of_file(task, paths[0]), task, tuple(paths))]
    splits = [split.replace("validation", "test") for split in task.validation]
    if data is None:
        sets = [ServerSet(_server_name(task, split), task, hub=(task.name, split)) for split in splits]
        return [*sets, ServerSet("AX", task, hub=("ax", "test"))] if task.name == "mnli" else sets
    own = task_folder(task, data)
    sets = [ServerSet(_server_name(task, split), task, tuple(split_files(task, own, split)[0])) for split in splits]
    if task.name == "mnli" and (diagnostic := _diagnostic_file(data, own)) is not None:
        sets.append(ServerSet("AX", task, (diagnostic,)))
    return sets


def _server_name(task: GlueTask, split: str) -> str:
    return task.folder + {"test_matched": "-m", "test_mismatched": "-mm"}.get(split, "")


def _name_of_file(task: GlueTask, path: Path) -> str:
    """Which test set a file of MNLI is, by its own name or its folder's."""
    if task.name != "mnli":
        return task.folder
    if path.stem.lower() in DIAGNOSTIC or path.parent.name.lower() in DIAGNOSTIC:
        return "AX"
    return "MNLI-mm" if "mismatched" in path.stem else "MNLI-m"


def _diagnostic_file(data: Path, mnli: Path) -> Path | None:
    """GLUE's `diagnostic/diagnostic.tsv` or Hugging Face's `ax/test.parquet`, if it is there."""
    folders = [p for p in sorted(data.iterdir()) if p.is_dir() and p.name.lower() in DIAGNOSTIC]
    places = [(folder, (*DIAGNOSTIC, "test")) for folder in folders] + [(mnli, DIAGNOSTIC)]
    for folder, names in places:
        for path in sorted(folder.iterdir()):
            if re.split(r"[.-]", path.name.lower())[0] in names and file_format(path) is not None:
                return path
    return None


def write_predictions(
    model_folder: Path, sets: Iterable[ServerSet], out: Path, settings: FinetuningSettings
) -> list[Path]:
    """Predict every set with the finetuned model and write `NAME.tsv` into `out`, over earlier ones.

    Raises `DataError` for bad rows, `OutputError` for a folder that cannot be written.
    """
    model = UltraFastBertForSequenceClassification.from_pretrained(model_folder)
    tokenizer = load_tokenizer(model_folder)
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = choose_precision(settings.precision, device)
    model.to(device)
    limit = min(settings.max_length, model.config.max_position_embeddings)
    written = []
    for test in sets:
        rows = test.read()
        sequences = encode_sequences(tokenizer, rows.texts, rows.pairs or None, limit, model.config.pad_token_id)
        logits = predict_logits(model, sequences, device, dtype)
        answers = _answers(test.task, logits, model.config.label_names)
        path = out / f"{test.name}.tsv"
        with write_file(path, replace=True) as temporary:
            lines = (f"{index}\t{answer}\n" for index, answer in zip(rows.indices, answers, strict=True))
            temporary.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")
        note(f"{path}: {len(rows.indices):,} predictions")
        written.append(path)
    return written


def _answers(task: GlueTask, logits: torch.Tensor, names: Sequence[str]) -> list[str]:
    """What the server is told of each row: logits (rows, num_labels) of classes `names`."""
    if task.labels is None:
        return [f"{value:.3f}" for value in logits[:, 0].clamp(0.0, 5.0).tolist()]
    told = [name if task.name in NAMED_CLASSES else str(task.labels.index(name)) for name in names]
    return [told[number] for number in logits.argmax(1).tolist()]


def _index(fields: dict[str, Any], position: int) -> int:
    """The row's number in the file's own index column, or its position where there is none."""
    value = next((fields[name] for name in INDEX_COLUMNS if name in fields), position)
    try:
        return int(value)
    except (TypeError, ValueError):
        return position
