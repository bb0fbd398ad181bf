"""Vocabulary files and the JSON beside them give the token ids of transformers' own tokenizer of the folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, trainers

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError, TokenizerError

transformers = pytest.importorskip("transformers")

WORDS = ["schön", "schon", "cafe", "café", "Café", "the", "The", "a", "b", "東京", "東", "京", "大阪", "[", "]", "url"]
PIECES = ["##n", "##e", "##s", "😀", ",", ".", "!", "-", "'", "##ing", "walk", "#", "<", ">", "mask"]
BERT_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]
TEXTS = [
    "",
    " ",
    "Schön, schön. SCHON!",
    "  a  b\tthe\nThe ",
    "Café cafe\u0301 CAFÉ caf\u00e9s",
    "東京 大阪 東京大阪",
    "walking 😀😀 a-b 'the'",
    "a [MASK] b[MASK]the [mask] x[MASK]",
    "The <mask> walks<mask> a<mask>b",
    "a [URL] b [url]c [URL]",
    "\u00a0the\u200bthe\ufffd \x00a",
    "ﬁne ½ İstanbul ß ẞ",
]


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def write(folder: Path, files: dict[str, Any]) -> Path:
    """A folder of these files; what is no text is written as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_bert(folder: Path, files: dict[str, Any]) -> Path:
    vocabulary = "\n".join(BERT_VOCABULARY) + "\n"
    return write(folder, {"config.json": {"model_type": "bert"}, "vocab.txt": vocabulary, **files})


def varied_texts() -> list[str]:
    """The written ones, and some of random characters and pieces."""
    generator = random.Random(0)
    parts = [
        *WORDS,
        "[MASK]",
        "<mask>",
        "[URL]",
        " ",
        "  ",
        "\t",
        "ing",
        "é",
        "e\u0301",
        "中",
        "?",
        "A",
        "Z",
        "🙂",
        "\u3000",
    ]
    return TEXTS + ["".join(generator.choices(parts, k=generator.randint(1, 14))) for _ in range(150)]


def assert_same_ids(folder: Path, original: Any = None) -> None:
    """Our ids of a folder, of texts and of pairs, are those of its original tokenizer."""
    ours = load_tokenizer(folder)
    original = original or transformers.AutoTokenizer.from_pretrained(folder)
    texts = varied_texts()
    for text, pair in zip(texts, reversed(texts), strict=True):
        pair = pair or "a"  # transformers takes an empty one for none
        assert ours.encode(text).ids == original(text)["input_ids"], text
        assert ours.encode(text, pair).ids == original(text, pair)["input_ids"], (text, pair)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False, "strip_accents": None},
        {"tokenizer_class": "DistilBertTokenizerFast", "do_lower_case": False, "tokenize_chinese_chars": False},
        {"unk_token": "b", "mask_token": {"__type": "AddedToken", **token("url")}},
        {"additional_special_tokens": ["[URL]", "the"]},
        {"extra_special_tokens": ["[URL]"], "mask_token": {"__type": "AddedToken", **token("[MASK]", rstrip=True)}},
        {"added_tokens_decoder": {"36": token("[URL]")}},
        {"added_tokens_decoder": {"36": token("[URL]", special=False, normalized=True, rstrip=True)}},
        {"added_tokens_decoder": {"36": token("the", single_word=True), "4": token("[MASK]", lstrip=True)}},
    ],
    ids=lambda settings: "-".join(settings) or "none",
)
def test_berts_vocabulary_follows_its_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert len(BERT_VOCABULARY) == 36
    assert_same_ids(write_bert(tmp_path, {"tokenizer_config.json": settings}))


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"[URL]": 36}},
        {"added_tokens.json": {"[URL]": 37, "Walking": 36}},
        {"added_tokens.json": {"[URL]": 36}, "special_tokens_map.json": {"additional_special_tokens": ["[URL]"]}},
        {"special_tokens_map.json": {"additional_special_tokens": ["[URL]"]}},
        {"special_tokens_map.json": {"mask_token": token("url", lstrip=True), "unk_token": "a"}},
        {"tokenizer_config.json": {"mask_token": "a"}, "special_tokens_map.json": {"mask_token": "[MASK]"}},
    ],
    ids=lambda files: "-".join(files),
)
def test_berts_vocabulary_takes_tokens_of_the_files_beside_it(tmp_path: Path, files: dict[str, Any]) -> None:
    assert_same_ids(write_bert(tmp_path, files))


def test_without_basic_tokenisation_only_spaces_part_words(tmp_path: Path) -> None:
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy").BertTokenizerLegacy
    folder = write_bert(tmp_path, {"tokenizer_config.json": {"do_basic_tokenize": False, "do_lower_case": True}})
    original = legacy.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for text in ("a b the The", "walking, walking", "東京 東京大阪", "a [MASK] b", " Café schöne "):
        assert ours.encode(text).ids == original(text)["input_ids"], text


def test_an_added_token_keeps_its_number_beyond_a_gap(tmp_path: Path) -> None:
    folder = write_bert(tmp_path, {"added_tokens.json": {"[URL]": 40, "[USER]": 38}})
    assert load_tokenizer(folder).encode("a [USER] [URL] b").ids == [2, 12, 38, 40, 13, 3]


