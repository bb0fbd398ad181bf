"""The tokenizer of a folder: `tokenizer.json` or `vocab.txt` in, `tokenizer.json` out, which transformers reads too.

A tokenizer is a `tokenizers.Tokenizer` throughout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# The Rust threads of tokenizers are joined before a call returns, so a later fork is safe; unset, the
# library would warn at every fork and turn its threads off.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ufbert.errors import CheckpointError

from .git_lfs import refuse_git_lfs_pointer

__all__ = [
    "PREFIX",
    "SPECIAL_TOKENS",
    "bert_tokenizer",
    "load_tokenizer",
    "padding_id",
    "save_tokenizer",
    "special_token_id",
    "special_token_ids",
    "without_padding",
]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
PREFIX = "##"


def bert_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    model = models.WordPiece(
        vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100, continuing_subword_prefix=PREFIX
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    if vocabulary:
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder or file: `tokenizer.json`, or else BERT's `vocab.txt`.

    It neither truncates nor pads, whatever the file says. Raises `CheckpointError`.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = path
    if path.is_dir():
        file = next((f for n in ("tokenizer.json", "vocab.txt") if (f := path / n).is_file()), path)
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no tokenizer there; give a folder with tokenizer.json or vocab.txt, or such a file"
        )
    refuse_git_lfs_pointer(file)
    try:
        content = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not a tokenizer: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    if file.suffix == ".txt":
        lines = content.removesuffix("\n").split("\n")
        vocabulary = {token.removesuffix("\r"): i for i, token in enumerate(lines)}
        if missing := [t for t in SPECIAL_TOKENS if t not in vocabulary]:
            raise CheckpointError(f"{file}: not BERT's vocabulary: it lacks {', '.join(missing)}")
        return bert_tokenizer(vocabulary, bool(_read_json(folder, "tokenizer_config.json").get("do_lower_case", True)))
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the Rust library raises the bare class
        raise CheckpointError(f"{file}: not a tokenizer.json: {error}; fetch or write it again") from error
    return without_padding(tokenizer)


def without_padding(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    file = folder / name
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}; fetch or write it again") from error
    return content if isinstance(content, dict) else {}


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
    for role, names in ROLES.items():
        for name in names:
            if tokenizer.token_to_id(name) is not None:
                config[f"{role}_token"] = name
                break
    (folder / "tokenizer.json").write_text(saved.to_str(pretty=True), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def special_token_id(tokenizer: Tokenizer, role: str, folder: str | Path | None = None) -> int:
    """The id of the `pad`, `unk`, `cls`, `sep` or `mask` token, in BERT's or RoBERTa's spelling.

    With `folder`, what its tokenizer_config.json or special_tokens_map.json names comes first.
    Raises `CheckpointError` if the tokenizer has none.
    """
    names = list(ROLES[role])
    for file in ("special_tokens_map.json", "tokenizer_config.json") if folder is not None else ():
        name = _read_json(Path(folder or "."), file).get(f"{role}_token")
        if name := name.get("content") if isinstance(name, dict) else name:
            names.insert(0, name)
    for name in names:
        if (token_id := tokenizer.token_to_id(name)) is not None:
            return int(token_id)
    raise CheckpointError(f"the tokenizer has no {role} token ({' or '.join(names)}); take another tokenizer")


def special_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of all special tokens, sorted: those marked as such and those of the five roles."""
    marked = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = (tokenizer.token_to_id(name) for names in ROLES.values() for name in names)
    return sorted(marked | {i for i in named if i is not None})


def padding_id(tokenizer: Tokenizer) -> int:
    """Padding is masked out, so a tokenizer without a token for it can pad with any id."""
    return next((i for n in ROLES["pad"] if (i := tokenizer.token_to_id(n)) is not None), 0)
