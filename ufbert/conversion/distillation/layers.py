"""Layer by layer: initialise it, regress it on its own, keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from ufbert.model.encoder import DenseFeedforward, Layer, UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.interruption import Interruption

from .initialization import initialize_layer
from .kept_phase import KeptPhase, new_budget, random_states, restore_random_states
from .layer_inputs import LayerSample
from .layer_regression import relative_error, train_layer
from .left_out import LeftOut, leave_out
from .partial import PartialConversion
from .report import LayerErrors
from .stages import Stages, layer_stage
from .student import StudentPlan
from .token_rows import RankedRows, RankedTokens

__all__ = ["LAYERS_SHARE", "train_layers"]

# Share of the time for the regression of the single layers, and its most steps: more brings them little. A layer of
# all-MiniLM-L6-v2 went from 0.597 to 0.541 in 150 steps, to 0.530 in 600 and to 0.528 in 1,500.
LAYERS_SHARE = 0.15
MOST_STEPS = 1000


def train_layers(
    teacher: UltraFastBertModel,
    student: UltraFastBertModel,
    plan: StudentPlan,
    train: Sequence[LayerSample],
    held_out: Sequence[LayerSample],
    settings: DistillationSettings,
    precision: torch.dtype,
    interruption: Interruption,
    partial: PartialConversion,
    stages: Stages,
) -> tuple[list[LayerErrors], list[torch.Tensor]]:
    """Initialise and regress every new layer that `partial` does not hold; token rows are of the student's ranks.

    Returns the held-out errors of all layers, and the mean outputs (H,) of those that are new.
    """
    errors = [LayerErrors(0.0, 0.0) for _ in student.layers]  # of what is the original's own
    means: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(settings.seed)
    seconds = None if settings.seconds is None else LAYERS_SHARE * settings.seconds / max(len(plan.converted), 1)
    for number, index in enumerate(plan.converted):
        theirs, layer = teacher.layers[index], student.layers[index]
        assert isinstance(theirs, Layer)
        assert isinstance(layer, Layer)
        ours = layer.feedforward
        rows: RankedRows | None = None
        if layer.token_rows is not None and student.embeddings.token_ranks is not None:
            tokens = RankedTokens(student.embeddings.token_ranks, teacher.embeddings.word.weight)
            rows = RankedRows(layer.token_rows, tokens)
        if number < partial.layers_done:
            kept = partial.read_layer(number)
            if ours is not None:
                ours.load_state_dict(with_prefix(kept, "weight/"))
            elif rows is None:
                LeftOut(*(kept[name].to(student.device) for name in ("scale", "shift"))).put_into(layer)
            if rows is not None:
                rows.rows.load_state_dict(with_prefix(kept, "rows/"))
            restore_random_states(kept, generator)
            means.append(kept["mean"].to(student.device))
            errors[index] = LayerErrors(**partial.journal.layers[number])
            continue
        means.append(train[number].y.float().mean(0))
        if ours is None and rows is None:
            stages.begin(layer_stage(index))
            left_out = leave_out(layer, theirs, train[number])
            left_out.put_into(layer)
            error = left_out.relative_error(theirs, held_out[number], means[-1])
            errors[index], found = LayerErrors(error, error), {"scale": left_out.scale, "shift": left_out.shift}
            said = f"{error:.3f} without a feedforward layer"
        else:
            budget = new_budget(seconds, settings, interruption, MOST_STEPS)
            phase = KeptPhase(partial, layer_stage(index), budget, interruption, generator)
            errors[index] = regress_layer(
                ours, theirs, train[number], held_out[number], means[-1], precision, generator, phase, stages,
                at_random=plan.random_routing, rows=rows,
            )  # fmt: skip
            found = {} if ours is None else {f"weight/{name}": t for name, t in ours.state_dict().items()}
            found |= {} if rows is None else {f"rows/{name}": t for name, t in rows.rows.state_dict().items()}
            said = (
                f"{errors[index].initialized:.3f} initialised, {errors[index].regressed:.3f} after "
                f"{budget.steps_done} steps"
            )
        partial.finish_layer({**found, "mean": means[-1], **random_states(generator)}, asdict(errors[index]))
        note(f"layer {index}: relative error {said}{stages.left_text()}")
    return errors, means


def regress_layer(
    ours: FFF | DenseFeedforward | None,
    theirs: Layer,
    train: LayerSample,
    held_out: LayerSample,
    mean: torch.Tensor,
    precision: torch.dtype,
    generator: torch.Generator,
    phase: KeptPhase,
    stages: Stages,
    *,
    at_random: bool,
    rows: RankedRows | None = None,
) -> LayerErrors:
    """Initialise one layer, unless an earlier session has, and train it; the held-out errors after each.

    `rows` are fitted before and after the training of the neurons; alone they are done with their fit.
    """
    stages.begin(phase.name, done=phase.share_before)
    initialized: float | None = phase.kept.get("initialized")
    if initialized is None:
        initialize_layer(ours, theirs, train, at_random=at_random, rows=rows)
        initialized = relative_error(ours, theirs, held_out, mean, rows)
    if ours is None:
        return LayerErrors(initialized, initialized)
    phase.facts = lambda: {"initialized": initialized}
    train_layer(
        ours,
        theirs,
        train,
        budget=phase.budget,
        precision=precision,
        generator=generator,
        report=lambda loss: stages.show(phase.budget.fraction(), f"loss {loss:.3f}"),
        phase=phase,
        rows=rows,
    )
    if rows is not None:
        rows.fit(theirs, train, ours)
    return LayerErrors(initialized, relative_error(ours, theirs, held_out, mean, rows))


def with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
