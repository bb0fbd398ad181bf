from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ufbert.checkpoint.tokenizer import load_tokenizer, save_tokenizer, special_token_id
from ufbert.errors import CheckpointError, DataError, OutputError
from ufbert.settings.toml import DataSettings
from ufbert.text import corpus as corpus_module
from ufbert.text.corpus import PreparedCorpus, epoch_order, open_corpus, prepare_corpus
from ufbert.text.corpus_sources import corpus_name
from ufbert.text.corpus_tokenizer import sample_documents
from ufbert.text.likelihood import likelihood_order

WORDS = [
    "the",
    "a",
    "tree",
    "path",
    "node",
    "leaf",
    "root",
    "token",
    "layer",
    "neuron",
    "walks",
    "visits",
    "computes",
    "every",
    "one",
    "of",
    "to",
    "in",
]


def sentences(documents: int, words: int = 60, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"document {i} " + " ".join(rng.choice(WORDS, words)) for i in range(documents)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    return path


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    """Settings for 200 documents of 62 words."""
    write_jsonl(tmp_path / "corpus.jsonl", sentences(200))
    return DataSettings(
        corpus=(str(tmp_path / "corpus.jsonl"),),
        cache_dir=str(tmp_path / "cache"),
        sequence_length=16,
        min_frequency=2,
        workers=2,
    )


def replace(data: DataSettings, **changes: Any) -> DataSettings:
    return dataclasses.replace(data, **changes)


def all_documents(prepared: PreparedCorpus, name: str) -> list[str]:
    """The decoded documents of a side; the last one may be cut."""
    ids = getattr(prepared, name)[:].reshape(-1)
    ends = np.flatnonzero(ids == special_token_id(prepared.tokenizer, "sep"))
    return [prepared.tokenizer.decode(part.tolist()) for part in np.split(ids, ends + 1)]


def test_blocks_hold_the_documents_in_order_with_a_separator_after_each(data: DataSettings) -> None:
    prepared = prepare_corpus(data, 500)
    texts = sentences(200)
    train, validation = (all_documents(prepared, name) for name in ("train", "validation"))
    held_out = [texts[int(v.split()[1])] for v in validation]
    assert train[:-1] == [t for t in texts if t not in held_out][: len(train) - 1]
    assert validation[:-1] == held_out[: len(validation) - 1]
    assert prepared.train_documents + prepared.validation_documents == 200
    assert 3 <= prepared.validation_documents <= 5  # 2 % of the tokens
    assert prepared.train.ids.dtype == np.uint16
    assert prepared.train.sequence_length == 16
    assert prepared.train.tokens == 16 * len(prepared.train)
    block = prepared.train[[3, 1]]
    assert block.dtype == np.int64
    assert (block == prepared.train.ids[[3, 1]]).all()
    assert not (prepared.train[:] == special_token_id(prepared.tokenizer, "cls")).any()


def test_a_second_run_reuses_everything(
    data: DataSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_corpus(data, 500)
    assert not first.reused

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("made anew")

    monkeypatch.setattr("ufbert.text.corpus_tokenizer.train_tokenizer", fail)
    monkeypatch.setattr(corpus_module, "tokenize_documents", fail)
    second = prepare_corpus(replace(data, workers=1), 500)
    assert second.reused
    assert second.fingerprint == first.fingerprint
    assert (second.train[:] == first.train[:]).all()
    assert (second.train_documents, second.validation_documents) == (
        first.train_documents,
        first.validation_documents,
    )
    printed = capsys.readouterr()
    assert "Tokenised the corpus: " in printed.err
    assert "Reusing the tokenised corpus: " in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence_length": 8},
        {"max_documents": 150},
        {"validation_fraction": 0.1},
        {"lowercase": False},
        {"max_tokens_per_character": 0.2},
        {"deduplicate": True},
        {"sort_by_likelihood": True},
        {"ascii_only": True},
    ],
)
def test_a_setting_that_matters_changes_the_fingerprint(data: DataSettings, changes: dict[str, Any]) -> None:
    write_jsonl(Path(data.corpus[0]), [text.title() for text in sentences(200)])
    assert prepare_corpus(data, 500).fingerprint != prepare_corpus(replace(data, **changes), 500).fingerprint


