"""`ufbert infer` as a user runs it: inputs, outputs, what it says, and every mistake in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert import (
    Pipeline,
    UltraFastBertForMaskedLM,
    UltraFastBertForSequenceClassification,
    UltraFastBertModel,
)
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.commands.app import main
from ufbert.model.pretrained import PretrainedModel, read_config

Capture = pytest.CaptureFixture[str]


def infer(capsys: Capture, *arguments: object, code: int = 0) -> tuple[list[Any], str]:
    """(rows on standard output, what was said) of a run that must end with `code`."""
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, arguments)])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


def error(capsys: Capture, *arguments: object) -> str:
    """The one line of a run that fails on a mistake of the user's."""
    rows, said = infer(capsys, *arguments, code=1)
    assert not rows
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("the quick [MASK]\nshe sells [MASK] by the [MASK]\n")
    return file


def test_masks_are_filled_to_standard_output(capsys: Capture, tiny_checkpoints: dict[str, Path], texts: Path) -> None:
    rows, said = infer(capsys, tiny_checkpoints["masked_lm"], texts, "--top-k", 2, "--precision", "float32")
    expected = Pipeline(tiny_checkpoints["masked_lm"], top_k=2, precision="float32")(texts.read_text().splitlines())
    assert [r["text"] for r in rows] == texts.read_text().splitlines()
    assert [{k: r[k] for k in ("masks", "filled")} for r in rows] == expected
    first, last = said.splitlines()
    assert first.startswith("fill-mask with ")
    assert "float32, backend numba, cpu" in first
    assert last.startswith("2 texts, 13 tokens in ")
    assert "texts/s" in last
    assert "float32, backend numba" in last


def test_columns_are_carried_through_many_inputs(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [{"idx": i, "first": f"the dog {'and fox ' * (i % 5)}", "second": "a fox"} for i in range(20)]
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:5]))
    pq.write_table(pa.Table.from_pylist(rows[5:12]), folder / "b.parquet")
    with gzip.open(folder / "c.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(r) + "\n" for r in rows[12:])
    options = ("--text-column", "first", "--pair-column", "second", "--id-column", "idx", "--batch-size", 3)
    checkpoint = tiny_checkpoints["classifier"]
    whole, _ = infer(capsys, checkpoint, folder, *options)
    globbed, _ = infer(capsys, checkpoint, folder / "*.jsonl", *options, folder / "[bc].*")
    assert whole == globbed
    assert [{k: r[k] for k in rows[0]} for r in whole] == rows
    assert set(whole[0]) == {"idx", "first", "second", "label", "score", "scores"}
    bare, _ = infer(capsys, checkpoint, folder, *options, "--no-keep-text")
    assert set(bare[0]) == {"idx", "label", "score", "scores"}
    direct = Pipeline(checkpoint)([(str(r["first"]), str(r["second"])) for r in rows])
    assert [r["label"] for r in whole] == [r["label"] for r in direct if isinstance(r, dict)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".npy"])
def test_every_output_format_holds_the_embeddings(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], texts: Path, suffix: str
) -> None:
    output = tmp_path / f"out{suffix}"
    options = ("--pooling", "cls", "--normalize", "--precision", "float32", "-o", output)
    rows, said = infer(capsys, tiny_checkpoints["encoder"], texts, *options)
    assert rows == []
    assert "embed (cls pooling, of length 1)" in said
    assert said.endswith(f"results: {output}\n")
    if suffix == ".npy":
        found = np.load(output)
    elif suffix == ".parquet":
        found = np.array(pq.read_table(output)["embedding"].to_pylist(), dtype=np.float32)
    elif suffix == ".jsonl":
        found = np.array([json.loads(line)["embedding"] for line in output.read_text().splitlines()])
    else:
        with output.open(newline="") as stream:
            _, *cells = csv.reader(stream)
        found = np.array([row[1:] for row in cells], dtype=np.float32)
    expected = Pipeline(tiny_checkpoints["encoder"], pooling="cls", normalize=True, precision="float32")(
        texts.read_text().splitlines()
    )
    np.testing.assert_allclose(found, np.stack([np.asarray(v) for v in expected]), atol=1e-6)
    said = error(capsys, tiny_checkpoints["encoder"], texts, *options)
    assert "already exists" in said
    infer(capsys, tiny_checkpoints["encoder"], texts, *options, "--overwrite")


