"""A whole benchmark run: measure the machine, time, warn, show, write."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ufbert.benchmark.layer.depth_sweep import sweep_depths
from ufbert.benchmark.layer.run import LayerBenchmark
from ufbert.benchmark.machine.description import cpu_times, describe_machine, foreign_share, peak_memory
from ufbert.benchmark.machine.limits import measure_limits
from ufbert.benchmark.machine.tensor_float import tf32
from ufbert.benchmark.models.checkpoint_encoder import CheckpointBenchmark
from ufbert.benchmark.models.encoder import EncoderBenchmark
from ufbert.benchmark.models.peers.checkpoint import read_checkpoint_model
from ufbert.benchmark.models.training import ModelBenchmark
from ufbert.benchmark.report.encoder_plot import draw_encoders
from ufbert.benchmark.report.plot import check_plot, draw
from ufbert.benchmark.report.results import WIDE_SPREAD, Report
from ufbert.benchmark.report.tables import show
from ufbert.errors import BackendError, ConfigError
from ufbert.reporting import note, progress, show_log
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.atomic import check_new
from ufbert.system.devices import choose_device

from .settings import BenchmarkSettings
from .timing import Threads, TimeBudget

__all__ = ["measure", "run_benchmark"]

# Cores that others may use before a figure becomes doubtful.
BUSY_CORES = 0.1
LOOK_SECONDS = 0.5
SWEEP_SHARE = 0.25


def run_benchmark(settings: BenchmarkSettings, json_file: Path | None = None, plot_file: Path | None = None) -> Report:
    """Measure, show the tables on stdout, and write the files asked for.

    Raises `BackendError` if the device is not there, and at the end if an implementation gave a wrong result
    (it was not timed); `OutputError` for a file that exists; `MissingExtraError` for a plot without matplotlib.
    """
    if json_file:
        check_new(json_file, "results", "--json")
    if plot_file:
        if settings.subject == "training":
            raise ConfigError("--plot draws the layer and encoder benchmarks; the training benchmark has tables only")
        check_plot(plot_file)
        check_new(plot_file, "figure", "--plot")
    show_log()
    # Else large results are mapped and unmapped anew in each call, which takes longer than some of the layers.
    keep_freed_memory()
    report = measure(settings, sweep=plot_file is not None and settings.subject == "layer")
    show(report)
    if json_file:
        report.write(json_file)
        note(f"wrote {json_file}")
    if plot_file:
        (draw_encoders if settings.subject == "encoder" else draw)(report, plot_file)
        note(f"wrote {plot_file}")
    for warning in report.warnings[report.warned :]:
        note(f"warning: {warning}")
    if wrong := sorted({entry.implementation for entry in report.absent if entry.wrong}):
        raise BackendError(f"wrong results, hence not timed: {', '.join(wrong)}; see the end of the table")
    return report


def measure(settings: BenchmarkSettings, *, sweep: bool = False) -> Report:
    """Everything but showing and writing; `sweep` adds the time over depth."""
    started = time.monotonic()
    device = choose_device(settings.device)
    budget = TimeBudget(settings.seconds)
    report = Report(settings, describe_machine(device))
    checkpoint = None
    if settings.model is not None:
        checkpoint, notes = read_checkpoint_model(settings)
        for line in notes:
            note(f"note: {line}")
    with progress() as bar, Threads(settings.threads) as threads, tf32(False):
        before = cpu_times()
        time.sleep(LOOK_SECONDS)
        quiet = foreign_share(before, cpu_times())
        report.machine["load_average_before"] = load_average()
        report.machine["others_before"] = quiet
        if quiet and max(quiet.values()) > BUSY_CORES:
            report.warnings.append(
                f"the machine was busy before the run: others used {quiet['busy_cores']:.1f} cores, the host took "
                f"{quiet['stolen_cores']:.1f}; figures will be too slow and may compare unfairly"
            )
            note(f"warning: {report.warnings[0]}")
            report.warned = 1
        task = bar.add_task("measuring the machine", total=100)

        def tell(text: str) -> None:
            bar.update(task, description=text)
            if bar.disable:
                note(f"{time.monotonic() - started:5.0f} s  {text}")

        def advance(share: float) -> None:
            bar.update(task, completed=100 * share * (1 - SWEEP_SHARE if sweep else 1))

        tell("measuring the machine")
        report.machine["limits"] = limits = measure_limits(device, settings.dtypes, settings.threads)
        begin = cpu_times()
        if settings.subject == "layer":
            layer = LayerBenchmark(settings, device, limits, threads, budget, tell, advance)
            layer.run(reserve=SWEEP_SHARE * settings.seconds if sweep else 0.0)
            report.results, report.absent, report.paths = layer.results, layer.absent, layer.paths
            report.dense_widths, report.shared_parts = layer.dense_widths, layer.shared_parts
            if layer.layers < settings.layers:
                report.warnings.append(
                    f"memory suffices for cycling through {layer.layers} layers, not {settings.layers}"
                )
            if sweep:
                left = max(budget.left(), 0.5 * SWEEP_SHARE * settings.seconds)
                report.sweep = sweep_depths(settings, device, limits, threads, left, dense_name(report), tell)
        elif settings.subject == "encoder":
            if checkpoint is None:
                encoders = EncoderBenchmark(settings, device, budget, tell, advance)
            else:
                encoders = CheckpointBenchmark(checkpoint, settings, device, budget, tell, advance)
                report.model = encoders.described
            encoders.run()
            report.encoders, report.breakdowns = encoders.results, encoders.breakdowns
            report.absent, report.paths, report.facts = encoders.absent, encoders.paths, encoders.facts
        else:
            models = ModelBenchmark(settings, device, budget, tell, advance)
            models.run()
            report.models, report.absent, report.paths = models.results, models.absent, models.paths
        bar.update(task, completed=100)
        report.machine["others_during"] = foreign_share(begin, cpu_times())
        report.machine["peak_memory_bytes"] = peak_memory()
    report.seconds = time.monotonic() - started
    report.warnings += doubts(report)
    return report


def dense_name(report: Report) -> str | None:
    """The dense implementation that won most often with warm weights; its times are shown over depth."""
    first = report.settings.dtypes[0]
    names = [r.fastest_dense for r in report.results if r.weights == "warm" and r.dtype == first and r.batch > 1]
    found = [name for name in names if name]
    return max(found, key=found.count) if found else None


def doubts(report: Report) -> list[str]:
    """What a reader should know before leaning on the figures."""
    found = []
    during: dict[str, Any] | None = report.machine["others_during"]
    if during and max(during.values()) > BUSY_CORES:
        found.append(
            f"the machine was busy during the run: others used {during['busy_cores']:.1f} cores, the host took "
            f"{during['stolen_cores']:.1f}"
        )
    if wide := report.wide():
        worst = max(wide, key=lambda r: r.spread.relative)
        found.append(
            f"{len(wide)} of {len(report.figures)} figures have quartiles further apart than "
            f"{100 * WIDE_SPREAD:.0f}% of the median; the widest is {worst.layer} {worst.implementation} "
            f"at batch {worst.batch} ({100 * worst.spread.relative:.0f}%)"
        )
    if report.seconds > 1.2 * report.settings.seconds:
        found.append(
            f"the run took {report.seconds:.0f} s instead of {report.settings.seconds:.0f} s: compiling, checking and "
            "three samples of each figure need that long"
        )
    return found


def load_average() -> float | None:
    """Of the last minute, or None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
