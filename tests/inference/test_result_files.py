"""Result files: what is written is what is read back, and a file is whole or not there."""

from __future__ import annotations

import csv
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.errors import ConfigError, DataError, OutputError
from ufbert.inference.results.files import check_result_path, open_results
from ufbert.inference.results.writers import Record

RESULTS = {"label", "scores", "embedding", "masks", "filled"}

SCORES = [
    {"id": 1, "text": 'a, "b"\nc', "label": "yes", "scores": {"no": 0.25, "yes": 0.75}},
    {"id": 2, "text": "ünïcode \u2028 日本", "label": "no", "scores": {"no": 1.0, "yes": 1e-12}},
]


def vectors(rows: int, width: int = 3) -> list[dict[str, Any]]:
    values = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    return [{"id": i, "embedding": v} for i, v in enumerate(values)]


def as_records(rows: list[dict[str, Any]]) -> list[Record]:
    """The rows, with the columns of a task's results told from the carried ones."""
    return [
        Record({k: v for k, v in r.items() if k not in RESULTS}, {k: v for k, v in r.items() if k in RESULTS})
        for r in rows
    ]


def write(path: Path, *blocks: list[dict[str, Any]], overwrite: bool = False) -> Path:
    with open_results(path, overwrite=overwrite) as writer:
        for block in blocks:
            writer.write(as_records(block))
    return path


def folder_is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def test_jsonl_keeps_everything(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", SCORES[:1], [], SCORES[1:])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == SCORES
    assert lines[-1] == ""
    assert "日本" in lines[1]


def test_jsonl_vectors_are_float32s_exactly(tmp_path: Path) -> None:
    records = vectors(5, 100)
    records[0]["embedding"][:3] = [1e-30, -3.4e38, 0.1]
    path = write(tmp_path / "r.jsonl", records, [{"embedding": records[0]["embedding"]}])
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r.get("id") for r in read] == [0, 1, 2, 3, 4, None]
    for record, expected in zip(read, [*records, records[0]], strict=True):
        np.testing.assert_array_equal(np.array(record["embedding"], dtype=np.float32), expected["embedding"])


def test_jsonl_survives_what_utf8_cannot_express(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"id": "\ud800", "value": 1.0}])
    assert json.loads(path.read_text(encoding="utf-8")) == {"id": "\ud800", "value": 1.0}


def test_csv_lines_end_alike_and_those_within_values_stay(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.csv", [{"id": 1, "text": "a\r\nb\rc\nd", "label": "x"}], [{"id": 2, "text": "", "label": "y"}]
    )
    assert path.read_bytes() == b'id,text,label\n1,"a\r\nb\rc\nd",x\n2,,y\n'


def test_csv_has_a_column_for_each_score_and_dimension(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", SCORES[:1], SCORES[1:])
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["id", "text", "label", "scores_no", "scores_yes"]
    assert [r["text"] for r in rows] == [r["text"] for r in SCORES]
    assert [float(r["scores_yes"]) for r in rows] == [0.75, 1e-12]
    records = vectors(2)
    with write(tmp_path / "v.csv", records).open(newline="") as stream:
        header, *cells = csv.reader(stream)
    assert header == ["id", "embedding_0", "embedding_1", "embedding_2"]
    np.testing.assert_array_equal(np.array([c[1:] for c in cells], dtype=np.float32)[1], records[1]["embedding"])
    nested = write(tmp_path / "n.csv", [{"masks": [[{"token": "a", "probability": 0.5}]], "filled": None}])
    with nested.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert json.loads(row["masks"]) == [[{"token": "a", "probability": 0.5}]]
    assert row["filled"] == ""


def test_parquet_keeps_types_over_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", SCORES[:1], SCORES[1:])
    table = pq.read_table(path)
    assert table.schema.field("id").type == pa.int64()
    assert table.to_pylist() == SCORES
    records = vectors(7)
    table = pq.read_table(write(tmp_path / "v.parquet", records[:3], records[3:]))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table["id"].to_pylist() == list(range(7))
    np.testing.assert_array_equal(
        np.array(table["embedding"].to_pylist(), dtype=np.float32), np.stack([r["embedding"] for r in records])
    )


@pytest.mark.parametrize("blocks", [(5,), (1, 0, 3, 12)])
def test_npy_is_one_array_however_it_came(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    records = vectors(sum(blocks))
    rest: Iterator[dict[str, Any]] = iter(records)
    path = write(tmp_path / "r.npy", *([next(rest) for _ in range(n)] for n in blocks))
    array = np.load(path, mmap_mode="r")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.stack([r["embedding"] for r in records]))


def write_and_fail(path: Path, error: BaseException, *, overwrite: bool = False) -> None:
    with open_results(path, overwrite=overwrite) as writer:
        writer.write(as_records(vectors(3)))
        assert path.exists() == overwrite
        raise error


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npy"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("row 7")])
def test_an_interrupted_file_never_appears(tmp_path: Path, suffix: str, error: BaseException) -> None:
    path = tmp_path / f"r{suffix}"
    with pytest.raises(type(error)):
        write_and_fail(path, error)
    assert folder_is_empty(tmp_path)
    path.write_text("old")
    with pytest.raises(type(error)):
        write_and_fail(path, error, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npy"])
def test_a_disk_that_takes_no_more(tmp_path: Path, suffix: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match=rf"r{suffix}: cannot be written: File too large"):
            write(tmp_path / f"r{suffix}", vectors(1000, 10), vectors(1000, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert folder_is_empty(tmp_path)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", SCORES)
    with pytest.raises(OutputError, match=r"r\.jsonl: already exists; choose another --output.*--overwrite"):
        write(path, SCORES[:1])
    assert len(path.read_bytes().splitlines()) == 2
    write(path, SCORES[:1], overwrite=True)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown kind of file; supported are \.jsonl \.csv \.parquet \.npy"):
        check_result_path(tmp_path / "r.xlsx")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"folder\.jsonl: is a folder"):
        check_result_path(tmp_path / "folder.jsonl", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"is a file, not a folder"):
        check_result_path(tmp_path / "file" / "r.jsonl")
    check_result_path(tmp_path / "new" / "deep" / "r.jsonl")


def test_standard_output_gets_json_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_results(None) as writer:
        writer.write(as_records(SCORES))
    assert [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()] == SCORES


def test_a_full_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=full))
        with pytest.raises(OutputError, match="standard output: no space left"), open_results(None) as writer:
            writer.write(as_records(SCORES))
