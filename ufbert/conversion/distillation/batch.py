"""A batch of a distillation's texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import special_token_id, special_token_ids
from ufbert.text.masking import mask_tokens

__all__ = ["Batch", "Masker", "Text"]

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair of them."""


@dataclass(frozen=True)
class Batch:
    """int64 ids and mask of shape (B, T)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor | None
    masked: torch.Tensor | None = None
    """(B, T), True where a masked LM is asked what stood there; None where nothing is masked."""


class Masker:
    """Masks texts as pretraining does, the same ones of the same batch each time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises `CheckpointError` for a tokenizer without a mask token."""
        self.special_ids = special_token_ids(tokenizer)
        self.mask_id = special_token_id(tokenizer, "mask")
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1

    def apply(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, seed: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and mask (B, T) of batch `number` -> the ids as the model sees them, and which positions count.

        Texts of one length are masked together, so that padding takes no part in how many positions are.
        """
        # torch's generator takes 32 bits of a seed alone.
        mixed = np.random.SeedSequence([seed % (1 << 32), number]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        seen, masked = input_ids.clone(), torch.zeros_like(input_ids, dtype=torch.bool)
        lengths = attention_mask.sum(1)
        for length in lengths.unique().tolist():
            rows = lengths == length
            ids, labels = mask_tokens(
                input_ids[rows, :length], self.special_ids, self.mask_id, self.vocab_size, rng=generator
            )
            seen[rows, :length], masked[rows, :length] = ids, labels >= 0
        return seen, masked
