"""Text files in, a result file out: the work of `ufbert infer`, with its progress and its closing line."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ufbert.errors import ConfigError, DataError
from ufbert.inference.results.files import check_result_path, open_results
from ufbert.inference.results.identity import run_identity
from ufbert.inference.results.partial import (
    PartialResults,
    Progress,
    check_partial,
    discard_partial,
    open_partial,
    partial_path,
)
from ufbert.inference.results.writers import Record, ResultWriter
from ufbert.reporting import note
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.processes import World, described_world, take_gpu
from ufbert.text.bad_rows import BadRows
from ufbert.text.batching import Example
from ufbert.text.files import STDIN, expand_paths

from .display import Display
from .pipeline import Pipeline
from .ranks import own_examples, part_path
from .request import InferenceRequest, build_pipeline
from .sources import InputRows, check_input_format, estimate_rows

__all__ = ["infer_files"]


def infer_files(request: InferenceRequest) -> None:
    """Run a checkpoint over the texts of files and write a result for each, in order.

    A result row holds the carried columns, the texts if they are kept, and what `Pipeline` says of the task. A bad
    row raises `DataError` with `file:line`, or is counted and left out. Under torchrun each process takes its share
    of the rows and writes a part file (`ranks`). Raises `UfbertError`s.
    """
    # Each batch frees and takes again some 100 MB of attention weights.
    keep_freed_memory()
    world = described_world()
    paths = expand_paths(request.inputs)
    check_input_format(request.input_format, paths)
    request.reading.check(paths, request.input_format)
    if request.output is not None:
        request = dataclasses.replace(request, output=part_path(request.output, world))
    rows = InputRows(paths, request)
    _check_repeatable(rows, world)
    if request.output is not None:
        if _is_complete(request, request.output):
            note(f"{request.output}: is complete; nothing to resume")
            return
        check_result_path(request.output, overwrite=request.overwrite)
        check_partial(request.output, resume=request.resume, overwrite=request.overwrite)
    if not isinstance(request.settings.threads, str):
        _use_threads(request.settings.threads)
    rows.check()
    if world.size > 1 and torch.cuda.is_available() and request.settings.device != "cpu":
        take_gpu(world, torch.device("cuda"))
    pipeline = build_pipeline(request)
    _check_columns(pipeline, request)
    if world.leads:
        note(describe(pipeline) + (f", {world.size} processes" if world.size > 1 else ""))
    try:
        with _open(pipeline, rows, world) as results:
            _run(pipeline, rows, results, world)
    except _NoRows:
        if world.size == 1:
            raise
        note(f"{_process(world)}no row is left for it; it writes no file")
    else:
        if request.output is not None:
            note(f"results: {request.output}")


class _NoRows(DataError):
    """Nothing to write: an error for the whole input, but not for one of many processes."""


def _is_complete(request: InferenceRequest, output: Path) -> bool:
    return request.resume and not request.overwrite and output.is_file() and not partial_path(output).exists()


@contextlib.contextmanager
def _open(pipeline: Pipeline, rows: InputRows, world: World) -> Iterator[PartialResults | ResultWriter]:
    """Where the results go: to a file that can be resumed if the input can be read again."""
    output, overwrite = rows.request.output, rows.request.overwrite
    if output is not None and rows.read_once is None:
        run = run_identity(pipeline, rows, world)
        with open_partial(output, run, resume=rows.request.resume, overwrite=overwrite) as partial:
            yield partial
        return
    with open_results(output, overwrite=overwrite) as whole:
        if output is not None and overwrite:
            discard_partial(output)
        yield whole


def _run(pipeline: Pipeline, rows: InputRows, results: PartialResults | ResultWriter, world: World) -> None:
    """Write the results of all rows that are not there yet, and say at the end what was done."""
    progress = results.progress if isinstance(results, PartialResults) else Progress()
    before = progress.texts, progress.tokens
    results.expect(pipeline.sample)
    # Every process meets the rows that cannot be read; the first one speaks of them. Those that the task cannot
    # take belong to one process.
    skip_bad = rows.request.skip_bad
    unreadable = BadRows(silent=not world.leads) if skip_bad else None
    unusable = BadRows() if skip_bad else None
    examples = own_examples(rows.examples(unreadable), world)
    if progress.read:
        note(f"{_process(world)}going on after {progress.texts:,} texts")
        _pass_over(examples, progress.read, unreadable)
    total = estimate_rows(rows.paths)
    total = None if total is None else total // world.size
    start = time.monotonic()
    on_stdout = rows.request.output is None
    with Display(total, done=progress.texts, results_on_stdout=on_stdout, shown=world.leads) as display:
        for window in pipeline.run(examples, unusable, done=progress.windows):
            columns = pipeline.columns
            results.write(
                [
                    Record(e.carried, p if isinstance(p, dict) else {columns[0]: p})
                    for e, p in zip(window.examples, window.predictions, strict=True)
                ]
            )
            progress.add(window)
            if isinstance(results, PartialResults):
                results.mark()
            display.update(progress.texts)
        skipped = progress.read - progress.texts
        if unreadable is not None and world.leads:
            skipped += unreadable.count
        if not progress.texts:
            raise _NoRows(f"none of the input's {skipped} rows could be used; see the lines above")
    seconds = max(time.monotonic() - start, 1e-9)
    if skipped:
        note(f"{_process(world)}{skipped:,} bad rows were skipped")
    if progress.truncated:
        note(f"{_process(world)}{progress.truncated:,} texts were cut at {pipeline.max_length} tokens")
    texts, tokens = progress.texts - before[0], progress.tokens - before[1]
    if progress.split:
        note(f"{_process(world)}{progress.split:,} texts were read in windows of {pipeline.max_length} tokens")
    after = f", after {before[0]:,} earlier ones" if before[0] else ""
    note(
        f"{_process(world)}{texts:,} texts, {tokens:,} tokens in {seconds:.1f} s{after}: "
        f"{texts / seconds:,.0f} texts/s, {tokens / seconds:,.0f} tokens/s ({_machine(pipeline)})"
    )


def _pass_over(examples: Iterator[Example], number: int, unreadable: BadRows | None) -> None:
    """Leave out the examples that an earlier run has taken; their bad neighbours were shown, but still count."""
    silent = unreadable is not None and unreadable.silent
    if unreadable is not None:
        unreadable.silent = True
    for _ in itertools.islice(examples, number):
        pass
    if unreadable is not None:
        unreadable.silent = silent


def describe(pipeline: Pipeline) -> str:
    """What is about to run, in one line."""
    task = pipeline.task
    if task == "embed":
        task += f" ({pipeline.embedding})"
    return f"{task} with {pipeline.folder}: {_machine(pipeline)}"


def _machine(pipeline: Pipeline) -> str:
    threads = torch.get_num_threads()
    device = pipeline.device.type
    if device == "cpu":
        device += f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{pipeline.precision}, backend {pipeline.backend}, {device}"


def _process(world: World) -> str:
    return f"process {world.rank} of {world.size}: " if world.size > 1 else ""


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)  # CMM's kernels follow it
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read when the tokenizer first works


def _check_repeatable(rows: InputRows, world: World) -> None:
    """Raise `ConfigError` where the input must be read more than once and cannot be, or the output has no name."""
    resume = rows.request.resume
    if not resume and world.size == 1:
        return
    if rows.request.output is None:
        need = "--resume continues a file" if resume else f"{world.size} processes write a file each"
        raise ConfigError(f"{need}; give --output")
    if (path := rows.read_once) is not None:
        purpose = "be resumed" if resume else f"be shared by {world.size} processes"
        name = "standard input" if path == STDIN else f"{path}, a pipe,"
        raise ConfigError(f"{name} cannot {purpose}, because it can be read only once; put the texts into a file")


def _check_columns(pipeline: Pipeline, request: InferenceRequest) -> None:
    """Raise `ConfigError` where the input's columns and the output's do not go together."""
    output = request.output
    if output is not None and output.suffix.lower() == ".npy":
        if pipeline.task != "embed":
            raise ConfigError(f"--output {output}: .npy holds embeddings only; write .jsonl, .csv or .parquet")
        if request.id_columns:
            raise ConfigError(f"--output {output}: .npy cannot hold --id-column; write .parquet or .jsonl")
    if request.pair_column is not None and pipeline.task == "tag":
        raise ConfigError(f"pair_column {request.pair_column!r}: the task tag takes single texts; leave it out")
    if clash := next((name for name in request.carried_columns if name in pipeline.columns), None):
        raise ConfigError(
            f"column {clash!r} of the input would collide with the result's {clash!r}; rename it, "
            "or use --no-keep-text if it is the text"
        )
