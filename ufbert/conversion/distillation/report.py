"""What the student is worth: held-out errors, layer by layer and of the whole, beside a control.

The control is the teacher with every feedforward layer that was converted replaced by its mean output, or without
the layers that were dropped. Whatever it reaches, the distillation need not be thanked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table

from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pooling import pool
from ufbert.model.tree_health import LeafRecorder
from ufbert.reporting import console, note

from .active_neurons import ACTIVE_COLUMNS, ACTIVE_MEANING, ActiveNeurons, active_rows
from .batch import Batch
from .head_report import HeadMeasurement, HeadTally
from .heads import Head
from .layer_inputs import record_hidden_states
from .student import StudentPlan

__all__ = ["ERROR_COLUMNS", "LayerErrors", "Measurement", "error_rows", "measure", "show"]

THE_ORIGINAL = "the original"
ERROR_COLUMNS = ("", "initialised", "regressed", "trained", "control")


@dataclass(frozen=True)
class LayerErrors:
    """Relative errors of one layer on the teacher's own inputs, held out: 0 exact, 1 the mean output."""

    initialized: float
    regressed: float


@dataclass(frozen=True)
class Measurement:
    """Held-out figures of the whole encoder, run on its own from the text on."""

    texts: int
    held_out_from: str
    """`other documents` than those trained on, or `the same documents`."""
    student_cosine: float
    """Mean cosine between the student's and the teacher's embeddings of a text."""
    control_cosine: float
    student_errors: list[float]
    """Root of the mean squared error over the variance, of each layer's output across tokens."""
    control_errors: list[float]
    tokens: int
    health: list[dict[str, Any]]
    """Of the student's trees, by layer: `LeafRecorder.health`."""
    plan: StudentPlan
    head: HeadMeasurement | None = None
    """None where embeddings alone were distilled."""
    active: tuple[tuple[ActiveNeurons, ActiveNeurons], ...] = ()
    """Original's and student's active neurons, by layer; of students that shall have few of them."""
    learned_from: str = THE_ORIGINAL
    """Whose states and embeddings the student has learned, and is compared with."""

    @property
    def kept(self) -> float:
        """How much of the original's quality the student has: a head's agreement, else the cosine of embeddings."""
        return self.student_cosine if self.head is None else self.head.student.agreement

    @property
    def explanation(self) -> str:
        """What the columns of the table are."""
        return (
            "initialised, regressed: one layer alone on the original's inputs, 0 exact, 1 its mean output; trained, "
            "control: the whole run on its own, error of the layer's output, 0 exact, 1 its mean; control: "
            f"{self.plan.control}{self._learned_from}"
        )

    @property
    def _learned_from(self) -> str:
        if self.learned_from == THE_ORIGINAL:
            return ""
        return f"; whole runs are compared with those of {self.learned_from}, which was learned from"

    def figures(self) -> dict[str, str]:
        """For the model card."""
        partly = bool(self.plan.dropped) or len(self.plan.converted) < self.plan.original.num_hidden_layers
        control = "the same with feedforward layers that put out only their mean"
        figures = {}
        if self.head is not None:
            where = f"{self.head.rows:,} held-out {self.head.unit} from {self.held_out_from}"
            of = (
                f"of the control, {self.plan.control}," if partly else "with feedforward layers that put out their mean"
            )
            for name, student, other in self.head.rows_of_figures():
                figures[f"{name}, {where}"] = f"{student}; {of} {other}"
        return figures | {
            f"mean cosine to {self.learned_from}'s embeddings, {self.texts} held-out texts from {self.held_out_from}": (
                f"{self.student_cosine:.4f}"
            ),
            f"the same of the control: {self.plan.control}" if partly else control: f"{self.control_cosine:.4f}",
        }


