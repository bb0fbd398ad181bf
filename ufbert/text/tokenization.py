"""Text to token ids: training, reading and writing tokenizers, and encoding batches of texts.

A tokenizer is a `tokenizers.Tokenizer` throughout; its file `tokenizer.json` is what transformers reads too.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The Rust threads of tokenizers are joined before a call returns, so a later fork is safe; unset, the
# library would warn at every fork and turn its threads off.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import numpy as np
import numpy.typing as npt
from tokenizers import (
    AddedToken,
    Encoding,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from ufbert.errors import CheckpointError, ConfigError, DataError

__all__ = [
    "EncodedBatch",
    "encode_batch",
    "encode_raw",
    "load_tokenizer",
    "save_tokenizer",
    "special_token_id",
    "special_token_ids",
    "stack_rows",
    "train_tokenizer",
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
# Characters that get an entry of their own. BERT's English vocabulary has 997.
ALPHABET_LIMIT = 1000


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = True, min_frequency: int = 10
) -> Tokenizer:
    """A WordPiece tokenizer the way BERT's is, of at most `vocab_size` entries.

    The same texts give the same vocabulary. It comes out smaller when no further piece occurs
    `min_frequency` times. The texts are read twice; an iterator is stored for that.
    Raises `ConfigError` for a vocabulary too small to hold letters, `DataError` for too little text.
    """
    limit = min(ALPHABET_LIMIT, (vocab_size - len(SPECIAL_TOKENS)) // 4)
    if limit < 1:
        raise ConfigError(f"vocab_size must be at least {len(SPECIAL_TOKENS) + 4}, not {vocab_size}")
    if iter(texts) is texts:
        texts = list(texts)
    tokenizer = _bert_tokenizer({}, lowercase)
    # The trainer numbers the pieces of single characters, and drops characters beyond its limit, in the
    # order of a hash table that differs between processes. So both lists are made here, in a fixed order.
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted((-n, c) for c, n in counts.items() if n >= min_frequency and not c.isspace())
    alphabet = sorted(c for _, c in frequent[:limit])
    if not alphabet:
        raise DataError(
            f"too little text to train a tokenizer: no letter occurs {min_frequency} times; "
            "give more text or lower data.min_frequency"
        )
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[*SPECIAL_TOKENS, *alphabet, *(PREFIX + c for c in alphabet)],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        ),
    )
    return _bert_tokenizer(tokenizer.get_vocab(), lowercase)


def _bert_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
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
        return _bert_tokenizer(vocabulary, bool(_read_json(folder, "tokenizer_config.json").get("do_lower_case", True)))
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the Rust library raises the bare class
        raise CheckpointError(f"{file}: not a tokenizer.json: {error}; fetch or write it again") from error
    return _plain(tokenizer)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
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
        saved = _plain(Tokenizer.from_str(tokenizer.to_str()))
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


class EncodedBatch(NamedTuple):
    """Token ids of B texts, padded to the longest of them; all arrays are int64 of shape (B, T)."""

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    """1 at tokens, 0 at padding."""
    token_type_ids: npt.NDArray[np.int64]
    truncated_count: int
    """How many of the texts were cut to `max_length`."""


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int
) -> EncodedBatch:
    """Encode texts, or pairs of texts, with the tokenizer's special tokens, cut to `max_length` with them.

    A pair loses tokens at the end of its longer text first. `tokenizer` is left as it is, and what it says
    about truncation and padding is ignored. No text gives arrays of shape (0, 0).
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer = _plain(Tokenizer.from_str(tokenizer.to_str()))
    room, first, second = encode_raw(tokenizer, texts, pairs, max_length)
    truncated = 0
    encodings: list[Encoding] = []
    for a, b in zip(first, second, strict=True):
        length_a, length_b = len(a), len(b) if b is not None else 0
        if length_a + length_b > room:
            truncated += 1
            keep_a, keep_b = _longest_first(length_a, length_b, room)
            a.truncate(keep_a)
            if b is not None:
                b.truncate(keep_b)
        encodings.append(tokenizer.post_process(a, b))
    return stack_rows(tokenizer, [(e.ids, e.type_ids) for e in encodings], truncated)


def encode_raw(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> tuple[int, list[Encoding], list[Encoding | None]]:
    """(tokens that `max_length` leaves beside the special ones, the texts' tokens uncut, the second texts')."""
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each")
    room = max_length - tokenizer.num_special_tokens_to_add(pairs is not None)
    if room < 1:
        raise ConfigError(f"max_length {max_length} leaves no room beside the special tokens; raise it")
    first = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    second: list[Encoding | None] = [None] * len(first)
    if pairs is not None:
        second = list(tokenizer.encode_batch(list(pairs), add_special_tokens=False))
    return room, first, second


def stack_rows(
    tokenizer: Tokenizer, rows: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], truncated: int
) -> EncodedBatch:
    """Rows of (token ids, token types) as one batch, padded to the longest."""
    lengths = [np.size(ids) for ids, _ in rows]
    width = max(lengths, default=0)
    input_ids = np.full((len(rows), width), _padding_id(tokenizer), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    token_type_ids = np.zeros_like(input_ids)
    for row, (length, (ids, type_ids)) in enumerate(zip(lengths, rows, strict=True)):
        input_ids[row, :length] = ids
        attention_mask[row, :length] = 1
        token_type_ids[row, :length] = type_ids
    return EncodedBatch(input_ids, attention_mask, token_type_ids, truncated)


def _padding_id(tokenizer: Tokenizer) -> int:
    """Padding is masked out, so a tokenizer without a token for it can pad with any id."""
    return next((i for n in ROLES["pad"] if (i := tokenizer.token_to_id(n)) is not None), 0)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths after taking tokens one by one from the longer text until both fit into `room`."""
    # Of an odd room the longer text gets the greater half, of equally long ones the second: as in tokenizers.
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
