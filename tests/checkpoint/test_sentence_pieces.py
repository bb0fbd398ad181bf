"""SentencePiece models give the pieces of the library that made them, with the numbers of transformers."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError, MissingExtraError, TokenizerError

LINES = [
    "Hello world, the quick brown fox jumps over the lazy dog",
    "C'est l'été à Paris, où l'on mange du pain; un deux trois quatre",
    "東京 大阪 に 住む 人, the foxes are quicker than the dogs",
] * 20
TEXTS = [
    "",
    " ",
    "Hello world",
    "  Hello   world ",
    "été à Paris, l'été\u0301",
    "東京に住む",
    "emoji \U0001f600 here",
    "HELLO World\ttab\nline",
    "ﬁne ½ (the) fox; dogs.",
    "say ``quick'' \"dog\"",
]
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", "xlm-roberta", {}),
    "CamembertTokenizer": ("sentencepiece.bpe.model", "camembert", {"unk_id": 0, "bos_id": 1, "eos_id": 2}),
    "AlbertTokenizer": (
        "spiece.model",
        "roberta",
        {
            "pad_id": 0,
            "unk_id": 1,
            "bos_id": -1,
            "eos_id": -1,
            "control_symbols": ["[CLS]", "[SEP]"],
            "user_defined_symbols": ["[MASK]"],
        },
    ),
}


def write_model(folder: Path, owner: str, kind: str, **settings: Any) -> Any:
    """A folder with a model trained for a tokenizer class, and the library's own processor of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    name, model_type, options = CLASSES[owner]
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=content,
        vocab_size=150,
        model_type=kind,
        character_coverage=1.0,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.getvalue())
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": owner, **settings}))
    return sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())


def varied_texts() -> list[str]:
    generator = random.Random(0)
    parts = [*"\U0001f600é東に,.;' ", " the", "fox", "quick", "Hello", "été", "  ", "\n"]
    return TEXTS + ["".join(generator.choices(parts, k=generator.randint(1, 12))) for _ in range(100)]


@pytest.mark.parametrize("owner", CLASSES)
def test_unigram_models_give_the_ids_of_transformers(tmp_path: Path, owner: str) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}}
    write_model(tmp_path, owner, "unigram", **(settings if owner == "XLMRobertaTokenizer" else {}))
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    mask = original.mask_token
    assert original.convert_ids_to_tokens(original(f"the {mask} fox")["input_ids"]).count(mask) <= 1
    for text in [*varied_texts(), f"the {mask} fox", f"the{mask}fox", f"{mask} fox{mask}"]:
        assert ours.encode(text).ids == original(text)["input_ids"], text
        assert ours.encode(text, "the fox").ids == original(text, "the fox")["input_ids"], text


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_pieces_are_those_of_the_library(tmp_path: Path, kind: str) -> None:
    for owner, offset in (("XLMRobertaTokenizer", 1), ("CamembertTokenizer", 4)):
        processor = write_model(tmp_path / owner, owner, kind)
        ours = load_tokenizer(tmp_path / owner)
        for text in varied_texts():
            # fairseq's numbers: its own special tokens first, then the pieces in the model's order
            expected = [3 if i == processor.unk_id() else i + offset for i in processor.encode(text)]
            assert ours.encode(text, add_special_tokens=False).ids == expected, text


def test_alberts_keeps_capitals_and_accents_if_asked(tmp_path: Path) -> None:
    processor = write_model(tmp_path, "AlbertTokenizer", "bpe", do_lower_case=False, keep_accents=True)
    ours = load_tokenizer(tmp_path)
    for text in ("Hello world", "l'été à Paris", "HELLO  the fox"):
        assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)
    assert ours.encode("a", "b").tokens[0] == "[CLS]"
    assert ours.encode("the [MASK] fox").tokens[2] == "[MASK]"


def test_added_tokens_have_their_numbers_or_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "XLMRobertaTokenizer", "bpe")
    entries = load_tokenizer(tmp_path).get_vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<mask>": entries - 1, "[URL]": entries}))
    assert load_tokenizer(tmp_path).encode("the [URL]").ids[-2] == entries
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[URL]": entries + 2}))
    with pytest.raises(CheckpointError, match=rf"\[URL\] has the number {entries + 2}, but would get {entries}"):
        load_tokenizer(tmp_path)


def test_a_model_of_another_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(TokenizerError, match="has nothing beside it that says which tokenizer it belongs to"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(TokenizerError, match=r"spiece\.model: its vocabulary belongs to T5Tokenizer"):
        load_tokenizer(tmp_path)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "XLMRobertaTokenizer", "unigram")
    for content in (b"", b"\xff" * 40):
        (tmp_path / "sentencepiece.bpe.model").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model: .*not a SentencePiece model"):
            load_tokenizer(tmp_path)


def test_a_missing_library_gives_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"needs sentencepiece; .*pip install 'ufbert\[sentencepiece\]'"):
        load_tokenizer(tmp_path)
