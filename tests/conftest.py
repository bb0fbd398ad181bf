"""Fixtures that several test files share."""

from __future__ import annotations

import logging
import os
import signal

# One thread pool a process; the suite's own parallelism is the machine's.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As the command line sets it: on a busy machine torch's threads would spin at each other for most of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# So little is compiled that processes which help with it take longer to start than they save.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ufbert import UltraFastBertConfig

if TYPE_CHECKING:
    from cuda_emulator import Emulator

    from ufbert.pretraining.run_folder import RunPlan
# Whether the kernels are still to be compiled depends on what ran before; no test counts that line.
logging.getLogger("ufbert.numba_kernels").setLevel(logging.ERROR)


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C reaches the tests and their processes also where a shell ignores it, as for a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data for development, beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def steady_products() -> None:
    """Skip where oneDNN's float32 products give a row other bits in other company; with AVX-512 they do not."""
    from ufbert.inference.engine.linear import PackedLinear, packs

    linear = PackedLinear(torch.randn(96, 64), None, torch.float32)
    x = torch.randn(130, 64)
    with torch.inference_mode():
        steady = all(torch.equal(linear(x[:rows]), linear(x)[:rows]) for rows in (1, 2, 7, 40, 65))
    if not packs() or not steady:
        pytest.skip("this processor's float32 products round differently in batches of different size")


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The CUDA kernels on the CPU; each layout is compiled once, which takes seconds."""
    from cuda_emulator import built_emulator

    with built_emulator() as emulator:
        yield emulator


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


SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A walking dog is talking to the sleeping fox, and nobody is listening.",
    "Reading and writing texts about models, trees and paths takes time.",
    "She sells sea shells by the sea shore.",
] * 3


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random checkpoints of all kinds with a tokenizer: `masked_lm`, `classifier`, `regression`, `encoder`."""
    from ufbert import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification, UltraFastBertModel
    from ufbert.text.tokenization import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(SENTENCES, 300, min_frequency=2)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        depth=3,
        classifier_hidden_size=16,
        initializer_range=0.2,
    )
    labels = config.replace(num_labels=3, id2label={0: "no", 1: "maybe", 2: "yes"})
    models = {
        "masked_lm": UltraFastBertForMaskedLM(config),
        "classifier": UltraFastBertForSequenceClassification(
            labels.replace(problem_type="single_label_classification")
        ),
        "regression": UltraFastBertForSequenceClassification(config.replace(num_labels=1, problem_type="regression")),
        "encoder": UltraFastBertModel(config),
    }
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in models.items():
        model.save_pretrained(folder / name, tokenizer=tokenizer)
    return {name: folder / name for name in models}


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
    """Plans of a tiny pretraining run of 8 steps, with the batch growing from 4 to 12 in micro-batches of 4."""
    from ufbert.pretraining.run_folder import plan_run

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