@torch.no_grad()
def measure(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    source: UltraFastBertModel,
    plan: StudentPlan,
    means: Sequence[torch.Tensor],
    batches: Iterable[Batch],
    pooling: str,
    held_out_from: str,
    head: Head | None = None,
) -> Measurement:
    """Run teacher, student and control over held-out text in float32.

    The control is made of `source`: `means` (H,) are what its feedforward layers put out, of those that were converted.
    """
    layers = len(plan.targets)
    cosines = {"student": 0.0, "control": 0.0}
    squares = {name: [0.0] * layers for name in cosines}
    totals, sums, counts = [0.0] * layers, [torch.zeros(0)] * layers, 0
    texts = 0
    recorder, tally = LeafRecorder(student), HeadTally(head)
    for batch in batches:
        present = batch.attention_mask.bool()
        wanted, control = ([states[i] for i in plan.targets] for states in _both(teacher, source, plan, means, batch))
        with recorder.record(batch.attention_mask):
            student_states = _run(student, batch)
        if head is not None:
            tally.add(*(head.logits(states[-1], batch) for states in (wanted, student_states, control)))
        texts, counts = texts + len(present), counts + int(present.sum())
        embedding = pool(wanted[-1], batch.attention_mask, pooling)
        for name, states in (("student", student_states), ("control", control)):
            other = pool(states[-1], batch.attention_mask, pooling)
            cosines[name] += float(F.cosine_similarity(embedding, other).sum())
            for i, (state, target) in enumerate(zip(states, wanted, strict=True)):
                squares[name][i] += float((state - target)[present].square().sum())
        for i, target in enumerate(wanted):
            rows = target[present].double()
            totals[i] += float(rows.square().sum())
            sums[i] = rows.sum(0) if not len(sums[i]) else sums[i] + rows.sum(0)
    variances = [t - float(s.square().sum()) / counts for t, s in zip(totals, sums, strict=True)]
    errors = {
        name: [(s / max(v, 1e-30)) ** 0.5 for s, v in zip(values, variances, strict=True)]
        for name, values in squares.items()
    }
    return Measurement(
        texts,
        held_out_from,
        cosines["student"] / texts,
        cosines["control"] / texts,
        errors["student"],
        errors["control"],
        counts,
        # Under the original's numbers, as everything else about a student that lacks layers.
        [{**layer, "layer": plan.kept[layer["layer"]]} for layer in recorder.health()],
        plan,
        tally.measurement(),
    )


def _both(
    teacher: UltraFastBertModel,
    source: UltraFastBertModel,
    plan: StudentPlan,
    means: Sequence[torch.Tensor],
    batch: Batch,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The states of the teacher, and of the control."""
    wanted = _run(teacher, batch)
    with _mean_outputs(source, plan, means):
        return wanted, _run(source, batch)


def _run(encoder: UltraFastBertModel, batch: Batch) -> list[torch.Tensor]:
    with record_hidden_states(encoder) as states:
        encoder.encode(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return [state.float() for state in states]


@contextmanager
def _mean_outputs(encoder: UltraFastBertModel, plan: StudentPlan, means: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within the block converted feedforward layers put out their mean, and dropped layers what they are given."""

    def unchanged(_module: Any, arguments: tuple[torch.Tensor, ...], _output: torch.Tensor) -> torch.Tensor:
        return arguments[0]

    def constant(mean: torch.Tensor) -> Any:
        return lambda _module, _arguments, output: mean.to(output.dtype).expand_as(output)

    handles = [
        encoder.layers[layer].get_submodule("feedforward").register_forward_hook(constant(mean))
        for layer, mean in zip(plan.converted, means, strict=True)
    ]
    handles += [encoder.layers[layer].register_forward_hook(unchanged) for layer in plan.dropped]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def error_rows(measurement: Measurement, errors: Sequence[LayerErrors]) -> list[list[str]]:
    """A row of `ERROR_COLUMNS` for each layer, the final norm if there is one, and the embeddings."""
    rows = []
    for i, alone in enumerate(errors):
        whole = measurement.student_errors[i], measurement.control_errors[i]
        values = (alone.initialized, alone.regressed, *whole)
        rows.append([f"layer {measurement.plan.kept[i]}: relative error", *(f"{value:.3f}" for value in values)])
    if len(measurement.student_errors) > len(errors):
        final = measurement.student_errors[-1], measurement.control_errors[-1]
        rows.append(["final norm: relative error", "", "", *(f"{value:.3f}" for value in final)])
    if measurement.head is not None:
        rows += [[name, "", "", *values] for name, *values in measurement.head.rows_of_figures()]
    cosines = f"{measurement.student_cosine:.4f}", f"{measurement.control_cosine:.4f}"
    return [*rows, ["mean cosine of embeddings", "", "", *cosines]]


def show(measurement: Measurement, errors: Sequence[LayerErrors], config: UltraFastBertConfig) -> None:
    """The closing table on stderr."""
    title = f"Measured on {measurement.texts} held-out pieces of text from {measurement.held_out_from}"
    table = _table(title, ERROR_COLUMNS)
    *layers, last = error_rows(measurement, errors)
    for row in layers:
        table.add_row(*row)
    table.add_row(*last, style="bold")
    plan, used, available = measurement.plan, config.neurons_used, config.neurons_available
    table.add_row("neurons used of available", "", "", f"{used:,} of {available:,}", f"{plan.control_neurons:,}")
    console().print(table)
    if measurement.active:
        active = _table("Active neurons of a token", ACTIVE_COLUMNS)
        for row in active_rows(measurement.active):
            active.add_row(*row)
        console().print(active)
        note(ACTIVE_MEANING)
    note(f"{measurement.explanation}; neurons: of a layer{', the mean of all' if config.feedforward_layers else ''}")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for i, head in enumerate(columns):
        table.add_column(head, justify="right" if i else "left")
    return table
