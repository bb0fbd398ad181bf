"""Which shape each layer gets, given the error and the time of each: pure search, nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Option", "furthest", "least_error", "useful", "walk"]

# Choices that are carried from layer to layer; more differ in time by less than its thousandth part.
MOST_STATES = 1000
# Sums of the same times in another order differ in the last digits.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Option:
    """A shape that a layer may get."""

    shape: str
    error: float
    """Squared and relative; 0 leaves the layer as it is."""
    microseconds: float
    """Of a token."""


def useful(options: Sequence[Option]) -> list[Option]:
    """Those to which no other one is equal or better in both error and time, the fastest first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.microseconds, o.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def least_error(layers: Sequence[Sequence[Option]], microseconds: float) -> tuple[Option, ...] | None:
    """An option for each layer, with the least sum of errors whose sum of times is at most that; None if none is.

    A layer at a time: of two choices for the layers so far, one that is neither faster nor more exact is given up. With
    more than `MOST_STATES` left, those that take about the same time are represented by the most exact one.
    """
    fastest = [min(option.microseconds for option in layer) for layer in layers]
    limit = microseconds * (1 + ROUNDING) + ROUNDING
    states: list[tuple[float, float, tuple[Option, ...]]] = [(0.0, 0.0, ())]
    for number, layer in enumerate(layers):
        to_come = sum(fastest[number + 1 :])
        grown = [
            (time + option.microseconds, error + option.error, (*chosen, option))
            for time, error, chosen in states
            for option in useful(layer)
            if time + option.microseconds + to_come <= limit
        ]
        states = _frontier(grown)
    return min(states, key=lambda state: state[1])[2] if states else None


def _frontier(
    states: list[tuple[float, float, tuple[Option, ...]]],
) -> list[tuple[float, float, tuple[Option, ...]]]:
    """Those that may still be the best: ever more time, ever less error."""
    kept: list[tuple[float, float, tuple[Option, ...]]] = []
    for state in sorted(states, key=lambda s: s[:2]):
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    if len(kept) <= MOST_STATES:
        return kept
    width = (kept[-1][0] - kept[0][0]) / MOST_STATES
    # Of a bucket of time the last, which is the most exact; all fit into the limit.
    return list({int((state[0] - kept[0][0]) / width): state for state in kept}.values())


def walk(layers: Sequence[Sequence[Option]]) -> list[tuple[Option, ...]]:
    """Ever faster choices, from the most exact option of each layer to the fastest.

    Each step gives one layer a faster option, the one that adds the least error for each microsecond saved.
    """
    left = [useful(layer) for layer in layers]
    here = tuple(options[-1] for options in left)
    steps = [here]
    while moves := [
        ((option.error - here[i].error) / (here[i].microseconds - option.microseconds), i, option)
        for i, options in enumerate(left)
        for option in options
        if option.microseconds < here[i].microseconds
    ]:
        _, layer, option = min(moves, key=lambda move: (move[0], move[2].microseconds, move[1]))
        here = (*here[:layer], option, *here[layer + 1 :])
        steps.append(here)
    return steps


def furthest(steps: int, keeps: Callable[[int], bool]) -> int:
    """The last of the steps 0, 1, ..., `steps` - 1 that keeps enough, by bisection: step 0 does, and once one does not,
    the ones behind it are taken not to either."""
    first, last = 0, steps - 1
    while first < last:
        middle = (first + last + 1) // 2
        if keeps(middle):
            first = middle
        else:
            last = middle - 1
    return first
