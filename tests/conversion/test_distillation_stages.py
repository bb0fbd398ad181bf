"""How far a distillation says it is, and the losses it keeps of its course."""

from __future__ import annotations

import pytest

from ufbert.conversion.distillation import stages as module
from ufbert.conversion.distillation.loss_curve import MOST_POINTS, LossCurve
from ufbert.conversion.distillation.stages import END_TO_END, MEASURING, READING, RECORDING, TIMING, Stages, layer_stage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_time_left_is_that_of_all_stages_to_come(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    stages = Stages(layers=range(3))
    stages.begin(READING)
    assert stages.left() is None  # nothing is known yet
    stages.begin(RECORDING)
    clock.now += 5.0
    stages.show(0.5)
    assert stages.left() is None
    stages.expect(40.0, [END_TO_END])
    stages.expect(6.0, [MEASURING])
    stages.expect(0.0, [TIMING])
    stages.begin(layer_stage(0))
    clock.now += 2.0
    stages.show(0.25)  # 6 s more, and two layers of 8 s
    assert stages.left() == pytest.approx(6 + 16 + 40 + 6)
    clock.now += 8.0
    stages.begin(layer_stage(1))  # the first one has taken 10 s
    assert stages.left() == pytest.approx(20 + 40 + 6)
    clock.now += 1.0
    assert stages.left() == pytest.approx(19 + 40 + 6)
    stages.begin(END_TO_END, done=0.5, line=True)  # an earlier session has done half of it
    assert stages.left() == pytest.approx(20 + 6)
    clock.now += 8.0
    stages.show(0.6, "hidden-state error 0.6")  # no tenth of the whole after the last line
    assert stages.left() == pytest.approx(32 + 6)
    stages.show(0.9, "hidden-state error 0.5")
    lines = capfd.readouterr().err.splitlines()
    assert lines[-2:] == [" 38 %  end to end  26s left", " 75 %  end to end  hidden-state error 0.5  8s left"]


def test_a_long_stage_is_not_silent(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    stages = Stages(layers=range(1))
    stages.begin(RECORDING)
    for _ in range(7):
        clock.now += 100.0
        stages.show(0.01)
    assert capfd.readouterr().err.count("recording inputs") == 1


def test_a_loss_curve_thins_itself_and_goes_on_after_an_interruption() -> None:
    whole, first = LossCurve(), LossCurve()
    losses = [float(step % 7) for step in range(1, 2 * MOST_POINTS + 4)]
    for step, loss in enumerate(losses, 1):
        whole.add(0.1 * step, step, {"hidden": loss})
    for step, loss in enumerate(losses[:1501], 1):
        first.add(0.1 * step, step, {"hidden": loss})
    second = LossCurve(first.to_dict())
    for step, loss in enumerate(losses[1501:], 1502):
        second.add(0.1 * step, step, {"hidden": loss})
    assert second.whole() == whole.whole()
    assert MOST_POINTS // 2 <= len(whole.points) < MOST_POINTS
    assert whole.width == 4
    assert whole.whole()[-1]["step"] == len(losses)
    assert sum(p["hidden"] for p in whole.points) / len(whole.points) == pytest.approx(
        sum(losses) / len(losses), rel=0.01
    )
