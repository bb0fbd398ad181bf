"""SentencePiece models (`sentencepiece.bpe.model`, `spiece.model`) as tokenizers; needs the extra `sentencepiece`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ufbert.errors import CheckpointError, MissingExtraError, TokenizerError

from .git_lfs import refuse_git_lfs_pointer
from .tokenizer_settings import FAIRSEQ_NAMES, TokenizerSettings

__all__ = ["SENTENCE_PIECE_CLASSES", "SENTENCE_PIECE_FILES", "read_sentence_piece"]

SENTENCE_PIECE_FILES = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "sentencepiece.model",
    "spm.model",
    "tokenizer.model",
)
SENTENCE_PIECE_CLASSES = {"XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer"}
CLASS_OF_MODEL = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "albert": "AlbertTokenizer",
}
ALBERT_NAMES = {"bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "sep": "[SEP]", "pad": "<pad>", "cls": "[CLS]"}
UNIGRAM, BYTE_PAIR = 1, 2
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def read_sentence_piece(file: Path, settings: TokenizerSettings) -> Tokenizer:
    """The tokenizer of a model file, its pieces numbered as the tokenizer class that `settings` names does.

    Raises `CheckpointError` for a damaged file, `TokenizerError` for one of another class, `MissingExtraError`.
    """
    owner = settings.tokenizer_class
    if owner not in SENTENCE_PIECE_CLASSES:
        owner = CLASS_OF_MODEL.get(settings.model_type, owner if owner not in ("", "PreTrainedTokenizer") else "")
    if owner not in SENTENCE_PIECE_CLASSES:
        whose = f"belongs to {owner}" if owner else "has nothing beside it that says which tokenizer it belongs to"
        raise TokenizerError(
            f"{file}: {whose}; of SentencePiece's, {', '.join(sorted(SENTENCE_PIECE_CLASSES))} are read; "
            "put the model's tokenizer.json beside it"
        )
    proto = _read(file)
    names = ALBERT_NAMES | {"mask": "[MASK]"} if owner == "AlbertTokenizer" else FAIRSEQ_NAMES
    names = {role: settings.name(role, name) for role, name in names.items()}
    pieces = _numbered(owner, proto, names)
    tokenizer = Tokenizer(_model(file, proto, pieces, names["unk"], settings))
    steps: list[Any] = _albert_normalizers(settings) if owner == "AlbertTokenizer" else []
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    own = [
        AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)
        for piece in proto.pieces
        if piece.type in (CONTROL, USER_DEFINED) and tokenizer.token_to_id(piece.piece) is not None
    ]
    tokenizer.add_tokens(own)
    defaults: dict[str, str | AddedToken] = dict(names)
    if owner == "CamembertTokenizer":
        defaults["mask"] = AddedToken(names["mask"], lstrip=True, special=True)
    settings.add_tokens(tokenizer, defaults)
    bos, eos = names["bos"], names["eos"]
    if missing := [name for name in (bos, eos) if tokenizer.token_to_id(name) is None]:
        raise TokenizerError(f"{file}: not a vocabulary of {owner}: it lacks {', '.join(missing)}")
    between, second = ("", ":1") if owner == "AlbertTokenizer" else (f" {eos}", "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos}{between} $B{second} {eos}{second}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (bos, eos)],
    )
    return tokenizer


def _read(file: Path) -> Any:
    """The parsed model file."""
    refuse_git_lfs_pointer(file)
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2

        messages: Any = sentencepiece_model_pb2  # generated, without types
    except ImportError as error:
        raise MissingExtraError("sentencepiece", "sentencepiece", f"{file}: a tokenizer of this kind") from error
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{file}: damaged or not a SentencePiece model ({error}); fetch it again") from error
    if not proto.pieces:
        raise CheckpointError(f"{file}: not a SentencePiece model, it has no pieces; fetch it again")
    return proto


def _numbered(owner: str, proto: Any, names: dict[str, str]) -> list[tuple[str, float]]:
    """Pieces with scores in the order of the model's embeddings: fairseq put its own special tokens first."""
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    mask = (names["mask"], 0.0)
    if owner == "XLMRobertaTokenizer":
        return [*((names[role], 0.0) for role in ("bos", "pad", "eos", "unk")), *pieces[3:], mask]
    if owner == "CamembertTokenizer":
        first = [("<s>NOTUSED", 0.0), (names["pad"], 0.0), ("</s>NOTUSED", 0.0), (names["unk"], 0.0)]
        return [*first, ("<unk>NOTUSED", -100.0), *pieces[1:], mask]
    return pieces


def _model(
    file: Path, proto: Any, pieces: list[tuple[str, float]], unknown: str, settings: TokenizerSettings
) -> models.Model:
    numbers = {piece: number for number, (piece, _) in enumerate(pieces)}
    if unknown not in numbers:
        raise TokenizerError(f"{file}: its vocabulary lacks the token for unknown pieces, {unknown}")
    if len(numbers) < len(pieces):
        twice = next(piece for number, (piece, _) in enumerate(pieces) if numbers[piece] != number)
        raise TokenizerError(f"{file}: not a vocabulary of {settings.tokenizer_class}: it has {twice!r} twice")
    kind, byte_fallback = proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback
    if kind == UNIGRAM:
        return models.Unigram(pieces, unk_id=numbers[unknown], byte_fallback=byte_fallback)
    if kind != BYTE_PAIR:
        raise TokenizerError(f"{file}: a SentencePiece model of words or characters; unigram and BPE are read")
    return models.BPE(
        vocab=numbers, merges=_merges(proto), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
    )


def _merges(proto: Any) -> list[tuple[str, str]]:
    """The pairs that SentencePiece joins, the best piece first: it stores pieces with scores, no pairs."""
    normal = {piece.piece: (-piece.score, number) for number, piece in enumerate(proto.pieces) if piece.type == NORMAL}
    ranked = [
        (rank, piece[:split], piece[split:])
        for piece, rank in normal.items()
        for split in range(1, len(piece))
        if piece[:split] in normal and piece[split:] in normal
    ]
    return [(left, right) for _, left, right in sorted(ranked)]


def _albert_normalizers(settings: TokenizerSettings) -> list[Any]:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return steps
