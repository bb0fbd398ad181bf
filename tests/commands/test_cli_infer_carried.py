"""`ufbert infer --id-column`: what the rows carry arrives unchanged, whatever they mix, after a resume too."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.commands.app import main
from ufbert.inference.results import partial as partial_results
from ufbert.inference.results.partial import PartialResults

Capture = pytest.CaptureFixture[str]
# Windows of 2, 4, 8, ... texts: the first blocks do not know yet what the later ones hold.
COLUMNS: dict[str, list[Any]] = {
    "price": [5] * 20 + [2.5] * 20,
    "late": [None] * 20 + list(range(20)),
    "large": [2**53 + 1] * 39 + [0.5],
    "flag": [1, 0] * 15 + [True] * 10,
    "meta": [{"a": 1, "b": 2}] * 3 + [{"b": 3}] * 17 + [{"b": 4.5, "c": ["x"]}] * 20,
    "kind": [7] * 30 + ["seven"] * 10,
    "rare": [...] * 39 + ["there"],
    "ratio": [0.5, math.nan] * 20,
}
PARQUET: dict[str, tuple[Any, list[Any]]] = {
    "price": (pa.float64(), COLUMNS["price"]),
    "late": (pa.int64(), COLUMNS["late"]),
    "large": (pa.string(), ["9007199254740993"] * 39 + ["0.5"]),
    "flag": (pa.string(), ["1", "0"] * 15 + ["true"] * 10),
    "meta": (
        pa.struct([("a", pa.int64()), ("b", pa.float64()), ("c", pa.list_(pa.string()))]),
        [{"a": None, "b": None, "c": None} | value for value in COLUMNS["meta"]],
    ),
    "kind": (pa.string(), ["7"] * 30 + ["seven"] * 10),
    "rare": (pa.string(), [None] * 39 + ["there"]),
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [
        {"text": f"the dog {number}"} | {name: values[number] for name, values in COLUMNS.items()}
        for number in range(40)
    ]
    file.write_text("".join(json.dumps({k: v for k, v in line.items() if v is not ...}) + "\n" for line in lines))
    return file


def infer(capsys: Capture, *arguments: object, columns: Any = COLUMNS, code: int = 0) -> tuple[str, str]:
    """(standard output, what was said) of a run that must end with `code`."""
    ids = [word for name in columns for word in ("--id-column", name)]
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, arguments), *ids, "--batch-size", "2", "--precision", "float32"])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    return shown.out, shown.err


def refuse(name: str) -> None:
    raise ValueError(name)


def check_parquet(file: Path) -> None:
    table = pq.read_table(file)
    assert table.column_names == [*COLUMNS, "text", "embedding"]
    for name, (kind, values) in PARQUET.items():
        assert table.schema.field(name).type == kind
        assert table[name].to_pylist() == values
    assert str(table["ratio"].to_pylist()) == str(COLUMNS["ratio"])


def test_parquet_holds_all_values(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path], rows: Path
) -> None:
    infer(capsys, tiny_checkpoints["encoder"], rows, "-o", tmp_path / "file.parquet")
    check_parquet(tmp_path / "file.parquet")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(rows.read_bytes())))
    infer(capsys, tiny_checkpoints["encoder"], "-", "--input-format", "jsonl", "-o", tmp_path / "stdin.parquet")
    check_parquet(tmp_path / "stdin.parquet")
    assert (tmp_path / "stdin.parquet").read_bytes() == (tmp_path / "file.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.parquet", "rows.jsonl", "stdin.parquet"]


def check_csv(file: Path) -> None:
    with file.open(newline="", encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert list(found[0]) == [*COLUMNS, "text", *(f"embedding_{i}" for i in range(32))]
    assert [json.loads(row["meta"]) for row in found] == COLUMNS["meta"]
    assert [row["late"] for row in found] == [""] * 20 + [str(n) for n in range(20)]
    assert [row["rare"] for row in found] == [""] * 39 + ["there"]
    assert found[3]["text"] == "the dog 3"


def test_json_lines_are_json(capsys: Capture, tiny_checkpoints: dict[str, Path], rows: Path) -> None:
    lines, _ = infer(capsys, tiny_checkpoints["encoder"], rows)
    found = [json.loads(line, parse_constant=refuse) for line in lines.splitlines()]
    assert [row["ratio"] for row in found] == [0.5, None] * 20
    assert [row["rare"] for row in found] == [None] * 39 + ["there"]
    for name in ("price", "large", "flag", "meta", "kind"):
        assert [row[name] for row in found] == COLUMNS[name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("windows", [2, 3])
def test_a_resumed_run_holds_the_same(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_checkpoints: dict[str, Path],
    rows: Path,
    suffix: str,
    windows: int,
) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    infer(capsys, tiny_checkpoints["encoder"], rows, "-o", whole)
    monkeypatch.setattr(partial_results, "SECONDS_BETWEEN_SAVES", 0.0)
    mark = PartialResults.mark

    def mark_and_stop(results: PartialResults) -> None:
        mark(results)
        if results.progress.windows == windows:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialResults, "mark", mark_and_stop)
        infer(capsys, tiny_checkpoints["encoder"], rows, "-o", cut, code=130)
    if suffix != ".jsonl":
        journal = cut.with_name(f"{cut.name}.partial.json")
        saved = journal.read_text()
        journal.write_text(json.dumps(json.loads(saved) | {"writer": {}}))
        _, said = infer(capsys, tiny_checkpoints["encoder"], rows, "-o", cut, "--resume", code=1)
        assert f"error: {journal}: is no journal of a run; start over with --overwrite\n" in said
        journal.write_text(saved)
    _, said = infer(capsys, tiny_checkpoints["encoder"], rows, "-o", cut, "--resume")
    assert "going on after" in said
    assert cut.read_bytes() == whole.read_bytes()
    if suffix == ".csv":
        check_csv(cut)
    elif suffix == ".parquet":
        check_parquet(cut)


def test_a_key_that_no_row_has_is_a_mistake(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path], rows: Path
) -> None:
    model = tiny_checkpoints["encoder"]
    _, said = infer(capsys, model, rows, columns=["rear"], code=1)
    assert said.startswith(f"error: {rows}:1: no column 'rear' in this row nor in any other; it has: text, price, ")
    # Another file may have it.
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a fox", "rear": 1}\n')
    lines, _ = infer(capsys, model, rows, other, columns=["rear"])
    assert [json.loads(line)["rear"] for line in lines.splitlines()] == [None] * 40 + [1]
    other.write_text('{"txt": "a fox", "rear": 1}\n')
    _, said = infer(capsys, model, rows, other, columns=["rear"], code=1)
    assert f"error: {other}:1: no column 'text'; it has: txt, rear\n" in said
    table = tmp_path / "table.csv"
    table.write_text("text,n\na dog,1\n")
    _, said = infer(capsys, model, rows, table, columns=["rare"], code=1)
    assert f"error: {table}:1: no column 'rare'; it has: text, n\n" in said


def test_parquet_values_pass_from_file_to_file(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    """Moments with and without nanoseconds meet in one column, small and large hashes in another."""
    texts = ["a dog", "a fox"]
    for name, moment, key in (("a", pa.timestamp("us"), 3), ("b", pa.timestamp("ns"), 2**64 - 1)):
        columns = {
            "text": texts,
            "moment": pa.array([1_001, None], moment),
            "key": pa.array([key, 1], pa.uint64()),
            "tags": [["x"], []],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    output = tmp_path / "out.parquet"
    infer(
        capsys, tiny_checkpoints["encoder"], tmp_path / "[ab].parquet", "-o", output, columns=columns.keys() - {"text"}
    )
    table = pq.read_table(output)
    assert table.schema.field("moment").type == pa.timestamp("ns")
    assert table["moment"].cast(pa.int64()).to_pylist() == [1_001_000, None, 1_001, None]
    assert table["key"].to_pylist() == [3, 1, 2**64 - 1, 1]
    assert table["tags"].to_pylist() == [["x"], [], ["x"], []]
