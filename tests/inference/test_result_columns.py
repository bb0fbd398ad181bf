"""Columns that are carried into result files: their values arrive as they are, whatever kinds the rows mix."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert.errors import ConfigError
from ufbert.inference.results.arrow_writers import ArrowWriter
from ufbert.inference.results.files import open_results
from ufbert.inference.results.writers import Record

pd = pytest.importorskip("pandas")  # comes with datasets; pyarrow gives nanoseconds as its classes
LARGE = 2**53 + 1
AS_WRITTEN = None


def write(path: Path, *blocks: Sequence[Any]) -> Path:
    """A result file with the column `c`."""
    with open_results(path) as writer:
        for block in blocks:
            writer.write([Record({"c": value}, {"value": 0.5}) for value in block])
    return path


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([5, 2.5], pa.float64(), [5.0, 2.5]),
        ([2.5, 5], pa.float64(), [2.5, 5.0]),
        ([None, 7], pa.int64(), AS_WRITTEN),
        ([None, None, 7.5, None], pa.float64(), AS_WRITTEN),
        ([None, "a"], pa.string(), AS_WRITTEN),
        ([None, None], pa.string(), AS_WRITTEN),
        ([None, True], pa.bool_(), AS_WRITTEN),
        ([None, [1]], pa.list_(pa.int64()), AS_WRITTEN),
        ([None, {"a": 1}], pa.struct([("a", pa.int64())]), AS_WRITTEN),
        ([LARGE, 3], pa.int64(), AS_WRITTEN),
        ([2**53, 0.5], pa.float64(), AS_WRITTEN),
        ([LARGE, 0.5], pa.string(), ["9007199254740993", "0.5"]),
        ([0.5, -LARGE], pa.string(), ["0.5", "-9007199254740993"]),
        ([1, 2**63], pa.uint64(), AS_WRITTEN),
        ([-1, 2**63], pa.string(), ["-1", "9223372036854775808"]),
        ([-(2**63), 2**63 - 1], pa.int64(), AS_WRITTEN),
        ([1, 2**70], pa.string(), ["1", str(2**70)]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([0, False, None], pa.string(), ["0", "false", None]),
        ([1, "x", 2.5, True, [1, {"b": None}], {"a": math.nan}], pa.string(),
         ["1", "x", "2.5", "true", '[1, {"b": null}]', '{"a": null}']),
        ([[], [1], [2.5, None]], pa.list_(pa.float64()), [[], [1.0], [2.5, None]]),
        ([[1], ["x"]], pa.list_(pa.string()), [["1"], ["x"]]),
        ([[1], 1], pa.string(), ["[1]", "1"]),
        (
            [{"a": 1, "b": 2}, {"b": 3}, {"c": {"d": [1]}}],
            pa.struct(
                [("a", pa.int64()), ("b", pa.int64()), ("c", pa.struct([("d", pa.list_(pa.int64()))]))]
            ),
            [{"a": 1, "b": 2, "c": None}, {"a": None, "b": 3, "c": None}, {"a": None, "b": None, "c": {"d": [1]}}],
        ),
        (
            [{"a": 1}, {"a": 2.5}, {"a": None}, {}],
            pa.struct([("a", pa.float64())]),
            [{"a": 1.0}, {"a": 2.5}, {"a": None}, {"a": None}],
        ),
        ([{"a": 1}, {"a": "x"}], pa.struct([("a", pa.string())]), [{"a": "1"}, {"a": "x"}]),
        ([{}, {}], pa.string(), ["{}", "{}"]),
        ([{"a": {}}, {"a": {}}], pa.struct([("a", pa.string())]), [{"a": "{}"}, {"a": "{}"}]),
        ([{"a": 1}, "x"], pa.string(), ['{"a": 1}', "x"]),
        (["\ud800", "x"], pa.string(), ["\\ud800", "x"]),
        ([{"\ud800": 1}, {"a": 2}], pa.string(), ['{"\\ud800": 1}', '{"a": 2}']),
        ([date(2020, 1, 2), None], pa.date32(), AS_WRITTEN),
        ([date(2020, 1, 2), datetime(2020, 1, 2, 3)], pa.string(), ["2020-01-02", "2020-01-02 03:00:00"]),
        ([datetime(2020, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us"), AS_WRITTEN),
        ([datetime(2020, 1, 2), pd.Timestamp(7)], pa.timestamp("ns"), AS_WRITTEN),
        ([timedelta(1), pd.Timedelta(7)], pa.duration("ns"), AS_WRITTEN),
        ([datetime(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 2)], pa.string(),
         ["2020-01-02 00:00:00+00:00", "2020-01-02 00:00:00"]),
        ([datetime(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=1)))], pa.string(),
         ["2020-01-02 00:00:00+00:00", "2020-01-02 00:00:00+01:00"]),
        ([Decimal("1.5"), Decimal("1000.25")], pa.decimal128(6, 2), AS_WRITTEN),
        ([Decimal("1.5"), Decimal("NaN")], pa.string(), ["1.5", "NaN"]),
        ([Decimal("1.5"), 1], pa.string(), ["1.5", "1"]),
        ([b"\xff", None], pa.binary(), AS_WRITTEN),
        ([{"t": datetime(2020, 1, 2)}, {"t": None}], pa.struct([("t", pa.timestamp("us"))]), AS_WRITTEN),
        ([{"t": datetime(2020, 1, 2)}, {"u": 1}], pa.struct([("t", pa.timestamp("us")), ("u", pa.int64())]), [
            {"t": datetime(2020, 1, 2), "u": None}, {"t": None, "u": 1}]),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("one_block", [False, True])
def test_parquet_has_the_type_that_holds_all_values(
    tmp_path: Path, values: list[Any], kind: Any, expected: list[Any] | None, one_block: bool
) -> None:
    blocks = [values] if one_block else [[value] for value in values]
    column = pq.read_table(write(tmp_path / "r.parquet", *blocks))["c"]
    assert column.type == kind
    assert column.to_pylist() == (values if expected is None else expected)


def test_nan_is_no_narrower_number(tmp_path: Path) -> None:
    column = pq.read_table(write(tmp_path / "r.parquet", [1, None], [math.nan, 3]))["c"]
    assert column.type == pa.float64()
    assert [str(value) for value in column.to_pylist()] == ["1.0", "None", "nan", "3.0"]
    column = pq.read_table(write(tmp_path / "s.parquet", [LARGE], [math.nan, math.inf]))["c"]
    assert column.to_pylist() == [str(LARGE), "nan", "inf"]


def test_objects_whose_keys_are_data_become_text(tmp_path: Path) -> None:
    values = [{f"user {number}": number} for number in range(1500)]
    column = pq.read_table(write(tmp_path / "r.parquet", values[:700], values[700:]))["c"]
    assert [json.loads(text) for text in column.to_pylist()] == values
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    column = pq.read_table(write(tmp_path / "deep.parquet", [deep]))["c"]
    (read,) = column.to_pylist()
    while isinstance(read, list):
        (read,), (deep,) = read, deep
    assert json.loads(read) == deep


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)


def same(value: Any, read: Any) -> bool:
    """Whether what was read says what was written."""
    if value is None or isinstance(value, str):
        return bool(read == value)
    if isinstance(read, str):
        return str(value) == read or bool(json.loads(read) == value)
    if isinstance(value, bool | int | float):
        return bool(read == value) and isinstance(read, bool) == isinstance(value, bool)
    if isinstance(value, list):
        return len(read) == len(value) and all(same(v, r) for v, r in zip(value, read, strict=True))
    return all(same(value.get(key), entry) for key, entry in read.items()) and set(value) <= set(read)


@given(values=st.lists(JSON, min_size=1, max_size=6), cuts=st.sets(st.integers(1, 5)), resumed=st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_any_values_in_any_blocks_arrive_unchanged(values: list[Any], cuts: set[int], resumed: int) -> None:
    def table(cuts: set[int], resumed: int) -> Any:
        stream = io.BytesIO()
        writer = ArrowWriter(stream)
        ends = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            if number == resumed:
                state = json.loads(json.dumps(writer.state()))
                writer = ArrowWriter(stream)
                writer.restore(state)
            writer.write([Record({"c": value}, {}) for value in values[start:end]])
        result = io.BytesIO()
        writer.write_parquet(result)
        return pq.read_table(result)

    whole = table(set(), 0)
    assert all(same(value, read) for value, read in zip(values, whole["c"].to_pylist(), strict=True))
    cut = table(cuts, resumed)
    assert cut.schema == whole.schema
    assert cut.equals(whole)


def test_csv_keeps_a_carried_object_in_one_column(tmp_path: Path) -> None:
    values = [{"a": 1, "b": 2}, {"b": 3}, {"b": {"c": math.nan}}, [1, "é"], None, 2.5, "x"]
    with write(tmp_path / "r.csv", values[:2], values[2:]).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    texts = ['{"a": 1, "b": 2}', '{"b": 3}', '{"b": {"c": null}}', '[1, "é"]', "", "2.5", "x"]
    assert rows == [{"c": text, "value": "0.5"} for text in texts]


def test_csv_columns_follow_their_names(tmp_path: Path) -> None:
    records = [Record({"n": 1}, {"scores": {"no": 0.1, "yes": 0.9}}), Record({"n": 2}, {"scores": {"yes": 1, "no": 0}})]
    with open_results(tmp_path / "r.csv") as writer:
        writer.write(records[:1])
        writer.write(records[1:])
    assert (tmp_path / "r.csv").read_text() == "n,scores_no,scores_yes\n1,0.1,0.9\n2,0,1\n"
    clash = [Record({"scores_no": 1}, records[0].result)]
    message = "column 'scores_no' of the input would collide with the result's"
    with pytest.raises(ConfigError, match=message), open_results(tmp_path / "s.csv") as writer:
        writer.write(clash)
    assert not (tmp_path / "s.csv").exists()


def test_json_lines_are_json_to_every_reader(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    values = [math.nan, {"a": [math.inf, 1.5]}, -math.inf, "NaN", 1]
    lines = write(tmp_path / "r.jsonl", values).read_text().splitlines()
    read = [json.loads(line, parse_constant=refuse)["c"] for line in lines]
    assert read == [None, {"a": [None, 1.5]}, None, "NaN", 1]
