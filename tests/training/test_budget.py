"""The end of a training by the clock or by steps."""

from __future__ import annotations

from ufbert.training.budget import TrainingBudget


def test_a_budget_ends_by_steps_by_time_and_when_stopped() -> None:
    budget = TrainingBudget(seconds=None, steps=4)
    fractions = []
    while (done := budget.fraction()) < 1:
        fractions.append(done)
        budget.count()
    assert fractions == [0.0, 0.25, 0.5, 0.75]
    short = TrainingBudget(seconds=1e-9, steps=None)
    assert short.fraction() == 0.0  # one step is always done
    short.count()
    assert short.fraction() == 1.0
    # Of both the first counts.
    both = TrainingBudget(seconds=1e9, steps=2)
    both.count()
    assert both.fraction() == 0.5
    both.count()
    assert both.fraction() == 1.0
    hasty = TrainingBudget(seconds=1e-9, steps=10)
    hasty.count()
    assert hasty.fraction() == 1.0
    assert TrainingBudget(seconds=None, steps=4, stopped=lambda: True).fraction() == 1.0
