"""A tiny run and its corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ufbert.pretraining.run_folder import RunPlan, plan_run

WORDS = ("red", "green", "blue", "small", "large", "round", "cat", "dog", "bird", "tree", "runs", "sleeps", "sings")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """300 documents of simple sentences."""
    rng = np.random.default_rng(0)
    documents = [" ".join(f"the {' '.join(rng.choice(WORDS, 4))}." for _ in range(8)) for _ in range(300)]
    file = tmp_path / "corpus.txt"
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def plan(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunPlan]:
    """Plans of a tiny run of 8 steps, with the batch growing from 4 to 12 in micro-batches of 4."""
    monkeypatch.chdir(tmp_path)
    tiny = [
        "model.hidden_size=32",
        "model.num_hidden_layers=2",
        "model.num_attention_heads=2",
        "model.depth=3",
        "model.max_position_embeddings=16",
        "data.sequence_length=16",
        f"data.cache_dir={tmp_path}/cache",
        "data.min_frequency=2",
        "training.batch_size=12",
        "training.micro_batch_size=4",
        "training.dropout=0.1",
        "training.peak_learning_rate=1e-3",
        "training.precision=float32",
        "training.device=cpu",
    ]

    def make(folder: str, *overrides: str, resume: bool = False) -> RunPlan:
        if resume:
            return plan_run(Path(folder), resume=True, overrides=overrides)
        end = (
            [] if any(o.startswith(("training.tokens", "training.budget")) for o in overrides) else ["training.steps=8"]
        )
        return plan_run(Path(folder), overrides=[*tiny, *end, *overrides], options={"data.corpus": str(corpus)})

    return make
