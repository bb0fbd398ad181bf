"""Entities of texts: as transformers' pipeline finds them, over windows, and through the command line."""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ufbert import Pipeline, UltraFastBertConfig, UltraFastBertForTokenClassification
from ufbert.commands.app import main
from ufbert.errors import ConfigError, DataError
from ufbert.inference.aggregation import Entity, aggregate, continue_words
from ufbert.settings.inference import AGGREGATIONS
from ufbert.text.tokenization import train_tokenizer

TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
SENTENCES = [
    "Anna Smith lives in New York, not in Paris!",
    "The old fox sleeps near the river; Peter doesn't.",
    "Mrs. O'Neill-Brown (aged 42) moved to Saint-Denis.",
]
TEXTS = [
    *SENTENCES,
    "Élodie Müller a déménagé à São Paulo … «hier».",
    "e\u0301clair \u4e1c\u4eac unknownish 日本 and \U0001f600 smile",
    "  spaces   and\ttabs Anna  ",
    "",
    "[SEP] Anna [MASK] [UNK] Smith",
]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tagger of trees that gives tags of all kinds, with a tokenizer that knows few words."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("tagger") / "model"
    tokenizer = train_tokenizer(SENTENCES * 3, 150, min_frequency=2)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, depth=3, initializer_range=0.4, num_labels=6, id2label=TAGS,
    )  # fmt: skip
    UltraFastBertForTokenClassification(config).save_pretrained(folder, tokenizer=tokenizer)
    return folder


def entities(folder: Path, texts: list[str], **options: Any) -> list[list[dict[str, Any]]]:
    return [r["entities"] for r in Pipeline(folder, precision="float32", **options)(texts) if isinstance(r, dict)]


def infer(capsys: Capture, *arguments: object, code: int = 0) -> tuple[list[Any], str]:
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, arguments)])
    shown = capsys.readouterr()
    assert (end.value.code or 0) == code, shown.err
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


def of_transformers(folder: Path, strategy: str) -> Any:
    transformers = pytest.importorskip("transformers")
    import ufbert.hf  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    return transformers.pipeline("token-classification", model=str(folder), aggregation_strategy=strategy)


def assert_alike(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], text: str) -> None:
    for own, other in zip(mine, theirs, strict=True):
        assert own["label"] == other.get("entity_group", other.get("entity"))
        assert own["score"] == pytest.approx(float(other["score"]), abs=1e-4)
        piece = text[other["start"] : other["end"]]
        assert own["text"] == (piece.strip() or piece) == text[own["start"] : own["end"]]
        assert other["start"] <= own["start"] <= own["end"] <= other["end"]