def train_byte_pairs(lines: list[str]) -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(lines, vocab_size=400, min_frequency=1, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config.json": {"add_prefix_space": True}},
        {"tokenizer_config.json": {"mask_token": {"__type": "AddedToken", **token("<mask>", lstrip=True)}}},
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {"4": token("<mask>", lstrip=True)},
                "mask_token": "<mask>",
            }
        },
        {"special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True)}},
        {"tokenizer_config.json": {"tokenizer_class": "BartTokenizer", "trim_offsets": False}},
        {"added_tokens.json": {"[URL]": 1000}, "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizerFast"}},
        {"special_tokens_map.json": {"cls_token": "<pad>", "sep_token": "<unk>"}},
    ],
    ids=lambda files: "-".join(files) or "none",
)
def test_byte_pairs_follow_their_settings(tmp_path: Path, files: dict[str, Any]) -> None:
    trained = train_byte_pairs([*TEXTS, *WORDS] * 2)
    if "added_tokens.json" in files:
        files = {**files, "added_tokens.json": {"[URL]": trained.get_vocab_size()}}
    folder = write(tmp_path / "model", {"config.json": {"model_type": "roberta"}, **files})
    trained.save_model(str(folder))
    assert_same_ids(folder)


def write_character_pairs(folder: Path, files: dict[str, Any]) -> Tokenizer:
    """`vocab.json` and `merges.txt` of characters, and the tokenizer that they are of."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The class of the original numbers them so.
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        ["zażółć gęślą jaźń", "dzień dobry panie", *TEXTS] * 5,
        trainers.BpeTrainer(special_tokens=special, end_of_word_suffix="</w>", vocab_size=250, show_progress=False),
    )
    write(folder, files)
    tokenizer.model.save(str(folder))
    return tokenizer


def test_byte_pairs_of_characters_are_herberts_or_refused(tmp_path: Path) -> None:
    files = {"config.json": {"model_type": "bert", "tokenizer_class": "HerbertTokenizerFast"}}
    write_character_pairs(tmp_path / "herbert", files)
    original = transformers.HerbertTokenizer.from_pretrained(tmp_path / "herbert")
    assert_same_ids(tmp_path / "herbert", original)
    ours = load_tokenizer(tmp_path / "herbert")
    assert ours.encode("dzień dobry").tokens == ["<s>", "dzień</w>", "dobry</w>", "</s>"]
    for name in ("", "RobertaTokenizer"):
        write_character_pairs(tmp_path / f"as{name}", {"tokenizer_config.json": {"tokenizer_class": name}})
        with pytest.raises(
            TokenizerError, match=r"vocab\.json: its pieces end words with </w>.*HerbertTokenizer is read"
        ):
            load_tokenizer(tmp_path / f"as{name}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "belongs to BertJapaneseTokenizer"),
        ({"tokenizer_config.json": {"word_tokenizer_type": "mecab"}}, "belongs to BertJapaneseTokenizer"),
        ({"tokenizer_config.json": {"subword_tokenizer_type": "character"}}, "belongs to BertJapaneseTokenizer"),
        ({"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "belongs to BertJapaneseTokenizer"),
        ({"tokenizer_config.json": {"tokenizer_class": "RoFormerTokenizerFast"}}, "belongs to RoFormerTokenizer,"),
        ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["a.KoBertTokenizer", None]}}}, "to KoBertTokenizer"),
        ({"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\u2581a\n\u2581the\nb\n"}, "SentencePiece model"),
        ({"vocab.txt": "hello 120\nwor@@ 50\nld 49\n"}, "pieces with counts"),
        ({"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwor@@\nld\n"}, "pieces go on with @@"),
    ],
)
def test_a_vocabulary_of_another_tokenizer_is_refused_by_name(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokenizerError, match=rf"vocab\.txt: .*{message}"):
        load_tokenizer(write_bert(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": {"do_lower_case": "no"}}, "do_lower_case is 'no'; it must be true or false"),
        ({"added_tokens.json": {"[URL]": 5}}, r"added token \[URL\] has the number 5, which the vocabulary gives to"),
        ({"added_tokens.json": {"[URL]": "x"}}, r"'\[URL\]' has the number 'x'; it must be a whole number"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": "y"}}}, "an entry is a number with a token"),
        ({"special_tokens_map.json": "{"}, "special_tokens_map.json: not valid JSON"),
        ({"vocab.txt": "version https://git-lfs.github.com/spec/v1\n"}, "git has left a pointer"),
    ],
)
def test_damaged_files_beside_a_vocabulary_are_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(write_bert(tmp_path, files))


def test_merges_that_do_not_fit_are_named(tmp_path: Path) -> None:
    train_byte_pairs(TEXTS).save_model(str(tmp_path))
    with (tmp_path / "merges.txt").open("a") as merges:
        merges.write("qq zz\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt: merges to or from 'qq', which vocab\.json lacks"):
        load_tokenizer(tmp_path)
