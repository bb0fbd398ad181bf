"""Results that are not complete yet: what the file and its journal hold after every step, without a model."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ufbert.errors import OutputError
from ufbert.inference.pipeline import WindowResults
from ufbert.inference.results.partial import (
    PartialResults,
    Progress,
    check_partial,
    check_same_run,
    discard_partial,
    open_partial,
    partial_path,
)
from ufbert.inference.results.writers import Record
from ufbert.text.batching import Example

RUN = {"task": "classify", "skip_bad": False, "inputs": [["/a", 3, 5]], "checkpoint": [["/m", 1, 2], ["/n", 3, 4]]}


def records(*values: int) -> list[Record]:
    return [Record({}, {"value": value}) for value in values]


def window(texts: int, read: int, tokens: int = 0, truncated: int = 0, split: int = 0) -> WindowResults:
    return WindowResults([Example("")] * texts, [0] * texts, tokens, truncated, split, read)  # type: ignore[list-item]


def step(results: PartialResults, *values: int, read: int | None = None) -> None:
    """Write and mark one window."""
    results.write(records(*values))
    results.progress.add(window(len(values), len(values) if read is None else read))
    results.mark()


def journal_of(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(output.with_name(output.name + ".partial.json").read_text())
    return content


def values_of(file: Path) -> list[int]:
    if file.suffix == ".parquet":
        return [int(value) for value in pq.read_table(file)["value"].to_pylist()]
    return [json.loads(line)["value"] for line in file.read_text().splitlines()]


class Stop(Exception):
    """Ends a run."""


def interrupted(output: Path, *windows: tuple[int, ...], **options: bool) -> None:
    with contextlib.suppress(Stop), open_partial(output, RUN, **options) as results:
        for values in windows:
            step(results, *values)
        raise Stop


def test_progress_adds_up() -> None:
    progress = Progress()
    progress.add(window(2, 3, tokens=10, truncated=1, split=1))
    progress.add(window(4, 4, tokens=7, truncated=2, split=0))
    assert progress == Progress(windows=2, read=7, texts=6, tokens=17, truncated=3, split=1)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_gets_its_name_and_nothing_stays_beside_it(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / f"out{suffix}"
    with open_partial(output, RUN) as results:
        step(results, 1, 2)
        assert not output.exists()
        assert sorted(p.name for p in output.parent.iterdir()) == [f"out{suffix}.partial", f"out{suffix}.partial.json"]
        step(results, 3)
    assert [p.name for p in output.parent.iterdir()] == [output.name]
    assert values_of(output) == [1, 2, 3]


def test_the_journal_is_written_at_the_first_results_then_every_two_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("ufbert.inference.results.partial.time.monotonic", lambda: now)
    output = tmp_path / "out.jsonl"
    with contextlib.suppress(Stop), open_partial(output, RUN) as results:
        assert journal_of(output)["progress"]["texts"] == 0
        step(results, read=5)  # a window of bad rows alone
        step(results, 1)
        lengths = [journal_of(output)["bytes"]]
        assert journal_of(output)["progress"] == {
            **{"windows": 2, "read": 6, "texts": 1},
            **{"tokens": 0, "truncated": 0, "split": 0},
        }
        for seconds in (1.9, 0.2, 1.9, 0.1):
            now += seconds
            step(results, 2, 3)
            lengths.append(journal_of(output)["bytes"])
        assert lengths[0] == lengths[1] < lengths[2] == lengths[3] < lengths[4]
        step(results, 4)
        assert journal_of(output)["bytes"] == lengths[4]
        results.write(records(5))  # beyond the last mark
        raise Stop
    assert journal_of(output)["bytes"] > lengths[4]
    assert values_of(partial_path(output))[-2:] == [4, 5]
    assert journal_of(output)["run"] == RUN
    with open_partial(output, RUN, resume=True) as results:
        assert results.progress.texts == 10
        step(results, 6)
    assert values_of(output) == [1, *[2, 3] * 4, 4, 6]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_new_run_over_an_old_one_keeps_nothing_of_it(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    interrupted(output, (1, 2, 3), (4, 5, 6))
    for options in ({}, {"resume": False}):
        with pytest.raises(OutputError, match="holds 6 results of an interrupted run; continue it with --resume"):
            open_partial(output, RUN, **options).__enter__()
    with open_partial(output, RUN, overwrite=True) as results:
        assert results.progress == Progress()
        assert partial_path(output).stat().st_size == journal_of(output)["bytes"] == 0
        step(results, 7)
    assert values_of(output) == [7]
    interrupted(output, (1, 2), overwrite=True)
    assert values_of(output) == [7]
    with open_partial(output, RUN, resume=True, overwrite=True) as results:
        step(results, 3)
    assert values_of(output) == [1, 2, 3]


def test_what_counts_as_something_to_go_on_from(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    for resume in (False, True):
        assert check_partial(output, resume=resume) is None
        partial_path(output).touch()  # nothing was written
        assert check_partial(output, resume=resume) is None
    interrupted(output)  # no result, so nothing is kept
    assert list(tmp_path.iterdir()) == []
    interrupted(output, (), (1,))
    journal = check_partial(output, resume=True)
    assert journal is not None
    assert (journal.progress.windows, journal.progress.texts, journal.run) == (2, 1, RUN)
    assert check_partial(output, overwrite=True) is None
    assert check_partial(output, resume=True, overwrite=True) is not None
    file = tmp_path / "out.jsonl.partial.json"
    for content in ("{}", "[1]", "no json", json.dumps({**json.loads(file.read_text()), "progress": {"pages": 1}})):
        file.write_text(content)
        with pytest.raises(OutputError, match=r"out.jsonl.partial.json: is no journal of a run; start over"):
            check_partial(output, resume=True)
    discard_partial(output)
    assert list(tmp_path.iterdir()) == []
    discard_partial(output)  # there may be nothing


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "embed"}, "was made with task classify, not embed; give the same again, or start over"),
        ({"top_k": 5}, "was made with top k None, not 5; give the same again"),
        ({"inputs": [["/b", 3, 5]]}, "was made from another input, /a; start over with --overwrite"),
        ({"inputs": [["/a", 3, 5], ["/b", 1, 1]]}, "was made from another input, /a; start over"),
        ({"inputs": [["/a", 4, 5]]}, "the input /a has changed since; start over"),
        ({"inputs": [["/a", 3, 6]]}, "the input /a has changed since; start over"),
        ({"checkpoint": [["/m", 1, 2]]}, "was made from another checkpoint, /m /n; start over"),
        ({"checkpoint": [["/m", 1, 2], ["/n", 3, 5]]}, "the checkpoint /n has changed since; start over"),
    ],
)
def test_another_run_is_told_what_differs(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        check_same_run(tmp_path / "out.csv", RUN, {**RUN, **changes})
    assert str(error.value).startswith(f"{tmp_path / 'out.csv.partial'}: {text}")


def test_only_skipping_bad_rows_may_be_new(tmp_path: Path) -> None:
    check_same_run(tmp_path / "o", RUN, dict(RUN))
    check_same_run(tmp_path / "o", RUN, {**RUN, "skip_bad": True})
    with pytest.raises(OutputError, match="was made with skip bad True, not False"):
        check_same_run(tmp_path / "o", {**RUN, "skip_bad": True}, RUN)


def test_on_a_full_disk_the_journal_before_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"

    def full(results: PartialResults) -> None:
        raise OSError(28, "No space left on device")

    def run() -> None:
        with open_partial(output, RUN) as results:
            step(results, 1)
            monkeypatch.setattr(PartialResults, "save", full)
            results.write(records(2))

    with pytest.raises(OutputError, match=r"out.jsonl: no space left on the disk"):
        run()
    assert f"1 results are kept in {output}.partial; continue with the same command and" in capsys.readouterr().err
    monkeypatch.undo()
    with open_partial(output, RUN, resume=True) as results:
        step(results, 3)
    assert values_of(output) == [1, 3]
