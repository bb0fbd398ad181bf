"""What a conversion is of, so that only the same one goes on: by contents, wherever the files lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint

__all__ = ["model_fingerprint", "texts_fingerprint"]


def model_fingerprint(loaded: LoadedCheckpoint) -> str:
    """Of the weights, the config and the tokenizer; a gigabyte takes about a second."""
    config = {name: value for name, value in loaded.model.config.to_dict().items() if name != "provenance"}
    digest = hashlib.sha256(repr(sorted(config.items())).encode())
    for name, tensor in loaded.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    if loaded.tokenizer is not None:
        digest.update(loaded.tokenizer.to_str().encode())
    return digest.hexdigest()


def texts_fingerprint(*parts: Iterable[str]) -> str:
    """Of lists of texts in their order."""
    digest = hashlib.sha256()
    for texts in parts:
        for text in texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
        digest.update(b"|")
    return digest.hexdigest()
