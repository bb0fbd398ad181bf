"""Masks of vocabularies of every kind, through `ufbert convert` and `ufbert infer`, beside transformers' pipeline."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from ufbert import Pipeline
from ufbert.commands.app import main
from ufbert.inference.spelling import Spelling

transformers = pytest.importorskip("transformers")

Infer = Callable[..., tuple[list[Any], str]]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "walk", "##ing", "##s", "."]
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁Two", "▁cat", "s", "▁s", "▁here", "▁un", "think", "able", "▁", "<mask>"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def write_bert(folder: Path) -> None:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    config = transformers.BertConfig(vocab_size=len(BERT_WORDS), initializer_range=0.5, **SMALL)
    transformers.BertForMaskedLM(config).save_pretrained(folder)


def write_roberta(folder: Path) -> None:
    folder.mkdir()
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    lines = ["The cat sat on the mat", "a cat and two dogs sat"] * 10
    tokenizer.train_from_iterator(lines, vocab_size=350, min_frequency=1, special_tokens=[*SPECIAL, "<mask>"])
    tokenizer.save_model(str(folder))
    mask = {"content": "<mask>", "lstrip": True, "normalized": False, "special": True}
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask}))
    sizes = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 66, "initializer_range": 0.5}
    config = transformers.RobertaConfig(vocab_size=tokenizer.get_vocab_size(), **sizes, **SMALL)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)


def sentence_pieces(scheme: str = "always") -> Tokenizer:
    scores = [(piece, -1.0 - 0.01 * number) for number, piece in enumerate(PIECES)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens([*SPECIAL, AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def write_xlm_roberta(folder: Path) -> None:
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), SPECIAL, strict=True))
    mask = AddedToken("<mask>", lstrip=True, special=True)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=sentence_pieces(), mask_token=mask, **names)
    fast.save_pretrained(folder)
    sizes = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 66, "initializer_range": 0.5}
    config = transformers.XLMRobertaConfig(vocab_size=len(PIECES), **sizes, **SMALL)
    transformers.XLMRobertaForMaskedLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The original's folder and ours, of each kind of vocabulary."""
    root = tmp_path_factory.mktemp("vocabularies")
    folders = {}
    for name, write in (("bert", write_bert), ("roberta", write_roberta), ("xlm-roberta", write_xlm_roberta)):
        torch.manual_seed(0)
        write(root / name)
        with pytest.raises(SystemExit) as end:
            main(["convert", str(root / name), str(root / f"{name}-ours")])
        assert not end.value.code
        folders[name] = (root / name, root / f"{name}-ours")
    return folders


@pytest.fixture
def infer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Infer:
    """(rows, what was said) of `ufbert infer` on texts from standard input."""

    def run(folder: Path, texts: Sequence[str], *options: object, code: int = 0) -> tuple[list[Any], str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("".join(f"{t}\n" for t in texts).encode())))
        with pytest.raises(SystemExit) as end:
            main(["infer", str(folder), "-", "--precision", "float32", *map(str, options)])
        shown = capsys.readouterr()
        assert (end.value.code or 0) == code, shown.err
        return [json.loads(line) for line in shown.out.splitlines()], shown.err

    return run


def originals(folder: Path, text: str, mask: str, **options: Any) -> list[dict[str, float]]:
    """transformers' {token's piece: score} of each mask of a text."""
    pipeline = transformers.pipeline("fill-mask", model=str(folder))
    found = pipeline(text.replace("[MASK]", mask), **options)
    found = found if isinstance(found[0], list) else [found]
    return [{pipeline.tokenizer.convert_ids_to_tokens(c["token"]): c["score"] for c in row} for row in found]


def scores(row: dict[str, Any]) -> list[dict[str, float]]:
    return [{c["token"]: c["probability"] for c in candidates} for candidates in row["masks"]]


@pytest.mark.parametrize(
    ("kind", "mask", "texts", "spaces"),
    [
        ("bert", "[MASK]", ["the [MASK] sat.", "[MASK] cat [MASK] walk[MASK]"], {}),
        ("roberta", "<mask>", ["The <mask> sat", "<mask> cat<mask> and [MASK]  dogs"], {"Ġ": " "}),
        ("xlm-roberta", "<mask>", ["Two [MASK] here", "<mask> un<mask>able"], {"▁": " "}),
    ],
)
def test_every_mask_has_the_originals_candidates(
    converted: dict[str, tuple[Path, Path]],
    infer: Infer,
    kind: str,
    mask: str,
    texts: list[str],
    spaces: dict[str, str],
) -> None:
    original, ours = converted[kind]
    rows, _ = infer(ours, texts, "--top-k", 9)
    for text, row in zip(texts, rows, strict=True):
        expected = originals(original, text, mask, top_k=9)
        assert len(expected) == text.count("[MASK]") + text.count("<mask>")
        for candidates, found in zip(expected, scores(row), strict=True):
            spelled = {}
            for piece, score in candidates.items():
                for written, space in spaces.items():
                    piece = piece.replace(written, space)
                spelled[piece] = score
            # A part of a character's bytes is given as its piece.
            assert len(found) == len(spelled) == 9
            shared = found.keys() & spelled.keys()
            assert len(shared) >= 7
            assert {t: found[t] for t in shared} == pytest.approx({t: spelled[t] for t in shared}, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "targets", "pieces", "said"),
    [
        ("bert", "dog,cat", ["dog", "cat"], ""),
        ("bert", "Cat,the,##s", ["cat", "the", "##s"], ""),
        ("bert", "walking", ["walk"], "the target 'walking' is 2 tokens; its first, 'walk', stands for it"),
        ("bert", "cat,zebra", ["cat", "[UNK]"], "the target 'zebra' is not in the vocabulary; '[UNK]' stands for it"),
        ("bert", "cat,\t", ["cat"], "the target '\\t' is no token, and has none; it is left out"),
        ("roberta", " cat,cat, sat", [" cat", "cat", " sat"], ""),
        ("xlm-roberta", "s,▁s,cat", ["s", " s", " cat"], ""),
    ],
)
def test_targets_are_scored_as_the_original_scores_them(
    converted: dict[str, tuple[Path, Path]], infer: Infer, kind: str, targets: str, pieces: list[str], said: str
) -> None:
    original, ours = converted[kind]
    if kind == "roberta":
        assert Tokenizer.from_file(str(ours / "tokenizer.json")).token_to_id("cat") is not None
    text = {"bert": "the [MASK] sat", "roberta": "The <mask> sat", "xlm-roberta": "Two <mask> here"}[kind]
    (row,), shown = infer(ours, [text], "--targets", targets)
    (expected,) = originals(original, text, "<mask>" if kind != "bert" else "[MASK]", targets=targets.split(","))
    (found,) = scores(row)
    assert sorted(found) == sorted(pieces)
    assert list(found.values()) == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)
    assert said in shown
    assert ("target" in shown) == bool(said)


