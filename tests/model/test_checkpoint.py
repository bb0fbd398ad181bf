"""Saving and loading folders: nothing lost, nothing half-written, errors by their text."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from ufbert import (
    UltraFastBertConfig,
    UltraFastBertForMaskedLM,
    UltraFastBertForSequenceClassification,
    UltraFastBertModel,
)
from ufbert.errors import CheckpointError, OutputError
from ufbert.system.atomic import write_folder

IDS = torch.arange(5, 15)[None]


@pytest.fixture
def saved(tiny_config: UltraFastBertConfig, tmp_path: Path) -> tuple[UltraFastBertForMaskedLM, Path]:
    model = UltraFastBertForMaskedLM(tiny_config).eval()
    model.save_pretrained(tmp_path / "model", card="# A model\n")
    return model, tmp_path / "model"


def test_round_trip(saved: tuple[UltraFastBertForMaskedLM, Path]) -> None:
    model, folder = saved
    loaded = UltraFastBertForMaskedLM.from_pretrained(folder)
    assert not loaded.training
    assert loaded.config.architectures == ("UltraFastBertForMaskedLM",)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    assert loaded.decoder.weight is loaded.encoder.embeddings.word.weight
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_every_class_reads_the_same_file(
    saved: tuple[UltraFastBertForMaskedLM, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, folder = saved
    encoder = UltraFastBertModel.from_pretrained(folder)
    torch.testing.assert_close(encoder(IDS).last_hidden_state, model(IDS).last_hidden_state)
    with caplog.at_level(logging.INFO, "ufbert"):
        classifier = UltraFastBertForSequenceClassification.from_pretrained(folder, num_labels=4)
    assert "classifier: initialised anew" in caplog.text
    torch.testing.assert_close(classifier(IDS).last_hidden_state, model(IDS).last_hidden_state)
    assert classifier(IDS).logits.shape == (1, 4)
    encoder.save_pretrained(folder.parent / "encoder")
    again = UltraFastBertForMaskedLM.from_pretrained(folder.parent / "encoder")
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


def test_a_loaded_model_trains(saved: tuple[UltraFastBertForMaskedLM, Path]) -> None:
    loaded = UltraFastBertForMaskedLM.from_pretrained(saved[1]).train()
    loss = loaded(IDS, labels=IDS).loss
    assert loss is not None
    loss.backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_nothing_is_overwritten_unasked(saved: tuple[UltraFastBertForMaskedLM, Path]) -> None:
    model, folder = saved
    with pytest.raises(OutputError, match="already exists; choose another"):
        model.save_pretrained(folder)
    (folder / "metrics.jsonl").write_text("{}\n")
    model.save_pretrained(folder, replace=True)
    assert (folder / "metrics.jsonl").read_text() == "{}\n"  # what the writer does not know is kept
    assert (folder / "README.md").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # no temporary folder stays behind


def test_a_failed_write_leaves_the_old_folder(saved: tuple[UltraFastBertForMaskedLM, Path]) -> None:
    _, folder = saved
    before = (folder / "model.safetensors").read_bytes()

    def write_half() -> None:
        with write_folder(folder, replace=True) as temporary:
            (temporary / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no space left on the disk"), write_folder(tmp_path / "new"):
        Path("/dev/full").write_bytes(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def damage_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def test_bad_folders_are_one_clear_line(saved: tuple[UltraFastBertForMaskedLM, Path], tmp_path: Path) -> None:
    _, folder = saved
    with pytest.raises(CheckpointError, match="no such folder"):
        UltraFastBertModel.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        UltraFastBertModel.from_pretrained(tmp_path / "empty")
    damage_config(folder, hidden_size=64)
    with pytest.raises(CheckpointError, match=r"has shape .* config.json makes it"):
        UltraFastBertModel.from_pretrained(folder)
    damage_config(folder, hidden_size=32, num_hidden_layers=5)
    with pytest.raises(CheckpointError, match=r"lacks encoder\.layers\."):
        UltraFastBertModel.from_pretrained(folder)
    damage_config(folder, model_type="bert")
    with pytest.raises(CheckpointError, match="run: ufbert convert"):
        UltraFastBertModel.from_pretrained(folder)
    damage_config(folder, model_type="ultrafastbert", num_hidden_layers=2)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        UltraFastBertModel.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json:1: not valid JSON"):
        UltraFastBertModel.from_pretrained(folder)
