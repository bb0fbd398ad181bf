"""The shapes of the learning rate."""

from __future__ import annotations

import pytest

from ufbert.settings.sections import TrainingSettings
from ufbert.training.schedules import Schedule, one_cycle, triangle, warm_up_then_decay


def test_the_learning_rate_warms_up_and_decays() -> None:
    def shares(decay: str, warmup_fraction: float) -> list[float]:
        return [warm_up_then_decay(step, 20, warmup_fraction=warmup_fraction, decay=decay) for step in range(20)]

    cosine = shares("cosine", 0.1)
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[11] == pytest.approx(0.5)
    assert cosine[1:] == sorted(cosine[1:], reverse=True)
    assert 0 < cosine[19] < 0.01
    assert shares("linear", 0.5)[9:12] == pytest.approx([1.0, 1.0, 0.9])
    assert shares("constant", 0.0) == [1.0] * 20


def test_the_one_cycle_peaks_after_a_tenth_and_never_rests() -> None:
    rates = [one_cycle(i / 100) for i in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) == 0.01


def test_the_triangle_is_the_one_that_pretraining_follows() -> None:
    for start, peak in ((0.25, 0.75), (0.0, 0.1), (0.5, 1.0), (0.3, 0.0)):
        training = TrainingSettings(
            peak_learning_rate=1.0, initial_learning_rate_fraction=start, peak_fraction=peak, steps=9, budget=""
        )
        for i in range(11):
            assert triangle(i / 10, peak, start) == Schedule(training).learning_rate(i / 10)
