"""The tokenizer of a foreign checkpoint after `ufbert convert`, or the note on why there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from convert_command import run_convert
from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "schön", "schon", "東京", "a", "b"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}


def write(folder: Path, files: dict[str, Any], kind: str = "Bert", entries: int = 12) -> Path:
    """A small model without a tokenizer, and these files."""
    folder.mkdir()
    config = getattr(transformers, f"{kind}Config")(vocab_size=entries, max_position_embeddings=64, **SMALL)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_settings_and_added_tokens_come_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "vocab.txt": "\n".join(VOCABULARY) + "\n",
        "tokenizer_config.json": {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
        "added_tokens.json": {"[ENT]": 10, "[END]": 11},
    }
    source = write(tmp_path / "source", files)
    code, said = run_convert(capsys, source, tmp_path / "ours")
    assert code == 0
    assert "tokenizer" not in said
    original = transformers.AutoTokenizer.from_pretrained(source)
    ours = Tokenizer.from_file(str(tmp_path / "ours/tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in ("Schön [ENT] 東京", "a [END]b SCHON", "[MASK] 東京都"):
        assert ours.encode(text).ids == original(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.encode("Schön 東京").tokens == ["[CLS]", "schön", "東京", "[SEP]"]


def test_a_vocabulary_beyond_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"vocab.txt": "\n".join(VOCABULARY) + "\n", "added_tokens.json": {"[ENT]": 14}}
    code, said = run_convert(capsys, write(tmp_path / "source", files), tmp_path / "ours")
    assert code == 1
    assert "its tokenizer has 15 entries, the model only 12; they do not belong together" in said


@pytest.mark.parametrize(
    ("files", "kind", "note"),
    [
        (
            {"vocab.txt": "hello 120\nwor@@ 50\n", "bpe.codes": "l d</w> 49\n"},
            "Roberta",
            "vocab.txt: its lines are pieces with counts, a byte-pair dictionary (as BERTweet's and PhoBERT's)",
        ),
        (
            {"vocab.txt": "\n".join(VOCABULARY), "tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
            "Bert",
            "vocab.txt: its vocabulary belongs to BertJapaneseTokenizer, whose rules are not known here",
        ),
        (
            {"vocab.txt": "a\nb\n"},
            "Bert",
            "vocab.txt: not BERT's vocabulary: it lacks [PAD], [UNK], [CLS], [SEP], [MASK]",
        ),
        (
            {"vocab.json": {"a</w>": 0}, "merges.txt": ""},
            "Roberta",
            "vocab.json: its pieces end words with </w>, and nothing says whose they are",
        ),
        ({"sentencepiece.bpe.model": "x"}, "XLMRoberta", "pip install 'ufbert[sentencepiece]'"),
    ],
)
def test_weights_are_converted_without_a_tokenizer_that_is_not_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, Any],
    kind: str,
    note: str,
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    code, said = run_convert(capsys, write(tmp_path / "source", files, kind), tmp_path / "ours")
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith("note: the result has no tokenizer: ")]
    assert note in line
    assert not (tmp_path / "ours/tokenizer.json").exists()
    assert (tmp_path / "ours/model.safetensors").exists()


def test_tokens_added_beside_a_tokenizer_file_are_added(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"vocab.txt": "\n".join(VOCABULARY) + "\n"})
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": ADDED}))
    original = transformers.AutoTokenizer.from_pretrained(source)
    for text in ("a [ENT] b", "[ent]"):
        assert load_tokenizer(source).encode(text).ids == original(text)["input_ids"]
    assert load_tokenizer(source).encode("[ENT]").ids == [2, 10, 3]


ADDED = {"10": {"content": "[ENT]", "normalized": False, "special": True}}
