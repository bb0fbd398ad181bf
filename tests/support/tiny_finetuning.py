"""What the finetuning tests share: made-up rows of two classes, and a look at what was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.finetuning.request import DataRequest
from ufbert.finetuning.tasks import GLUE
from ufbert.settings.sections import FinetuningSettings
from ufbert.text.tokenization import encode_batch, train_tokenizer

WORDS = ["the", "film", "was", "very", "quite", "really", "today", "again", "here", "there"]
FAST = FinetuningSettings(epochs=4, learning_rate=1e-2, device="cpu", precision="float32")


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts whose class is that of their one telling word."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(draw.integers(2))
        words = [*draw.choice(WORDS, int(draw.integers(2, 7))), ("awful", "lovely")[label]]
        rows.append((" ".join(draw.permutation(words)), label))
    return rows


def write_csv(path: Path, count: int, seed: int, names: tuple[str, str] = ("neg", "pos")) -> Path:
    lines = [f"{text},{names[label]}" for text, label in sentences(count, seed)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny(vocab_size: int, **changes: Any) -> UltraFastBertConfig:
    return UltraFastBertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        depth=3,
        classifier_hidden_size=32,
        **changes,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return UltraFastBertForSequenceClassification.from_pretrained(folder).state_dict()


def predicted(folder: Path, texts: list[str], pairs: list[str] | None = None) -> torch.Tensor:
    model = UltraFastBertForSequenceClassification.from_pretrained(folder)
    batch = encode_batch(load_tokenizer(folder), texts, pairs, max_length=24)
    with torch.inference_mode():
        types = torch.from_numpy(batch.token_type_ids) if model.config.type_vocab_size else None
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        logits: torch.Tensor = model(ids, mask, token_type_ids=types).logits
    return logits


def write_checkpoint(folder: Path) -> None:
    """A pretrained model that has learned nothing, with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([text for text, _ in sentences(200, 9)], 200, min_frequency=1)
    model = UltraFastBertForMaskedLM(tiny(tokenizer.get_vocab_size()))
    model.save_pretrained(folder, tokenizer=tokenizer)


def write_rows(folder: Path) -> DataRequest:
    """240 rows to learn from, 80 to be judged by."""
    train, validation = write_csv(folder / "train.csv", 240, 1), write_csv(folder / "validation.csv", 80, 2)
    return DataRequest(train=str(train), validation=str(validation))


def write_glue(folder: Path, *tasks: str, rows: int = 24) -> Path:
    """A folder of GLUE tasks with made-up rows in Hugging Face's columns: jsonl, a folder each."""
    for name in tasks:
        task = GLUE[name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed, split in enumerate(("train", *task.validation)):
            texts = sentences(rows, seed)
            lines = []
            for number, (text, label) in enumerate(texts):
                value = float(label * 4) + number / 100 if task.labels is None else label
                columns = dict.fromkeys(task.columns, text)
                lines.append(json.dumps({**columns, "label": value, "idx": number}))
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
