"""What a run was asked and of what, so that only the same run continues its results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ufbert
from ufbert.checkpoint.folder import checkpoint_files
from ufbert.inference.pipeline import Pipeline
from ufbert.inference.sources import InputRows
from ufbert.system.processes import World

__all__ = ["run_identity"]


def run_identity(pipeline: Pipeline, rows: InputRows, world: World) -> dict[str, Any]:
    """Everything that the results hang on, as plain JSON values; the number of threads changes only the speed."""
    request = rows.request
    return {
        "version": ufbert.__version__,
        "task": pipeline.task,
        "top_k": request.settings.top_k if pipeline.task == "fill-mask" else None,
        "targets": list(request.settings.targets) if pipeline.task == "fill-mask" else None,
        "aggregation": request.settings.aggregation if pipeline.task == "tag" else None,
        "pooling": pipeline.pooling,
        "normalize": pipeline.normalize,
        "prompt": pipeline.embedding.prompt,
        "numbers": pipeline.embedding.size,
        "max_length": pipeline.max_length,
        "long_text": "truncate" if pipeline.overlap is None else "window",
        "stride": pipeline.overlap,
        "batch_size": pipeline.batch_size,
        "precision": pipeline.precision,
        "device": pipeline.device.type,
        "backend": pipeline.backend,
        "text_column": request.settings.text_column,
        "pair_column": request.pair_column,
        "id_columns": list(request.id_columns),
        "keep_text": request.settings.keep_text,
        "skip_bad": request.skip_bad,
        "reading": request.reading.facts,
        "process": f"{world.rank} of {world.size}",
        "checkpoint": _files(checkpoint_files(pipeline.folder)),
        "inputs": _files(rows.paths),
    }


def _files(paths: Iterable[Path]) -> list[list[Any]]:
    """Path, size and time of change: contents would take as long to compare as to read."""
    return [[str(p.absolute()), (status := p.stat()).st_size, status.st_mtime_ns] for p in paths]
