"""BERT's tokenizer: WordPiece over a list of pieces, with the settings that tokenizer_config.json gives it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ufbert.errors import TokenizerError

from .tokenizer_settings import TokenizerSettings, read_text

__all__ = ["PREFIX", "SPECIAL_TOKENS", "WORD_PIECE_CLASSES", "bert_tokenizer", "read_word_piece"]

WORD_PIECE_CLASSES = {
    "BertTokenizer",
    "BertTokenizerLegacy",
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "RealmTokenizer",
    "RetriBertTokenizer",
    "SqueezeBertTokenizer",
}

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"
NAMES = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL_TOKENS, strict=True))


def bert_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's rules and special tokens over a vocabulary that has them; the rules alone over an empty one."""
    tokenizer = _rules(vocabulary, lowercase)
    if vocabulary:
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
        tokenizer.post_processor = _template("[CLS]", "[SEP]", vocabulary)
    return tokenizer


def read_word_piece(file: Path, settings: TokenizerSettings) -> Tokenizer:
    """The tokenizer of a `vocab.txt`, a piece a line.

    Raises `CheckpointError` for a file that cannot be read, `TokenizerError` for pieces of another kind.
    """
    lines = read_text(file).removeprefix("\ufeff").removesuffix("\n").split("\n")
    vocabulary = {token.removesuffix("\r"): number for number, token in enumerate(lines)}
    _refuse_other_pieces(file, vocabulary)
    settings.place_added_tokens(vocabulary)
    names = {role: settings.name(role, name) for role, name in NAMES.items()}
    ids = vocabulary | {str(token.content): number for number, token in settings.added.items()}
    # Only these three are in every text; a vocabulary without a mask or padding is one all the same.
    if names["unk"] not in vocabulary or any(names[role] not in ids for role in ("cls", "sep")):
        missing = [name for name in names.values() if name not in ids]
        raise TokenizerError(f"{file}: not BERT's vocabulary: it lacks {', '.join(missing)}")
    tokenizer = _rules(
        vocabulary,
        settings.flag("do_lower_case", True),
        strip_accents=settings.optional_flag("strip_accents"),
        chinese_characters=settings.flag("tokenize_chinese_chars", True),
        unknown=names["unk"],
    )
    if not settings.flag("do_basic_tokenize", True):
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings.add_tokens(tokenizer, NAMES)
    tokenizer.post_processor = _template(names["cls"], names["sep"], ids)
    return tokenizer


def _rules(
    vocabulary: dict[str, int],
    lowercase: bool,
    *,
    strip_accents: bool | None = None,
    chinese_characters: bool = True,
    unknown: str = "[UNK]",
) -> Tokenizer:
    """Accents go with the capitals unless `strip_accents` says otherwise; with `chinese_characters` each is a word."""
    model = models.WordPiece(
        vocab=vocabulary, unk_token=unknown, max_input_chars_per_word=100, continuing_subword_prefix=PREFIX
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=chinese_characters,
        lowercase=lowercase,
        strip_accents=lowercase if strip_accents is None else strip_accents,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    return tokenizer


def _template(cls: str, sep: str, ids: dict[str, int]) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, ids[token]) for token in (cls, sep)],
    )


def _refuse_other_pieces(file: Path, vocabulary: dict[str, int]) -> None:
    """Files of this name that hold other pieces, and would give wrong tokens without a word."""
    continuing = sum(token.startswith(PREFIX) for token in vocabulary)
    if sum(len(token) > 1 and token.startswith("\u2581") for token in vocabulary) > continuing:
        raise TokenizerError(
            f"{file}: its pieces begin with \u2581, so they are those of a SentencePiece model (as KoBERT's), not "
            "BERT's WordPieces; put the model's tokenizer.json beside it"
        )
    # fairseq's dictionaries have a piece and a count a line.
    counted = sum(token.rpartition(" ")[0] != "" and token.rpartition(" ")[2].isdigit() for token in vocabulary)
    if counted > len(vocabulary) // 2:
        raise TokenizerError(
            f"{file}: its lines are pieces with counts, a byte-pair dictionary (as BERTweet's and PhoBERT's), not "
            "BERT's WordPieces; put the model's tokenizer.json beside it"
        )
    if sum(token.endswith("@@") for token in vocabulary) > continuing:
        raise TokenizerError(
            f"{file}: its pieces go on with @@, a byte-pair vocabulary, not BERT's WordPieces; "
            "put the model's tokenizer.json beside it"
        )