def test_standard_input_in_any_text_format(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tiny_checkpoints: dict[str, Path]
) -> None:
    checkpoint = tiny_checkpoints["regression"]

    def stdin(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    stdin(b"a dog\n\nthe fox")
    rows, _ = infer(capsys, checkpoint, "-")
    assert [r["text"] for r in rows] == ["a dog", "", "the fox"]
    assert all(isinstance(r["value"], float) for r in rows)
    stdin(b"n,sentence\n7,a dog\n8,the fox\n")
    options = ("--input-format", "csv", "--text-column", "sentence", "--id-column", "n")
    again, _ = infer(capsys, checkpoint, "-", *options)
    assert [(r["n"], r["sentence"]) for r in again] == [("7", "a dog"), ("8", "the fox")]
    assert [r["value"] for r in again] == pytest.approx([rows[0]["value"], rows[2]["value"]], abs=1e-5)
    stdin(b"")
    assert error(capsys, checkpoint, "-") == "error: standard input: no rows in it; give a file with text"


def test_bad_rows_stop_with_their_place_or_are_skipped_and_counted(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    file = tmp_path / "in.jsonl"
    lines = ['{"text": "a [MASK]"}', '{"text": 3}', "{broken", '{"text": "no mask"}', '{"text": "[MASK] b"}']
    file.write_text("\n".join(lines))
    checkpoint = tiny_checkpoints["masked_lm"]
    assert f"{file}:2: 'text' is int 3, not text" in error(capsys, checkpoint, file)
    rows, said = infer(capsys, checkpoint, file, "--skip-bad")
    assert [r["text"] for r in rows] == ["a [MASK]", "[MASK] b"]
    for line, reason in ((2, "'text' is int 3"), (3, "not valid JSON"), (4, "no [MASK] in the text")):
        assert any(s.startswith(f"skipped: {file}:{line}: {reason}") for s in said.splitlines())
    assert "\n3 bad rows were skipped\n" in said
    file.write_text("\n".join(lines[1:4]))
    output = tmp_path / "out.parquet"
    said = error(capsys, checkpoint, file, "--skip-bad", "-o", output)
    assert said == "error: none of the input's 3 rows could be used; see the lines above"
    assert not output.exists()
    file.write_bytes(b"fine [MASK]\nbr\xffken [MASK]\n")
    text = file.rename(tmp_path / "in.txt")
    assert f"{text}:2: byte 0xff at position 3 is not UTF-8" in error(capsys, checkpoint, text, "-o", output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt"]


def test_compressed_tables_and_lines(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], texts: Path
) -> None:
    lines = texts.read_text().splitlines()
    table = "n,text\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines))
    contents = {
        "t.csv": table,
        "t.tsv": table.replace(",", "\t"),
        "t.txt": texts.read_text(),
        "t.jsonl": "".join(json.dumps({"n": i, "text": line}) + "\n" for i, line in enumerate(lines)),
    }
    expected, _ = infer(capsys, tiny_checkpoints["masked_lm"], texts)
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        with pa.CompressedOutputStream(str(tmp_path / f"{name}.zst"), "zstd") as stream:
            stream.write(content.encode())
        for suffix in (".gz", ".zst"):
            ids = () if name == "t.txt" else ("--id-column", "n")
            rows, _ = infer(capsys, tiny_checkpoints["masked_lm"], tmp_path / (name + suffix), *ids)
            assert [{k: v for k, v in r.items() if k != "n"} for r in rows] == expected
            assert not ids or [int(r["n"]) for r in rows] == [0, 1]
        broken = tmp_path / f"broken{name[1:]}.gz"
        broken.write_bytes(gzip.compress(content.encode())[:-12])
        assert f"{broken}:" in error(capsys, tiny_checkpoints["masked_lm"], broken)


def test_cut_or_windowed_texts_are_counted(capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    file = tmp_path / "in.txt"
    file.write_text("the dog\n" + "the dog and the fox\n" * 37)
    rows, said = infer(capsys, tiny_checkpoints["classifier"], file, "--max-length", 4)
    assert len(rows) == 38
    assert "\n37 texts were cut at 4 tokens\n" in said
    options = ("--max-length", 4, "--long-text", "window", "--stride", 1, "--precision", "float32")
    whole, said = infer(capsys, tiny_checkpoints["classifier"], file, *options)
    assert "cut at" not in said
    assert "\n37 texts were read in windows of 4 tokens\n" in said
    assert [r["text"] for r in whole] == file.read_text().splitlines()
    expected = Pipeline(
        tiny_checkpoints["classifier"], max_length=4, long_text="window", stride=1, precision="float32"
    )(["the dog", "the dog and the fox"])
    assert [{k: r[k] for k in ("label", "score", "scores")} for r in whole[:2]] == expected


def test_a_late_file_fails_before_the_work(
    capsys: Capture, tmp_path: Path, tiny_checkpoints: dict[str, Path], texts: Path
) -> None:
    """A wrong column in the last file must not cost the hours spent on the first ones."""
    (tmp_path / "late.csv").write_text("sentence\na [MASK]\n")
    said = error(capsys, tiny_checkpoints["masked_lm"], texts, tmp_path / "late.csv")
    assert "late.csv" in said
    assert "no column 'text'; it has: sentence" in said
    (tmp_path / "late.csv").write_bytes(b"")
    assert "late.csv: no rows in it" in error(
        capsys, tiny_checkpoints["masked_lm"], texts, tmp_path / "late.csv", "--skip-bad"
    )


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        ("masked_lm", ("missing.txt",), "missing.txt: no such file or folder"),
        (
            "masked_lm",
            ("{texts}", "--task", "translate"),
            "--task: inference.task must be one of auto, fill-mask, classify, tag, embed, not",
        ),
        ("classifier", ("{texts}", "--task", "fill-mask"), "has no head for fill-mask; give a checkpoint as pre"),
        ("masked_lm", ("{texts}", "-o", "{folder}/r.xlsx"), "unknown kind of file; supported are .jsonl .csv"),
        ("masked_lm", ("{texts}", "-o", "{folder}/r.npy"), ".npy holds embeddings only; write .jsonl"),
        ("encoder", ("{table}", "-o", "{folder}/r.npy", "--id-column", "label"), ".npy cannot hold --id-column"),
        ("classifier", ("{table}", "--id-column", "label"), "column 'label' of the input would collide"),
        ("masked_lm", ("{texts}", "--id-column", "idx"), "texts.txt: no column 'idx'; it has: text"),
        ("masked_lm", ("{texts}", "--top-k", "9999"), "top_k must lie between 1 and the vocabulary's"),
        ("masked_lm", ("{texts}", "--threads", "0"), "threads must be at least 1, not 0"),
        ("masked_lm", ("{texts}", "--top-k", "0"), "--top-k: inference.top_k must be at least 1, not 0"),
        ("masked_lm", ("{texts}", "--max-length", "99"), "max_length must lie between 1 and the model's maximum"),
        (
            "masked_lm",
            ("{texts}", "--precision", "int3"),
            "inference.precision must be one of auto, float32, bfloat16, int8, not 'int3'",
        ),
        ("masked_lm", ("{texts}", "--backend", "abacus"), "unknown backend 'abacus'; known: auto, reference"),
        ("masked_lm", ("{texts}", "--normalize"), "normalize is an option of the task embed; the task here is"),
        ("encoder", ("{texts}", "--top-k", "3"), "top_k is an option of the task fill-mask; the task here is"),
        ("encoder", ("{texts}", "--input-format", "csv"), "--input-format is for standard input (-)"),
        (
            "encoder",
            ("{texts}", "--stride", "3"),
            "stride is an option of long_text 'window'; long texts are truncated",
        ),
        (
            "encoder",
            ("{texts}", "--long-text", "fold"),
            "inference.long_text must be one of auto, truncate, window, not 'fold'",
        ),
        ("encoder", ("{texts}", "--long-text", "window", "--stride", "30"), "stride must lie between 0 and 29"),
        ("encoder", ("-", "--input-format", "xml"), "unknown --input-format 'xml'; known: txt, jsonl, csv, tsv"),
        ("nothing", ("{texts}",), "nothing: no such folder"),
        ("encoder", ("{texts}", "--revision", "v1"), "is a folder here, which has no revisions; leave out --revision"),
    ],
)
def test_mistakes_are_one_line(
    capsys: Capture,
    tmp_path: Path,
    tiny_checkpoints: dict[str, Path],
    texts: Path,
    kind: str,
    options: tuple[str, ...],
    line: str,
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text,label\na dog,animal\n")
    folder = tiny_checkpoints.get(kind, tmp_path / kind)
    filled = [o.format(texts=texts, table=table, folder=tmp_path) for o in options]
    assert line in error(capsys, folder, *filled)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "texts.txt"]


RUN = "import os, sys; os.environ['TERM'] = 'dumb'; from ufbert.commands.app import main; main(sys.argv[1:])"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    """Ctrl-C while the input is still coming: exit code 130, one line, no half file."""
    output = tmp_path / "out" / "r.parquet"
    command = [sys.executable, "-c", RUN, "infer", str(tiny_checkpoints["encoder"]), "-", "-o", str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("the quick dog\n" * 200)
        process.stdin.flush()
        assert "embed" in process.stderr.readline()
        deadline = time.monotonic() + 60
        while not (output.parent.is_dir() and any(output.parent.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any(output.parent.iterdir())
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert "Traceback" not in said
    assert list(output.parent.iterdir()) == []


ONE_LINE = """
import sys
from ufbert.commands.app import main
try:
    main(["infer", sys.argv[1], "-", "--precision", "float32"])
finally:
    heavy = {"datasets", "llvmlite", "matplotlib", "networkx", "numba", "pandas", "pyarrow", "scipy.linalg", "sklearn",
             "torch._dynamo", "torch._inductor", "torch.onnx",
             "transformers", "huggingface_hub", "wandb", "tensorboard"}
    print("loaded", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


KINDS: dict[str, tuple[str, type[PretrainedModel]]] = {
    "embed": ("encoder", UltraFastBertModel),
    "fill-mask": ("masked_lm", UltraFastBertForMaskedLM),
    "classify": ("classifier", UltraFastBertForSequenceClassification),
}


@pytest.mark.parametrize(("feedforward", "task"), [("dense", "embed"), ("fff", "fill-mask"), ("dense", "classify")])
def test_one_line_loads_only_what_it_needs(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], feedforward: str, task: str
) -> None:
    name, kind = KINDS[task]
    folder = tiny_checkpoints[name]
    if feedforward == "dense":
        config = read_config(folder).replace(feedforward="dense", intermediate_size=64)
        tokenizer = load_tokenizer(folder)
        folder = tmp_path / name
        kind(config).save_pretrained(folder, tokenizer=tokenizer)
    line = "the quick [MASK]\n"
    for _ in range(1 if feedforward == "dense" else 2):  # the first run may compile kernels
        done = subprocess.run(
            [sys.executable, "-c", ONE_LINE, str(folder)], input=line, capture_output=True, text=True, check=True
        )
    (row,) = (json.loads(row) for row in done.stdout.splitlines())
    (expected,) = Pipeline(folder, precision="float32")([line.strip()])
    if task == "embed":
        assert isinstance(expected, np.ndarray)
        np.testing.assert_allclose(row["embedding"], expected, rtol=1e-6)
    else:
        assert {key: row[key] for key in expected} == expected
    loaded = done.stderr.splitlines()[-1].split()
    assert loaded == (["loaded"] if feedforward == "dense" else ["loaded", "llvmlite", "numba"])


PEAKS = """
import re, sys
from pathlib import Path
from ufbert.commands.app import main
for name in ("small", "large"):
    try:
        main(["infer", sys.argv[1], f"{name}.txt", "-o", f"{name}.npy", "--max-length", "8", "--batch-size", "8"])
    except SystemExit:
        print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print({"transformers", "datasets", "sklearn", "matplotlib"} & set(sys.modules))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory the Linux way")
def test_memory_does_not_grow_with_the_file_and_little_is_imported(
    tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    line = "the quick brown fox jumps over the lazy dog " * 200 + "\n"  # 8.8 kB
    for name, lines in (("small", 1_200), ("large", 5_200)):
        with (tmp_path / f"{name}.txt").open("w") as stream:
            stream.writelines(line for _ in range(lines))
    shown = subprocess.run(
        [sys.executable, "-c", PEAKS, str(tiny_checkpoints["encoder"])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert "5,200 texts were cut at 8 tokens" in shown.stderr
    assert np.load(tmp_path / "large.npy", mmap_mode="r").shape == (5_200, 32)
    small, large, needless = shown.stdout.splitlines()
    assert needless == "set()"
    # The large file has 35 MB more; what is in flight takes the same memory for both.
    assert int(large) - int(small) < 15_000


def test_a_closed_pipe_is_no_error(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text("the dog\n" * 3_000)
    with subprocess.Popen(
        [sys.executable, "-m", "ufbert", "infer", str(tiny_checkpoints["encoder"]), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"] == "the dog"
        process.stdout.close()
        assert "Error" not in process.stderr.read()


def test_real_files_of_every_kind(
    capsys: Capture, tmp_path: Path, shared_data: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    output = tmp_path / "r.parquet"
    file = shared_data / "glue" / "rte" / "validation.parquet"
    columns = ("--text-column", "sentence1", "--pair-column", "sentence2", "--id-column", "idx")
    infer(capsys, tiny_checkpoints["classifier"], file, *columns, "-o", output)
    assert pq.read_table(output)["idx"].to_pylist() == pq.read_table(file)["idx"].to_pylist()
