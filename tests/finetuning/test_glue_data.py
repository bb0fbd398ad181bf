"""GLUE folders in the forms they are handed around in, and the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.errors import DataError
from ufbert.finetuning.classification_data import load_task_data
from ufbert.finetuning.request import DataRequest
from ufbert.finetuning.task_data import TaskData
from ufbert.finetuning.tasks import GLUE


def load(task: str, folder: Path | None) -> TaskData:
    return load_task_data(DataRequest(task=task, data=folder))


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def parquet(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


SST2: dict[str, Any] = {"sentence": ["bad", "good"], "label": [0, 1], "idx": [0, 1]}


@pytest.mark.parametrize("inside", ["", "sst2", "SST-2"])
def test_the_folder_is_the_tasks_own_or_its_parent(tmp_path: Path, inside: str) -> None:
    parquet(tmp_path / inside / "train.parquet", SST2)
    parquet(tmp_path / inside / "validation.parquet", SST2)
    data = load("sst2", tmp_path)
    assert (data.name, data.label_names) == ("glue/sst2", ("negative", "positive"))
    assert data.train.texts == ["bad", "good"]
    assert data.train.labels.tolist() == [0, 1]
    assert data.notes == ()


def test_shards_are_joined_and_complete_files_come_before_subsets(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00000-of-00002.parquet", SST2)
    parquet(tmp_path / "train-00001-of-00002.parquet", SST2)
    parquet(tmp_path / "train_10.parquet", {"sentence": ["subset"], "label": [0]})
    parquet(tmp_path / "validation-00000-of-00001.parquet", SST2)
    data = load("sst2", tmp_path)
    assert data.train.texts == ["bad", "good", "bad", "good"]
    assert data.notes == ()


def test_a_subset_is_used_and_said_to_be_one(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"premise": ["p", "q"], "hypothesis": ["h", "i"], "label": [0, 2]}
    for name in ("train_10k", "validation_matched_1k", "validation_mismatched_1k"):
        parquet(tmp_path / "mnli" / f"{name}.parquet", columns)
    data = load("mnli", tmp_path)
    assert [split.name for split in data.validation] == ["validation_matched", "validation_mismatched"]
    assert data.validation[1].source == "validation_mismatched_1k.parquet"
    assert data.notes == (
        "train_10k.parquet, validation_matched_1k.parquet, validation_mismatched_1k.parquet: subsets, "
        "so the scores are not comparable with published ones",
    )
    parquet(tmp_path / "mnli" / "train_5k.parquet", columns)
    with pytest.raises(DataError, match=r"several subsets could be the train split: train_10k.parquet, train_5k"):
        load("mnli", tmp_path)


def test_class_names_of_metadata_decide_the_numbering(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    parquet(tmp_path / "train.parquet", columns, ["not_entailment", "entailment"])
    parquet(tmp_path / "validation.parquet", columns, ["entailment", "not_entailment"])
    data = load("rte", tmp_path)
    assert data.label_names == ("not_entailment", "entailment")
    assert data.train.labels.tolist() == [0, 1]
    assert data.validation[0].labels.tolist() == [1, 0]
    parquet(tmp_path / "train.parquet", columns, ["yes", "no"])
    with pytest.raises(DataError, match="the file's classes are yes, no, those of glue/rte are entailment, not_enta"):
        load("rte", tmp_path)


TSV = {
    "sst2": ("sentence\tlabel\n", "it 's \"fine\t1\n", "positive"),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", '1\t7\t8\tHe "said\tShe said\n', "equivalent"),
    "rte": ("index\tsentence1\tsentence2\tlabel\n", "0\tA.\tB.\tnot_entailment\n", "not_entailment"),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n", "0\tA.\tB.\t1\n", "entailment"),
    "qnli": ("index\tquestion\tsentence\tlabel\n", "0\tWho?\tB.\tentailment\n", "entailment"),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n", "0\t1\t2\tA?\tB?\t1\n", "duplicate"),
}


@pytest.mark.parametrize("task", TSV)
def test_glues_own_tsv_files(tmp_path: Path, task: str) -> None:
    header, row, label = TSV[task]
    other = {"1": "0", "not_entailment": "entailment", "entailment": "not_entailment"}
    fields = row.rstrip("\n").split("\t")
    place = 0 if task == "mrpc" else -1
    second = [*fields]
    second[place] = other[fields[place]]
    content = header + row + "\t".join(second) + "\n"
    for name in ("train", "dev"):
        write(tmp_path / GLUE[task].folder / f"{name}.tsv", content)
    data = load(task, tmp_path)
    assert data.label_names == GLUE[task].labels
    assert data.label_names is not None
    assert data.label_names[int(data.validation[0].labels[0])] == label
    assert data.train.texts[0] == {"sst2": "it 's \"fine", "mrpc": 'He "said', "qnli": "Who?", "qqp": "A?"}.get(
        task, "A."
    )
    assert (data.train.pairs is None) == (task == "sst2")


def test_colas_own_tsv_has_no_header_and_huggingfaces_has(tmp_path: Path) -> None:
    rows = "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThem \"went.\n"
    write(tmp_path / "CoLA" / "train.tsv", rows)
    write(tmp_path / "CoLA" / "dev.tsv", "sentence\tlabel\nGo.\t1\n")
    data = load("cola", tmp_path)
    assert data.train.texts == ["Our friends won't buy this.", 'Them "went.']
    assert data.train.labels.tolist() == [1, 0]
    assert data.validation[0].texts == ["Go."]


def test_stsb_and_mnli_tsv(tmp_path: Path) -> None:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    for name in ("train", "dev"):
        write(tmp_path / "STS-B" / f"{name}.tsv", header + "0\tg\tf\t2012\t1\tn\tn\tA.\tB.\t4.25\n" * 2)
    data = load("stsb", tmp_path)
    assert data.regression
    assert data.train.labels.tolist() == [4.25, 4.25]
    header = "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(
            tmp_path / "MNLI" / f"{name}.tsv", header + f"0\tA {name}\tB\tneutral\tcontradiction\n0\tC\tD\tx\tneutral\n"
        )
    data = load("mnli", tmp_path)
    assert [split.texts[0] for split in data.validation] == ["A dev_matched", "A dev_mismatched"]
    assert data.train.labels.tolist() == [2, 1]


def test_a_malformed_tsv_row_is_left_out_and_named(tmp_path: Path) -> None:
    good = "it is fine\t1\nit is not\t0\n"
    write(tmp_path / "train.tsv", "sentence\tlabel\n" + good + "no tab here\n")
    write(tmp_path / "dev.tsv", "sentence\tlabel\n" + good)
    data = load("sst2", tmp_path)
    assert len(data.train) == 2
    assert data.notes[0].startswith("1 malformed row(s) left out, the first: ")
    assert "train.tsv:4: 1 tab-separated fields" in data.notes[0]
    write(tmp_path / "train.tsv", "sentence\tlabel\n" + good + "no tab here\n" * 2)
    with pytest.raises(DataError, match=r"train.tsv:4: 1 tab-separated fields"):
        load("sst2", tmp_path)


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder; --data takes the folder of the task's files"):
        load("rte", tmp_path / "absent")
    write(tmp_path / "notes.txt", "")
    with pytest.raises(
        DataError, match=r"no file of the train split of glue/rte there \(such as train.parquet or .*notes"
    ):
        load("rte", tmp_path)
    parquet(tmp_path / "train.parquet", {"sentence": ["a"], "label": [1]})
    parquet(tmp_path / "validation.parquet", {"sentence": ["a"], "label": [1]})
    with pytest.raises(DataError, match=r"train.parquet: no column 'sentence1'; it has: sentence, label"):
        load("rte", tmp_path)
    parquet(tmp_path / "train.parquet", SST2)
    parquet(tmp_path / "validation.parquet", {"sentence": ["a"], "label": [-1]})
    with pytest.raises(DataError, match=r"validation.parquet:1: label -1 is not among the training classes \(negative"):
        load("sst2", tmp_path)


def test_the_hub_without_a_network_offers_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr("ufbert.text.hub._problem", lambda repository: (None, None))
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        load("rte", None)
    assert str(caught.value) == (
        "glue/rte cannot be loaded: Couldn't reach 'nyu-mll/glue' on the Hub; "
        "check the network, or give the task's files by --data DIR"
    )


def test_the_hubs_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, configuration: str, split: str) -> Any:
        asked.append((name, configuration, split))
        features = datasets.Features(
            question=datasets.Value("string"),
            sentence=datasets.Value("string"),
            label=datasets.ClassLabel(names=["entailment", "not_entailment"]),
        )
        rows = {"question": ["a", "b"], "sentence": ["c", "d"], "label": [1, 0]}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr("ufbert.text.hub._problem", lambda repository: (None, None))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load("qnli", None)
    assert asked == [("nyu-mll/glue", "qnli", "train"), ("nyu-mll/glue", "qnli", "validation")]
    assert (data.train.texts, data.train.pairs, data.train.labels.tolist()) == (["a", "b"], ["c", "d"], [1, 0])
    assert data.train.source == "nyu-mll/glue qnli train"


@pytest.mark.parametrize("task", GLUE)
def test_the_development_data_is_read(shared_data: Path, task: str) -> None:
    if task == "sst2":
        pytest.skip("67,349 rows take a second and show nothing more")
    data = load(task, shared_data / "glue")
    assert len(data.train) >= 600
    assert data.label_names == GLUE[task].labels
