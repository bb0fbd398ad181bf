"""The tokenizer that lies beside a foreign checkpoint."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import has_tokenizer, load_tokenizer
from ufbert.errors import MissingExtraError, TokenizerError

__all__ = ["read_tokenizer"]


def read_tokenizer(*folders: Path) -> tuple[Tokenizer | None, str | None]:
    """The tokenizer of the first of `folders` that has the files of one.

    Returns it and None, or None and the line that says why there is none: the weights are of use without it, too.
    Raises `CheckpointError` for a damaged one.
    """
    folder = next((folder for folder in folders if has_tokenizer(folder)), None)
    if folder is None:
        return None, (
            f"{folders[0]} holds no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a "
            "SentencePiece model); the result has none either: add the model's own before using it on text"
        )
    try:
        return load_tokenizer(folder), None
    except (TokenizerError, MissingExtraError) as error:
        return None, f"the result has no tokenizer: {error}"
