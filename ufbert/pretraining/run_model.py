"""What a run's settings and its tokenizer make of the model, and of the masks."""

from __future__ import annotations

from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import special_token_id, special_token_ids
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.settings.sections import Settings

from .batches import Masking

__all__ = ["run_config", "run_masking"]


def run_config(settings: Settings, tokenizer: Tokenizer) -> UltraFastBertConfig:
    """The config that is saved: its vocabulary is the tokenizer's, its dropout is for finetuning."""
    entries = max(tokenizer.get_vocab().values()) + 1
    return settings.model.replace(
        # A model that is trained on keeps its embeddings, of which some have no entry.
        vocab_size=settings.model.vocab_size if settings.training.initial_checkpoint else entries,
        pad_token_id=special_token_id(tokenizer, "pad"),
        architectures=(UltraFastBertForMaskedLM.__name__,),
    )


def run_masking(settings: Settings, tokenizer: Tokenizer) -> Masking:
    """How the sequences are masked, those of the held-out text too."""
    return Masking(
        special_token_ids(tokenizer),
        special_token_id(tokenizer, "mask"),
        run_config(settings, tokenizer).vocab_size,
        settings.training.mlm_probability,
    )
