"""`ufbert bench quality`: pretrain every variant of a recipe, measure loss and speed, write table and picture.

FOLDER/recipe.toml      the recipe as of the last call
FOLDER/runs/            see `runs`
FOLDER/widths.json      see `widths`
FOLDER/speed.json       the timings of the last call that took some
FOLDER/quality.md, .json, .svg, .png
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ufbert.benchmark.machine.description import cpu_times, describe_machine, foreign_share
from ufbert.benchmark.models.peers.process import environment
from ufbert.checkpoint.folder import read_json
from ufbert.errors import BackendError, DataError, UfbertError
from ufbert.pretraining.loss_curve import can_plot
from ufbert.reporting import note, show_log
from ufbert.settings.toml import differences, settings_to_dict
from ufbert.system.atomic import check_new, write_file
from ufbert.system.resources import available_cores
from ufbert.text.corpus import PreparedCorpus, prepare_corpus

from .jobs import Job, Outcome, run_jobs
from .measure import Losses
from .plot import draw_quality
from .recipe import Recipe, Variant, read_recipe, recipe_text
from .report import markdown, show
from .results import Results, Row
from .runs import QualityRun, find_runs
from .speed import Timing, busy, time_encoders
from .widths import known_widths, settle_width

__all__ = ["QualityRequest", "run_quality"]

RECIPE_FILE, SPEED_FILE = "recipe.toml", "speed.json"
# Between two notes on how far the runs are.
TELL_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class QualityRequest:
    """What the command line asks for."""

    recipe: str
    """A file, or a recipe that ufbert ships, by name."""
    out: Path
    only: Sequence[str] = ()
    """Variants to train; none stands for all."""
    jobs: int = 1
    """Runs at once."""
    train: bool = True
    threads: int = 0
    """CPU threads of all runs together; 0 takes all cores."""
    seconds: float | None = None
    """In the place of the recipe's `speed.seconds`; 0 keeps the timings of the last call."""
    overrides: Sequence[str] = ()
    corpus: Sequence[str] = ()


def run_quality(request: QualityRequest) -> int:
    """Do it, or go on with it; the exit code: 0, or 128 and the number of the signal that stopped the runs.

    Raises `ConfigError` for a bad recipe or one that is not that of the runs in the folder, `OutputError` for a folder
    that holds something else, `DataError` if there is nothing to report, and `BackendError` at the end if runs failed.
    """
    recipe = read_recipe(request.recipe, request.overrides, request.corpus)
    chosen = recipe.choose(request.only)
    root = request.out
    if not (root / RECIPE_FILE).is_file():
        check_new(root, "benchmark")
    show_log()
    everything = list(recipe.variants.values())
    find_runs(recipe, root, known_widths(root), everything)  # complains of runs of another recipe before any work
    base = recipe.base
    corpus = prepare_corpus(base.data, base.model.vocab_size, seed=base.held_out_seed)
    root.mkdir(parents=True, exist_ok=True)
    _write(root / RECIPE_FILE, recipe_text(request.recipe))
    outcome = Outcome()
    if request.train:
        outcome = _train(recipe, chosen, root, corpus, request)
        if outcome.stopped_by:
            note("Stopped; the same command goes on")
            return 128 + outcome.stopped_by
    runs = find_runs(recipe, root, known_widths(root), everything)
    losses = Losses(corpus, base)
    rows = [_row(variant, runs, recipe, losses) for variant in everything]
    rows = [row for row in rows if row.runs]
    if rows:
        _report(recipe, rows, runs, root, corpus, request)
    if outcome.failures:
        failed = "; ".join(f"{name}: {line}" for name, line in outcome.failures.items())
        raise BackendError(f"{len(outcome.failures)} of the runs failed, the others went on: {failed}")
    if not rows:
        raise DataError(f"{root}: no run of the recipe is complete, so there is nothing to report")
    return 0


