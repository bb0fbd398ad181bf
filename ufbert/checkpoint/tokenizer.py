"""The tokenizer of a folder: `tokenizer.json` or a vocabulary in, `tokenizer.json` out, which transformers reads too.

A tokenizer is a `tokenizers.Tokenizer` throughout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The Rust threads of tokenizers are joined before a call returns, so a later fork is safe; unset, the
# library would warn at every fork and turn its threads off.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from tokenizers import Tokenizer

from ufbert.errors import CheckpointError, TokenizerError

from .byte_pair import BYTE_LEVEL_CLASSES, CHARACTER_CLASSES, read_byte_pairs
from .sentence_piece import SENTENCE_PIECE_CLASSES, SENTENCE_PIECE_FILES, read_sentence_piece
from .tokenizer_settings import TokenizerSettings, read_settings, read_text, read_values
from .word_piece import WORD_PIECE_CLASSES, read_word_piece

__all__ = [
    "has_tokenizer",
    "load_tokenizer",
    "padding_id",
    "save_tokenizer",
    "special_token_id",
    "special_token_ids",
    "without_padding",
]

ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
# Names that say nothing of the rules.
GENERAL_CLASSES = {"", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"}
KNOWN_CLASSES = {
    *GENERAL_CLASSES,
    *WORD_PIECE_CLASSES,
    *BYTE_LEVEL_CLASSES,
    *CHARACTER_CLASSES,
    *SENTENCE_PIECE_CLASSES,
}
BYTE_PAIR_FILES = ("vocab.json", "merges.txt")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer, of whatever kind."""
    names = ("tokenizer.json", "vocab.txt", *SENTENCE_PIECE_FILES)
    return any((folder / name).is_file() for name in names) or all((folder / n).is_file() for n in BYTE_PAIR_FILES)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder, or of a file `tokenizer.json` or `vocab.txt`.

    A folder's tokenizer.json is the tokenizer. Without it, that of BERT's `vocab.txt`, of the byte-pair encoding in
    `vocab.json` and `merges.txt`, or of a SentencePiece model, with what the JSON files beside it set. It neither
    truncates nor pads, whatever the file says. Raises `CheckpointError`, for a vocabulary of another tokenizer
    `TokenizerError`, and `MissingExtraError` for a SentencePiece model without the extra.
    """
    path = Path(path)
    if path.is_dir():
        folder, file = path, path / "tokenizer.json"
    else:
        folder, file = path.parent, path
    if not path.is_file() and not (path.is_dir() and has_tokenizer(path)):
        raise CheckpointError(
            f"{path}: no tokenizer there; give a folder with tokenizer.json, vocab.txt, vocab.json and merges.txt, or "
            "a SentencePiece model, or a file of the first two names"
        )
    if path.is_dir() and not file.is_file():
        return _read_vocabulary(folder)
    if file.suffix == ".txt":
        return read_word_piece(file, _checked(read_settings(folder), file))
    content = read_text(file)
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the Rust library raises the bare class
        raise CheckpointError(f"{file}: not a tokenizer.json: {error}; fetch or write it again") from error
    _add_missing(tokenizer, folder)
    return without_padding(tokenizer)


def _add_missing(tokenizer: Tokenizer, folder: Path) -> None:
    """Tokens that were added after tokenizer.json was written, as the Python tokenizers of transformers leave them."""
    added = read_settings(folder).added
    for number in sorted(added):
        if tokenizer.token_to_id(str(added[number].content)) is None:
            if number != max(tokenizer.get_vocab().values(), default=-1) + 1:
                return  # of another vocabulary
            (tokenizer.add_special_tokens if added[number].special else tokenizer.add_tokens)([added[number]])


def _read_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a folder without tokenizer.json: of the kind that its class names, else by its files."""
    model = next((folder / name for name in SENTENCE_PIECE_FILES if (folder / name).is_file()), None)
    has_pairs = all((folder / name).is_file() for name in BYTE_PAIR_FILES)
    pieces = folder / "vocab.txt"
    files = [*([pieces] if pieces.is_file() else []), *([folder / "vocab.json"] if has_pairs else [])]
    settings = _checked(read_settings(folder), (files or [model or folder])[0])
    owner = settings.tokenizer_class
    if model is not None and (owner in SENTENCE_PIECE_CLASSES or not files):
        return read_sentence_piece(model, settings)
    if has_pairs and (owner in BYTE_LEVEL_CLASSES | CHARACTER_CLASSES or not pieces.is_file()):
        return read_byte_pairs(folder, settings)
    return read_word_piece(pieces, settings)


def _checked(settings: TokenizerSettings, file: Path) -> TokenizerSettings:
    """The settings, if they name a class whose rules are known. Raises `TokenizerError` for another."""
    if settings.tokenizer_class in KNOWN_CLASSES:
        return settings
    raise TokenizerError(
        f"{file}: its vocabulary belongs to {settings.tokenizer_class}, whose rules are not known here, and read by "
        "others it would give wrong tokens; put the model's tokenizer.json beside it, if there is one"
    )


def without_padding(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def save_tokenizer(
    tokenizer: Tokenizer, folder: str | Path, model_max_length: int, *, token_types: bool = True
) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder that exists, for us and transformers.

    `model_max_length` counts special tokens. Without `token_types` transformers' tokenizer returns no
    `token_type_ids`. Raises `OSError` as it comes: who makes the folder explains it.
    """
    folder = Path(folder)
    saved = tokenizer
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        saved = without_padding(Tokenizer.from_str(tokenizer.to_str()))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    for role in ROLES:
        if (name := next(_names(tokenizer, role), None)) is not None:
            config[f"{role}_token"] = name
    (folder / "tokenizer.json").write_text(saved.to_str(pretty=True), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _names(tokenizer: Tokenizer, role: str) -> Iterator[str]:
    """What the token of a role may be called in a tokenizer: the usual names, and a mask of another spelling."""
    yield from (name for name in ROLES[role] if tokenizer.token_to_id(name) is not None)
    if role == "mask":
        special = (str(token.content) for token in tokenizer.get_added_tokens_decoder().values() if token.special)
        yield from (name for name in special if "mask" in name.lower())


def special_token_id(tokenizer: Tokenizer, role: str, folder: str | Path | None = None) -> int:
    """The id of the `pad`, `unk`, `cls`, `sep` or `mask` token, in BERT's or RoBERTa's spelling.

    With `folder`, what its tokenizer_config.json or special_tokens_map.json names comes first.
    Raises `CheckpointError` if the tokenizer has none.
    """
    names = list(_names(tokenizer, role))
    for file in ("special_tokens_map.json", "tokenizer_config.json") if folder is not None else ():
        name = read_values(Path(folder or ".") / file).get(f"{role}_token")
        if name := name.get("content") if isinstance(name, dict) else name:
            names.insert(0, name)
    for name in names:
        if (token_id := tokenizer.token_to_id(name)) is not None:
            return int(token_id)
    raise CheckpointError(f"the tokenizer has no {role} token ({' or '.join(ROLES[role])}); take another tokenizer")


def special_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of all special tokens, sorted: those marked as such and those of the five roles."""
    marked = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = (tokenizer.token_to_id(name) for names in ROLES.values() for name in names)
    return sorted(marked | {i for i in named if i is not None})


def padding_id(tokenizer: Tokenizer) -> int:
    """Padding is masked out, so a tokenizer without a token for it can pad with any id."""
    return next((i for n in ROLES["pad"] if (i := tokenizer.token_to_id(n)) is not None), 0)
