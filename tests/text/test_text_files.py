from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufbert.errors import DataError
from ufbert.text.files import STDIN, Row, expand_paths, file_format, read_rows, read_texts


def compress_zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folders_globs_and_stdin_expand_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "deep/er/c.csv.zst", ".hidden.txt", ".git/x.txt", "image.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, "x")
    names = [p.relative_to(tmp_path).as_posix() for p in expand_paths([str(tmp_path)])]
    assert names == ["a.jsonl.gz", "b.txt", "deep/er/c.csv.zst"]
    assert expand_paths([f"{tmp_path}/**/*.zst", "-", f"{tmp_path}/b.txt"]) == [
        tmp_path / "deep/er/c.csv.zst",
        STDIN,
        tmp_path / "b.txt",
    ]
    assert expand_paths([f"{tmp_path}/*"]) == [tmp_path / "a.jsonl.gz", tmp_path / "b.txt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.txt", "none.txt: no such file or folder"),
        ("*.csv", "*.csv: no file matches"),
        ("*.png", "*.png: matches no readable file; supported are .txt"),
        ("empty", "empty: the folder holds no readable file; supported are"),
        ("image.png", "image.png: unknown kind of file; supported are"),
        ("x" * 5000, "no such file or folder"),
    ],
)
def test_paths_that_lead_nowhere_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "image.png", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        expand_paths([pattern])
    assert message in str(caught.value)


def test_formats_by_suffix() -> None:
    assert file_format(Path("a.JSONL.gz")) == "jsonl"
    assert file_format(Path("a.json")) == "jsonl"
    assert file_format(Path("a.parquet.gz")) is None
    assert file_format(Path("a.gz")) is None


ROWS = [
    {"text": 'commas, "quotes"\nand lines', "label": "1"},
    {"text": "Ünïcode\u2028line\x85 separators stay", "label": "2"},
    {"text": "", "label": "3"},
]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_every_format_and_compression_gives_the_same_rows(tmp_path: Path, kind: str, compression: str) -> None:
    if kind == ".jsonl":
        content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\r\n\r\n"
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
        content = buffer.getvalue()
    data = b"\xef\xbb\xbf" + content.encode()
    if compression == ".gz":
        data = gzip.compress(data)
    elif compression == ".zst":
        half = len(data) // 2
        data = compress_zstd(data[:half]) + compress_zstd(data[half:])
    path = write(tmp_path / f"file{kind}{compression}", data)
    rows = list(read_rows(path, text_columns=["text"]))
    assert [row.fields for row in rows] == ROWS
    assert [row.line for row in rows] == ([1, 2, 3] if kind == ".jsonl" else [2, 4, 5])
    assert [row.fields for row in read_rows(path, columns=["label"])] == [{"label": r["label"]} for r in ROWS]


def test_parquet_is_read_by_batches_and_numbered_from_one(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(1000)], "label": range(1000)}), path)
    rows = list(read_rows(path, columns=["text"]))
    assert rows[999] == Row(path, 1000, {"text": "row 999"})
    assert rows[600].where == f"{path}:601"
    assert len(rows) == 1000


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1))
def test_lines_of_a_text_file_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = write(tmp_path_factory.mktemp("lines") / "a.txt", "\r\n".join(lines) + "\r\n")
    lines[0] = lines[0].removeprefix("\ufeff")
    assert [row.fields["text"] for row in read_rows(path)] == lines


def test_blank_lines_are_texts_and_a_last_line_needs_no_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n\n\ntwo")
    assert list(read_texts([path], "any column")) == [
        (f"{path}:1", "one"),
        (f"{path}:2", ""),
        (f"{path}:3", ""),
        (f"{path}:4", "two"),
    ]


def test_whole_documents_are_blocks_between_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n\nTitle\nfirst\n \t\n\nsecond\n\n")
    assert list(read_texts([path], whole_documents=True)) == [
        (f"{path}:3", "Title\nfirst"),
        (f"{path}:7", "second"),
    ]


def test_a_long_block_is_cut_at_line_ends(tmp_path: Path) -> None:
    lines = ["word " * 200 for _ in range(100)]
    path = write(tmp_path / "a.txt", "\n".join(lines))
    documents = [text for _, text in read_texts([path], whole_documents=True)]
    assert "\n".join(documents) == "\n".join(lines)
    assert 4 <= len(documents) <= 6


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"Half a quote\t1\n\nnext\t2\n')
    assert [row.fields for row in read_rows(path)] == [
        {"text": '"Half a quote', "label": "1"},
        {"text": "next", "label": "2"},
    ]
    path = write(tmp_path / "b.tsv", "gj04\t1\t\tOur friends\n")
    (row,) = read_rows(path, header=["source", "label", "mark", "text"], text_columns=["text"], columns=["label"])
    assert row == Row(path, 1, {"label": "1", "text": "Our friends"})