def test_targets_of_several_masks_and_the_best_of_them(
    converted: dict[str, tuple[Path, Path]], infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, ours = converted["bert"]
    text, words = "the [MASK] sat [MASK]", ["cat", "dog", "sat", "walk", "the", "."]
    (row,), _ = infer(ours, [text], "--targets", ",".join(words))
    expected = originals(original, text, "[MASK]", targets=words, top_k=6)
    assert [sorted(found) for found in scores(row)] == [sorted(words)] * 2
    for found, wanted in zip(scores(row), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
    (cut,), _ = infer(ours, [text], "--targets", ",".join(words), "--top-k", 2)
    assert cut["masks"] == [candidates[:2] for candidates in row["masks"]]
    (best,), _ = infer(ours, ["the [MASK] sat"], "--set", 'inference.targets=["cat", "dog"]')
    assert best["filled"] == f"the {best['masks'][0][0]['token']} sat"
    monkeypatch.chdir(tmp_path)
    Path("ufbert.toml").write_text('[inference]\ntargets = "cat"\ntop_k = 3\n')
    (one,), _ = infer(ours, ["the [MASK] sat"])
    assert scores(one)[0].keys() == {"cat"}
    assert infer(ours, ["the cat"], "--task", "embed")[0][0]["embedding"]  # of another task, in a file
    (result,) = Pipeline(ours, targets="cat", precision="float32")(["the [MASK] sat"])
    assert isinstance(result, dict)
    assert result["masks"] == one["masks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--targets", "cat,,dog"), "--targets: inference.targets has an empty word"),
        (("--targets", "\t, "), "targets: none of '\\t', ' ' is a token; name words of the vocabulary"),
        (("--targets", "cat", "--task", "embed"), "targets is an option of the task fill-mask; the task here is embed"),
    ],
)
def test_targets_that_cannot_be_are_one_line(
    converted: dict[str, tuple[Path, Path]], infer: Infer, options: tuple[str, ...], message: str
) -> None:
    _, said = infer(converted["bert"][1], ["the [MASK]"], *options, code=1)
    assert message in said.splitlines()[-1]


def character_pairs() -> Tokenizer:
    vocabulary = {"<unk>": 0, "<mask>": 1, "d": 2, "o</w>": 3, "do</w>": 4, "wal": 5, "k</w>": 6, "d</w>": 7}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("d", "o</w>")], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_special_tokens(["<mask>"])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "piece", "text", "filled"),
    [
        (sentence_pieces, "s", "Two cat <mask> here", "Two cats here"),
        (sentence_pieces, "▁cat", "Two <mask> here", "Two cat here"),
        (sentence_pieces, "▁cat", "Two\n<mask> here", "Two\ncat here"),
        (sentence_pieces, "▁Two", "<mask> cats", "Two cats"),
        (sentence_pieces, "s", " <mask> cats", " s cats"),
        (sentence_pieces, "▁cat", "un<mask>able", "un catable"),
        (lambda: sentence_pieces("first"), "think", "un<mask>able", "unthinkable"),
        (character_pairs, "do</w>", "I <mask>.", "I do."),
        (character_pairs, "do</w>", "I <mask>it", "I do it"),
        (character_pairs, "wal", "I <mask> it", "I walit"),
    ],
)
def test_the_filled_text_has_the_tokens_own_spaces(
    make: Callable[[], Tokenizer], piece: str, text: str, filled: str
) -> None:
    spelling = Spelling(make(), "<mask>")
    before, _, after = text.partition("<mask>")
    token_id = spelling.tokenizer.token_to_id(piece)
    assert token_id is not None
    assert spelling.fill(before, spelling.text(token_id), after) == filled


def test_a_space_that_the_mask_leaves_stays() -> None:
    tokenizer = sentence_pieces()
    tokenizer = Tokenizer.from_str(tokenizer.to_str().replace('"lstrip":true', '"lstrip":false'))
    assert Spelling(tokenizer, "<mask>").fill("Two cat ", "s", " here") == "Two cat s here"
    assert Spelling(sentence_pieces(), "<mask>").text(0) == "<s>"