def _train(
    recipe: Recipe, chosen: Sequence[Variant], root: Path, corpus: PreparedCorpus, request: QualityRequest
) -> Outcome:
    """Begin or continue the runs that are not complete."""
    widths = known_widths(root)
    for variant in chosen:
        if variant.time_of and variant.name not in widths:
            target = find_runs(recipe, root, widths, [recipe.variants[variant.time_of]])
            trained = next((run.folder for run in target if run.complete), None)
            widths[variant.name] = settle_width(recipe, variant, root, corpus, trained)
    runs = {run.name: run for run in find_runs(recipe, root, widths, chosen)}
    open_runs = [run for run in runs.values() if not run.complete]
    cores = request.threads or available_cores()
    at_once = min(request.jobs, max(1, len(open_runs)))
    threads = max(1, cores // at_once)
    if open_runs:
        note(
            f"{len(runs) - len(open_runs)} of {len(runs)} runs are complete; training {at_once} at once with "
            f"{threads} thread{'s' if threads > 1 else ''} each; follow one with: tail -f {open_runs[0].beside('.log')}"
        )
    last = time.monotonic()

    def tell(names: Sequence[str]) -> None:
        nonlocal last
        if time.monotonic() - last < TELL_SECONDS:
            return
        last = time.monotonic()
        try:
            now = {run.name: run for run in find_runs(recipe, root, widths, chosen)}
        except UfbertError:  # a run that is just being saved, where folders cannot be exchanged in one step
            return
        done = sum(run.complete for run in now.values())
        running = ", ".join(f"{name} {100 * now[name].share_done:.0f} %" for name in names)
        note(f"{done} of {len(now)} runs are complete; at their last checkpoints: {running}")

    jobs = [Job(run.name, run.command, run.beside(".log")) for run in open_runs]
    return run_jobs(jobs, at_once, environment(threads, ours=True), tell)


def _row(variant: Variant, runs: Sequence[QualityRun], recipe: Recipe, losses: Losses) -> Row:
    """A variant's line of the table, without its speed."""
    own = {run.seed: run for run in runs if run.variant is variant}
    changes = differences(recipe.base, next(iter(own.values())).settings) if own else {}
    changes.pop("training.seed", None)
    return Row(
        name=variant.name,
        feedforward=variant.settings.model.feedforward_kind,
        time_of=variant.time_of,
        changes={key: new for key, (_, new) in changes.items()},
        runs={seed: losses.measure(run) for seed, run in own.items() if run.complete},
        expected=len(recipe.quality.seeds),
    )


def _report(
    recipe: Recipe,
    rows: list[Row],
    runs: Sequence[QualityRun],
    root: Path,
    corpus: PreparedCorpus,
    request: QualityRequest,
) -> None:
    """Time the encoders, and show and write what is known."""
    quality, speed = recipe.quality, recipe.speed
    seconds = speed.seconds if request.seconds is None else request.seconds
    if seconds > 0:
        _take_timings(recipe, rows, runs, root, corpus, seconds)
    remarks = _read_timings(rows, root)
    if unfinished := [f"{run.name} ({100 * run.share_done:.0f} %)" for run in runs if not run.complete]:
        remarks.append(f"Not complete, with the share of their tokens: {', '.join(unfinished)}")
    results = Results(
        rows=rows,
        precisions=speed.precisions,
        precision=speed.precision,
        reference=quality.reference,
        none=quality.none,
        twin=quality.twin,
    )
    model = recipe.base.model
    title = (
        f"{Path(recipe.source).stem}: {recipe.base.training.tokens:,} tokens, {model.num_hidden_layers} layers of "
        f"{model.hidden_size}, loss on {rows[0].facts.blocks:,} held-out blocks of {recipe.base.data.sequence_length}"
    )
    pictures = [root / "quality.svg", root / "quality.png"]
    if not any(row.timings for row in rows):
        pictures = []
    elif not can_plot():
        note("No picture: it needs matplotlib (pip install 'ufbert[plot]')")
        pictures = []
    if pictures:
        draw_quality(results, title, pictures)
    document = {
        "title": title,
        "recipe": recipe.source,
        "base": settings_to_dict(recipe.base),
        "quality": vars(quality),
        "speed": vars(speed),
        **results.to_dict(),
        "machine": _stored_speed(root).get("machine"),
        "widths": read_json(root / "widths.json") if known_widths(root) else {},
        "remarks": remarks,
    }
    _write(root / "quality.json", json.dumps(document, indent=2) + "\n")
    _write(root / "quality.md", markdown(results, title, remarks, pictures[0].name if pictures else ""))
    show(results, title, remarks)
    note(f"Wrote {', '.join(str(path) for path in (root / 'quality.md', root / 'quality.json', *pictures))}")


def _take_timings(
    recipe: Recipe, rows: list[Row], runs: Sequence[QualityRun], root: Path, corpus: PreparedCorpus, seconds: float
) -> None:
    """Time the first finished run of each row, all in turns, and write the timings down."""
    speed = recipe.speed
    first = {run.variant.name: run.folder for run in reversed(runs) if run.complete}
    folders = {row.name: first[row.name] for row in rows}
    note(f"Timing {len(folders)} encoders in {', '.join(speed.precisions)} for about {seconds:.0f} s")
    before = cpu_times()
    timings = time_encoders(folders, speed.precisions, corpus.validation, speed, seconds)
    machine = describe_machine(torch.device("cpu")) | {"others_during": foreign_share(before, cpu_times())}
    document = {
        "machine": machine,
        "batch": speed.batch,
        "sequence_length": corpus.validation.sequence_length,
        "threads": speed.threads or available_cores(),
        "timings": {
            name: {precision: vars(timings[name, precision]) for precision in speed.precisions} for name in folders
        },
    }
    _write(root / SPEED_FILE, json.dumps(document, indent=2) + "\n")


def _read_timings(rows: list[Row], root: Path) -> list[str]:
    """Give the rows their timings; what is to be said of them."""
    stored = _stored_speed(root)
    for row in rows:
        row.timings = {p: Timing(**values) for p, values in stored.get("timings", {}).get(row.name, {}).items()}
    if not stored:
        return ["Speed: not measured"]
    threads = stored["threads"]
    remarks = [
        f"Speed: as `ufbert infer` runs the encoder, {stored['batch']} sequences of {stored['sequence_length']} "
        f"tokens, {threads} thread{'s' if threads > 1 else ''}, all variants in turns; median ± half the distance of "
        "the quartiles"
    ]
    if others := busy(stored["machine"]["others_during"]):
        remarks.append(
            f"The machine was busy while the encoders were timed: {others}; measure again with --no-train when it is "
            "quiet"
        )
    return remarks


def _stored_speed(root: Path) -> dict[str, Any]:
    file = root / SPEED_FILE
    return read_json(file) if file.is_file() else {}


def _write(path: Path, text: str) -> None:
    with write_file(path, replace=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