def test_content_and_not_place_or_worker_count_makes_the_fingerprint(data: DataSettings, tmp_path: Path) -> None:
    first = prepare_corpus(data, 500)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    Path(data.corpus[0]).rename(moved / "other.jsonl")
    again = prepare_corpus(replace(data, corpus=str(moved), workers=1), 500)
    assert again.reused
    assert again.fingerprint == first.fingerprint
    assert prepare_corpus(replace(data, corpus=str(moved)), 500, seed=1).fingerprint != first.fingerprint
    write_jsonl(moved / "other.jsonl", sentences(201))
    assert prepare_corpus(replace(data, corpus=str(moved)), 500).fingerprint != first.fingerprint


def test_a_damaged_cache_is_made_anew(data: DataSettings, tmp_path: Path) -> None:
    first = prepare_corpus(data, 500)
    expected = first.train[:]
    for folder in (tmp_path / "cache/corpora").iterdir():
        os.truncate(folder / "train.ids", 10)
    for folder in (tmp_path / "cache/tokenizers").iterdir():
        (folder / "tokenizer.json").write_text("{")
    again = prepare_corpus(data, 500)
    assert not again.reused
    assert (again.train[:] == expected).all()


def test_nothing_half_made_stays_behind(data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus_module, "pack_blocks", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(data, 500)
    assert list((tmp_path / "cache/corpora").iterdir()) == []


def test_the_cache_stands_in_xdg_cache_home(
    data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    prepare_corpus(replace(data, cache_dir=""), 500)
    assert sorted(p.name for p in (tmp_path / "xdg/ufbert").iterdir()) == ["corpora", "tokenizers"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written.*data\.cache_dir"):
        prepare_corpus(replace(data, cache_dir=str(tmp_path / "file")), 500)


def test_a_held_out_corpus_of_its_own(data: DataSettings, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "held.jsonl", sentences(5, seed=1))
    prepared = prepare_corpus(replace(data, validation_corpus=str(other)), 500)
    assert (prepared.train_documents, prepared.validation_documents) == (200, 5)
    assert all_documents(prepared, "validation")[:4] == sentences(5, seed=1)[:4]


def test_a_ready_tokenizer_is_used_as_it_is(data: DataSettings, tmp_path: Path) -> None:
    trained = prepare_corpus(data, 400).tokenizer
    (tmp_path / "ready").mkdir()
    save_tokenizer(trained, tmp_path / "ready", 128)
    prepared = prepare_corpus(replace(data, tokenizer=str(tmp_path / "ready"), corpus=data.corpus), 9)
    assert prepared.tokenizer.to_str() == load_tokenizer(tmp_path / "ready").to_str()
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        prepare_corpus(replace(data, tokenizer=str(tmp_path / "none")), 400)


def test_documents_of_too_many_tokens_are_dropped(data: DataSettings) -> None:
    noise = " ".join("=" * 40)
    write_jsonl(Path(data.corpus[0]), sentences(100) + [noise] * 7)
    prepared = prepare_corpus(replace(data, max_tokens_per_character=0.4), 500)
    assert prepared.dropped_documents == 7
    assert prepared.train_documents + prepared.validation_documents == 100
    with pytest.raises(DataError, match=r"0 tokens in 0 documents \(107 dropped by data\.max_tokens_per_character"):
        prepare_corpus(replace(data, max_tokens_per_character=0.01), 500)


def test_equal_texts_stay_on_one_side_and_a_giant_does_not_empty_the_other(data: DataSettings) -> None:
    texts = sentences(20) * 3 + [" ".join(WORDS * 500)]
    for seed in range(5):
        write_jsonl(Path(data.corpus[0]), texts)
        prepared = prepare_corpus(data, 500, seed=seed)
        assert prepared.validation_documents % 3 == 0
        assert prepared.validation_documents > 0
        assert prepared.train.tokens > 9000


def test_repeated_documents_are_dropped_when_asked(data: DataSettings, capsys: pytest.CaptureFixture[str]) -> None:
    texts = sentences(100)
    write_jsonl(Path(data.corpus[0]), texts[:50] + texts[:30] + texts[50:] + texts[::-1] + [texts[0] + "."])
    once = prepare_corpus(replace(data, deduplicate=True), 500)
    assert "; dropped: 130 documents seen before\n" in capsys.readouterr().err
    assert once.duplicate_documents == 130
    assert once.train_documents + once.validation_documents == 101
    write_jsonl(Path(data.corpus[0]), [*texts, texts[0] + "."])  # the first of each is kept
    distinct = prepare_corpus(replace(data, tokenizer=str(once.folder)), 500)
    assert (distinct.train[:] == once.train[:]).all()
    assert (distinct.validation[:] == once.validation[:]).all()
    again = prepare_corpus(replace(data, tokenizer=str(once.folder), deduplicate=True), 500)
    assert (again.train[:] == once.train[:]).all()
    assert again.duplicate_documents == 0


def test_a_held_out_document_is_no_training_document_either(data: DataSettings, tmp_path: Path) -> None:
    texts = sentences(60)
    write_jsonl(Path(data.corpus[0]), texts + texts[:3])
    other = write_jsonl(tmp_path / "held.jsonl", [*texts[10:20], texts[10], *sentences(2, seed=1)])
    own = replace(data, validation_corpus=str(other))
    prepared = prepare_corpus(own, 500)
    assert (prepared.train_documents, prepared.validation_documents, prepared.duplicate_documents) == (63, 13, 0)
    prepared = prepare_corpus(replace(own, deduplicate=True), 500)
    assert (prepared.train_documents, prepared.validation_documents, prepared.duplicate_documents) == (50, 12, 14)
    assert not set(texts[10:20]) & set(all_documents(prepared, "train"))


def test_too_little_text_says_how_much_was_repeated(data: DataSettings) -> None:
    write_jsonl(Path(data.corpus[0]), ["the tree"] * 100)
    message = r"3 tokens in 1 document \(99 dropped by data\.deduplicate\) are too few for a training"
    with pytest.raises(DataError, match=message):
        prepare_corpus(replace(data, deduplicate=True), 500)


def test_blocks_are_sorted_by_the_likelihood_of_their_tokens(
    data: DataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = [" ".join(f"rare{i}x{j}" for j in range(20)) for i in range(40)]
    write_jsonl(Path(data.corpus[0]), [text for pair in zip(rare, sentences(40), strict=True) for text in pair])
    plain = prepare_corpus(data, 500)
    monkeypatch.setattr("ufbert.text.likelihood.CHUNK_IDS", 100)  # six blocks at a time
    prepared = prepare_corpus(replace(data, sort_by_likelihood=True), 500)
    assert prepared.train.ordered
    assert not plain.train.ordered
    assert not prepared.validation.ordered
    assert (prepared.validation[:] == plain.validation[:]).all()
    assert sorted(map(tuple, prepared.train[:].tolist())) == sorted(map(tuple, plain.train[:].tolist()))
    ids = prepared.train[:]
    likelihood = np.log(np.bincount(ids.reshape(-1))[ids] / ids.size).mean(1)
    assert (np.diff(likelihood) < 1e-6).all()
    assert likelihood[0] > likelihood[-1] + 0.5
    again = prepare_corpus(replace(data, sort_by_likelihood=True), 500)
    assert again.reused
    assert again.train.ordered
    reopened = open_corpus(prepared.folder)
    assert reopened is not None
    assert reopened.train.ordered


def test_equally_likely_blocks_stay_in_their_order() -> None:
    ids = np.array([[7, 7], [3, 9], [3, 3], [7, 7], [9, 3], [3, 3], [3, 7]], np.uint16)
    assert likelihood_order(ids).tolist() == [2, 5, 6, 0, 3, 1, 4]  # 3 occurs seven times, 7 five, 9 twice


def test_non_ascii_text_is_dropped_when_asked(data: DataSettings, tmp_path: Path) -> None:
    foreign = [text.replace("e", "\u00e9").replace("tree", "\u6811 tree") for text in sentences(100)]
    write_jsonl(Path(data.corpus[0]), [*foreign, "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1", "\u4e2d\u6587"])
    prepared = prepare_corpus(replace(data, ascii_only=True, lowercase=False), 500)
    assert all(token.isascii() for token in prepared.tokenizer.get_vocab())
    assert prepared.train_documents + prepared.validation_documents == 100  # two have nothing left
    assert all_documents(prepared, "train")[0] in sentences(100)
    (tmp_path / "ready").mkdir()
    save_tokenizer(prepare_corpus(replace(data, lowercase=False), 500).tokenizer, tmp_path / "ready", 16)
    ready = prepare_corpus(replace(data, tokenizer=str(tmp_path / "ready"), ascii_only=True), 500)
    assert all_documents(ready, "train")[0].isascii()
    assert ready.tokenizer.encode("caf\u00e9").ids == load_tokenizer(tmp_path / "ready").encode("cafe").ids


def test_a_corpus_tokenised_before_these_settings_is_still_there(data: DataSettings) -> None:
    first = prepare_corpus(data, 500)
    facts = json.loads((first.folder / "corpus.json").read_text())
    del facts["duplicate_documents"], facts["ordered"]
    (first.folder / "corpus.json").write_text(json.dumps(facts))
    again = prepare_corpus(data, 500)
    assert again.reused
    assert (again.duplicate_documents, again.train.ordered) == (0, False)


@pytest.mark.parametrize(
    ("texts", "held_out", "message"),
    [
        (["the tree", "a path " * 4], "", r"14 tokens in 2 documents are too few for a training and a held-out block"),
        (
            ["the tree " * 15],
            "",
            r"jsonl: 31 tokens in 1 document are too few for a training and a held-out block of 16",
        ),
        (sentences(9), "the tree", r"held\.txt: 3 tokens in 1 document are too few for one held-out block of 16"),
    ],
)
def test_too_little_text_says_how_much_there_is(
    data: DataSettings, tmp_path: Path, texts: list[str], held_out: str, message: str
) -> None:
    write_jsonl(Path(data.corpus[0]), texts)
    (tmp_path / "held.txt").write_text(held_out)
    with pytest.raises(DataError, match=message):
        prepare_corpus(replace(data, validation_corpus=f"{tmp_path}/held.txt" if held_out else ""), 500)


@pytest.mark.parametrize(
    ("texts", "blocks"),
    [(["the tree " * 100], (11, 1)), (["the tree " * 500, "a path"], (61, 1)), (["a path " * 15] * 40, (75, 2))],
)
def test_of_too_few_documents_the_last_blocks_are_held_out(
    data: DataSettings, capfd: pytest.CaptureFixture[str], texts: list[str], blocks: tuple[int, int]
) -> None:
    write_jsonl(Path(data.corpus[0]), texts)
    corpus = prepare_corpus(data, 500)
    assert (len(corpus.train), len(corpus.validation)) == blocks
    assert (corpus.train_documents, corpus.validation_documents) == (len(texts), 0)
    assert ", of documents that are trained on too (there are too few to hold out whole ones)" in capfd.readouterr().err
    ids = np.concatenate([corpus.train[:].reshape(-1), corpus.validation[:].reshape(-1)])
    separator = special_token_id(corpus.tokenizer, "sep")
    whole = [i for text in texts for i in (*corpus.tokenizer.encode(text, add_special_tokens=False).ids, separator)]
    assert ids.tolist() == whole[: len(ids)]


def test_text_files_hold_documents_between_blank_lines(data: DataSettings, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(sentences(30)))
    (tmp_path / "b.txt").write_text("\n\n\n".join(sentences(20, seed=1)) + "\n")
    both = prepare_corpus(replace(data, corpus=[f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]), 500)
    assert both.train_documents + both.validation_documents == 50


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_data_set(data: DataSettings, tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", sentences(200))
    write_jsonl(folder / "test.jsonl", sentences(10, seed=1))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    from_files = prepare_corpus(data, 500)
    hub = replace(data, corpus=f"hub:{folder}", streaming=streaming)
    prepared = prepare_corpus(hub, 500)
    assert (prepared.train[:] == from_files.train[:]).all()
    assert prepare_corpus(hub, 500).reused
    split = prepare_corpus(replace(hub, validation_corpus=f"hub:{folder}@test", max_documents=50), 500)
    assert (split.train_documents, split.validation_documents) == (50, 10)
    for corpus, changes, message in (
        (f"hub:{folder}@nope", {}, "nope"),
        (f"hub:{folder}:other", {}, "other"),
        (f"hub:{tmp_path}/none", {}, "cannot be loaded"),
        (f"hub:{folder}", {"text_column": "body"}, "no column 'body'; it has: text, n"),
        (f"hub:{folder}", {"text_column": "n"}, "@train:1: 'n' is int, not text"),
        ("hub:", {}, "write hub:NAME"),
    ):
        with pytest.raises(DataError) as caught:
            prepare_corpus(replace(hub, corpus=corpus, **changes), 500)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_line_and_no_noise(tmp_path: Path) -> None:
    program = (
        "from ufbert.text.corpus import prepare_corpus; from ufbert.settings.sections import DataSettings\n"
        "from ufbert.errors import DataError\n"
        f"data = DataSettings(corpus='hub:someone/something', cache_dir={str(tmp_path)!r})\n"
        "try:\n    prepare_corpus(data, 500)\nexcept DataError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert run.stderr == ""
    assert run.stdout.startswith("hub:someone/something@train: cannot be loaded: ")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("none.txt", "none.txt: no such file or folder; check the path$"),
        (
            "a.txt, b.txt",
            r'a.txt, b.txt: no such file .*; several are a list, corpus = \["a.txt", "b.txt"\], or an opt',
        ),
        ("*.none,b.txt", r'no file matches; .* corpus = \["\*.none", "b.txt"\]'),
        ("hub:a,hub:b", r'write hub:NAME.* corpus = \["hub:a", "hub:b"\]'),
        ("-", "a corpus is read more than once, so it must be a file"),
    ],
)
def test_a_corpus_that_is_nothing_says_so(data: DataSettings, corpus: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_corpus(replace(data, corpus=corpus), 500)


def test_a_comma_belongs_to_a_files_name(data: DataSettings, tmp_path: Path) -> None:
    names = ["Austen, Jane - Emma.txt", "Joyce, James.txt"]
    for seed, name in enumerate(names):
        (tmp_path / name).write_text("\n\n".join(sentences(20, seed=seed)))
    both = prepare_corpus(replace(data, corpus=[f"{tmp_path}/{name}" for name in names]), 500)
    assert both.train_documents + both.validation_documents == 40
    one = prepare_corpus(replace(data, corpus=f"{tmp_path}/{names[0]}"), 500)
    assert one.train_documents + one.validation_documents == 20


def test_a_long_list_is_named_in_short() -> None:
    assert corpus_name(["a.txt", "b, c.txt"]) == "a.txt, b, c.txt"
    assert corpus_name([f"{n}.txt" for n in range(1003)]) == "0.txt, 1.txt, 2.txt and 1,000 more"


def test_a_bad_row_stops_with_its_place(data: DataSettings) -> None:
    with Path(data.corpus[0]).open("a") as file:
        file.write('{"text": 5}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:201: 'text' is int 5"):
        prepare_corpus(data, 500)


def test_the_embedded_corpus_trains_a_small_model(data: DataSettings) -> None:
    prepared = prepare_corpus(replace(data, corpus="embedded", sequence_length=128, min_frequency=30), 32768)
    assert prepared.train.tokens > 250_000
    assert len(prepared.validation) >= 10
    assert 2000 < prepared.tokenizer.get_vocab_size() < 10_000


def test_the_tokenizers_sample_is_even_and_bounded() -> None:
    texts = sentences(1000)
    limit = sum(map(len, texts)) // 4

    def stream() -> Iterator[str]:
        return iter(texts)

    sample = sample_documents(stream(), limit, False)
    positions = [int(text.split()[1]) for text in sample]
    assert positions == sorted(positions)
    assert limit // 4 < sum(map(len, sample)) <= limit
    assert 350 < np.mean(positions) < 650
    assert sample_documents(stream(), limit, False) == sample
    assert sample_documents(stream(), limit, True) == texts[: len(sample_documents(stream(), limit, True))]
    assert sample_documents(stream(), 1, False) != []
    assert sample_documents(stream(), 10**9, False) == texts


def test_long_documents_are_encoded_as_if_whole(data: DataSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare_corpus(data, 500)
    monkeypatch.setattr("ufbert.text.packing.PIECE_CHARACTERS", 20)
    monkeypatch.setattr("ufbert.text.packing.BATCH_CHARACTERS", 100)
    monkeypatch.setattr("ufbert.text.packing.COPIED_IDS", 7)
    cache = f"{data.cache_dir}/other"
    pieces = prepare_corpus(replace(data, cache_dir=cache), 500)
    assert not pieces.reused
    assert (pieces.train[:] == whole.train[:]).all()
    assert (pieces.validation[:] == whole.validation[:]).all()


def test_real_text_goes_through(shared_data: Path, data: DataSettings) -> None:
    prepared = prepare_corpus(
        replace(data, corpus=str(shared_data / "corpus/validation.parquet"), sequence_length=128, max_documents=30),
        2000,
    )
    assert prepared.train_documents + prepared.validation_documents == 30
    unknown = special_token_id(prepared.tokenizer, "unk")
    assert (prepared.train[:] == unknown).mean() < 0.001


def test_an_epochs_order_is_a_permutation_that_its_number_decides() -> None:
    order = epoch_order(100, 3, 7)
    assert sorted(order.tolist()) == list(range(100))
    assert (order == epoch_order(100, 3, 7)).all()
    assert (order != epoch_order(100, 4, 7)).any()
    assert (order != epoch_order(100, 3, 8)).any()
