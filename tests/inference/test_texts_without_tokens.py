"""Blank lines with a tokenizer that adds no special tokens: a defined result for every task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from ufbert import Pipeline
from ufbert.commands.app import main
from ufbert.errors import DataError

BLANK = ["", " ", "\u200b"]


@pytest.fixture(scope="module")
def bare(tiny_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoints with a tokenizer without special tokens."""
    folders = {}
    for name, folder in tiny_checkpoints.items():
        copy = tmp_path_factory.mktemp("bare") / name
        shutil.copytree(folder, copy)
        tokenizer = json.loads((copy / "tokenizer.json").read_text())
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
        assert not Tokenizer.from_file(str(copy / "tokenizer.json")).encode("").ids
        folders[name] = copy
    return folders


def test_embeddings_are_zeros_whatever_stands_beside(bare: dict[str, Path]) -> None:
    for options in ({}, {"normalize": True}, {"pooling": "cls"}, {"long_text": "window"}, {"batch_size": 2}):
        pipeline = Pipeline(bare["encoder"], precision="float32", **options)
        alone = np.stack(pipeline(BLANK))  # type: ignore[arg-type]
        assert alone.shape == (3, 32)
        assert not alone.any()
        mixed = np.stack(pipeline(["the dog", *BLANK, "the quick brown fox", "fox"]))  # type: ignore[arg-type]
        assert not mixed[1:4].any()
        for row, text in ((0, "the dog"), (4, "the quick brown fox"), (5, "fox")):
            np.testing.assert_allclose(mixed[row], pipeline([text])[0], atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["classifier", "regression"])
def test_classes_and_values_are_those_of_one_padding_token(bare: dict[str, Path], kind: str) -> None:
    pipeline = Pipeline(bare[kind], precision="float32")
    (padding,) = pipeline(["[PAD]"])
    (pair,) = pipeline([("", " ")])
    *results, _ = pipeline([*BLANK, "the quick brown fox"])
    for result in (*results, pair):
        assert isinstance(result, dict)
        assert isinstance(padding, dict)
        for key, value in padding.items():
            expected = pytest.approx(value, abs=1e-6) if not isinstance(value, str) else value
            assert result[key] == expected


def test_masks_are_missing(bare: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"texts\[0\]: no \[MASK\] in the text"):
        Pipeline(bare["masked_lm"])(BLANK)


def test_paths_count_only_tokens(bare: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\u200b\nthe dog\n\u200b\n")
    (tmp_path / "b.txt").write_text("\u200b\n")
    shown: list[Any] = []
    for name, code in (("a.txt", 0), ("b.txt", 1)):
        with pytest.raises(SystemExit) as end:
            main(["bench", "paths", str(bare["encoder"]), str(tmp_path / name)])
        assert (end.value.code or 0) == code
        shown.append(capsys.readouterr())
    assert "where 2 tokens of " in shown[0].out
    assert "no text in it but blank lines" in shown[1].err
