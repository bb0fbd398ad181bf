"""`ufbert finetune --task tag` from end to end: a tagger learns, is reported, runs, and mistakes are one line each."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ufbert import Pipeline, UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertForTokenClassification
from ufbert.commands.app import main
from ufbert.text.tokenization import train_tokenizer

Finetune = Callable[..., tuple[int, str]]
PEOPLE = ["Anna Smith", "Peter", "Maria", "John Miller"]
PLACES = ["Rome", "New York", "Paris", "Oslo"]
FORMS = ["{p} lives in {c} .", "In {c} we met {p} today .", "{p} and {q} left {c} .", "The train to {c} was late ."]


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sentences of people and places with their tags in IOB2."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for word in FORMS[int(draw.integers(len(FORMS)))].split():
            kind = {"{p}": "PER", "{q}": "PER", "{c}": "LOC"}.get(word)
            parts = [word] if kind is None else str(draw.choice(PLACES if kind == "LOC" else PEOPLE)).split()
            words += parts
            tags += ["O"] if kind is None else [f"{'I' if place else 'B'}-{kind}" for place in range(len(parts))]
        made.append((words, tags))
    return made


def write_columns(path: Path, rows: list[tuple[list[str], list[str]]]) -> None:
    blocks = ["".join(f"{word}\t{tag}\n" for word, tag in zip(*row, strict=True)) for row in rows]
    path.write_text("\n".join(blocks), encoding="utf-8")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_tokenizer([" ".join(words) for words, _ in sentences(100, 9)], 120, min_frequency=1)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, depth=3,
    )  # fmt: skip
    UltraFastBertForMaskedLM(config).save_pretrained(folder, tokenizer=tokenizer)
    return folder


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> Finetune:
    """Run `ufbert finetune CHECKPOINT --task tag ...` among `train.conll` and `v.jsonl`."""
    write_columns(tmp_path / "train.conll", sentences(160, 1))
    rows = [{"tokens": words, "ner_tags": tags} for words, tags in sentences(40, 2)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)

    def finetune(*arguments: str, checkpoint: str | Path = model_folder) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["finetune", str(checkpoint), "--task", "tag", "--device", "cpu", *arguments])
        return int(exited.value.code or 0), capsys.readouterr().err

    return finetune


FILES = ("--train", "train.conll", "--validation", "v.jsonl")
LEARN = ("--learning-rate", "0.01", "--set", "finetuning.precision=float32")


def test_a_tagger_learns_is_reported_and_runs(run: Finetune, tmp_path: Path) -> None:
    code, shown = run(*FILES, *LEARN, "--out", "out", "--epochs", "4")
    assert code == 0, shown
    lines = shown.splitlines()
    assert lines[0] == (
        "train: 160 training rows of train.conll, validation 40 of v.jsonl; tags O, B-LOC, B-PER, I-LOC, I-PER"
    )
    assert ": new head for 5 tags: the checkpoint has none; 40 steps on cpu in float32" in lines[1]
    assert "baseline: O for every word" in shown
    assert "…" not in shown  # the table fits into 80 columns
    records = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if record["event"] == "epoch"]
    best = max(epochs, key=lambda record: (record["headline"], -record["validation_loss"]))
    assert best["scores"]["validation"]["F1"] > 0.95
    assert set(best["scores"]["validation"]) == {"F1", "precision", "recall", "accuracy"}
    assert f"saved to out: epoch {best['epoch']}, the best of 4 by F1" in shown
    assert records[0]["classes"] == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    card = (tmp_path / "out/README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "--task tag --device cpu --train train.conll --validation v.jsonl" in card
    assert "| type | precision | recall | F1 | entities |" in card
    with (tmp_path / "out/entities.csv").open(newline="") as file:
        table = {row["type"]: row for row in csv.DictReader(file)}
    wanted = [tag for _, tags in sentences(40, 2) for tag in tags]
    assert {kind: int(row["entities"]) for kind, row in table.items()} == {
        kind: wanted.count(f"B-{kind}") for kind in ("LOC", "PER")
    }
    model = UltraFastBertForTokenClassification.from_pretrained("out")
    assert model.config.id2label == dict(enumerate(["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]))
    text = "Anna Smith and Peter left New York ."
    (result,) = Pipeline("out", precision="float32", aggregation="first")([text])
    assert isinstance(result, dict)
    assert [(e["label"], e["text"]) for e in result["entities"]] == [
        ("PER", "Anna Smith"), ("PER", "Peter"), ("LOC", "New York"),
    ]  # fmt: skip

    # The same tags in another order go on with the head.
    code, shown = run("--train", "v.jsonl", "--validation", "v.jsonl", *LEARN, "--epochs", "1", checkpoint="out")
    assert code == 0, shown
    assert "out: goes on with the checkpoint's head for 5 tags" in shown
    assert "saved to runs/finetune-v: " in shown
    write_columns(tmp_path / "other.tsv", [(["a", "b"], ["O", "X"])] * 20)
    code, shown = run("--train", "other.tsv", "--epochs", "1", checkpoint="out")
    assert "new head for 2 tags: the checkpoint's is for O, B-LOC, B-PER, I-LOC, I-PER, not O, X" in shown
    assert "note: 2 of 20 rows of other.tsv, drawn with seed 0, are held out for validation" in shown


def test_sentences_beyond_the_models_length_are_read_in_windows(run: Finetune, tmp_path: Path) -> None:
    long = [
        ([w for words, _ in sentences(12, seed) for w in words], [t for _, tags in sentences(12, seed) for t in tags])
        for seed in range(20)
    ]
    write_columns(tmp_path / "long.bio", long)
    write_columns(tmp_path / "long-v.bio", long[:4])
    code, shown = run("--train", "long.bio", "--validation", "long-v.bio", *LEARN, "--out", "out", "--epochs", "5")
    assert code == 0, shown
    assert "note: 24 of 24 rows are read in overlapping windows of 24 tokens" in shown
    records = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert max(r["scores"]["validation"]["F1"] for r in records if r["event"] == "epoch") > 0.9  # no word is cut
    with (tmp_path / "out/entities.csv").open(newline="") as file:
        counted = sum(int(row["entities"]) for row in csv.DictReader(file))
    assert counted == sum(tag.startswith("B-") for _, tags in long[:4] for tag in tags)


def test_the_saved_figures_are_those_of_the_saved_model(run: Finetune, tmp_path: Path) -> None:
    """Tags of `infer` over the joined words, word by word, give the accuracy that the card has."""
    code, shown = run(*FILES, "--learning-rate", "0.003", "--set", "finetuning.precision=float32", "--epochs", "1",
                      "--set", "finetuning.class_weights=balanced", "--out", "out")  # fmt: skip
    assert code == 0, shown
    records = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    (accuracy,) = [r["scores"]["validation"]["accuracy"] for r in records if r["event"] == "epoch"]
    assert accuracy < 1.0
    pipeline = Pipeline("out", precision="float32", aggregation="none")
    right = total = 0
    rows = sentences(40, 2)
    for (words, tags), result in zip(rows, pipeline([" ".join(words) for words, _ in rows]), strict=True):
        assert isinstance(result, dict)
        by_start = {entity["start"]: entity["label"] for entity in result["entities"]}
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        right += sum(by_start.get(int(start), "O") == tag for start, tag in zip(starts, tags, strict=False))
        total += len(tags)
    assert right / total == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--task tag learns from your own words and tags; give --train FILE"),
        (("--train", "train.conll", "--pair-column", "b"), "--pair-column does not go with --task tag; leave it out"),
        (("--train", "train.conll", "--no-header"), "--no-header does not go with --task tag; leave it out"),
        (("--train", "train.conll", "--regression"), "leave them out of --task tag"),
        (("--train", "train.conll", "--predict", "test"), "--predict writes what the GLUE server takes"),
        (("--train", "train.conll", "--data", "x"), "--data does not go with --task tag"),
        (("--train", "train.conll", "--seeds", "1,2"), "--seeds goes with --task glue; a single run has --seed"),
        (("--train", "none.conll"), "none.conll: no such file or folder; check the path"),
        (("--train", "bad.jsonl"), "bad.jsonl:2: 3 words but 2 tags; give each word one tag, or remove the row"),
        (
            ("--train", "train.conll", "--validation", "unknown.conll"),
            "unknown.conll:1: the tag 'B-ORG' of 'Acme' is not among the training tags (O, B-LOC, B-PER, I-LOC, I-PER)",
        ),
        (("--train", "v.jsonl", "--text-column", "words"), "v.jsonl:1: no column 'words'; it has: tokens, ner_tags"),
        (
            (*FILES, "--set", "finetuning.class_weights=[1, 2]"),
            "finetuning.class_weights has 2 weights, the data 5 tags (O, B-LOC, B-PER, I-LOC, I-PER)",
        ),
        ((*FILES, "--validation-fraction", "0.5"), "give --validation or --validation-fraction, not both"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str, run: Finetune, tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a", "b", "c"], "tags": ["O", "B-X"]}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "unknown.conll").write_text("Acme B-ORG\n")
    code, shown = run(*arguments)
    assert code == 1
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1
    assert message in shown
    assert not (tmp_path / "runs").exists()


def test_bad_rows_are_skipped_if_asked(run: Finetune, tmp_path: Path) -> None:
    text = (tmp_path / "train.conll").read_text()
    (tmp_path / "train.conll").write_text(f"lonely\n\n{text}")
    code, shown = run(*FILES, "--skip-bad", "--epochs", "1", "--out", "out")
    assert code == 0, shown
    assert "skipped: train.conll:1: 'lonely' is not a word and its tag" in shown
    assert "train.conll: 1 bad rows were skipped" in shown
    assert "train: 160 training rows" in shown
