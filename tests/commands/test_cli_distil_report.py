"""What `ufbert convert --trees` says at its end: the model card and report.html, of a run and of a resumed one."""

from __future__ import annotations

import base64
import importlib.util
import re
from pathlib import Path

import pytest
from convert_command import TEXTS, run_convert, write_dense_model, write_documents
from html_pages import Page

from ufbert.conversion.distillation import closing_report, run


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 2000)
    monkeypatch.setattr(run, "TIMING_SECONDS", 0.01)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    corpus = write_documents(tmp_path / "texts.jsonl", TEXTS)
    return f"--trees 3 --depth 2 --corpus {corpus} --text-column body --steps 5 --device cpu".split()


def test_card_and_report_say_all_that_was_measured(
    dense: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "<out>"
    code, err = run_convert(capsys, dense, out, *options)
    assert code == 0, err
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    tables = ["Errors", "Tree health", "Expected speed", "Measured speed"]
    assert page.headings == [
        "Figures", "Errors by layer", "End-to-end loss", "Use of the leaves", *tables, "Settings",
    ]  # fmt: skip
    assert all(base64.b64decode(p.partition(",")[2]).startswith(b"\x89PNG") for p in page.pictures)
    assert [link for link in page.links if not link.startswith("data:")] == ["README.md"]
    assert f"<pre><code>ufbert convert {dense} &#x27;{tmp_path}/&lt;out&gt;&#x27; --trees 3" in text
    assert "<tr><td>steps</td><td>5</td></tr>" in text
    card = (out / "README.md").read_text()
    assert all(f"\n## {heading}\n" in card for heading in tables)
    # The same figures stand on stderr, in the card and in the report.
    row = next(line for line in err.splitlines() if "│ layer 1: relative error" in line)
    cells = [cell.strip() for cell in row.split("│")[2:6]]
    assert f"| layer 1: relative error | {' | '.join(cells)} |" in card
    assert "".join(f"<td>{cell}</td>" for cell in ["layer 1: relative error", *cells]) in text
    assert "| neurons that a token uses in a layer | 64 | 9 | 7.11 |" in card
    # Two layers of 4 x 32 x 32 products in attention and 9 neurons of two products of 32.
    length = int(re.search(r"operations of a token, in texts of (\d+) tokens", card)[1])  # type: ignore[index]
    operations = 2 * (2 * 4 * 32 * 32 + 2 * 2 * length * 32 + 2 * 2 * 32 * 9)
    assert f"| {operations / 1e6:,.4g} M |" in card
    assert re.search(r"\| 0 \| [\d.]+ % \(uniform: [\d.]+ %\) \| [\d.]+ of 2 bits", card)
    assert re.search(
        r"\| float32 \| [\d,]+ tokens/s \(quartiles [\d,]+ to [\d,]+\) \| [\d,]+ tokens/s .* times \|", card
    )
    assert "[report.html](report.html)" in card
    assert "float32: " in err


def test_without_matplotlib_the_report_says_why_it_has_no_pictures(
    dense: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    monkeypatch.setattr(run, "timed", lambda *_: None)
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    text = (tmp_path / "out" / "report.html").read_text()
    assert Page(text).pictures == []
    assert "matplotlib is not there (pip install &#x27;ufbert[plot]&#x27;)" in text
    assert "Measured speed" not in text


def test_pictures_that_cannot_be_drawn_cost_no_conversion(
    dense: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")

    def fail(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(closing_report, "draw_pictures", fail)
    monkeypatch.setattr(run, "timed", lambda *_: None)
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    assert "No pictures in report.html: no font" in err
    assert "No pictures in report.html: no font" in (tmp_path / "out" / "report.html").read_text()
