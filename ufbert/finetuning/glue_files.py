"""The table of GLUE runs as files: Markdown for people, csv for spreadsheets, JSON with every run."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ufbert.system.atomic import write_file
from ufbert.training.display import duration

from .glue_table import GlueTable, percent

__all__ = ["write_tables"]

CSV_HEAD = (
    *("checkpoint", "task", "metric", "in_average", "train_rows", "validation_rows", "majority"),
    *("mean", "standard_deviation"),
)
CSV_TAIL = ("relative_to", "share", "step_seconds", "seconds")


def write_tables(table: GlueTable, folder: Path) -> None:
    """Write `glue.md`, `glue.csv` and `glue.json`, over those of an earlier call. Raises `OutputError`."""
    for name, content in {
        "glue.md": _markdown(table),
        "glue.csv": _csv(table),
        "glue.json": json.dumps(_plain(_json(table)), indent=2) + "\n",
    }.items():
        with write_file(folder / name, replace=True) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _markdown(table: GlueTable) -> str:
    numbers = len(table.titles()) - 2
    figures = _lines(table.titles(), [table.cells(row) for row in table.rows()], numbers)
    times = _lines(
        ["task", "checkpoint", "seconds a step", "all seeds"],
        [[task, label, f"{step:.4g}", duration(total)] for task, label, step, total in table.times()],
        2,
    )
    remarks = "".join(f"- {line.replace('*', chr(92) + '*', 1)}\n" for line in table.remarks())
    return (
        f"# GLUE, validation sets, in percent\n\n{figures}\n{remarks}\n## One line a model\n\n{_by_model(table)}\n"
        f"## Time\n\n{times}"
    )


def _by_model(table: GlueTable) -> str:
    """The paper's own shape: a column for each task, the averages between."""
    columns: list[tuple[str, list[str]]] = []
    rows = table.rows()
    for row in rows:
        if row.in_score or row.metric.endswith("tasks"):
            title = row.task if row.metric.endswith("tasks") else f"{row.task} {row.metric}"
            columns.append((title, [percent(row.baseline), *(table.cells(row)[5:])]))
    names = ["majority", *table.titles()[5:]]
    lines = [[name, *(values[i] for _, values in columns)] for i, name in enumerate(names)]
    return _lines(["model", *(title for title, _ in columns)], lines, len(columns))


def _lines(titles: list[str], rows: list[list[str]], numbers: int) -> str:
    """A Markdown table whose last `numbers` columns stand right."""
    rule = ["---"] * (len(titles) - numbers) + ["---:"] * numbers
    escaped = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in (titles, rule, *escaped))


def _csv(table: GlueTable) -> str:
    """A row for each checkpoint and figure; values from 0 to 1."""
    times = {(task, label): (step, total) for task, label, step, total in table.times()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    seeds = [f"seed_{seed}" for seed in table.seeds]
    writer.writerow([*CSV_HEAD, *seeds, *CSV_TAIL])
    for row in table.rows():
        for label, values in row.values.items():
            step, total = times.get((row.task, label), (math.nan, math.nan))
            share = math.nan if table.relative_to is None else table.share(row, label)
            cells = [label, row.task, row.metric, row.in_score, row.train_rows, row.validation_rows, row.baseline]
            cells += [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, *values]
            cells += [table.relative_to, share, step, total]
            writer.writerow("" if _absent(c) else str(c).lower() if isinstance(c, bool) else c for c in cells)
    return text.getvalue()


def _json(table: GlueTable) -> dict[str, Any]:
    return {
        "checkpoints": list(table.labels),
        "tasks": [task.name for task in table.ordered],
        "seeds": list(table.seeds),
        "relative_to": table.relative_to,
        "rows": [
            {
                **asdict(row),
                "mean": {label: statistics.fmean(values) for label, values in row.values.items()},
                "standard_deviation": {
                    label: statistics.stdev(values) if len(values) > 1 else None for label, values in row.values.items()
                },
                "share": None if table.relative_to is None else {n: table.share(row, n) for n in table.labels},
            }
            for row in table.rows()
        ],
        "remarks": table.remarks(),
        "runs": [asdict(run) for run in table.runs],
    }


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> Any:
    """With null in the place of NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if _absent(value) else value
