"""Byte-pair encodings of `vocab.json` and `merges.txt`: of bytes, as GPT-2's and RoBERTa's, or of characters."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ufbert.errors import CheckpointError, TokenizerError

from .tokenizer_settings import FAIRSEQ_NAMES, TokenizerSettings, read_text, read_values

__all__ = ["BYTE_LEVEL_CLASSES", "CHARACTER_CLASSES", "read_byte_pairs"]

BYTE_LEVEL_CLASSES = {"RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer", "GPT2Tokenizer"}
CHARACTER_CLASSES = {"HerbertTokenizer"}
GPT2_NAMES = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
END_OF_WORD = "</w>"
SPACE_BYTE = "\u0120"


def read_byte_pairs(folder: Path, settings: TokenizerSettings) -> Tokenizer:
    """The tokenizer of a folder with `vocab.json` and `merges.txt`.

    Raises `CheckpointError` for damaged files, `TokenizerError` for pieces whose tokenizer is not known.
    """
    vocabulary = read_values(folder / "vocab.json")
    if not vocabulary or any(isinstance(n, bool) or not isinstance(n, int) for n in vocabulary.values()):
        raise CheckpointError(f"{folder / 'vocab.json'}: not pieces with numbers; fetch the checkpoint again")
    if settings.tokenizer_class in CHARACTER_CLASSES:
        return _character_level(folder, vocabulary, _read_merges(folder, vocabulary), settings)
    _refuse_characters(folder / "vocab.json", vocabulary, settings)
    return _byte_level(folder, vocabulary, _read_merges(folder, vocabulary), settings)


def _refuse_characters(file: Path, vocabulary: dict[str, int], settings: TokenizerSettings) -> None:
    """Pieces of characters read as bytes would give wrong tokens without a word."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    names = set(FAIRSEQ_NAMES.values()) | set(GPT2_NAMES.values()) | {str(t.content) for t in settings.added.values()}
    foreign = [token for token in vocabulary if token not in names and not alphabet.issuperset(token)]
    if any(token.endswith(END_OF_WORD) for token in vocabulary):
        what = f"end words with {END_OF_WORD}"
    elif not any(SPACE_BYTE in token for token in vocabulary):
        what = f"hold no space ({SPACE_BYTE}), so they are characters, not bytes"
    elif len(foreign) > len(vocabulary) // 100:
        what = f"are characters, not bytes ({foreign[0]!r})"
    else:
        return
    named = settings.tokenizer_class
    whose = f"though {named} is named" if named else "and nothing says whose they are"
    raise TokenizerError(
        f"{file}: its pieces {what}, {whose}; of tokenizers by characters {', '.join(sorted(CHARACTER_CLASSES))} is "
        "read; put the model's tokenizer.json beside it"
    )


def _byte_level(
    folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], settings: TokenizerSettings
) -> Tokenizer:
    settings.place_added_tokens(vocabulary)
    prefix = settings.flag("add_prefix_space", False)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    if settings.tokenizer_class == "GPT2Tokenizer":
        settings.add_tokens(tokenizer, GPT2_NAMES)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        return tokenizer
    settings.add_tokens(tokenizer, FAIRSEQ_NAMES)
    (sep, sep_id), (cls, cls_id) = (_found(folder, tokenizer, settings, role) for role in ("sep", "cls"))
    tokenizer.post_processor = processors.RobertaProcessing(
        (sep, sep_id), (cls, cls_id), trim_offsets=settings.flag("trim_offsets", True), add_prefix_space=prefix
    )
    return tokenizer


def _character_level(
    folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], settings: TokenizerSettings
) -> Tokenizer:
    """HerBERT's: words as BERT's, capitals and accents kept."""
    settings.place_added_tokens(vocabulary)
    unknown = settings.name("unk", FAIRSEQ_NAMES["unk"])
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, end_of_word_suffix=END_OF_WORD)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    names = {role: FAIRSEQ_NAMES[role] for role in ("unk", "sep", "pad", "cls", "mask")}
    settings.add_tokens(tokenizer, names)
    tokenizer.post_processor = processors.BertProcessing(
        *(_found(folder, tokenizer, settings, role) for role in ("sep", "cls"))
    )
    return tokenizer


def _found(folder: Path, tokenizer: Tokenizer, settings: TokenizerSettings, role: str) -> tuple[str, int]:
    """The token of a role and its number."""
    name = settings.name(role, FAIRSEQ_NAMES[role])
    number = tokenizer.token_to_id(name)
    if number is None:
        raise TokenizerError(f"{folder / 'vocab.json'}: not RoBERTa's vocabulary: it lacks {name}")
    return name, number


def _read_merges(folder: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of pieces that become one, in their order."""
    # Only line feeds end a line: pieces may hold other characters that Python counts as ends.
    lines = read_text(folder / "merges.txt").split("\n")
    pairs = [line.removesuffix("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{folder / 'merges.txt'}: a line is not two pieces; fetch the checkpoint again")
    if unknown := next((p for left, right in pairs for p in (left, right, left + right) if p not in vocabulary), None):
        raise CheckpointError(
            f"{folder / 'merges.txt'}: merges to or from {unknown!r}, which vocab.json lacks; "
            "they do not belong together, fetch the checkpoint again"
        )
    return [(left, right) for left, right in pairs]
