"""Checkpoints in the layout of UltraFastBERT's and cramming's authors, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ufbert import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification, UltraFastBertModel
from ufbert.commands.app import main
from ufbert.conversion import load_checkpoint
from ufbert.conversion.readers.crammed import by_part
from ufbert.errors import CheckpointError

REFERENCES = ["ultrafastbert-1x6", "ultrafastbert-4x3", "crammedbert-dense"]
WORD = "encoder.embedding.word_embedding.weight"


def convert(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["convert", *map(str, arguments)])
    assert exit_.value.code == 0


@pytest.fixture
def reference(shared_data: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(shared_data / "reference-checkpoints" / "ultrafastbert-4x3", tmp_path / "source"))


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    state = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({k: v.contiguous() for k, v in state.items() if v is not None}, folder / "model.safetensors")


def change_config(folder: Path, *path: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_checkpoints_are_reproduced(
    name: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared_data / "reference-checkpoints" / name
    convert(source, tmp_path / "out")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "holds no tokenizer" in captured.err
    assert not (tmp_path / "out" / "tokenizer.json").exists()

    model = UltraFastBertForMaskedLM.from_pretrained(tmp_path / "out")
    expected = load_file(source / "expected.safetensors")
    mask = expected["attention_mask"]
    with torch.no_grad():
        bare, masked = model(expected["input_ids"]), model(expected["input_ids"], mask)
    torch.testing.assert_close(bare.last_hidden_state, expected["hidden_states"], atol=1e-4, rtol=0)
    torch.testing.assert_close(bare.logits[..., :64], expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(bare.logits.sum(-1), expected["logit_sum"], atol=1e-3, rtol=0)
    present = mask.bool()
    for got, name_ in ((masked.last_hidden_state, "hidden_states_masked"), (masked.logits[..., :64], "logits_masked")):
        torch.testing.assert_close(got[present], expected[name_][present], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stored", ["decoder only", "both"])
def test_the_tied_decoder_may_have_either_name(stored: str, reference: Path) -> None:
    word = load_file(reference / "model.safetensors")[WORD]
    before = load_checkpoint(reference).model.state_dict()
    change(reference, **{"decoder.weight": word.clone(), WORD: None if stored == "decoder only" else word})
    source = load_checkpoint(reference)
    assert source.model.config.tie_word_embeddings
    for name, tensor in source.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_a_decoder_of_its_own_stays_one(reference: Path) -> None:
    word = load_file(reference / "model.safetensors")[WORD]
    change(reference, **{"decoder.weight": word + 1})
    model = load_checkpoint(reference).model
    assert isinstance(model, UltraFastBertForMaskedLM)
    assert not model.config.tie_word_embeddings
    torch.testing.assert_close(model.decoder.weight, word + 1)


def test_compiled_and_parallel_names_and_a_pickle_are_read(reference: Path) -> None:
    state = load_file(reference / "model.safetensors")
    before = load_checkpoint(reference).model.state_dict()
    torch.save({f"_orig_mod.{name}": t for name, t in state.items()}, reference / "pytorch_model.bin")
    (reference / "model.safetensors").unlink()
    after = load_checkpoint(reference).model.state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=0, rtol=0)


def test_a_bare_encoder_is_read(reference: Path) -> None:
    state = load_file(reference / "model.safetensors")
    expected = load_file(reference / "expected.safetensors")
    bare = {n.removeprefix("encoder."): t for n, t in state.items() if n.startswith("encoder.")}
    save_file(bare, reference / "model.safetensors")
    model = load_checkpoint(reference).model
    assert isinstance(model, UltraFastBertModel)
    with torch.no_grad():
        output = model(expected["input_ids"]).last_hidden_state
    torch.testing.assert_close(output, expected["hidden_states"], atol=1e-4, rtol=0)


def test_a_finetuned_classifier_is_read(reference: Path) -> None:
    change_config(reference, "arch", "num_labels", value=3)
    tensors = {
        "pooler.dense.weight": torch.randn(1024, 64),
        "pooler.dense.bias": torch.randn(1024),
        "head.weight": torch.randn(3, 1024),
        "head.bias": torch.randn(3),
    }
    change(reference, **tensors)
    expected = load_file(reference / "expected.safetensors")
    model = load_checkpoint(reference).model
    assert isinstance(model, UltraFastBertForSequenceClassification)
    with torch.no_grad():
        logits = model(expected["input_ids"]).logits
    hidden = expected["hidden_states"].mean(1)
    pooled = torch.tanh(hidden @ tensors["pooler.dense.weight"].T + tensors["pooler.dense.bias"])
    wanted = pooled @ tensors["head.weight"].T + tensors["head.bias"]
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-4)


def test_a_classifier_that_cannot_be_expressed_is_left_behind_only_if_asked(reference: Path) -> None:
    change_config(reference, "arch", "num_labels", value=3)
    change_config(reference, "arch", "classification_head", "pooler", value="max")
    change(reference, **{"head.weight": torch.randn(3, 1024), "head.bias": torch.randn(3)})
    with pytest.raises(CheckpointError, match="a head that cannot be expressed: head; give --drop-head"):
        load_checkpoint(reference)
    assert isinstance(load_checkpoint(reference, drop_head=True).model, UltraFastBertModel)


def test_references_inside_the_configuration_are_resolved(reference: Path) -> None:
    change_config(reference, "arch", "embedding", "embedding_dim", value="${arch.hidden_size}")
    change_config(reference, "arch", "hidden_dropout_prob", value="${.embedding.dropout_prob}")
    assert load_checkpoint(reference).model.config.hidden_size == 64
    change_config(reference, "arch", "norm_eps", value="${arch.nowhere}")
    with pytest.raises(CheckpointError, match=r"refers to \$\{arch.nowhere\}"):
        load_checkpoint(reference)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("arch", "nonlin"), "GELUglu", "nonlin is 'GELUglu'"),
        (("arch", "norm"), "RMSNorm", "norm is 'RMSNorm'.*supported: LayerNorm"),
        (("arch", "norm_scheme"), "post", "can only express norm_scheme = 'pre'"),
        (("arch", "attention", "rotary_embedding"), True, "rotary_embedding is True"),
        (("arch", "attention", "causal_attention"), True, "causal_attention is True"),
        (("arch", "attention", "type"), "fourier", "type is 'fourier'"),
        (("arch", "embedding", "pos_embedding"), "alibi", "pos_embedding is 'alibi'"),
        (("arch", "hidden_size"), "many", "hidden_size is 'many', not a whole number"),
        (("arch", "hidden_size"), 60, "embedding_dim is 64; this encoder can only express embedding_dim = 60"),
        (("arch", "intermed_depth"), 60, "depth 60 means"),
        (("arch", "intermed_depth"), 4, r"linear_in.weight has shape \(60, 64\), config.json makes it \(124, 64\)"),
        (("arch",), None, "has no arch object"),
    ],
)
def test_what_cannot_be_expressed_is_refused(path: tuple[str, ...], value: Any, text: str, reference: Path) -> None:
    change_config(reference, *path, value=value)
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(reference)


def test_missing_and_surplus_tensors_are_named(reference: Path) -> None:
    change(reference, **{"encoder.layers.1.norm2.bias": None})
    with pytest.raises(CheckpointError, match=r"lacks the tensor encoder.layers.1.norm2.bias"):
        load_checkpoint(reference)
    change(reference, **{"encoder.layers.1.norm2.bias": torch.zeros(64), "encoder.layers.1.gate": torch.zeros(4)})
    with pytest.raises(CheckpointError, match=r"holds encoder.layers.1.gate, which"):
        load_checkpoint(reference)
    change(reference, **{"encoder.layers.1.gate": None, WORD: None})
    with pytest.raises(CheckpointError, match="lacks both"):
        load_checkpoint(reference)


def test_fused_rows_are_reordered_by_part() -> None:
    heads, size = 2, 3
    rows = torch.tensor([[h, part, i] for h in range(heads) for part in range(3) for i in range(size)])
    wanted = torch.tensor([[h, part, i] for part in range(3) for h in range(heads) for i in range(size)])
    assert torch.equal(by_part(rows, heads), wanted)
