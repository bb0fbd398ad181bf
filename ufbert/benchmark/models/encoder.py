"""Times whole encoders, ours beside our dense twin and the peers, each in a process of its own.

The models differ in nothing but their feedforward layers: the peers and the dense twin have the same weights,
ours has trees in the place of the feedforward layers. All processes stay loaded, and one computes at a time:
they take samples in turn, so that a change of clock or a neighbour's load meets all of them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.models.peers.job import Job
from ufbert.benchmark.models.peers.process import Worker, WorkerError
from ufbert.benchmark.models.peers.roster import EncoderVariant, choose_encoders
from ufbert.benchmark.models.peers.weights import VOCABULARY, dense_parameters, write_models
from ufbert.benchmark.report.encoder_results import Breakdown, EncoderResult, Latency, compare_encoders
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Spread, TimeBudget
from ufbert.errors import ConfigError
from ufbert.system.resources import available_cores, available_memory

from .encoder_processes import TOLERANCE, EncoderProcess, load_encoders, sample_in_turn, warm_up

__all__ = ["EncoderBenchmark", "waves"]

BREAKDOWN_SECONDS = 1.0
MOST_BREAKDOWN_CALLS = 20
EXPORT_LIMIT_SECONDS = 240.0
# Memory of a process beside its weights, and the copies of weights that a framework may hold while it loads.
FRAMEWORK_BYTES, WEIGHT_COPIES = 600 << 20, 2.5
USABLE_SHARE = 0.8


class EncoderBenchmark:
    """The encoder benchmark of one device."""

    whose = "an encoder of this shape"
    tolerance = TOLERANCE
    smaller = "choose fewer --layers, a smaller --hidden-size or another --preset"

    def __init__(
        self,
        settings: BenchmarkSettings,
        device: torch.device,
        budget: TimeBudget,
        note: Callable[[str], None],
        advance: Callable[[float], None] = lambda _share: None,
    ) -> None:
        self.settings, self.device = settings, device
        self.budget, self.note, self.advance = budget, note, advance
        self.layers = settings.layers
        self.tokenizer_of, self.peer_model = "fff", "bert"
        self.exported: set[str] = set()
        """Kinds that `write` has made already."""
        self.results: list[EncoderResult] = []
        self.breakdowns: list[Breakdown] = []
        self.absent: list[Absent] = []
        self.paths: dict[str, Any] = {}
        self.facts: dict[str, Any] = {"versions": {}, "export_seconds": {}, "idle_cpu_seconds": {}}
        """Versions of the packages, seconds of exporting, CPU time of processes while it was not their turn."""

    def run(self) -> None:
        """Time everything; fills the attributes above. Raises `ConfigError` for a model larger than the memory."""
        entries, self.absent = self.choose()
        free = available_memory()
        each = WEIGHT_COPIES * 4 * self.parameters + FRAMEWORK_BYTES
        if free is not None and each > free:
            raise ConfigError(
                f"{self.whose} needs about {each / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free; {self.smaller}"
            )
        with tempfile.TemporaryDirectory(prefix="ufbert-bench-") as folder:
            entries = self.export(self.write(entries, folder), folder)
            groups = waves(entries, each, free)
            for done, group in enumerate(groups):
                self.run_wave(group, folder, done, len(groups))
            if self.breakdowns:
                self.time_tokenising(folder)
        compare_encoders(self.results)
        names = [(entry.encoder.name, entry.precision) for entry in entries]
        self.results.sort(key=lambda r: (r.batch, names.index((r.implementation, r.dtype))))
        self.facts["processes_at_once"] = max((len(group) for group in groups), default=0)

    @property
    def parameters(self) -> int:
        """Of the largest model, nearly."""
        return dense_parameters(self.settings)

    def choose(self) -> tuple[list[EncoderVariant], list[Absent]]:
        """What to time, and what is not to be had."""
        return choose_encoders(self.settings.implementations, self.settings.dtypes, self.settings.device)

    def write(self, entries: list[EncoderVariant], folder: str) -> list[EncoderVariant]:
        """Write what the processes load; those that can load it."""
        self.note("writing the models")
        self.paths = write_models(self.settings, self.job("", folder))
        return entries

    def job(self, module: str, folder: str, precision: str = "float32", **options: Any) -> Job:
        """What a worker is told."""
        settings = self.settings
        return Job(
            module=module, precision=precision, device=self.device.type, threads=settings.threads, folder=folder,
            sequence_length=settings.sequence_length, vocabulary=VOCABULARY, seed=settings.seed,
            peer_model=self.peer_model, options=options,
        )  # fmt: skip

    def export(self, entries: list[EncoderVariant], folder: str) -> list[EncoderVariant]:
        """Make the peers' reference and models; those whose model cannot be made become absent."""
        needed = {entry: entry.encoder.exports(entry.precision) for entry in entries}
        kinds = dict.fromkeys(kind for kinds in needed.values() for kind in kinds if kind not in self.exported)
        failed: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            worker: Worker | None = None
            for kind in kinds:
                self.note(f"exporting: {kind}")
                worker = worker or stack.enter_context(Worker(available_cores(), ours=False))
                try:
                    job = self.job("", folder, kind=kind)
                    seconds = worker.ask("export", limit=EXPORT_LIMIT_SECONDS, job=job.to_dict())["seconds"]
                    self.facts["export_seconds"][kind] = round(seconds, 2)
                except WorkerError as error:
                    failed[kind], worker = str(error), None
        kept = []
        for entry in entries:
            if reasons := [failed[kind] for kind in needed[entry] if kind in failed]:
                self.absent.append(entry.absent(f"could not be exported: {reasons[0]}"))
            else:
                kept.append(entry)
        return kept

    def run_wave(self, entries: Sequence[EncoderVariant], folder: str, done: int, number: int) -> None:
        """Load these encoders side by side, check them, and time them at each batch size."""
        batches = self.settings.batches

        def make_job(entry: EncoderVariant) -> Job:
            return self.job(entry.encoder.module, folder, entry.precision, **entry.encoder.options)

        with contextlib.ExitStack() as stack:
            self.note(f"loading {len(entries)} encoders")
            processes, absent, versions = load_encoders(entries, make_job, stack, self.tolerance)
            self.absent += absent
            self.facts["versions"] |= versions
            for position, batch in enumerate(batches):
                cell = TimeBudget(self.budget.share(1.0, len(batches) * (number - done) - position))
                processes = self.time_batch(processes, batch, cell)
                self.advance((done + (position + 1) / len(batches)) / number)
            for process in processes:
                name = f"{process.entry.encoder.name} {process.entry.precision}"
                self.facts["idle_cpu_seconds"][name] = round(process.worker.idle_cpu_seconds, 3)

    def time_batch(self, processes: Sequence[EncoderProcess], batch: int, budget: TimeBudget) -> list[EncoderProcess]:
        """Warm up, sample in turn, keep the figures; the processes that came through."""
        ready = []
        for process in processes:
            self.note(f"batch {batch}: warming up {process.entry.encoder.name} {process.entry.precision}")
            if failure := warm_up(process, batch):
                self.absent.append(failure)
            else:
                ready.append(process)
        self.note(f"batch {batch}: timing {batch} x {self.settings.sequence_length} tokens")
        dead = sample_in_turn(ready, batch, budget)
        self.absent += dead.values()
        ready = [process for position, process in enumerate(ready) if position not in dead]
        for process in ready:
            self.results.append(self.result(process, batch))
            if process.entry.encoder.name == "ufbert":
                self.breakdowns.append(self.break_down(process, batch))
        return ready

    def result(self, process: EncoderProcess, batch: int) -> EncoderResult:
        """The figure of what was sampled."""
        settings, encoder, worker = self.settings, process.entry.encoder, process.worker
        return EncoderResult(
            layer=encoder.layer,
            implementation=encoder.name,
            peer=encoder.is_peer,
            device=self.device.type,
            dtype=process.entry.precision,
            threads=settings.threads,
            batch=batch,
            sequence_length=settings.sequence_length,
            layers=self.layers,
            spread=Spread.of([float(np.mean(sample)) for sample in process.samples]),
            samples=len(process.samples),
            calls_per_sample=process.calls_per_sample,
            latency=Latency.of([seconds for sample in process.samples for seconds in sample]),
            resident_bytes=worker.resident_bytes,
            peak_bytes=worker.peak_bytes,
            error=process.error,
            largest_error=process.largest_error,
            lowest_cosine=process.lowest_cosine,
        )

    def break_down(self, process: EncoderProcess, batch: int) -> Breakdown:
        """Our encoder's parts at the batch size it was just timed at."""
        calls = max(2, min(MOST_BREAKDOWN_CALLS, int(BREAKDOWN_SECONDS / process.seconds_per_call / 2)))
        answer = process.worker.ask("parts", calls=calls)
        scale = 1e6 / (batch * self.settings.sequence_length)
        return Breakdown(
            implementation=process.entry.encoder.name,
            dtype=process.entry.precision,
            batch=batch,
            sequence_length=self.settings.sequence_length,
            calls=answer["calls"],
            parts={part: seconds * scale for part, seconds in answer["parts"].items()},
            whole=answer["whole"] * scale,
            without_timers=answer["plain"] * scale,
        )

    def time_tokenising(self, folder: str) -> None:
        """Add the cost of tokenising to the breakdowns."""
        self.note("timing the tokenizer")
        with Worker(self.settings.threads, ours=True) as worker:
            answer = worker.ask("tokenise", job=self.job("", folder, model=self.tokenizer_of).to_dict())
        for breakdown in self.breakdowns:
            breakdown.tokenisation = answer["seconds"] * 1e6 / answer["tokens"]
        self.facts["tokenisation"] = answer


def waves(entries: Sequence[EncoderVariant], each: float, free: int | None) -> list[list[EncoderVariant]]:
    """Groups of encoders that fit into the memory side by side, `each` taking so many bytes."""
    size = len(entries) if free is None else max(1, int(USABLE_SHARE * free / each))
    return [list(entries[start : start + size]) for start in range(0, len(entries), max(size, 1))]
