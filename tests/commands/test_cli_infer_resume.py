"""`ufbert infer --resume`: after any kind of end, the results are those of a run that nothing interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ufbert.commands.app import main
from ufbert.errors import OutputError
from ufbert.inference.results import partial as partial_results
from ufbert.inference.results.partial import PartialResults, open_partial
from ufbert.inference.results.writers import Record

Capture = pytest.CaptureFixture[str]
SUFFIXES = [".jsonl", ".csv", ".parquet", ".npy"]
TEXT = "the quick brown fox jumps over lazy dog she sells sea shells by shore and trees paths"
WORDS = TEXT.split()


@pytest.fixture(autouse=True)
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal after every window, so that tiny runs have something to go on from."""
    monkeypatch.setattr(partial_results, "SECONDS_BETWEEN_SAVES", 0.0)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    lines = (" ".join(random.choice(WORDS, random.integers(1, 40))) for _ in range(200))
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def infer(capsys: Capture, *arguments: object, code: int = 0) -> str:
    """What is said by a run that must end with `code`."""
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, arguments), "--precision", "float32", "--batch-size", "2"])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    assert shown.out == ""
    return shown.err


def same(first: Path, second: Path) -> bool:
    """Whether two result files hold the same, to the byte or, parquet, to the value."""
    if first.suffix == ".parquet":
        return bool(pq.read_table(first).equals(pq.read_table(second)))
    return first.read_bytes() == second.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class Interruptions:
    """Ends a run in the middle of writing a window, as Ctrl-C does, or shows the files as a kill leaves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        self.copy_to: Path | None = None
        self.count = 0
        write = PartialResults.write

        def counting(results: PartialResults, records: Any) -> None:
            self.count += 1
            if self.count != self.at:
                write(results, records)
                return
            write(results, records[: len(records) // 2])
            results.stream.flush()
            if self.copy_to is None:
                signal.raise_signal(signal.SIGINT)
            else:
                shutil.copytree(results.output.parent, self.copy_to)
            write(results, records[len(records) // 2 :])

        monkeypatch.setattr(PartialResults, "write", counting)

    def after(self, windows: int | None, copy_to: Path | None = None) -> None:
        self.at, self.copy_to, self.count = windows, copy_to, 0


@pytest.fixture
def interruptions(monkeypatch: pytest.MonkeyPatch) -> Interruptions:
    return Interruptions(monkeypatch)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_goes_on_where_it_stopped(
    capsys: Capture,
    tmp_path: Path,
    tiny_checkpoints: dict[str, Path],
    texts: Path,
    suffix: str,
    interruptions: Interruptions,
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut, killed = (tmp_path / name / f"out{suffix}" for name in ("whole", "cut", "killed"))
    run = (tiny_checkpoints["encoder"], texts, "-o")
    interruptions.after(6, killed.parent)
    infer(capsys, *run, whole)
    assert names(whole.parent) == [whole.name]
    interruptions.after(1)
    infer(capsys, *run, cut, code=130)
    assert names(cut.parent) == []  # nothing to keep
    interruptions.after(4)
    said = infer(capsys, *run, cut, code=130)
    assert f"14 results are kept in {cut}.partial; continue with the same command and --resume\n" in said
    interruptions.after(3)
    said = infer(capsys, *run, cut, "--resume", code=130)
    assert "\ngoing on after 14 texts\n" in said
    assert "62 results are kept in" in said
    assert names(cut.parent) == [f"{cut.name}.partial", f"{cut.name}.partial.json"]
    interruptions.after(None)
    said = infer(capsys, *run, cut, "--resume")
    assert "\n138 texts, " in said
    assert "after 62 earlier ones" in said
    assert same(whole, cut)
    assert names(cut.parent) == [cut.name]
    # As a kill leaves it: half a window beyond what the journal says.
    assert names(killed.parent) == [f"{cut.name}.partial", f"{cut.name}.partial.json"]
    infer(capsys, *run, killed, "--resume")
    assert same(whole, killed)
    assert names(killed.parent) == [killed.name]
    assert f"{killed}: is complete; nothing to resume" in infer(capsys, *run, killed, "--resume")


RUN = (
    "import sys; from ufbert.inference.results import partial; partial.SECONDS_BETWEEN_SAVES = 0.0; "
    "from ufbert.commands.app import main; main(sys.argv[1:])"
)


def test_a_process_that_is_killed(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], texts: Path
) -> None:
    texts.write_text(texts.read_text() * 8)
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    options = ["--precision", "float32", "--batch-size", "2", "--task", "embed"]
    run = [tiny_checkpoints["masked_lm"], texts, "-o"]
    command = [sys.executable, "-c", RUN, "infer", *map(str, run), str(output), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TERM": "dumb"}) as process:
        journal = tmp_path / f"{output.name}.partial.json"
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and json.loads(journal.read_text())["progress"]["windows"] > 4:
                break
            time.sleep(0.01)
        process.kill()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == -signal.SIGKILL
    assert "Traceback" not in said
    assert "results are kept in" not in said
    assert not output.exists()
    texts_before = json.loads(journal.read_text())["progress"]["texts"]
    said = infer(capsys, *run, output, "--task", "embed", "--resume")
    assert f"\ngoing on after {texts_before:,} texts\n" in said
    infer(capsys, *run, whole, "--task", "embed")
    assert same(output, whole)
    assert len(output.read_bytes().splitlines()) == 1600


def interrupt(capsys: Capture, interruptions: Interruptions, windows: int, *arguments: object, code: int = 130) -> None:
    interruptions.after(windows)
    infer(capsys, *arguments, code=code)
    interruptions.after(None)


def test_bad_rows_are_counted_once(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], interruptions: Interruptions
) -> None:
    file = tmp_path / "in.jsonl"
    rows = [json.dumps({"text": f"{WORDS[i % 9]} [MASK]", "n": i}) for i in range(60)]
    rows[5], rows[20], rows[44], rows[50] = '{"text": 1, "n": 0}', "{broken", '{"text": "none", "n": 3}', "{broken"
    file.write_text("\n".join(rows))
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    run = (tiny_checkpoints["masked_lm"], file, "--id-column", "n", "-o")
    said = infer(capsys, *run, whole, "--skip-bad")
    assert "\n4 bad rows were skipped\n" in said
    interrupt(capsys, interruptions, 5, *run, output, "--skip-bad")
    said = infer(capsys, *run, output, "--resume", code=1)
    assert f"error: {output}.partial: was made with skip bad True, not False" in said
    said = infer(capsys, *run, output, "--skip-bad", "--resume")
    assert "\n4 bad rows were skipped\n" in said
    assert f"{file}:6:" not in said
    assert f"skipped: {file}:45: no [MASK]" in said
    assert same(whole, output)
    # A bad row ends a long run: go on without it.
    output.unlink()
    rows[5] = rows[6]
    file.write_text("\n".join(rows))
    said = infer(capsys, *run, output, code=1)
    assert f"error: {file}:21: not valid JSON" in said
    assert "results are kept" in said
    assert "\n3 bad rows were skipped\n" in infer(capsys, *run, output, "--skip-bad", "--resume")
    assert len(output.read_text().splitlines()) == 1 + 57


def test_results_of_an_interrupted_run_are_not_lost_unasked(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], texts: Path, interruptions: Interruptions
) -> None:
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    run = (tiny_checkpoints["encoder"], texts, "-o", output)
    interrupt(capsys, interruptions, 5, *run)
    kept = partial.read_bytes()
    said = infer(capsys, *run, code=1)
    assert said == (
        f"error: {partial}: holds 30 results of an interrupted run; continue it with --resume, "
        "or start over with --overwrite\n"
    )
    for options, problem in {
        ("--max-length", "9"): "was made with max length 32, not 9; give the same again, or start over with",
        ("--pooling", "cls"): "was made with pooling mean, not cls; give the same again",
        ("--long-text", "window"): "was made with long text truncate, not window; give the same again",
        (texts,): f"was made from another input, {texts}; start over with --overwrite instead of --resume",
    }.items():
        assert problem in infer(capsys, *run, "--resume", *options, code=1)
    status = texts.stat()
    os.utime(texts, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert f"the input {texts} has changed since" in infer(capsys, *run, "--resume", code=1)
    os.utime(texts, ns=(status.st_atime_ns, status.st_mtime_ns))
    other = (tiny_checkpoints["masked_lm"], "--task", "embed", *run[1:], "--resume")
    assert "was made from another checkpoint" in infer(capsys, *other, code=1)
    assert partial.read_bytes() == kept
    recorded = json.loads((tmp_path / "out.jsonl.partial.json").read_text())["bytes"]
    partial.write_bytes(kept[: recorded - 1])
    assert "has lost its end" in infer(capsys, *run, "--resume", code=1)
    journal = tmp_path / "out.jsonl.partial.json"
    saved = journal.read_text()
    journal.write_text("{}")
    assert "out.jsonl.partial.json: is no journal of a run" in infer(capsys, *run, "--resume", code=1)
    journal.unlink()
    assert "is there without its out.jsonl.partial.json" in infer(capsys, *run, code=1)
    journal.write_text(saved)
    partial.write_bytes(kept)
    output.write_text("precious")
    assert "out.jsonl: already exists" in infer(capsys, *run, "--resume", code=1)
    assert "\ngoing on after 30 texts\n" in infer(capsys, *run, "--resume", "--overwrite")
    assert len(output.read_text().splitlines()) == 200
    output.unlink()
    interrupt(capsys, interruptions, 5, *run)
    assert "going on" not in infer(capsys, *run, "--overwrite")
    assert names(tmp_path) == ["out.jsonl", "texts.txt"]


def test_what_cannot_be_resumed(capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    output = tmp_path / "out.jsonl"
    said = infer(capsys, tiny_checkpoints["encoder"], "-", "-o", output, "--resume", code=1)
    assert said == (
        "error: standard input cannot be resumed, because it can be read only once; put the texts into a file\n"
    )
    os.mkfifo(tmp_path / "pipe")
    said = infer(capsys, tiny_checkpoints["encoder"], tmp_path / "pipe", "-o", output, "--resume", code=1)
    assert f"{tmp_path / 'pipe'}, a pipe, cannot be resumed" in said
    (tmp_path / "in.txt").write_text("a dog")
    said = infer(capsys, tiny_checkpoints["encoder"], tmp_path / "in.txt", "--resume", code=1)
    assert said == "error: --resume continues a file; give --output\n"
    infer(capsys, tiny_checkpoints["encoder"], tmp_path / "in.txt", "-o", output, "--resume")  # nothing there yet
    assert len(output.read_text().splitlines()) == 1


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with open_partial(output, {}) as results:
        results.write([Record({}, {"value": 1})])
        with pytest.raises(OutputError, match="another run is writing it"), open_partial(output, {}):
            pass
    assert json.loads(output.read_text()) == {"value": 1}
