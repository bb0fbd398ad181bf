"""The tokenizer that lies beside a foreign checkpoint."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from ufbert.checkpoint.folder import read_json
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError

__all__ = ["read_tokenizer"]


def read_tokenizer(*folders: Path) -> tuple[Tokenizer | None, str | None]:
    """The first tokenizer in `folders`: tokenizer.json, BERT's vocab.txt, or RoBERTa's vocab.json with merges.txt.

    Returns it and None, or None and the line that says so. Raises `CheckpointError` for a damaged one.
    """
    for folder in folders:
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            return load_tokenizer(folder), None
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _byte_level_bpe(folder), None
    return None, (
        f"{folders[0]} holds no tokenizer (tokenizer.json, vocab.txt, or vocab.json with merges.txt); the result "
        "has none either: add the model's own before using it on text"
    )


def _byte_level_bpe(folder: Path) -> Tokenizer:
    """RoBERTa's tokenizer out of its two files."""
    vocabulary = read_json(folder / "vocab.json")
    if missing := [t for t in ("<s>", "</s>", "<pad>", "<unk>", "<mask>") if t not in vocabulary]:
        raise CheckpointError(f"{folder / 'vocab.json'}: not RoBERTa's vocabulary: it lacks {', '.join(missing)}")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{folder / 'merges.txt'}: a line is not two pieces; fetch the checkpoint again")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(left, right) for left, right in pairs]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer
