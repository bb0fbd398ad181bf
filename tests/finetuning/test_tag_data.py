"""Words and tags out of files of every kind, bad ones named by file and row, and tokens that carry the tags."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.checkpoint.word_piece import SPECIAL_TOKENS, bert_tokenizer
from ufbert.errors import ConfigError, DataError
from ufbert.finetuning.objective import tag_weights
from ufbert.finetuning.request import DataRequest
from ufbert.finetuning.tag_data import TagData, TagSplit, load_tag_data
from ufbert.finetuning.tag_sequences import encode_tagged, first_tokens

WORDS = [["Anna", "Smith", "left", "."], ["Rome", "!"]]
TAGS = [["B-PER", "I-PER", "O", "O"], ["B-LOC", "O"]]
NAMES = ("O", "B-LOC", "B-PER", "I-PER")
COLUMNS = "-DOCSTART- -X- O\n\nAnna NNP B-PER\nSmith NNP I-PER\nleft VBD O\n. . O\n\n\nRome NNP B-LOC\n! . O\n"


def load(train: Path, validation: Path | None = None, **options: Any) -> TagData:
    return load_tag_data(DataRequest(task="tag", train=str(train), validation=str(validation or train), **options))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(data: TagData) -> None:
    assert data.label_names == NAMES
    assert data.train.words == WORDS
    assert [[NAMES[t] for t in tags] for tags in data.train.tags] == TAGS
    assert data.pieces


def test_columns_with_blanks_and_tabs_and_comments(tmp_path: Path) -> None:
    for name in ("a.conll", "a.txt", "a.bio"):
        (tmp_path / name).write_text(COLUMNS)
        check(load(tmp_path / name))
    tabs = (
        COLUMNS.replace(" ", "\t").replace("Anna\t", "# id 4f2 domain=en\n# text = Anna\nAnna\t").replace("\n", "\r\n")
    )
    (tmp_path / "a.tsv").write_text("word\tpos\ttag\r\n" + tabs, newline="")
    check(load(tmp_path / "a.tsv"))
    (tmp_path / "b.conll.gz").write_bytes(gzip.compress(COLUMNS.encode()))
    check(load(tmp_path / "b.conll.gz"))
    (tmp_path / "c.tsv").write_text("New York\tB-LOC\n# 1\tO\n")
    assert load(tmp_path / "c.tsv").train.words == [["New York", "# 1"]]


def test_lists_under_their_usual_names_and_others(tmp_path: Path) -> None:
    for names in (("tokens", "ner_tags"), ("words", "tags"), ("tokens", "tags")):
        rows: list[dict[str, Any]] = [
            dict(zip(names, pair, strict=True), id=1) for pair in zip(WORDS, TAGS, strict=True)
        ]
        check(load(write_jsonl(tmp_path / "a.jsonl", rows)))
        (tmp_path / "a.json").write_text(json.dumps(rows))
        check(load(tmp_path / "a.json"))
    rows = [{"form": w, "ne": t} for w, t in zip(WORDS, TAGS, strict=True)] + [{"form": [], "ne": []}]
    data = load(write_jsonl(tmp_path / "a.jsonl", rows), text_column="form", label_column="ne")
    check(data)
    assert data.notes[0] == "1 of 3 rows of a.jsonl have no words"


def test_numbers_of_names_that_the_metadata_have(tmp_path: Path) -> None:
    own = ["O", "B-LOC", "B-PER", "I-PER"]
    numbers = [[own.index(tag) for tag in tags] for tags in TAGS]
    table = pa.table({"tokens": WORDS, "ner_tags": numbers})
    for kind in ("List", "Sequence"):
        feature = {"feature": {"names": own, "_type": "ClassLabel"}, "_type": kind}
        features = {"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}})}
        pq.write_table(table.replace_schema_metadata(features), tmp_path / "a.parquet")
        check(load(tmp_path / "a.parquet"))
    # the numbers of a file without names are those of the training file
    plain = write_jsonl(tmp_path / "v.jsonl", [{"tokens": ["Rome"], "ner_tags": [1]}])
    assert load(tmp_path / "a.parquet", plain).validation[0].tags[0].tolist() == [1]
    data = load(write_jsonl(tmp_path / "n.jsonl", [{"tokens": ["a", "b"], "tags": [10, 9]}]))
    assert data.label_names == ("9", "10")
    assert not data.pieces
    assert "the tags mark no pieces of text" in data.notes[0]


def test_what_hugging_face_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=list(NAMES))),
        }
    )
    numbers = [[NAMES.index(tag) for tag in tags] for tags in TAGS]
    rows = datasets.Dataset.from_dict({"tokens": WORDS, "ner_tags": numbers}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    check(load(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "f.jsonl:2: 2 words but 1 tags; give each word one tag, or remove"),
        ({"tokens": ["a"], "tags": None}, "f.jsonl:2: 'tags' is null, not a list; mend or remove the row"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "f.jsonl:2: 'tokens' is str a b, not a list"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "f.jsonl:2: word 2 is 3, not text"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, "f.jsonl:2: word 2, 'b', has no tag; give it one"),
        ({"tokens": ["a", "b"], "tags": ["O", " "]}, "f.jsonl:2: word 2, 'b', has no tag; give it one"),
        (
            {"tokens": ["a"], "tags": [["O"]]},
            "f.jsonl:2: the tag of word 1, 'a', is ['O'], neither a name nor a number",
        ),
        (
            {"tokens": ["a"], "tags": [-100]},
            "f.jsonl:2: the tag of word 1, 'a', is -100, which marks none; give it one",
        ),
        ({"tokens": ["a"]}, "f.jsonl:2: no column 'tags'; it has: tokens"),
    ],
)
def test_a_bad_row_is_named_or_skipped(
    row: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"tokens": WORDS[0], "tags": TAGS[0]}
    path = write_jsonl(tmp_path / "f.jsonl", [good, row])
    with pytest.raises(DataError) as error:
        load(path)
    assert message in str(error.value)
    assert len(load(path, skip_bad=True).train) == 1
    assert "f.jsonl: 1 bad rows were skipped" in capsys.readouterr().err


def test_bad_lines_of_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.conll"
    path.write_text(COLUMNS + "\nOh O\nlonely\nword O\n\nAnna B-PER\n")
    with pytest.raises(DataError, match=r"f.conll:13: 'lonely' is not a word and its tag with a tab or blanks between"):
        load(path)
    assert load(path, skip_bad=True).train.words == [*WORDS, ["Anna"]]
    path.write_bytes(COLUMNS.encode() + b"\nCaf\xe9 O\n")
    with pytest.raises(DataError, match=r"f.conll:12: byte 0xe9 at position 4 is not UTF-8"):
        load(path)
    assert load(path, encoding="latin-1").train.words[-1] == ["Café"]


def test_tags_unknown_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train.conll"
    train.write_text(COLUMNS)
    validation = tmp_path / "v.conll"
    validation.write_text("Rome B-LOC\n\nMonday B-DAY\n")
    with pytest.raises(DataError) as error:
        load(train, validation)
    assert str(error.value) == (
        f"{validation}:3: the tag 'B-DAY' of 'Monday' is not among the training tags (O, B-LOC, B-PER, I-PER); "
        "mend or remove the row"
    )
    assert load(train, validation, skip_bad=True).validation[0].words == [["Rome"]]
    assert "v.conll: 1 rows with unknown tags were skipped" in capsys.readouterr().err


def test_files_that_hold_no_tags(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("".join(f"word{i} said{i}\n" for i in range(60)))
    with pytest.raises(DataError, match=r"a.txt: 60 different tags on 60 words, such as 'said0'; the tag is the last"):
        load(text)
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"a.csv: unknown kind of file; tags are read from .jsonl .json .conll .bio"):
        load(tmp_path / "a.csv")
    (tmp_path / "e.conll").write_text("\n\n")
    with pytest.raises(DataError, match=r"e.conll: no sentence in it that can be used"):
        load(tmp_path / "e.conll")
    (tmp_path / "o.conll").write_text("a O\n\nb O\n")
    with pytest.raises(DataError, match=r"o.conll: all words of its 2 training rows are tagged 'O'; tagging needs"):
        load(tmp_path / "o.conll")
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(DataError, match=r"x.jsonl:1: no column 'tokens' or 'words'; give --text-column; it has: text"):
        load(path)


def test_a_scheme_that_infer_does_not_join_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Anna B-PER\nSmith E-PER\nleft O\nRome S-LOC\n")
    (note,) = load(path).notes
    assert note.startswith("only B- and I- are joined to whole entities by infer, as by transformers' pipeline")


def test_a_share_is_held_out_and_samples_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text((COLUMNS + "\n") * 20)
    data = load_tag_data(DataRequest(task="tag", train=str(path), max_train_rows=10), seed=3)
    assert (len(data.train), len(data.validation[0])) == (10, 4)
    assert "4 of 40 rows of a.conll, drawn with seed 3, are held out for validation" in data.notes[0]


def test_weights_of_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(COLUMNS)
    data = load(path)
    assert data.counts().tolist() == [3, 1, 1, 1]
    weights = tag_weights(data, "balanced")
    assert weights is not None
    np.testing.assert_allclose(weights, [0.5, 1.5, 1.5, 1.5])
    with pytest.raises(ConfigError, match=r"has 2 weights, the data 4 tags \(O, B-LOC, B-PER, I-PER\)"):
        tag_weights(data, (1.0, 2.0))


def test_the_first_token_of_a_word_is_found_by_characters() -> None:
    words = ["Anna", "", "O'Neill", "x"]  # Anna.·O'Neill·x: starts at 0, 5, 6, 14
    offsets = [(0, 2), (2, 4), (5, 6), (6, 7), (7, 8), (8, 13), (13, 15)]
    assert first_tokens(words, offsets).tolist() == [0, -1, 3, 6]
    assert first_tokens(["ab"], [(0, 0), (0, 2)]).tolist() == [1]
    assert first_tokens(["a", "b"], []).tolist() == [-1, -1]


def test_windows_of_a_long_sentence_carry_each_word_once() -> None:
    letters = [chr(ord("a") + i) for i in range(26)]
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters)]
    tokenizer = bert_tokenizer({piece: i for i, piece in enumerate(pieces)}, True)
    words = [letters[i % 26] + "x" * (i % 3) for i in range(40)] + ["\u200b", "z"]
    split = TagSplit("train", "here", [["a", "b"], words], [np.array([1, 2]), np.arange(42) % 7])
    made = encode_tagged(tokenizer, split, 12)
    assert made.cut == 1
    assert made.lost == 1
    assert made.owner[0] == 0
    assert set(made.owner[1:]) == {1}
    assert len(made) > 8
    seen: list[int] = []
    for row in range(1, len(made)):
        assert len(made.ids[row]) <= 12
        labelled = np.flatnonzero(made.labels[row] != -100)
        assert made.labels[row][labelled].tolist() == [split.tags[1][w] for w in made.words[row]]
        spelled = [str(tokenizer.id_to_token(int(i))) for i in made.ids[row][labelled]]
        assert spelled == [words[w][0] for w in made.words[row]]
        seen += made.words[row].tolist()
    assert sorted(seen) == [i for i in range(42) if i != 40]
    assert made.label_batch([0, 1]).shape == (2, 12)
    assert made.label_batch([0, 1])[0].tolist() == [-100, 1, 2, *([-100] * 9)]
