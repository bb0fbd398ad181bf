from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from ufbert.checkpoint.tokenizer import load_tokenizer, save_tokenizer, special_token_id, special_token_ids
from ufbert.errors import CheckpointError, ConfigError, DataError
from ufbert.text.tokenization import drop_non_ascii, encode_batch, train_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "A walk along one path in a tree visits few of its nodes; Café naïve façade.",
    "Neurons of a layer stand in balanced binary trees, and each token walks one path.",
] * 10


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 200, min_frequency=2)


def roberta_tokenizer() -> Tokenizer:
    names = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "<mask>"]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens([AddedToken(n, special=True) for n in names if n.startswith("<")])
    return tokenizer


def test_a_trained_tokenizer_is_berts(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(tokenizer.get_vocab_size()))
    assert tokenizer.get_vocab_size() <= 200
    names = ["pad", "unk", "cls", "sep", "mask"]
    assert [special_token_id(tokenizer, role) for role in names] == [0, 1, 2, 3, 4]
    assert special_token_ids(tokenizer) == [0, 1, 2, 3, 4]
    encoding = tokenizer.encode("The Tree", "CAFÉ")
    assert encoding.tokens[0] == "[CLS]"
    assert encoding.tokens.count("[SEP]") == 2
    assert encoding.type_ids == [0] * (encoding.tokens.index("[SEP]") + 1) + [1] * (
        len(encoding.tokens) - encoding.tokens.index("[SEP]") - 1
    )
    assert tokenizer.decode(encoding.ids) == "the tree cafe"


def test_case_is_kept_when_asked() -> None:
    tokenizer = train_tokenizer(TEXTS, 300, lowercase=False, min_frequency=2)
    assert tokenizer.decode(tokenizer.encode("The Café").ids) == "The Café"


FOREIGN = "The\u00a0Caf\u00e9 na\u00efve\u2019s \u4e2d\u6587 \U0001f600fac\u0327ade\u3000tree"


def test_what_is_not_ascii_is_dropped_when_asked_here_and_by_whoever_reads_the_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer([*TEXTS, *["\u0395\u03bb \u4e2d"] * 20], 200, min_frequency=2, ascii_only=True)
    assert all(token.isascii() for token in tokenizer.get_vocab())
    plain = "The Cafe naives facade tree"
    assert tokenizer.encode(FOREIGN).ids == tokenizer.encode(plain).ids
    assert tokenizer.token_to_id("[UNK]") not in tokenizer.encode(FOREIGN).ids
    assert tokenizer.encode("\u0395\u03bb\u03bb\u03ac\u03b4\u03b1", add_special_tokens=False).ids == []
    save_tokenizer(tokenizer, tmp_path, 32)
    assert load_tokenizer(tmp_path).encode(FOREIGN).ids == tokenizer.encode(plain).ids
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(FOREIGN)["input_ids"] == tokenizer.encode(plain).ids
    cased = train_tokenizer(TEXTS, 200, min_frequency=2, lowercase=False, ascii_only=True)
    assert cased.decode(cased.encode(FOREIGN).ids) == plain


def test_a_ready_tokenizer_drops_what_is_not_ascii_before_its_own_rules(tokenizer: Tokenizer) -> None:
    for own in (None, normalizers.Replace(" ", "\u2581"), normalizers.Sequence([normalizers.Lowercase()])):
        ready = Tokenizer.from_str(tokenizer.to_str())
        if own is None:
            ready = roberta_tokenizer()  # has none
        else:
            ready.normalizer = own
        before = ready.to_str()
        changed = drop_non_ascii(ready)
        assert ready.to_str() == before
        expected = own.normalize_str("a cafe ") if own else "a cafe "
        assert changed.normalizer.normalize_str("a\u00a0caf\u00e9 \u4e2d") == expected
        assert drop_non_ascii(changed).to_str() == changed.to_str()


