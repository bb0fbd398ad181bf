"""The texts of a distillation: pieces, what is held out of them, and their batches."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ufbert.conversion.distillation.batch import Masker
from ufbert.conversion.distillation.texts import Batcher, cut, read_distillation_texts
from ufbert.errors import DataError
from ufbert.settings.distillation import DistillationSettings
from ufbert.text.tokenization import train_tokenizer


def documents(pieces: Sequence[Any]) -> set[str]:
    """The numbers in the pieces, which say what document each is of."""
    return {word.strip(".") for piece in pieces for word in piece.split() if word.strip(".").isdigit()}


def write(path: Path, *sentences: int) -> str:
    """A file of one document for each number of sentences; every word of document i that is no word is i."""
    rows = [" ".join(f"{i} {i} {i} says it {i} {i} {i} times." for _ in range(n)) for i, n in enumerate(sentences)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return str(path)


def test_pieces_are_runs_of_words_of_one_paragraph_in_order() -> None:
    sentences = "One sentence here. Another one there! A third, maybe? " * 5
    paragraphs = ["Title", sentences.strip(), "The last paragraph is this."]
    pieces = list(cut("\n".join(paragraphs), random.Random(0)))
    assert len(pieces) > 5
    places = []
    for piece in pieces:
        assert len(piece) >= 12
        assert any(piece in paragraph for paragraph in paragraphs[1:]), piece
        places.append(piece.startswith("The last") or piece in paragraphs[2])
    assert places == sorted(places)
    assert any(len(piece.split(". ")) > 1 or "! " in piece for piece in pieces)  # several sentences
    assert list(cut("Title\n", random.Random(0))) == []


def test_some_long_sentences_are_cut_down_to_fragments() -> None:
    sentence = " ".join(f"word{i}" for i in range(40)) + "."
    lengths = [len(piece.split()) for seed in range(60) for piece in cut(sentence, random.Random(seed))]
    fragments = [n for n in lengths if n < 40]
    assert 0 < len(fragments) < len(lengths)
    assert all(3 <= n <= 15 for n in fragments)


def test_held_out_text_is_of_other_documents(tmp_path: Path) -> None:
    rows = [f"Document {i} speaks. It says {i} again. And document {i} ends." for i in range(400)]
    (tmp_path / "texts.txt").write_text("\n\n".join(rows))
    corpus, settings = [str(tmp_path / "texts.txt")], DistillationSettings(max_texts=2000)
    texts = read_distillation_texts(corpus, settings)
    assert len(texts.held_out) >= 20
    assert texts.documents_apart
    assert not documents(texts.held_out) & documents(texts.train)
    assert read_distillation_texts(corpus, settings) == texts


@pytest.mark.parametrize("sentences", [(80, 80, 80), (80, 80), (300, 4, 5, 60, 7), (60,) * 8, (3,) * 12, (2,) * 40])
@pytest.mark.parametrize("seed", range(4))
def test_of_few_documents_whole_ones_are_held_out(tmp_path: Path, sentences: tuple[int, ...], seed: int) -> None:
    corpus = [write(tmp_path / "few.jsonl", *sentences)]
    texts = read_distillation_texts(corpus, DistillationSettings(seed=seed))
    assert texts.documents_apart
    assert texts.held_out_from == "other documents"
    assert not documents(texts.held_out) & documents(texts.train)
    pieces = len(texts.train) + len(texts.held_out)
    assert min(20, len(texts.train) // 4) <= len(texts.held_out) <= pieces // 2


@pytest.mark.parametrize("sentences", [(200,), (400, 3)])
@pytest.mark.parametrize("seed", [0, 1, 31])  # 31 first draws a number that holds the first document out
def test_of_one_long_document_pieces_are_held_out_and_said_to_be(
    tmp_path: Path, sentences: tuple[int, ...], seed: int
) -> None:
    texts = read_distillation_texts([write(tmp_path / "one.jsonl", *sentences)], DistillationSettings(seed=seed))
    assert not texts.documents_apart
    assert texts.held_out_from == "the same documents"
    assert documents(texts.held_out) & documents(texts.train)
    assert 8 <= len(texts.held_out) < len(texts.train)


def test_a_document_that_fills_the_corpus_is_not_held_out_where_others_follow(tmp_path: Path) -> None:
    corpus = [write(tmp_path / "long.jsonl", 900, 60, 60)]
    texts = read_distillation_texts(corpus, DistillationSettings(max_texts=200))
    assert (len(texts.train), documents(texts.train), documents(texts.held_out)) == (200, {"0"}, {"1"})
    assert texts.documents_apart


def test_two_pieces_are_enough_and_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("There is one long sentence.\nThere is another long sentence.\n")
    texts = read_distillation_texts([str(tmp_path / "two.txt")], DistillationSettings())
    assert (len(texts.train), len(texts.held_out), texts.documents_apart) == (1, 1, False)
    (tmp_path / "one.txt").write_text("There is one long sentence.\n")
    with pytest.raises(DataError, match="only one piece of text"):
        read_distillation_texts([str(tmp_path / "one.txt")], DistillationSettings())


def test_a_path_with_a_comma_is_one_path_beside_another(tmp_path: Path) -> None:
    corpus = [write(tmp_path / "a, b.jsonl", *[3] * 100), write(tmp_path / "c.jsonl", *[3] * 100)]
    assert len(read_distillation_texts(corpus, DistillationSettings()).train) > 200


def test_an_empty_corpus_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_distillation_texts([str(tmp_path / "texts.jsonl")], DistillationSettings())


def test_batches_are_of_like_length_and_hold_every_text_once_a_round() -> None:
    texts = ["word " * length for length in random.Random(0).choices(range(1, 30), k=100)]
    tokenizer = train_tokenizer(["a word"] * 20, 50, min_frequency=1)
    batcher = Batcher(tokenizer, 32, False, torch.device("cpu"))
    ordered = [batch.attention_mask.sum(1) for batch in batcher.ordered(texts, 8)]
    lengths = torch.cat(ordered).tolist()
    assert lengths == sorted(lengths)
    endless = batcher.endless(texts, 8, seed=1)
    rounds = []
    for _ in range(2):
        batches = [next(endless) for _ in range(13)]
        rounds.append([batch.attention_mask.sum(1).tolist() for batch in batches])
        assert sorted(n for batch in rounds[-1] for n in batch) == lengths
        assert sum(batch.attention_mask.numel() for batch in batches) < 1.2 * sum(lengths)
    assert rounds[0] != rounds[1]


def test_length_is_tokens_not_characters() -> None:
    """Digits and unknown characters have a token each, words of many letters have one too."""
    tokenizer = train_tokenizer(["a consideration 1"] * 20, 60, min_frequency=1)
    texts = [("consideration " * n, "1 " * n)[n % 2] for n in random.Random(0).choices(range(2, 30), k=400)]
    batcher = Batcher(tokenizer, 32, False, torch.device("cpu"))
    batches = [batch for _, batch in zip(range(50), batcher.endless(texts, 8, seed=1), strict=False)]
    masks = [batch.attention_mask for batch in batches]
    assert sum(map(torch.numel, masks)) < 1.05 * sum(int(mask.sum()) for mask in masks)


@pytest.mark.parametrize("skipped", [0, 5, 12, 13, 30])
def test_the_batches_after_those_of_an_earlier_session_are_the_same(
    skipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ufbert.conversion.distillation.texts.POOL", 4)
    tokenizer = train_tokenizer(["a word"] * 20, 50, min_frequency=1)
    batcher = Batcher(tokenizer, 32, False, torch.device("cpu"), Masker(tokenizer))
    texts = ["word " * length for length in random.Random(0).choices(range(1, 30), k=100)]  # 13 batches a round
    whole, rest = batcher.endless(texts, 8, seed=1), batcher.endless(texts, 8, seed=1, skip=skipped)
    for _ in range(skipped):
        next(whole)
    for _ in range(15):
        wanted, got = next(whole), next(rest)
        assert wanted.masked is not None
        assert got.masked is not None
        assert torch.equal(wanted.input_ids, got.input_ids)
        assert torch.equal(wanted.masked, got.masked)
