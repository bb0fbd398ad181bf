"""Text files as people have them: other separators, encodings and layouts, empty rows, pointers, long windows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.errors import ConfigError, DataError, MissingExtraError
from ufbert.text import json_rows
from ufbert.text.files import read_rows, read_texts
from ufbert.text.reading import Reading


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fields(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(path, **options)]


def texts(path: Path, column: str = "text", **reading: Any) -> list[str]:
    return [text for _, text in read_texts([path], column, reading=Reading(**reading))]


def error_of(path: Path, column: str = "text", **reading: Any) -> str:
    with pytest.raises(DataError) as caught:
        texts(path, column, **reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ROWS = [
    {"id": "1", "text": 'commas, semicolons; pipes | and\ttabs, "quoted"\nover lines', "label": "x"},
    {"id": "2", "text": "café", "label": "y"},
]


@pytest.mark.parametrize("name", ["comma", "semicolon", "tab", "pipe"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_separator_is_found_by_the_columns_or_given(tmp_path: Path, name: str, suffix: str, quoting: Any) -> None:
    separator = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}[name]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(ROWS[0]), delimiter=separator, quoting=quoting)
    writer.writeheader()
    writer.writerows(ROWS)
    path = write(tmp_path / f"a{suffix}", buffer.getvalue())
    for given in (name, separator):
        assert fields(path, columns=["id", "label"], text_columns=["text"], reading=Reading(delimiter=given)) == ROWS
    if (suffix, name, quoting) != (".tsv", "tab", csv.QUOTE_MINIMAL):  # where a tab has no quotes by definition
        assert fields(path, columns=["id", "label"], text_columns=["text"]) == ROWS
        assert fields(path) == ROWS


def test_a_separator_in_the_only_column_is_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", "text\ngood; film\nbad; film\n")) == ["good; film", "bad; film"]
    assert texts(write(tmp_path / "b.csv", "a;b,text\n1;2,good\n")) == ["good"]
    assert texts(write(tmp_path / "c.csv", "id^text\n1^good\n"), delimiter="^") == ["good"]
    message = error_of(write(tmp_path / "d.csv", "id^text\n1^good\n"))
    assert "no column 'text'; it has: id^text; if its fields are separated by something else, give --delim" in message
    assert texts(write(tmp_path / "e.txt", "id\ttext\n1\tgood\n"), delimiter="tab") == ["good"]


def test_names_may_have_blanks_and_byte_order_marks_around_them(tmp_path: Path) -> None:
    for number, header in enumerate(
        ("id, text", "id,text ", "id,\ufefftext", '\ufeffid, "text"', '\ufeff\ufeffid," text"')
    ):
        path = write(
            tmp_path / f"{number}.csv", f'{header}\n1, good film\n2, "bad, film"\n'.replace('"bad, film"', "bad film")
        )
        found = fields(path, columns=["id"], text_columns=["text"])
        assert [(row["id"], row["text"].strip()) for row in found] == [("1", "good film"), ("2", "bad film")]
        assert fields(path, columns=[" text"])[0][" text"].strip() == "good film"
    path = write(tmp_path / "quoted.csv", 'id, text\n1, "bad, film"\n')
    assert texts(path) == ["bad, film"]
    assert texts(write(tmp_path / "a.jsonl", '{" text": "good"}\n\ufeff{"text ": "bad"}\n')) == ["good", "bad"]
    pq.write_table(pa.table({"id": [1], " text": ["good"]}), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet", columns=["id"], text_columns=["text"]) == [{"id": 1, "text": "good"}]


def test_without_a_header_columns_have_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '"0","11","good film"\n"4","12","bad, film"\n')
    assert texts(path, "3", header=False) == ["good film", "bad, film"]
    assert fields(path, columns=["1"], text_columns=["3"], reading=Reading(header=False))[1] == {
        "1": "4",
        "3": "bad, film",
    }
    assert (
        texts(write(tmp_path / "b.csv", "0;good, film\n4;bad, very bad, film\n"), "2", header=False)[0] == "good, film"
    )
    assert texts(write(tmp_path / "c.tsv", 'x\t"good\ny\tbad\n'), "2", header=False) == ['"good', "bad"]
    assert "a.csv:1: no column 'text'; without a header the columns are 1 to 3" in error_of(path, header=False)
    assert "no column 'text'; it has: 0, 11, good film; if that is a row already, give --no-header" in error_of(path)


def test_wholly_empty_rows_are_none_and_surplus_separators_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\n,,\ntext,label,\n ,\ngood,1\n,,\nbad,0,\nworse,0,,,\n,\n  \n,\n")
    assert fields(path) == [
        {"text": text, "label": label} for text, label in (("good", "1"), ("bad", "0"), ("worse", "0"))
    ]
    assert texts(write(tmp_path / "a.tsv", "text\tlabel\ngood\t1\n\t\n\t\n")) == ["good"]
    assert texts(write(tmp_path / "b.csv", "text,label\n,1\n")) == [""]
    lines = '{"text": "good", "n": 1}\n{"text": null, "n": null}\n{"text": null, "n": NaN}\n{}\n'
    assert texts(write(tmp_path / "a.jsonl", lines)) == ["good"]
    for values in ([1, None, None, None], [1, None, 2, None]):
        table = pa.table({"text": ["good", None, None, None], "n": values, "x": [None] * 4})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
        if values[2] is None:
            assert texts(tmp_path / "a.parquet") == ["good"]
            assert fields(tmp_path / "a.parquet") == [{"text": "good", "n": 1, "x": None}]
        else:
            assert "a.parquet:3: 'text' is null" in error_of(tmp_path / "a.parquet")


def test_encodings_are_given_and_a_wrong_one_says_so(tmp_path: Path) -> None:
    table = "text,label\ncafé, 1\n"
    for encoding in ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig", "mac-roman"):
        for suffix, content in ((".csv", table), (".jsonl", '{"text": "café"}\n'), (".json", '[{"text": "café"}]')):
            path = write(tmp_path / f"a{suffix}", content.encode(encoding))
            assert texts(path, encoding=encoding) == ["café"]
        path = write(tmp_path / "a.txt.gz", gzip.compress("café\n\n".encode(encoding)))
        assert texts(path, encoding=encoding) == ["café", ""]
    advice = "is not UTF-8; give the file's encoding, such as --encoding cp1252 (Excel, Western Europe), or save it"
    latin = "text\nok\ncafé\n".encode("latin-1")
    assert f"{tmp_path}/b.csv:3: byte 0xe9 at position 4 {advice}" in error_of(write(tmp_path / "b.csv", latin))
    array = '[{"text": "ok"},\n {"text": "café"}]'.encode("latin-1")
    assert f"b.json: byte 32 of the file {advice}" in error_of(write(tmp_path / "b.json", array))
    assert "begins with the byte order mark of UTF-16; give --encoding utf-16" in error_of(
        write(tmp_path / "c.csv", table.encode("utf-16"))
    )
    assert "d.csv:2: byte 0x81 at position 1 is not cp1252; give the file's own" in error_of(
        write(tmp_path / "d.csv", b"text\n\x81\n"), encoding="cp1252"
    )
    assert "not utf-16" in error_of(write(tmp_path / "e.txt", b"\xff\xfea\0\n\0\0\xd8a\0"), encoding="utf-16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "klingon"}, "--encoding 'klingon': no such encoding"),
        ({"encoding": "hex"}, "--encoding 'hex': no such encoding"),
        ({"delimiter": "::"}, "--delimiter '::': takes one character or its name, comma, semicolon, tab, pipe"),
    ],
)
def test_options_that_cannot_be_say_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Reading(**options)
    assert message in str(caught.value)


def test_options_that_say_nothing_of_the_files_are_refused() -> None:
    for options, name in (
        ({"header": False}, "a.jsonl"),
        ({"delimiter": ";"}, "a.json"),
        ({"encoding": "cp1252"}, "a.parquet"),
    ):
        with pytest.raises(ConfigError, match="--"):
            Reading(**options).check([Path(name)])
        Reading(**options).check([Path("b.csv"), Path(name)])


OBJECTS = [{"text": 'good, ]}[ \\ " film', "n": number, "more": {"k": [1.5, None]}} for number in range(50)]
NEEDED: dict[str, Any] = {"text_columns": ["text"]}


@pytest.mark.parametrize("read_bytes", [7, 1 << 18])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(OBJECTS),
        "\ufeff\n " + json.dumps(OBJECTS, indent=2) + "\n\n",
        json.dumps(OBJECTS[:20]) + "\n" + json.dumps(OBJECTS[20:]),
        "[" + ",\n".join(map(json.dumps, OBJECTS)) + "]",
        json.dumps({"version": 1, "data": OBJECTS, "tags": ["a"]}, indent=1),
        json.dumps({"data": OBJECTS}),
        "\n".join(json.dumps(row, indent=1) for row in OBJECTS),
        "\n".join(map(json.dumps, OBJECTS)),
        json.dumps({key: [row[key] for row in OBJECTS] for key in OBJECTS[0]}),
        json.dumps({key: {str(i): row[key] for i, row in enumerate(OBJECTS)} for key in OBJECTS[0]}),
    ],
)
def test_json_is_an_object_a_line_an_array_or_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, read_bytes: int
) -> None:
    monkeypatch.setattr(json_rows, "READ_BYTES", read_bytes)
    path = write(tmp_path / "a.json", content)
    assert fields(path, **NEEDED) == OBJECTS
    assert fields(write(tmp_path / "a.json.xz", lzma.compress(content.encode())), columns=["n"], **NEEDED)[3] == {
        "n": 3,
        "text": OBJECTS[3]["text"],
    }


def test_a_single_object_may_be_a_row(tmp_path: Path) -> None:
    for row in ({"text": "good", "data": [{"a": 1}]}, {"text": "good"}):
        for indent in (None, 2):
            assert fields(write(tmp_path / "a.json", json.dumps(row, indent=indent)), **NEEDED) == [row]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": 5}]', "a.json:2: 'text' is int 5, not text"),
        ('[{"text": "a"}, ["b"]]', "a.json:2: a JSON list, not an object; each entry of the array must be one"),
        ('[{"text": "a"},\n{"text": "b"}', "a.json: not valid JSON (it ends within the array in line 2)"),
        ('[{"text": "a"},\n{"text": "b', "a.json: not valid JSON (Unterminated string starting at in line 2)"),
        ('[{"text": "a"}\n{"text": "b"}]', "a.json: not valid JSON (no comma between two entries in line 2)"),
        (
            '[{"text": oops, "more": "and more and more and more"}]',
            "a.json: not valid JSON (Expecting value in line 1)",
        ),
        ('[{"text": "a"}] {', "a.json: not valid JSON (there is more after the end of the array in line 1)"),
        ('{\n"text": "a",\n"b": oops\n}', "a.json: not valid JSON (Expecting value in line 3)"),
        ('{"text": \n{"text": "b"}\n', "a.json:1: not valid JSON (Expecting value); write one JSON object a line"),
        ('{"a": [{"text": "b"}], "b": [{"text": "b"}]}', "a.json: one object with several lists of objects (a, b)"),
        ("[]", "a.json: no rows in it"),
    ],
)
def test_json_that_is_malformed_says_where(tmp_path: Path, content: str, message: str) -> None:
    assert message in error_of(write(tmp_path / "a.json", content))


def test_a_json_value_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MOST_CHARACTERS", 1000)
    monkeypatch.setattr(json_rows, "READ_BYTES", 100)
    long = {"text": "x" * 5000}
    assert len(texts(write(tmp_path / "a.json", json.dumps([{"text": "short"}] * 500)))) == 500
    for content in (json.dumps([long]), json.dumps({"data": [long]}, indent=1)):
        assert "a.json: a single JSON value of more than" in error_of(write(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    ("suffix", "compress", "name"), [(".bz2", bz2.compress, "bzip2"), (".xz", lzma.compress, "xz")]
)
def test_bzip2_and_xz_are_read_and_damage_is_named(tmp_path: Path, suffix: str, compress: Any, name: str) -> None:
    whole = compress(b"good\nbad\n" * 1000)
    assert texts(write(tmp_path / f"a.txt{suffix}", whole))[:2] == ["good", "bad"]
    for broken in (whole[:-20], b"no such data"):
        assert f"damaged {name} data" in error_of(write(tmp_path / f"b.txt{suffix}", broken))


def test_zstd_with_a_long_window_is_read_whole_or_named_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zstandard = pytest.importorskip("zstandard")
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    frames = b""
    for start in (0, 500):
        compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        lines = "".join(f"row {number}\n" for number in range(start, start + 500))
        frames += compressor.compress(lines.encode()) + compressor.flush()
    assert texts(write(tmp_path / "a.txt.zst", frames)) == [f"row {number}" for number in range(1000)]
    assert "damaged zstd data (it ends within a frame)" in error_of(write(tmp_path / "b.txt.zst", frames[:-9]))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"window of more than 128 MB .* pip install 'ufbert\[zstd\]'"):
        texts(tmp_path / "a.txt.zst")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".txt.gz", ".txt.zst", ".parquet"])
def test_a_git_lfs_pointer_is_named_as_such(tmp_path: Path, suffix: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
    message = error_of(write(tmp_path / f"a{suffix}", pointer))
    assert message.startswith(
        f"{tmp_path}/a{suffix}: git has left a pointer here in place of the file; install git-lfs"
    )