def test_a_csv_field_may_be_longer_than_the_modules_limit(tmp_path: Path) -> None:
    text = "long " * 200_000
    path = write(tmp_path / "a.csv", f"text\n{text}\n")
    assert [row.fields["text"] for row in read_rows(path)] == [text]


def test_standard_input_is_lines_or_what_format_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, options in ((b"a\nb", {}), (b'{"text": "a"}\n{"text": "b"}', {"format": "jsonl"})):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        rows = list(read_rows(STDIN, **options))  # type: ignore[arg-type]
        assert [(r.where, r.fields["text"]) for r in rows] == [
            ("standard input:1", "a"),
            ("standard input:2", "b"),
        ]
    assert "parquet needs a file" in error_of(STDIN, format="parquet")


BAD_ROWS = [
    ("a.txt", b"good\nb\xffd\ngood\n", ":2: byte 0xff at position 2 is not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n{"text": "b"}', ":2: not valid JSON (Expecting value)"),
    ("a.jsonl", b'{"text": "a"}\n["b"]\n{"text": "b"}', ":2: a JSON list, not an object"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n{"text": "b"}', ":2: no column 'text'; it has: txt"),
    ("a.jsonl", b'{"text": "a"}\n{"text": null}\n{"text": "b"}', ":2: 'text' is null, not text"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n{"text": "b"}', ":2: 'text' is int 5, not text"),
    (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "\\ud800"}\n{"text": "b"}',
        ":2: 'text' holds half a surrogate pair",
    ),
    ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b'\n{"text": "b"}', ":2: not valid JSON"),
    ("a.csv", b"text,label\na,1\nb\nc,2\n", ":3: 1 comma-separated fields, but the file has 2 columns"),
    ("a.csv", b'text,label\n"a\nb",1\n"c"d,2\ne,3\n', ":4: malformed csv row"),
    (
        "a.csv",
        b'text,label\na,1\n"b\xff\n",1\nc,2\n',
        ":3: byte 0xff at position 3 is not UTF-8; give the file's encoding, such as --encoding cp1252",
    ),
    (
        "a.tsv",
        b"text\tlabel\na\t1\nb\t2\t3\nc\t2\n",
        ":3: 3 tab-separated fields, but the file has 2 columns",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_can_be_skipped(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    assert f"{path}{message}" in error_of(path, text_columns=["text"])
    bad: list[str] = []
    good = list(read_rows(path, text_columns=["text"], on_bad=lambda error: bad.append(str(error))))
    assert len(good) == 2
    assert len(bad) == 1
    assert message in bad[0]


def test_bad_parquet_values_are_named_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"okb\xff")]
    )
    pq.write_table(pa.table({"text": broken}), path)
    assert f"{path}:2: byte 0xff at position 2 is not UTF-8" in error_of(path)
    assert len(list(read_rows(path, on_bad=lambda _: None))) == 1
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), path)
    assert f"{path}:2: 'text' is null" in error_of(path, text_columns=["text"])
    assert f"{path}:1: 'n' is int 1" in error_of(path, text_columns=["n"])
    assert f"{path}: no column 'x'; it has: text, n" in error_of(path, columns=["x"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no rows in it"),
        ("a.jsonl", b"\n\n", "no rows in it"),
        ("a.csv", b"text\n", "no rows in it"),
        ("a.csv", b"a,a\n1,2\n", ":1: two columns are named 'a'"),
        ("a.csv", b"label\n1\n", ":1: no column 'text'; it has: label"),
        ("a.txt.gz", b"not gzip", ":1: damaged gzip data"),
        ("a.txt.gz", gzip.compress(b"abc\n" * 999)[:-20], "damaged gzip data"),
        ("a.txt.zst", b"not zstd", ":1: damaged zstd data"),
        ("a.txt.zst", compress_zstd(b"abc\n" * 999)[:-9], "damaged zstd data"),
        ("a.parquet", b"not parquet", "not a readable parquet file"),
        ("a.parquet", b"", "not a readable parquet file"),
        ("a.doc", b"x", "unknown kind of file"),
    ],
)
def test_a_file_that_is_unusable_as_a_whole_always_raises(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    assert message in error_of(path, text_columns=["text"])
    assert message in error_of(path, text_columns=["text"], on_bad=lambda _: None)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for name in ("none.txt", "none.parquet", "none.txt.zst", "none.txt.gz"):
        assert f"{tmp_path / name}: cannot be read: No such file" in error_of(tmp_path / name)
