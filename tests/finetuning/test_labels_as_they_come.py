"""Labels as tables have them: missing under many names, negative, whole numbers with a decimal point; odd files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_finetuning import write_checkpoint

from ufbert.commands.app import main
from ufbert.errors import ConfigError, DataError
from ufbert.finetuning.classification_data import load_task_data
from ufbert.finetuning.request import DataRequest
from ufbert.finetuning.task_data import TaskData


def write(path: Path, labels: list[Any]) -> str:
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(train: str, validation: str | None = None, **options: Any) -> TaskData:
    return load_task_data(DataRequest(train=train, validation=validation or train, **options))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("missing", ["-", " - ", "", "nan", "NaN", "None", "null", "<NA>", None])
def test_a_label_that_stands_for_none_is_refused_or_left_out(tmp_path: Path, missing: str | None, suffix: str) -> None:
    train = write(tmp_path / f"t{suffix}", ["yes", "no", missing, "yes"])
    row = {".csv": 4, ".jsonl": 3}.get(suffix, 3)
    with pytest.raises(DataError) as caught:
        load(train)
    assert f"t{suffix}:{row}: 'label' is " in str(caught.value)
    assert str(caught.value).endswith(
        "give the row a label or remove it, or leave out such rows of your own files by --skip-unlabelled"
    )
    data = load(train, skip_unlabelled=True)
    assert (data.label_names, data.train.texts) == (("no", "yes"), ["text 0", "text 1", "text 3"])
    assert data.notes[0] == f"1 of 4 rows of t{suffix} have no label and are left out"


def test_nan_among_numbers_is_no_value(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        train = write(tmp_path / f"t{suffix}", [1.0, float("nan"), 0.0])
        with pytest.raises(DataError, match=f"t{suffix}:2: 'label' is nan, which stands for none"):
            load(train)
        assert load(train, skip_unlabelled=True).label_names == ("0", "1")


@pytest.mark.parametrize(
    "labels", [[0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], ["0.0", "1.0", "1.0", "0.0"], ["0", "+1", 1, 0.0]]
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_whole_numbers_are_classes_however_they_are_written(tmp_path: Path, labels: list[Any], suffix: str) -> None:
    data = load(write(tmp_path / f"t{suffix}", labels), write(tmp_path / "v.jsonl", [0, 1]))
    assert data.label_names == ("0", "1")
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.validation[0].labels.tolist() == [0, 1]
    assert load(write(tmp_path / f"t{suffix}", labels), regression=True).train.labels.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_fractions_and_many_whole_numbers_are_values(tmp_path: Path) -> None:
    for labels in ([0.0, 1.0, 0.5], [float(n) for n in range(30)], [-3.0, 0.0, 3.0], ["1.0", "2.5"]):
        assert load(write(tmp_path / "t.csv", labels)).regression
    note = "labels are whole numbers: classes (--regression makes them values)"
    assert note in load(write(tmp_path / "t.jsonl", [1.0, 2.0])).notes


@pytest.mark.parametrize("labels", [[-1, 1, 1], ["-1", "+1", "1"], [-1.0, 1.0, 1.0]])
@pytest.mark.parametrize("skip", [False, True])
def test_minus_one_and_one_are_classes(tmp_path: Path, labels: list[Any], skip: bool) -> None:
    data = load(write(tmp_path / "t.jsonl", labels), write(tmp_path / "v.csv", [1]), skip_unlabelled=skip)
    assert (data.label_names, data.train.labels.tolist()) == (("-1", "1"), [0, 1, 1])
    for other in (0, 2, "a"):
        with pytest.raises(DataError, match=r"t.jsonl:1: label .*-1.* is negative, which marks a row without a label"):
            load(write(tmp_path / "t.jsonl", [*labels, other]))


def test_negative_classes_of_a_file_that_names_its_classes_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"], "label": [1, -1, 0]})
    feature = {"names": ["no", "yes"], "_type": "ClassLabel"}
    features = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(features), tmp_path / "t.parquet")
    data = load(str(tmp_path / "t.parquet"))
    assert (data.label_names, data.train.texts, data.train.labels.tolist()) == (("no", "yes"), ["a", "c"], [1, 0])
    assert data.notes[0] == "1 of 3 rows of t.parquet have no label and are left out"


def test_options_of_files_reach_training_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model")
    rows = "".join(f"{number};the film, was café;{number % 2}.0\n" for number in range(40))
    (tmp_path / "t.csv").write_bytes((rows + "broken row\n41;the film;-\n;;\n").encode("latin-1"))
    columns = ["--text-column", "2", "--label-column", "3", "--no-header", "--encoding", "latin-1"]
    asked = ["--train", "t.csv", *columns, "--skip-bad", "--skip-unlabelled", "--epochs", "1", "--out", "out"]
    with pytest.raises(SystemExit) as end:
        main(["finetune", "model", *asked, "--device", "cpu", "--delimiter", "semicolon"])
    said = capsys.readouterr().err
    assert not end.value.code, said
    assert "skipped: t.csv:41: 1 semicolon-separated fields, but the file has 3 columns; mend the row" in said
    assert "t.csv: 1 bad rows were skipped" in said
    assert "1 of 41 rows of t.csv have no label and are left out" in said
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == {"0": "0", "1": "1"}
    for options, message in (
        ({"delimiter": ";", "train": "t.jsonl"}, "--delimiter is for csv, tsv and txt; none of the files is one"),
        ({"encoding": "klingon", "train": "t.csv"}, "--encoding 'klingon': no such encoding"),
    ):
        (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\n')
        with pytest.raises(ConfigError, match=message):
            load_task_data(DataRequest(**options))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--no-header goes with --train; a GLUE task has its own files"):
        DataRequest(task="rte", no_header=True)
