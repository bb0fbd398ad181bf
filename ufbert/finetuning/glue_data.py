"""The rows of a GLUE task: from a local folder in any of the forms it is handed around in, or from the hub.

A folder holds, for each split, Hugging Face's parquet (`train.parquet`, `train-00000-of-00002.parquet`), a csv
or jsonl with the same columns, or GLUE's own `train.tsv` and `dev.tsv`. A name such as `train_10k.parquet`
says that the file is a subset.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ufbert.errors import DataError
from ufbert.reporting import note
from ufbert.text.files import file_format, read_rows
from ufbert.text.hub import quiet_loading

from .labelled_rows import LabelledRows, read_labelled
from .task_data import TaskData, build_task_data
from .tasks import GLUE, GlueTask

__all__ = ["HUB_NAME", "glue_tasks_in", "load_glue", "split_files", "task_folder"]

HUB_NAME = "nyu-mll/glue"
SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev"),
    "validation_matched": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test",),
    "test_matched": ("test_matched",),
    "test_mismatched": ("test_mismatched",),
}
FORMAT_ORDER = ("parquet", "jsonl", "csv", "tsv")
SHARD = re.compile(r"-\d{5}-of-\d{5}")


def load_glue(task: GlueTask, folder: Path | None) -> TaskData:
    """The task's training and validation rows. Raises `DataError` for a folder that lacks them."""
    notes: list[str] = []
    rows = _from_hub(task) if folder is None else _from_folder(task, folder, notes)
    names = task.labels
    if names is not None and rows["train"].class_names:
        names = rows["train"].class_names
        if sorted(names) != sorted(task.labels or ()):
            raise DataError(
                f"{rows['train'].where(0)}: the file's classes are {', '.join(names)}, those of glue/{task.name} "
                f"are {', '.join(task.labels or ())}; give the task's own files"
            )
    train = rows.pop("train")
    return build_task_data(f"glue/{task.name}", names, task.measure, train, rows, numbered=True, notes=notes)


def glue_tasks_in(folder: Path | None) -> list[GlueTask]:
    """The tasks that have a folder in `folder`, or all of the hub's. Raises `DataError` where there is none."""
    if folder is None:
        return list(GLUE.values())
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --data takes the folder of the tasks' folders")
    found = [task for task in GLUE.values() if task_folder(task, folder) != folder]
    if not found:
        known = ", ".join(GLUE)
        raise DataError(f"{folder}: no task's folder in it; --task glue takes a folder of such folders ({known})")
    return found


def _from_folder(task: GlueTask, folder: Path, notes: list[str]) -> dict[str, LabelledRows]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --data takes the folder of the task's files")
    own = task_folder(task, folder)
    rows, subsets = {}, []
    for split in ("train", *task.validation):
        paths, subset = split_files(task, own, split)
        rows[split] = _read(task, paths, notes)
        if subset:
            subsets.append(", ".join(p.name for p in paths))
    if subsets:
        notes.append(f"{', '.join(subsets)}: subsets, so the scores are not comparable with published ones")
    return rows


def task_folder(task: GlueTask, folder: Path) -> Path:
    """`folder` itself, or the task's folder in it under Hugging Face's or GLUE's own name."""
    wanted = {task.name, task.folder.lower()}
    return next((p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower() in wanted), folder)


def split_files(task: GlueTask, folder: Path, split: str) -> tuple[list[Path], bool]:
    """The files of a split, and whether their name says that they are a subset."""
    complete: dict[tuple[int, str], list[Path]] = {}
    subsets: list[Path] = []
    files = sorted(p for p in folder.iterdir() if p.is_file() and file_format(p) in FORMAT_ORDER)
    for path in files:
        stem = SHARD.sub("", path.name.split(".")[0])
        suffixes = "".join(path.suffixes)
        for name in SPLIT_NAMES[split]:
            if stem == name:
                rank = FORMAT_ORDER.index(file_format(path) or "")
                complete.setdefault((rank, suffixes), []).append(path)
            elif re.match(rf"{name}[_-](?!matched|mismatched)", stem):
                subsets.append(path)
    if complete:
        return complete[min(complete)], False
    if len(subsets) > 1:
        listed = ", ".join(p.name for p in subsets)
        raise DataError(f"{folder}: several subsets could be the {split} split: {listed}; leave one in the folder")
    if not subsets:
        raise DataError(
            f"{folder}: no file of the {split} split of glue/{task.name} there (such as {split}.parquet or "
            f"{SPLIT_NAMES[split][-1]}.tsv, also in a folder {task.name} or {task.folder}); "
            f"it has: {', '.join(p.name for p in sorted(folder.iterdir())[:8]) or 'nothing'}"
        )
    return subsets, True


def _read(task: GlueTask, paths: list[Path], notes: list[str]) -> LabelledRows:
    if file_format(paths[0]) != "tsv":
        return read_labelled(paths, task.columns, "label")
    columns = next(read_rows(paths[0], format="txt")).fields["text"].split("\t")
    texts, label, header = task.columns, "label", None
    if not {*task.columns, "label"} <= set(columns):  # not Hugging Face's names, so GLUE's own
        texts, label, header = task.tsv_columns or task.columns, task.tsv_label, task.tsv_header
    # GLUE's own files have a few rows with a missing tab, which everyone leaves out.
    bad: list[DataError] = []
    rows = read_labelled(paths, texts, label, header=header, on_bad=bad.append)
    if len(bad) > len(rows) / 100 + 1:
        raise bad[0]
    if bad:
        notes.append(f"{len(bad)} malformed row(s) left out, the first: {bad[0]}")
    return rows


def _from_hub(task: GlueTask) -> dict[str, LabelledRows]:
    import datasets

    note(f"fetching glue/{task.name} from the Hugging Face hub ({HUB_NAME})")
    rows = {}
    for split in ("train", *task.validation):
        with quiet_loading(f"glue/{task.name}", "check the network, or give the task's files by --data DIR", HUB_NAME):
            table: Any = datasets.load_dataset(HUB_NAME, task.name, split=split)
        source = f"{HUB_NAME} {task.name} {split}"
        rows[split] = LabelledRows(
            source,
            list(table[task.columns[0]]),
            list(table[task.columns[1]]) if len(task.columns) == 2 else [],
            list(table["label"]),
            [(source, i + 1) for i in range(len(table))],
            tuple(getattr(table.features["label"], "names", None) or ()) or None,
        )
    return rows
