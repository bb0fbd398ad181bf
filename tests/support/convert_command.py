"""What the tests of `ufbert convert` share: a small dense model, texts to distil it on, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.commands.app import main
from ufbert.text.tokenization import train_tokenizer

TEXTS = [
    f"The {adjective} {animal} {verb} near the {place}. It was {time}."
    for adjective in ("old", "quick", "brown", "lazy")
    for animal in ("fox", "dog", "bird")
    for verb in ("sleeps", "sings")
    for place in ("river", "house")
    for time in ("noon", "night")
]


def run_convert(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr; stdout must stay empty."""
    with pytest.raises(SystemExit) as exit_:
        main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return int(exit_.value.code or 0), captured.err


def write_dense_model(folder: Path, feedforward: str = "dense", **changes: Any) -> None:
    """A small dense post-norm model with its tokenizer, as `convert` makes of a BERT; `changes` are config fields."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 200, min_frequency=1)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        feedforward=feedforward,
        intermediate_size=64,
        norm_position="post",
        final_norm=False,
        position_embedding_type="absolute",
        type_vocab_size=2,
        use_bias=True,
        head_transform=True,
        decoder_bias=True,
        initializer_range=0.15,
        provenance={"pooling": "mean", "normalize": True},
    )
    UltraFastBertForMaskedLM(config.replace(**changes)).save_pretrained(folder, tokenizer=tokenizer)


def write_documents(file: Path, documents: list[str]) -> Path:
    """A jsonl file of them, in the column `body`."""
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents))
    return file


def distilled(capsys: pytest.CaptureFixture[str], source: Path, out: Path, corpus: Path, *options: str) -> str:
    """What the command says, in one line, when it makes `out` of the text of `write_documents`."""
    text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu")
    code, err = run_convert(capsys, source, out, *text, *options)
    assert code == 0, err
    return " ".join(err.split())


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of any command."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err
