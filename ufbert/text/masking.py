"""The masked-LM objective's corruption: which positions are predicted, and what the model sees there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ufbert.errors import ConfigError

__all__ = ["IGNORED", "count_masked", "mask_tokens", "masked_positions"]

IGNORED = -100
"""Label of a position that is not predicted; `torch.nn.functional.cross_entropy` skips it."""
SHARE_MASKED = 0.8
SHARE_RANDOM = 0.1


def mask_tokens(
    blocks: torch.Tensor | npt.NDArray[np.integer],
    special_ids: Sequence[int],
    mask_id: int,
    vocab_size: int,
    probability: float = 0.25,
    rng: torch.Generator | None = None,
    draws: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose and corrupt `round(probability * T)` positions (one at least) of every sequence of `blocks` (B, T).

    A chosen position becomes the mask token with probability 0.8, a random token that is not special with
    0.1, and stays with 0.1. Special tokens are never chosen; a sequence with fewer other positions has all
    of those chosen. Returns `input_ids` and `labels`, int64 tensors (B, T); labels are -100 elsewhere.
    All randomness comes from `rng`, a generator on the CPU (None: torch's global one); its state after the
    call depends on B, T and its state before alone. In its place `draws` (B, 3, T), uniform in [0, 1), give each
    sequence randomness of its own. `blocks` stay as they are.
    Source: Devlin et al. 2019, section 3.1; the fixed count is that of Geiping & Goldstein 2022, cramming.
    """
    input_ids = torch.as_tensor(np.asarray(blocks, dtype=np.int64) if isinstance(blocks, np.ndarray) else blocks)
    input_ids = input_ids.to(torch.int64, copy=True)
    batch, length = input_ids.shape
    is_ordinary = _ordinary(special_ids, vocab_size)
    ordinary_ids = is_ordinary.nonzero().squeeze(1)
    if not len(ordinary_ids):
        raise ConfigError(f"a vocabulary of {vocab_size} entries has no ordinary token to put in place of another")

    if draws is None:
        scores = torch.rand(batch, length, generator=rng)
        fate = torch.rand(batch, length, generator=rng)
        replacements = torch.randint(len(ordinary_ids), (batch, length), generator=rng)
    else:
        scores, fate, share = draws.unbind(1)  # each (B, T)
        replacements = (share * len(ordinary_ids)).long()
    maskable = is_ordinary[input_ids]  # (B, T)
    scores = scores.masked_fill(~maskable, -1.0)
    positions = scores.topk(masked_positions(probability, length), dim=1, sorted=False).indices  # (B, count)
    chosen = torch.zeros(batch, length, dtype=torch.bool).scatter_(1, positions, True) & maskable
    labels = torch.where(chosen, input_ids, IGNORED)

    input_ids[chosen & (fate < SHARE_MASKED)] = mask_id
    randomised = chosen & (fate >= SHARE_MASKED) & (fate < SHARE_MASKED + SHARE_RANDOM)
    return torch.where(randomised, ordinary_ids[replacements], input_ids), labels


def count_masked(
    blocks: npt.NDArray[np.integer], special_ids: Sequence[int], vocab_size: int, probability: float
) -> int:
    """How many positions of `blocks` (B, T) `mask_tokens` chooses, whatever it draws."""
    maskable = _ordinary(special_ids, vocab_size).numpy()[blocks].sum(1)  # (B,)
    return int(np.minimum(maskable, masked_positions(probability, blocks.shape[1])).sum())


def masked_positions(probability: float, length: int) -> int:
    """Positions that are chosen in a sequence of `length` tokens, none of them special."""
    return min(length, max(1, round(probability * length)))


def _ordinary(special_ids: Sequence[int], vocab_size: int) -> torch.Tensor:
    """(vocab_size,): True where a token is not special."""
    is_ordinary = torch.ones(vocab_size, dtype=torch.bool)
    is_ordinary[[i for i in special_ids if i < vocab_size]] = False
    return is_ordinary