@pytest.mark.parametrize("strategy", AGGREGATIONS)
def test_entities_are_those_of_transformers_pipeline(strategy: str, tagger: Path) -> None:
    reference = of_transformers(tagger, strategy)
    got = entities(tagger, TEXTS, aggregation=strategy)
    assert sum(map(len, got)) > 20
    for text, mine in zip(TEXTS, got, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = reference(text) if text else []
        assert_alike(mine, theirs, text)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("strategy", AGGREGATIONS)
def test_vocabularies_that_hold_the_space_before_a_word(strategy: str, kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer: Any
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
        tokenizer.train_from_iterator(SENTENCES, trainer)
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
        tokenizer.train_from_iterator(SENTENCES * 3, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=160, feedforward="dense", intermediate_size=32, initializer_range=0.4,
        num_labels=6, id2label=TAGS,
    )  # fmt: skip
    folder = tmp_path / "model"
    UltraFastBertForTokenClassification(config).save_pretrained(folder, tokenizer=tokenizer)
    reference = of_transformers(folder, strategy)
    texts = TEXTS[:5]
    for text, mine in zip(texts, entities(folder, texts, aggregation=strategy), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_alike(mine, reference(text), text)
        assert all(entity["text"] == entity["text"].strip() or not entity["text"].strip() for entity in mine)


def test_the_rules_of_each_aggregation() -> None:
    text = "micro soft"
    names = ["O", "B-A", "I-A", "I-B"]
    offsets = [(0, 2), (2, 5), (6, 8), (8, 10)]
    rows = np.array([[0, 0.6, 0, 0.4], [0, 0.1, 0, 0.9], [0.1, 0, 0.9, 0], [0.8, 0, 0.2, 0]], dtype=np.float32)
    going_on = continue_words(text, ["mi", "##cro", "so", "##ft"], offsets, [False] * 4, prefixed=True)
    assert going_on == [False, True, False, True]
    assert continue_words(text, ["mi", "cro", " so", "ft"], offsets, [False] * 4, prefixed=False) == going_on
    assert continue_words(text, ["mi", "[UNK]", "so", "##ft"], offsets, [False, True, False, False], prefixed=True) == [
        False, False, False, True,
    ]  # fmt: skip

    def found(strategy: str) -> list[tuple[str, float, int, int]]:
        made = aggregate(rows, offsets, going_on, names, strategy)
        assert all(isinstance(entity, Entity) for entity in made)
        return [(e.label, round(e.score, 3), e.start, e.end) for e in made]

    assert found("none") == [("B-A", 0.6, 0, 2), ("I-B", 0.9, 2, 5), ("I-A", 0.9, 6, 8)]
    assert found("simple") == [("A", 0.6, 0, 2), ("B", 0.9, 2, 5), ("A", 0.9, 6, 8)]
    assert found("first") == [("A", 0.75, 0, 10)]
    assert found("average") == [("B", 0.65, 0, 5), ("A", 0.55, 6, 10)]
    assert found("max") == [("B", 0.9, 0, 5), ("A", 0.9, 6, 10)]


def test_precisions_agree_and_batches_do_not_matter(tagger: Path) -> None:
    exact = Pipeline(tagger, precision="float32", aggregation="none")(TEXTS)
    alone = [r for text in TEXTS for r in Pipeline(tagger, precision="float32", aggregation="none")([text])]
    for one, other in zip(exact, alone, strict=True):
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        assert [e["label"] for e in one["entities"]] == [e["label"] for e in other["entities"]]
    for precision in ("bfloat16", "int8"):
        rough = Pipeline(tagger, precision=precision, aggregation="none")(TEXTS)
        same = total = 0
        for one, other in zip(exact, rough, strict=True):
            assert isinstance(one, dict)
            assert isinstance(other, dict)
            theirs = {e["start"]: e["label"] for e in other["entities"]}
            same += sum(theirs.get(e["start"]) == e["label"] for e in one["entities"])
            total += len(one["entities"])
        assert same > 0.85 * total, precision


def test_long_texts_are_read_whole_in_windows(tagger: Path) -> None:
    text = " ".join(SENTENCES * 8)
    whole = entities(tagger, [text], aggregation="none", max_length=32, stride=12)[0]
    assert whole[-1]["end"] > len(text) - 30  # nothing is cut
    starts = [e["start"] for e in whole]
    assert starts == sorted(set(starts))  # where windows overlap, a token counts once
    cut = entities(tagger, [text], aggregation="none", max_length=32, long_text="truncate")[0]
    assert cut[-1]["end"] < len(text) / 4
    # Each token has what the window with most of the text around it says.
    pipeline = Pipeline(tagger, precision="float32")
    encoding = pipeline.tokenizer.encode(text, add_special_tokens=False)
    model = UltraFastBertForTokenClassification.from_pretrained(tagger)
    cls, sep = (pipeline.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    size, expected = 30, {}
    spans = [(a, min(a + size, len(encoding))) for a in range(0, len(encoding) - 12, size - 12)]
    for token, (start, _) in enumerate(encoding.offsets):
        a, b = max(
            (s for s in spans if s[0] <= token < s[1]), key=lambda s: (min(token - s[0], s[1] - 1 - token), -s[0])
        )
        with torch.no_grad():
            scores = model(torch.tensor([[cls, *encoding.ids[a:b], sep]])).logits[0, 1 + token - a].softmax(0)
        if TAGS[int(scores.argmax())] != "O":
            expected[start] = (TAGS[int(scores.argmax())], pytest.approx(float(scores.max()), abs=1e-4))
    assert {e["start"]: (e["label"], e["score"]) for e in whole} == expected


def test_the_command_finds_entities_and_writes_them_to_every_format(
    capsys: Capture, tagger: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "body": t}) + "\n" for i, t in enumerate(TEXTS)))
    options = ("--text-column", "body", "--id-column", "id", "--precision", "float32", "--aggregation", "first")
    rows, said = infer(capsys, tagger, tmp_path / "in.jsonl", *options)
    assert said.startswith("tag with ")
    expected = entities(tagger, TEXTS, aggregation="first")
    assert [row["entities"] for row in rows] == expected
    assert [row["body"] for row in rows] == TEXTS
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        infer(capsys, tagger, tmp_path / "in.jsonl", *options, "--task", "tag", "--output", tmp_path / name)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [json.loads(row["entities"]) for row in csv.DictReader(file)] == expected
    assert pq.read_table(tmp_path / "out.parquet").column("entities").to_pylist() == expected
    assert [json.loads(line)["entities"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected


def test_parquet_without_any_entity_has_the_types_of_one_with(
    capsys: Capture, tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = UltraFastBertForTokenClassification.from_pretrained(tagger)
    with torch.no_grad():
        silent.tagger.scores.bias[0] += 1000  # O, whatever the text
    silent.save_pretrained(tmp_path / "silent", tokenizer=Pipeline(tagger).tokenizer)
    (tmp_path / "in.txt").write_text("\n".join(SENTENCES) + "\n")
    for folder, name in ((tagger, "some"), (tmp_path / "silent", "none")):
        infer(capsys, folder, tmp_path / "in.txt", "--output", tmp_path / f"{name}.parquet")
    some, none = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("some", "none"))
    assert none.column("entities").to_pylist() == [[], [], []]
    assert none.schema == some.schema
    assert none.schema.names == ["text", "entities"]
    # Standard input, which cannot be read twice, takes another way.
    stream = io.TextIOWrapper(io.BytesIO((tmp_path / "in.txt").read_bytes()))
    monkeypatch.setattr("sys.stdin", stream)
    infer(capsys, tmp_path / "silent", "-", "--output", tmp_path / "piped.parquet")
    assert pq.read_table(tmp_path / "piped.parquet").schema == some.schema


def test_an_interrupted_run_goes_on(
    capsys: Capture, tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ufbert.inference.tag import Tag

    lines = [text.replace("\t", " ") for text in TEXTS if text] * 30
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.jsonl"
    command = (tagger, tmp_path / "in.txt", "--precision", "float32", "--batch-size", 4, "--output", out)
    finish, calls = Tag.finish, 0

    def failing(self: Tag, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return finish(self, *arguments)

    monkeypatch.setattr(Tag, "finish", failing)
    _, said = infer(capsys, *command, code=130)
    assert "results are kept in" in said
    monkeypatch.setattr(Tag, "finish", finish)
    _, said = infer(capsys, *command, "--resume", "--aggregation", "max", code=1)
    assert "was made with aggregation simple, not max" in said
    _, said = infer(capsys, *command, "--resume")
    assert "going on after " in said
    assert [json.loads(line)["entities"] for line in out.read_text().splitlines()] == entities(tagger, lines)


def test_mistakes(capsys: Capture, tagger: Path, tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "Anna", "b": "Smith"}\n')
    for arguments, message in (
        ((tagger, "--aggregation", "last"), "aggregation must be one of none, simple, first, average, max, not 'last'"),
        ((tagger, "--top-k", "3"), "top_k is an option of the task fill-mask; the task here is tag"),
        ((tagger, "--pair-column", "b"), "pair_column 'b': the task tag takes single texts; leave it out"),
        ((tagger, "--long-text", "truncate", "--stride", "3"), "stride is an option of long_text 'window'"),
        (
            (tagger, "--task", "classify"),
            "holds an UltraFastBertForTokenClassification, which has no head for classify",
        ),
        ((tagger, "--output", tmp_path / "x.npy"), ".npy holds embeddings only; write .jsonl, .csv or .parquet"),
        (
            (tiny_checkpoints["encoder"], "--task", "tag"),
            f"finetune it first: ufbert finetune {tiny_checkpoints['encoder']} --task tag --train FILE",
        ),
        (
            (tiny_checkpoints["classifier"], "--aggregation", "max"),
            "aggregation is an option of the task tag; the task here is classify",
        ),
    ):
        folder, *more = arguments
        _, said = infer(capsys, folder, tmp_path / "in.jsonl", *more, code=1)
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert message in line
    with pytest.raises(DataError, match=r"texts\[0\]: is a pair of texts; the task tag takes single ones"):
        Pipeline(tagger)([("a", "b")])
    with pytest.raises(ConfigError, match="aggregation must be one of none, simple"):
        Pipeline(tagger, aggregation="last")
