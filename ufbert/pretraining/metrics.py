"""`metrics.jsonl`: one JSON object a line for every optimiser step of a run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ufbert.errors import CheckpointError
from ufbert.system.atomic import explain_failure, write_file

from .loggers import Loggers

__all__ = ["METRICS_FILE", "MetricsLog", "keep_until", "read_metrics"]

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends rows to a file, whole lines only.

    Rows wait in memory until `flush`, which opens the file anew each time: a checkpoint may have exchanged
    the folder in between. The loggers get each row at once.
    """

    def __init__(self, file: Path, loggers: Loggers | None = None) -> None:
        self.file = file
        self.loggers = Loggers() if loggers is None else loggers
        self.waiting: list[str] = []

    def add(self, **row: Any) -> None:
        """One row; values that are not finite are written as null, which JSON readers understand."""
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.waiting.append(json.dumps(values) + "\n")
        self.loggers.log(values)

    def flush(self) -> None:
        """Write the rows that wait. Raises `OutputError`, and keeps them for the next attempt."""
        self.loggers.flush()
        if not self.waiting:
            return
        size = None
        try:
            with self.file.open("ab") as file:
                size = file.seek(0, os.SEEK_END)
                file.write("".join(self.waiting).encode())
        except OSError as error:
            if size is not None:
                os.truncate(self.file, size)  # no half line stays
            explain_failure(error, self.file)
        self.waiting.clear()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """All rows in order. Raises `CheckpointError` naming the line that is broken."""
    if not file.exists():
        return []
    rows = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise CheckpointError(f"{file}:{number}: not a JSON line: {error}") from error
    return rows


def keep_until(file: Path, step: int) -> None:
    """Drop the rows after `step`, and a last line that was cut off, so that a resumed run writes them again."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row.get("step", 0) > step:
            break
        kept.append(line + "\n")
    with write_file(file, replace=True) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
