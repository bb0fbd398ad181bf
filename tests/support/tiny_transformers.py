"""Tiny random models of transformers whose conversion tests compare with the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.2,
}
DISTIL_SIZES = {
    "vocab_size": 60,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, Any] = {
    "bert": lambda **more: transformers.BertConfig(**SIZES, **more),
    "roberta": lambda **more: transformers.RobertaConfig(**SIZES, type_vocab_size=1, **more),
    "camembert": lambda **more: transformers.CamembertConfig(**SIZES, type_vocab_size=1, **more),
    "xlm-roberta": lambda **more: transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1, **more),
    "electra": lambda **more: transformers.ElectraConfig(**{**SIZES, "embedding_size": 16, **more}),
    "distilbert": lambda **more: transformers.DistilBertConfig(**DISTIL_SIZES, **more),
}
PAD = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
ONE_WAY: dict[str, Any] = {
    "mpnet": lambda **more: transformers.MPNetConfig(**{**SIZES, "max_position_embeddings": 202, **more}),
    # Layers 0 and 3 see the whole text, 1 and 2 six tokens to either side.
    "modernbert": lambda **more: transformers.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 4, "max_position_embeddings": 200, "local_attention": 12, **PAD, **more}
    ),
    "gte": lambda **more: transformers.GteConfig(**{**SIZES, "max_position_embeddings": 200, **more}),
    "nomic_bert": lambda **more: transformers.NomicBertConfig(**{**SIZES, "max_position_embeddings": 200, **more}),
}
"""Families that `--to dense` does not write; the longest text has 200 tokens or more."""


def save(auto: Any, family: str, folder: Path, **more: Any) -> Any:
    """A random model whose biases and norms are random too, saved."""
    torch.manual_seed(1)
    model = auto.from_config((CONFIGS | ONE_WAY)[family](**more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def texts(pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (3, 9); the second and third are padded."""
    ids = torch.randint(5, 60, (3, 9))
    mask = torch.ones_like(ids)
    for row, length in ((1, 6), (2, 2)):
        ids[row, length:], mask[row, length:] = pad, 0
    return ids, mask


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(55))]
"""A vocabulary of `SIZES`."""


def write_vocabulary(folder: Path) -> None:
    """A WordPiece vocabulary beside a model."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
