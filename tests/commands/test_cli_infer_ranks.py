"""`ufbert infer` under torchrun: the parts, put together in the order of the rows, are what one process writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ufbert.commands.app import main
from ufbert.inference.results import partial as partial_results
from ufbert.inference.results.partial import PartialResults

Capture = pytest.CaptureFixture[str]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "she", "sells", "sea", "shells"]
# Texts alone in their batches on one thread: then not even the last bit hangs on the others.
EXACT = ("--precision", "float32", "--batch-size", "1", "--threads", "1")


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    file = tmp_path / "rows.jsonl"
    with file.open("w") as stream:
        for number in range(101):
            text = " ".join(random.choice(WORDS, random.integers(1, 40)))
            stream.write(json.dumps({"n": number, "text": text}) + "\n")
    return file


def infer(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, process: tuple[int, int], *arguments: object, code: int = 0
) -> str:
    """What is said by process (rank, size), which must end with `code`."""
    monkeypatch.setenv("RANK", str(process[0]))
    monkeypatch.setenv("WORLD_SIZE", str(process[1]))
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, arguments), *EXACT])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    return shown.err


def merged(folder: Path, size: int) -> list[str]:
    """The lines of all parts, by turns."""
    parts = [(folder / f"out-{r:05}-of-{size:05}.jsonl").read_text().splitlines() for r in range(size)]
    return [parts[i % size][i // size] for i in range(sum(map(len, parts)))]


def test_two_processes_give_the_result_of_one(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path], rows: Path
) -> None:
    run = [str(a) for a in (tiny_checkpoints["encoder"], rows, "--id-column", "n")]
    with subprocess.Popen(
        [sys.executable, "-m", "ufbert", "infer", *run, "-o", str(tmp_path / "out.jsonl"), *EXACT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What torchrun gives it; its own start takes as long as theirs.
        env=os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
    ) as second:
        said = infer(capsys, monkeypatch, (0, 2), *run, "-o", tmp_path / "out.jsonl")
        out, others = second.communicate(timeout=120)
    assert (second.returncode, out) == (0, ""), others
    infer(capsys, monkeypatch, (0, 1), *run, "-o", tmp_path / "whole.jsonl")
    assert merged(tmp_path, 2) == (tmp_path / "whole.jsonl").read_text().splitlines()
    first = "embed (mean pooling, not normalised)"
    assert [first in text and "2 processes" in text for text in (said, others)] == [True, False]
    assert "\nprocess 0 of 2: 51 texts, " in said
    assert re.search("^process 1 of 2: 50 texts, ", others, re.M)


def test_any_number_of_processes_resumes_and_counts(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path], rows: Path
) -> None:
    lines = rows.read_text().splitlines()
    lines[40], lines[70] = "{broken", '{"n": 70, "text": "she [MASK] shells"}'
    rows.write_text("\n".join(lines))
    run = (tiny_checkpoints["masked_lm"], rows, "--task", "embed", "--id-column", "n", "--skip-bad", "-o")
    output = tmp_path / "out.jsonl"
    infer(capsys, monkeypatch, (0, 1), *run, tmp_path / "whole.jsonl")
    said = infer(capsys, monkeypatch, (0, 3), *run, output)
    assert f"skipped: {rows}:41: not valid JSON" in said
    assert "process 0 of 3: 1 bad rows were skipped" in said
    monkeypatch.setattr(partial_results, "SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        mark = PartialResults.mark

        def mark_and_stop(results: PartialResults) -> None:
            mark(results)
            if results.progress.windows == 3:
                raise KeyboardInterrupt

        patch.setattr(PartialResults, "mark", mark_and_stop)
        said = infer(capsys, patch, (2, 3), *run, output, code=130)
    assert "7 results are kept in" in said
    assert "embed" not in said
    said = infer(capsys, monkeypatch, (1, 3), *run, output)
    assert "skipped" not in said
    assert f"{tmp_path / 'out-00000-of-00003.jsonl'}: is complete" in infer(
        capsys, monkeypatch, (0, 3), *run, output, "--resume"
    )
    said = infer(capsys, monkeypatch, (2, 3), *run, output, "--resume")
    assert "process 2 of 3: going on after 7 texts" in said
    assert merged(tmp_path, 3) == (tmp_path / "whole.jsonl").read_text().splitlines()
    assert not list(tmp_path.glob("*.partial*"))


def test_other_formats_and_mistakes(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path], rows: Path
) -> None:
    run = (tiny_checkpoints["encoder"], rows)
    for rank in (0, 1):
        infer(capsys, monkeypatch, (rank, 2), *run, "--id-column", "n", "-o", tmp_path / "out.parquet")
        table = pq.read_table(tmp_path / f"out-0000{rank}-of-00002.parquet")
        assert table["n"].to_pylist() == list(range(rank, 101, 2))
    said = infer(capsys, monkeypatch, (1, 2), *run, "-o", tmp_path / "out.parquet", code=1)
    assert "out-00001-of-00002.parquet: already exists" in said
    said = infer(capsys, monkeypatch, (1, 2), *run, code=1)
    assert said == "error: 2 processes write a file each; give --output\n"
    said = infer(capsys, monkeypatch, (1, 2), run[0], "-", "-o", tmp_path / "in.jsonl", code=1)
    assert "error: standard input cannot be shared by 2 processes, because it can be read only once" in said
    rows.write_text('{"text": "a dog"}\n')
    said = infer(capsys, monkeypatch, (1, 2), *run, "-o", tmp_path / "few.jsonl")
    assert said == "process 1 of 2: no row is left for it; it writes no file\n"
    assert not list(tmp_path.glob("few*"))
