"""`report.html`: one file that shows a run, refreshed at each save."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import Page
from pretraining_runs import at_step, interrupt

from ufbert.cmm.leaf_use import tree_health
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan
from ufbert.pretraining.run_pictures import draw_pictures


def read(run: str) -> tuple[str, Page]:
    """The report of a run, as text and parsed."""
    text = Path(run, "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_trees_of_different_depths_are_drawn_side_by_side() -> None:
    pytest.importorskip("matplotlib")
    layers = [{"layer": 0, **tree_health(np.array([[5, 3]]))}, {"layer": 2, **tree_health(np.array([[1, 2, 0, 5]]))}]
    rows = [{"step": step, "tokens": 8 * step, "held_out_loss": 3.0, "tree_health": layers} for step in (1, 2)]
    drawn = {heading: picture for heading, _, picture in draw_pictures(rows, "a run")}
    for heading in ("Use of the leaves", "Turns"):
        assert drawn[heading].startswith(b"\x89PNG")


def test_the_report_shows_the_run_in_one_file(plan: Callable[..., RunPlan]) -> None:
    report = pretrain(plan("run<1>", "training.evaluate_every=0.001s", "training.keep_checkpoints=1"), plot=True)
    text, page = read("run<1>")
    assert page.headings == [
        "Figures", "Loss", "Learning rate and batch", "Throughput", "Use of the leaves", "Turns", "Tree health",
        "The model fills masks", "Kept checkpoints", "Settings",
    ]  # fmt: skip
    assert len(page.pictures) == 5
    for source in page.pictures:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert {link for link in page.links if not link.startswith("data:")} == {"metrics.jsonl", "README.md"}
    assert "<h1>run&lt;1&gt;</h1>" in text
    assert ", complete, after step 8." in text
    assert f"{report.state.held_out['last']:.4f} nats per masked token" in text
    assert "<td>peak_learning_rate</td><td>0.001</td>" in text
    assert "<td>She opened the [MASK] and went out of the room.</td>" in text
    assert "report.html" in report.files
    assert "[report.html](report.html)" in Path("run<1>/README.md").read_text(encoding="utf-8")
    assert "report.html" not in Path("run<1>/checkpoints/best/README.md").read_text(encoding="utf-8")


def test_each_save_refreshes_the_report(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    at_step(0, lambda: seen.append(read("run")[0]), monkeypatch)
    at_step(5, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    assert "not at its end, after step 0." in seen[0]
    assert "not at its end, after step 5." in read("run")[0]
    pretrain(plan("run", resume=True), plot=True)
    text, page = read("run")
    assert ", complete, after step 8." in text
    assert len(page.pictures) == 5


def test_without_matplotlib_the_report_has_no_pictures(plan: Callable[..., RunPlan]) -> None:
    pretrain(plan("run", "model.feedforward=none"), plot=False)
    text, page = read("run")
    assert page.headings == ["Figures", "The model fills masks", "Settings"]
    assert page.pictures == []
    assert "matplotlib is not there (pip install &#x27;ufbert[plot]&#x27;)" in text


def test_what_cannot_be_drawn_is_told_once_and_does_not_end_the_run(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("ufbert.pretraining.saving.draw_pictures", fail)
    report = pretrain(plan("run", "training.steps=3", "training.save_every=0.001s"), plot=True)
    assert report.state.complete
    assert read("run")[1].pictures == []
    text = capfd.readouterr().err
    assert re.findall("^No .*", text, re.M) == ["No pictures in report.html: they cannot be drawn: no font"]
