"""Text files in, a result file out: the work of `ufbert infer`, with its progress and its closing line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from ..errors import ConfigError, DataError
from ..reporting import console, note, progress
from ..text.batching import Example
from ..text.text_files import STDIN, expand_paths, file_format, read_rows
from .pipeline import Pipeline
from .result_files import check_result_path, open_results

__all__ = ["infer_files"]

SHOWN_BAD_ROWS = 5
# Without a terminal there is no bar; a line so often tells a log that the work goes on.
SECONDS_BETWEEN_NOTES = 30.0
STDIN_FORMATS = ("txt", "jsonl", "csv", "tsv")
SAMPLED_BYTES = 1 << 22


@dataclass
class Source:
    """Which rows of which files are read, and how."""

    paths: list[Path]
    text_column: str
    pair_column: str | None
    id_columns: tuple[str, ...]
    keep_text: bool
    input_format: str | None

    def examples(self, bad_rows: BadRows | None) -> Iterator[Example]:
        """The rows of all files in order."""
        for path in self.paths:
            yield from self._of_file(path, bad_rows)

    def check(self, skip_bad: bool) -> None:
        """Read a first row of every file, so that a wrong column or an empty file fails before the work."""
        for path in self.paths:
            if path.is_file():  # standard input and pipes can be read only once
                next(self._of_file(path, BadRows(silent=True) if skip_bad else None), None)

    def _of_file(self, path: Path, bad_rows: BadRows | None) -> Iterator[Example]:
        # Lines of a txt file have no column names; theirs is `text`, whatever the other files call it.
        kind = (self.input_format if path == STDIN else None) or file_format(path) or "txt"
        column = "text" if kind == "txt" else self.text_column
        texts = [column, self.pair_column] if self.pair_column is not None else [column]
        rows = read_rows(
            path,
            columns=self.id_columns,
            text_columns=texts,
            on_bad=bad_rows,
            format=self.input_format if path == STDIN else None,
        )
        for row in rows:
            carried = {name: row.fields[name] for name in self.id_columns}
            text = row.fields[column]
            pair = None if self.pair_column is None else row.fields[self.pair_column]
            if self.keep_text:
                carried[self.text_column] = text
                if self.pair_column is not None:
                    carried[self.pair_column] = pair
            yield Example(text, pair, row.where, carried)


@dataclass
class BadRows:
    """Counts the rows that are skipped and shows the first few."""

    count: int = 0
    silent: bool = False

    def __call__(self, error: DataError) -> None:
        """One more of them."""
        self.count += 1
        if not self.silent and self.count <= SHOWN_BAD_ROWS:
            note(f"skipped: {error}")


def infer_files(
    checkpoint: str,
    inputs: Sequence[str],
    *,
    output: Path | None = None,
    overwrite: bool = False,
    text_column: str = "text",
    pair_column: str | None = None,
    id_columns: Sequence[str] = (),
    keep_text: bool = True,
    input_format: str | None = None,
    skip_bad: bool = False,
    threads: int | None = None,
    **pipeline_options: Any,
) -> None:
    """Run a checkpoint over the texts of files (`text_files.expand_paths`) and write a result for each, in order.

    `output` None means JSON lines on standard output. A result row holds `id_columns`, the texts unless
    `keep_text` is off, and what `Pipeline` says of the task. `pipeline_options` are `Pipeline`'s. A bad row
    raises `DataError` with `file:line`; with `skip_bad` it is counted and left out. Raises `UfbertError`s.
    """
    if output is not None:
        check_result_path(output, overwrite=overwrite)
    if threads is not None:
        _use_threads(threads)
    paths = expand_paths(inputs)
    _check_input_format(input_format, paths)
    source = Source(paths, text_column, pair_column, tuple(id_columns), keep_text, input_format)
    source.check(skip_bad)
    pipeline = Pipeline(checkpoint, **pipeline_options)
    _check_columns(pipeline, source, output)
    note(describe(pipeline))
    bad_rows = BadRows() if skip_bad else None
    texts = tokens = truncated = 0
    start = time.monotonic()
    with open_results(output, overwrite=overwrite) as writer, Display(source.paths, output is None) as display:
        for results in pipeline.run(source.examples(bad_rows), bad_rows):
            columns = pipeline.columns
            writer.write(
                [
                    e.carried | (p if isinstance(p, dict) else {columns[0]: p})
                    for e, p in zip(results.examples, results.predictions, strict=True)
                ]
            )
            texts += len(results.examples)
            tokens += results.tokens
            truncated += results.truncated
            display.update(texts)
        skipped = bad_rows.count if bad_rows else 0
        if not texts:
            raise DataError(f"none of the input's {skipped} rows could be used; see the lines above")
    seconds = max(time.monotonic() - start, 1e-9)
    if skipped:
        note(f"{skipped:,} bad rows were skipped")
    if truncated:
        note(f"{truncated:,} texts were cut at {pipeline.max_length} tokens")
    note(
        f"{texts:,} texts, {tokens:,} tokens in {seconds:.1f} s: {texts / seconds:,.0f} texts/s, "
        f"{tokens / seconds:,.0f} tokens/s ({_machine(pipeline)})"
    )
    if output is not None:
        note(f"results: {output}")


def describe(pipeline: Pipeline) -> str:
    """What is about to run, in one line."""
    task = pipeline.task
    if task == "embed":
        length = "of length 1" if pipeline.normalize else "not normalised"
        task += f" ({pipeline.pooling} pooling, {length})"
    return f"{task} with {pipeline.folder}: {_machine(pipeline)}"


def _machine(pipeline: Pipeline) -> str:
    threads = torch.get_num_threads()
    device = pipeline.device.type
    if device == "cpu":
        device += f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{pipeline.precision}, backend {pipeline.backend}, {device}"


def _use_threads(threads: int) -> None:
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}")
    torch.set_num_threads(threads)  # CMM's kernels follow it
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read when the tokenizer first works


def _check_input_format(input_format: str | None, paths: Sequence[Path]) -> None:
    if input_format is None:
        return
    if input_format not in STDIN_FORMATS:
        raise ConfigError(f"unknown --input-format {input_format!r}; known: {', '.join(STDIN_FORMATS)}")
    if STDIN not in paths:
        raise ConfigError("--input-format is for standard input (-); a file's suffix says its format")


def _check_columns(pipeline: Pipeline, source: Source, output: Path | None) -> None:
    """Raise `ConfigError` where the input's columns and the output's do not go together."""
    carried = list(source.id_columns)
    if source.keep_text:
        carried += [source.text_column, *([source.pair_column] if source.pair_column else [])]
    if output is not None and output.suffix.lower() == ".npy":
        if pipeline.task != "embed":
            raise ConfigError(f"--output {output}: .npy holds embeddings only; write .jsonl, .csv or .parquet")
        if source.id_columns:
            raise ConfigError(f"--output {output}: .npy cannot hold --id-column; write .parquet or .jsonl")
    if clash := next((name for name in carried if name in pipeline.columns), None):
        raise ConfigError(
            f"column {clash!r} of the input would collide with the result's {clash!r}; rename it, "
            "or use --no-keep-text if it is the text"
        )


class Display:
    """A progress bar with texts/s and the time left on a terminal; a line now and then elsewhere."""

    def __init__(self, paths: list[Path], results_on_stdout: bool) -> None:
        self.total = estimate_rows(paths)
        self.bar: Progress = progress("{task.fields[rate]}")
        # Results scroll through the bar if both go to one terminal.
        self.bar.disable = not console().is_terminal or (results_on_stdout and sys.stdout.isatty())
        self.start = self.last_note = time.monotonic()

    def __enter__(self) -> Display:
        self.bar.start()
        self.task = self.bar.add_task("infer", total=self.total, rate="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def update(self, texts: int) -> None:
        """`texts` are done so far."""
        now = time.monotonic()
        rate = texts / max(now - self.start, 1e-9)
        if self.total is not None and texts > self.total:
            self.total = None  # the estimate was too low: better none than a wrong one
        self.bar.update(self.task, completed=texts, total=self.total, rate=f"{rate:,.0f} texts/s")
        if not console().is_terminal and now - self.last_note > SECONDS_BETWEEN_NOTES:
            self.last_note = now
            left = ""
            if self.total:
                left = f", about {max(self.total - texts, 0) / rate / 60:,.1f} minutes left"
            note(f"{texts:,} texts, {rate:,.0f} texts/s{left}")


def estimate_rows(paths: Sequence[Path]) -> int | None:
    """About how many rows the files have: parquet says it, of a text file the beginning is counted.

    None if that cannot be known without reading everything: standard input, pipes, compressed files.
    """
    rows = 0.0
    for path in paths:
        kind = file_format(path)
        if kind is None or path.suffix.lower() in (".gz", ".zst"):
            return None
        if kind == "parquet":
            import pyarrow.parquet as pq

            rows += pq.read_metadata(path).num_rows
            continue
        with path.open("rb") as stream:
            sample = stream.read(SAMPLED_BYTES)
        lines = sample.count(b"\n") + (not sample.endswith(b"\n"))
        rows += lines * max(path.stat().st_size / max(len(sample), 1), 1.0)
    return round(rows)
