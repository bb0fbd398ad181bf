"""Files as people have them, through the commands that read them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ufbert.commands.app import main
from ufbert.settings.sections import DataSettings
from ufbert.text.corpus import prepare_corpus

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


def infer(capsys: Capture, *arguments: object) -> list[dict[str, Any]]:
    code, out, said = run(capsys, "infer", *arguments)
    assert not code, said
    return [json.loads(line) for line in out.splitlines()]


def test_inference_reads_tables_and_arrays_as_they_come(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_checkpoints["regression"]
    (tmp_path / "a.json").write_text('[{"text": "a dog", "k": 1, "o": {"x": NaN}},\n {"text": "a fox", "k": 2.5}]')
    rows = infer(capsys, model, "a.json", "--id-column", "k", "--id-column", "o")
    assert [(r["text"], r["k"], r["o"]) for r in rows] == [("a dog", 1, {"x": None}), ("a fox", 2.5, None)]
    values = [r["value"] for r in rows]
    (tmp_path / "b.csv").write_bytes("7;a dog;é\n8;a fox;-\n;;\n".encode("latin-1"))
    options = ("--no-header", "--text-column", "2", "--id-column", "3", "--encoding", "latin-1")
    rows = infer(capsys, model, "b.csv", *options)
    assert [(r["text"], r["3"], r["value"]) for r in rows] == [("a dog", "é", values[0]), ("a fox", "-", values[1])]
    stdin = SimpleNamespace(buffer=io.BytesIO("n\ttext\r\n1\ta dog\r\n".encode("utf-16")))
    monkeypatch.setattr("sys.stdin", stdin)
    (row,) = infer(capsys, model, "-", "--delimiter", "tab", "--encoding", "utf-16", "--id-column", "n")
    assert (row["n"], row["text"]) == ("1", "a dog")
    output = tmp_path / "out.csv"
    infer(capsys, model, "a.json", "--id-column", "k", "--output", output)
    with output.open(newline="") as stream:
        assert [r["k"] for r in csv.DictReader(stream)] == ["1", "2.5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.jsonl", "--no-header"], "error: --no-header is for csv and tsv; none of the files is one"),
        (["a.jsonl", "--delimiter", ";"], "error: --delimiter is for csv, tsv and txt; none of the files is one"),
        (["b.csv", "--delimiter", ";;"], "error: --delimiter ';;': takes one character or its name, comma, semicolon"),
        (["b.csv", "--encoding", "klingon"], "error: --encoding 'klingon': no such encoding"),
        (["b.csv"], "error: b.csv:2: byte 0xe9 at position 4 is not UTF-8; give the file's encoding, such as --encod"),
    ],
)
@pytest.mark.parametrize("command", ["infer", "finetune", "pretrain", "bench"])
def test_what_cannot_be_is_one_line_of_every_command(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_checkpoints: dict[str, Path],
    command: str,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 1}\n' * 20)
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    model = str(tiny_checkpoints["encoder"])
    before = {
        "infer": [model],
        "finetune": [model, "--train"],
        "pretrain": ["--set", "data.cache_dir=cache", "--steps", "1", "--no-plot", "--corpus"],
        "bench": ["paths", model],
    }
    code, out, said = run(capsys, command, *before[command], *options)
    assert (code, out) == (1, "")
    assert said.splitlines()[-1].startswith(message)


def test_a_corpus_of_columns_by_number_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("".join(f"{n};thé film, {n}\n" for n in range(300)).encode("cp1252"))
    texts = [f"thé film, {n}" for n in range(300)]
    (tmp_path / "b.json").write_text(json.dumps([{"text": text} for text in texts]))
    usual: Any = {"cache_dir": str(tmp_path / "cache"), "min_frequency": 2, "sequence_length": 8}
    table = DataSettings(
        corpus=[str(tmp_path / "a.csv")],
        text_column="2",
        encoding="cp1252",
        header=False,
        **usual,
    )
    array = DataSettings(corpus=[str(tmp_path / "b.json")], **usual)
    first, second = prepare_corpus(table, 200), prepare_corpus(array, 200)
    assert first.train_documents + first.validation_documents == 300
    assert (first.train[:] == second.train[:]).all()
    assert first.fingerprint != second.fingerprint
