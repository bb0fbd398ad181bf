"""Fixtures that several test files share."""

from __future__ import annotations

import os

# One thread pool a process; the suite's own parallelism is the machine's.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

from ufbert import UltraFastBertConfig


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data for development, beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return folder


@pytest.fixture
def tiny_config() -> UltraFastBertConfig:
    """Two layers of 32 with one tree of depth 3."""
    return UltraFastBertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        depth=3,
        intermediate_size=64,
        classifier_hidden_size=16,
    )


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers whichever tests run with it."""
    torch.manual_seed(0)
