"""Dense layers of several widths, timed in turns with ours: how many neurons they compute in the time of our layer."""

from __future__ import annotations

from collections.abc import Sequence

from ufbert.benchmark.report.comparisons import DenseWidth, Rung, Timed
from ufbert.benchmark.settings import Shape
from ufbert.benchmark.timing import LONG_CALL_SECONDS, Clock, Contestant, TimeBudget

from .operands import DenseWeights
from .preparation import Cell, Preparation, PreparedImplementation, seconds_per_token

__all__ = ["dense_width", "rungs", "timed"]

# Of a batch size's seconds, for preparing the rungs; the race with them is within its own budget.
SHARE = 0.2
# The rungs about the estimate, the nearest first, should the time not suffice for all.
NEAR = (0.9, 1.1, 0.7, 1.4, 0.5, 2.0)
# Turns of an estimate, of which the quickest counts.
LOOKS = 5
# Products of odd widths pay for their remainders, which nobody would choose.
STEP = 8
# At another width an implementation is not tried that takes so many times as long as the fastest at the full one.
HOPELESS = 4.0
# Implementations that are tried at each width.
CANDIDATES = 3
# Nor one that is compiled for each width, unless it takes this share of the time of all others at the full one.
WORTH_COMPILING = 0.9
# Rungs that are prepared whatever it takes, if nothing has to be compiled.
LEAST_RUNGS = 3


def rungs(
    preparation: Preparation, cell: Cell, tree: Contestant, dense: Sequence[Contestant], shape: Shape, seconds: float
) -> list[Contestant]:
    """Dense layers about the width that takes the time of `tree`, and the narrowest: the neurons that a token visits.

    The full layer is in the race already. Each is of the implementation that a few calls showed to be the fastest at
    that width.
    """
    budget = TimeBudget(SHARE * seconds)
    least, full = shape.neurons_visited, shape.intermediate_size
    if least >= full:
        return []
    weights = cell.operands["ff", "subject"][0]
    assert isinstance(weights, DenseWeights)
    candidates = _candidates(dense)
    narrowest = preparation.fastest(candidates, weights.narrowed(least), least, cell)[:1]
    if not narrowest:
        return []
    low, met, high = _quickest((narrowest[0], tree, dense[0]), preparation.clock)
    share = (met - low) / max(high - low, 1e-12)
    guess = least + (full - least) * min(1.0, max(0.0, share))
    found = list(narrowest)
    taken = {least, full}
    # The geometric middle, should the look have deceived.
    wanted = [guess * NEAR[0], guess * NEAR[1], (least * full) ** 0.5, *(guess * factor for factor in NEAR[2:])]
    for width in (round(neurons / STEP) * STEP for neurons in wanted):
        if not least < width < full or width in taken:
            continue
        if budget.left() <= 0 and (len(found) >= LEAST_RUNGS or candidates[0].implementation.compiles):
            break
        taken.add(width)
        found += preparation.fastest(candidates, weights.narrowed(width), width, cell)[:1]
    return found


def _quickest(contestants: Sequence[Contestant], clock: Clock) -> list[float]:
    """Seconds a token of each, in turns: a look, which a busy moment shall not spoil."""
    found = [seconds_per_token(c) for c in contestants]
    for _ in range(LOOKS):
        for number, c in enumerate(contestants):
            if c.seconds_per_call > LONG_CALL_SECONDS:
                continue
            c.before()
            calls = c.calls(c.calls_per_sample)
            found[number] = min(found[number], clock.time(calls) / len(calls) / c.key[0].tokens)
    return found


def _candidates(dense: Sequence[Contestant]) -> list[PreparedImplementation]:
    """Of the dense layers, the fastest first, those worth a try at other widths."""
    ready = [c for c in dense if not c.key[0].implementation.compiles]
    fastest = dense[0]
    if not ready or seconds_per_token(fastest) < WORTH_COMPILING * seconds_per_token(ready[0]):
        ready.insert(0, fastest)
    limit = HOPELESS * seconds_per_token(fastest)
    return [c.key[0] for c in ready[:CANDIDATES] if seconds_per_token(c) <= limit]


def dense_width(
    tree: Contestant, found: Sequence[Contestant], dense: Sequence[Contestant], cell: Cell, shape: Shape
) -> DenseWidth:
    """After the race."""
    full = min((timed(c) for c in dense), key=lambda t: t.microseconds)
    steps = [Rung(neurons=c.key[0].neurons, time=timed(c)) for c in found]
    return DenseWidth(
        dtype=cell.dtype_name,
        batch=cell.batch,
        neurons_visited=shape.neurons_visited,
        ours=timed(tree),
        rungs=sorted([*steps, Rung(neurons=shape.intermediate_size, time=full)], key=lambda rung: rung.neurons),
    )


def timed(contestant: Contestant) -> Timed:
    """What the race found, in microseconds a token."""
    entry: PreparedImplementation = contestant.key[0]
    return Timed.of(entry.implementation.name, contestant.samples, entry.tokens)
