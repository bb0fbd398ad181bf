"""What finetuning and distillation show where nothing is drawn."""

from __future__ import annotations

import pytest

from ufbert.training.display import ProgressDisplay


def shown(display: ProgressDisplay, steps: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a run of so many steps."""
    with display:
        for step in range(1, steps + 1):
            display.show("training", step, f"loss {1 / step:.2f}", position=f"step {step}")
    return capsys.readouterr().err.splitlines()


def test_a_line_for_every_share_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(ProgressDisplay("training", 20, share=0.25), 20, capsys)
    assert [line.split("  ")[:3] for line in lines] == [
        ["training", f"step {step}", f"loss {1 / step:.2f}"] for step in (5, 10, 15, 20)
    ]
    assert all(line.endswith(" left") for line in lines)


def test_a_tenth_is_met_although_tenths_are_not_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(shown(ProgressDisplay("training", 30, share=0.1), 30, capsys)) == 10


def test_a_line_whenever_the_time_has_come(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(shown(ProgressDisplay("training", 20, seconds=-1.0), 20, capsys)) == 20
    assert shown(ProgressDisplay("training", 20, seconds=1e9), 20, capsys) == []
    assert shown(ProgressDisplay("training", 20), 20, capsys) == []
