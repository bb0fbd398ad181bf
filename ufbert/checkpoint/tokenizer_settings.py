"""What the JSON files beside a vocabulary say: whose tokenizer it is, its settings, special and added tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ufbert.errors import CheckpointError

from .git_lfs import refuse_git_lfs_pointer

__all__ = ["FAIRSEQ_NAMES", "TokenizerSettings", "read_settings", "read_text", "read_values"]

CONFIG_FILE = "tokenizer_config.json"
FAIRSEQ_NAMES = {
    "bos": "<s>",
    "pad": "<pad>",
    "eos": "</s>",
    "unk": "<unk>",
    "sep": "</s>",
    "cls": "<s>",
    "mask": "<mask>",
}
"""What RoBERTa's kin call their special tokens by default, whether their pieces are bytes or SentencePiece's."""
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Settings of one class alone; old folders have them without naming it.
SETTINGS_OF_CLASSES = {
    "word_tokenizer_type": "BertJapaneseTokenizer",
    "subword_tokenizer_type": "BertJapaneseTokenizer",
    "mecab_kwargs": "BertJapaneseTokenizer",
    "sudachi_kwargs": "BertJapaneseTokenizer",
    "jumanpp_kwargs": "BertJapaneseTokenizer",
}


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings of a folder; `added` are the tokens with a number of their own."""

    folder: Path
    tokenizer_class: str
    """Of transformers, without `Fast` at its end; empty where nothing names one."""
    model_type: str
    """Of config.json; empty where it has none."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """tokenizer_config.json, with what special_tokens_map.json says of the same keys."""
    added: Mapping[int, AddedToken] = field(default_factory=dict)

    def flag(self, name: str, default: bool) -> bool:
        """A setting that is on or off. Raises `CheckpointError` for another value."""
        value = self.optional_flag(name)
        return default if value is None else value

    def optional_flag(self, name: str) -> bool | None:
        """The same, or None where it is left to the tokenizer."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{self.folder / CONFIG_FILE}: {name} is {value!r}; it must be true or false")
        return value

    def name(self, role: str, default: str) -> str:
        """How the `unk`, `cls`, ... token is written."""
        return _content(self.values.get(f"{role}_token")) or default

    def place_added_tokens(self, vocabulary: dict[str, int]) -> None:
        """Put the added tokens into `vocabulary`, unless they just continue its numbers.

        The library numbers what is added by the size of the vocabulary, so numbers with gaps are only to be had there.
        Raises `CheckpointError` for a number that another piece has.
        """
        taken = {number: token for token, number in vocabulary.items()}
        fresh = {n: str(token.content) for n, token in self.added.items() if token.content not in vocabulary}
        for number, token in fresh.items():
            if number in taken:
                raise CheckpointError(
                    f"{self.folder}: the added token {token} has the number {number}, which the vocabulary gives to "
                    f"{taken[number]!r}; they do not belong together"
                )
        if sorted(fresh) != list(range(len(vocabulary), len(vocabulary) + len(fresh))):
            vocabulary.update({token: number for number, token in fresh.items()})

    def add_tokens(self, tokenizer: Tokenizer, defaults: Mapping[str, str | AddedToken]) -> None:
        """Let `tokenizer` keep whole the added tokens, those of the roles that it has, and the additional special ones.

        `defaults` are the roles' tokens where the settings name no other. Raises `CheckpointError` where an added
        token cannot have its number.
        """
        fresh = [n for n, token in self.added.items() if tokenizer.token_to_id(str(token.content)) is None]
        by_content = {str(token.content): token for token in self.added.values()}
        tokens = [self.added[number] for number in sorted(self.added)]
        for role in ROLES:
            value = self.values.get(f"{role}_token") or defaults.get(role)
            content = _content(value)
            if content and (tokenizer.token_to_id(content) is not None or content in by_content):
                tokens.append(_special(by_content.get(content, value)))
        tokens += [_special(value) for value in _extra_tokens(self.values) if _content(value) not in by_content]
        for token in tokens:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        for number in sorted(fresh):
            if (given := tokenizer.token_to_id(str(self.added[number].content))) != number:
                raise CheckpointError(
                    f"{self.folder}: the added token {self.added[number].content} has the number {number}, but would "
                    f"get {given}: its vocabulary has other numbers; fetch the tokenizer's files again"
                )


def read_settings(folder: Path) -> TokenizerSettings:
    """What tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json say.

    Where the first lists its added tokens it says all, and the next two are older. Raises `CheckpointError`.
    """
    values = read_values(folder / CONFIG_FILE)
    model = read_values(folder / "config.json")
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in values:
        entries = values["added_tokens_decoder"]
        for number, entry in entries.items() if isinstance(entries, dict) else ():
            if not str(number).isdigit() or not _content(entry):
                raise CheckpointError(
                    f"{folder / CONFIG_FILE}: added_tokens_decoder has {number!r}: {entry!r}; "
                    "an entry is a number with a token"
                )
            added[int(number)] = _token(entry)
    else:
        # Those of the older file are special only if no number is given for them: so transformers has it.
        special = {_content(value) for value in _extra_tokens(values)}
        values |= read_values(folder / "special_tokens_map.json")
        special |= {_content(values.get(f"{role}_token")) for role in ROLES}
        for token, number in read_values(folder / "added_tokens.json").items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 0 or not token:
                raise CheckpointError(
                    f"{folder / 'added_tokens.json'}: {token!r} has the number {number!r}; it must be a whole number"
                )
            added[number] = AddedToken(token, normalized=token not in special, special=token in special)
    return TokenizerSettings(folder, _tokenizer_class(values, model), str(model.get("model_type") or ""), values, added)


def _tokenizer_class(values: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    name = values.get("tokenizer_class") or model.get("tokenizer_class")
    if not name:
        name = next((owner for key, owner in SETTINGS_OF_CLASSES.items() if key in values), None)
    if not name and isinstance(modules := values.get("auto_map"), dict):
        # `module.Class` or [slow, fast], of code that comes with the model
        classes = modules.get("AutoTokenizer")
        named = [c for c in (classes if isinstance(classes, list) else [classes]) if isinstance(c, str)]
        name = named[0].rpartition(".")[2] if named else None
    return str(name or "").removesuffix("Fast")


def read_values(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file, or it holds something else."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: not valid JSON: {error}; fetch or write it again") from error
    return content if isinstance(content, dict) else {}


def read_text(file: Path) -> str:
    """The text of one of a tokenizer's files. Raises `CheckpointError`."""
    refuse_git_lfs_pointer(file)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not a tokenizer: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error


def _content(value: Any) -> str:
    """The text of a token that is given as text or as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    elif isinstance(value, AddedToken):
        value = value.content
    return value if isinstance(value, str) else ""


def _extra_tokens(values: Mapping[str, Any]) -> list[Any]:
    """The special tokens that have no role, as text or as objects."""
    extra = values.get("extra_special_tokens") or values.get("additional_special_tokens") or ()
    return [value for value in (extra.values() if isinstance(extra, dict) else extra) if _content(value)]


def _token(value: dict[str, Any]) -> AddedToken:
    special = bool(value.get("special", False))
    flags = {name: bool(value[name]) for name in ("lstrip", "rstrip", "single_word", "normalized") if name in value}
    return AddedToken(_content(value), special=special, **flags)


def _special(value: Any) -> AddedToken:
    """The token as a special one."""
    if isinstance(value, dict):
        return _token({**value, "special": True})
    if isinstance(value, AddedToken):
        return _token({**value.__getstate__(), "special": True})
    return AddedToken(value, special=True, normalized=False)