def test_the_same_texts_give_the_same_vocabulary_in_every_process() -> None:
    program = (
        "import hashlib, sys; from ufbert.text.tokenization import train_tokenizer\n"
        "texts = [''.join(chr(97 + (i * i + j * 7) % 26) + ' ' * (j % 5 == 0) for j in range(400))"
        " for i in range(50)]\n"
        "print(hashlib.md5(train_tokenizer(iter(texts), 400, min_frequency=2).to_str().encode()).hexdigest())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in "12"
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    assert len(first.strip()) == 32


def test_rare_characters_and_tiny_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("漢").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    with pytest.raises(DataError, match="too little text to train a tokenizer"):
        train_tokenizer(["abc"], 100)
    with pytest.raises(ConfigError, match="at least 9, not 8"):
        train_tokenizer(TEXTS, 8)


def test_a_saved_tokenizer_is_read_by_us_and_by_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    for name, original in (("bert", tokenizer), ("roberta", roberta_tokenizer())):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "ultrafastbert"}')
        original.enable_truncation(5)
        save_tokenizer(original, folder, 128)
        original.no_truncation()
        ours = load_tokenizer(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        text, pair = ("the tree a path of neurons", "a dog") if name == "bert" else ("a b c a b c", "b c")
        assert ours.to_str() == original.to_str()
        assert theirs(text, pair)["input_ids"] == original.encode(text, pair).ids
        assert theirs.model_max_length == 128
        for role in ("pad", "unk", "cls", "sep", "mask"):
            assert getattr(theirs, f"{role}_token_id") == special_token_id(original, role)


def test_token_types_can_be_left_out_for_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    save_tokenizer(tokenizer, tmp_path, 128, token_types=False)
    assert set(transformers.AutoTokenizer.from_pretrained(tmp_path)("a dog")) == {
        "input_ids",
        "attention_mask",
    }


def test_a_bert_vocabulary_file_is_a_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("The Path").ids == tokenizer.encode("the path").ids
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path / "vocab.txt").encode("The Path").ids != tokenizer.encode("the path").ids


def test_what_is_no_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="not UTF-8 at byte 0"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match=r"it lacks \[PAD\], \[UNK\]"):
        load_tokenizer(tmp_path / "vocab.txt")


def test_special_tokens_of_both_families_and_of_the_configuration(tokenizer: Tokenizer, tmp_path: Path) -> None:
    roberta = roberta_tokenizer()
    assert [special_token_id(roberta, r) for r in ("cls", "pad", "sep", "unk", "mask")] == [0, 1, 2, 3, 7]
    assert special_token_ids(roberta) == [0, 1, 2, 3, 7]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "b"}}))
    assert special_token_id(roberta, "mask", tmp_path) == 5
    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(CheckpointError, match="no mask token"):
        special_token_id(bare, "mask")


def test_a_batch_is_padded_and_counts_what_it_cut(tokenizer: Tokenizer) -> None:
    batch = encode_batch(tokenizer, ["a dog", "", TEXTS[0]], max_length=8)
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.token_type_ids.shape == (3, 8)
    assert batch.input_ids.dtype == np.int64
    assert batch.truncated_count == 1
    assert batch.attention_mask.sum(1).tolist() == [len(tokenizer.encode("a dog").ids), 2, 8]
    assert batch.input_ids[1].tolist() == [2, 3, 0, 0, 0, 0, 0, 0]
    assert batch.input_ids[2, -1] == 3
    assert encode_batch(tokenizer, [], max_length=8).input_ids.shape == (0, 0)


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.integers(5, 20), st.booleans())
@settings(max_examples=60)
def test_truncation_is_the_librarys_and_the_tokenizer_stays_as_it_was(
    rows: list[tuple[str, str]], max_length: int, roberta: bool
) -> None:
    tokenizer = roberta_tokenizer() if roberta else train_tokenizer(["a b c " * 20], 50)
    reference = Tokenizer.from_str(tokenizer.to_str())
    reference.enable_truncation(max_length, strategy="longest_first")
    before = tokenizer.to_str()
    first, second = [a for a, _ in rows], [b for _, b in rows]
    for texts, pairs in ((first, None), (first, second)):
        batch = encode_batch(tokenizer, texts, pairs, max_length=max_length)
        expected = reference.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)))
        for row, encoding in enumerate(expected):
            length = int(batch.attention_mask[row].sum())
            assert batch.input_ids[row, :length].tolist() == encoding.ids
            assert batch.token_type_ids[row, :length].tolist() == encoding.type_ids
        # A tokenizer that truncates by itself gives the same.
        assert encode_batch(reference, texts, pairs, max_length=max_length).truncated_count == batch.truncated_count
    assert tokenizer.to_str() == before


def test_encoding_refuses_what_cannot_be(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="max_length 3 leaves no room"):
        encode_batch(tokenizer, ["a"], ["b"], max_length=3)
    with pytest.raises(DataError, match="2 texts but 1 second texts"):
        encode_batch(tokenizer, ["a", "b"], ["c"], max_length=9)


def test_a_fork_after_use_warns_of_nothing() -> None:
    program = (
        "import os; from ufbert.text.tokenization import train_tokenizer, encode_batch\n"
        "t = train_tokenizer(['a b c ' * 20] * 50, 50); encode_batch(t, ['a b'] * 1000, max_length=9)\n"
        "if (child := os.fork()) == 0:\n    os._exit(0)\n"
        "os.waitpid(child, 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert run.stderr == ""
