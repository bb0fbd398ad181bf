"""The health of the trees over a run: in the metrics, the report and the card, also after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pretraining_runs import at_step, interrupt

from ufbert.pretraining.metrics import read_metrics
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan


def test_every_measurement_has_the_health_of_each_layer(plan: Callable[..., RunPlan]) -> None:
    report = pretrain(plan("run", "training.evaluate_every=0.001s"), plot=False)
    rows = read_metrics(Path("run/metrics.jsonl"))
    measured = [row for row in rows if "held_out_loss" in row]
    assert len(measured) == 9  # before, within (7) and after
    for row in measured:
        assert [layer["layer"] for layer in row["tree_health"]] == [0, 1]
        for layer in row["tree_health"]:
            assert 0 < layer["used_leaves"] <= 1
            assert 0 <= layer["entropy_bits"] <= layer["maximum_entropy_bits"] == 3
            assert len(layer["right_share_by_level"]) == len(layer["dead_subtrees_by_level"]) == 3
    assert [row for row in rows if "tree_health" in row] == measured
    assert any(line.startswith("Trees: ") and "of the leaves in use" in line for line in report.lines())
    card = Path("run/README.md").read_text(encoding="utf-8")
    assert "## Tree health" in card
    table = card.partition("## Tree health")[2]
    assert "| 1 | " in table
    assert "| 2 | " in table


def test_health_survives_a_resume(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    often = "training.evaluate_every=0.001s"
    pretrain(plan("whole", often), plot=False)
    at_step(4, interrupt, monkeypatch)
    stopped = pretrain(plan("parts", often), plot=False)
    assert stopped.interrupted
    assert "## Tree health" in Path("parts/README.md").read_text(encoding="utf-8")
    resumed = plan("parts", resume=True)
    assert resumed.state.tree_health == stopped.state.tree_health != []
    pretrain(resumed, plot=False)
    whole, parts = (read_metrics(Path(f, "metrics.jsonl")) for f in ("whole", "parts"))
    assert [row.get("tree_health") for row in whole] == [row.get("tree_health") for row in parts]


@pytest.mark.parametrize("feedforward", ["dense", "none"])
def test_a_run_without_trees_says_nothing_of_them(plan: Callable[..., RunPlan], feedforward: str) -> None:
    report = pretrain(plan("run", f"model.feedforward={feedforward}", "training.steps=2"), plot=False)
    assert not any("tree_health" in row for row in read_metrics(Path("run/metrics.jsonl")))
    assert not any("Trees" in line for line in report.lines())
    assert "Tree health" not in Path("run/README.md").read_text(encoding="utf-8")
