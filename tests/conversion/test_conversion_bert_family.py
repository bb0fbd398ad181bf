"""BERT, RoBERTa, DistilBERT and ELECTRA against transformers, there and back."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ufbert import (
    UltraFastBertConfig,
    UltraFastBertForMaskedLM,
    UltraFastBertModel,
)
from ufbert.conversion import ConversionRequest, convert_checkpoint, load_checkpoint
from ufbert.errors import CheckpointError

transformers = pytest.importorskip("transformers")
from tiny_transformers import CONFIGS, save, texts  # noqa: E402  needs transformers


@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states_and_masked_lm_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    theirs = save(transformers.AutoModelForMaskedLM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "out"))
    ours = UltraFastBertForMaskedLM.from_pretrained(tmp_path / "out")
    ids, mask = texts(ours.config.pad_token_id)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask, output_hidden_states=True)
        got = ours(ids, mask)
    present = mask.bool()
    torch.testing.assert_close(got.last_hidden_state[present], wanted.hidden_states[-1][present], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.logits[present], wanted.logits[present], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_longest_text_and_token_types(family: str, tmp_path: Path) -> None:
    theirs = save(transformers.AutoModel, family, tmp_path / "source")
    ours = load_checkpoint(tmp_path / "source").model
    length = ours.config.max_position_embeddings
    assert length == (20 if family == "bert" else 18)
    ids, types = torch.randint(5, 60, (2, length)), torch.zeros(2, length, dtype=torch.int64)
    if family == "bert":
        types[:, 4:] = 1
    with torch.no_grad():
        wanted = theirs(ids, token_type_ids=types).last_hidden_state
        got = ours(ids, token_type_ids=types).last_hidden_state
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_activations_shards_and_half_precision(tmp_path: Path) -> None:
    theirs = save(transformers.AutoModel, "bert", tmp_path / "source", hidden_act="gelu_new").half()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    ours = load_checkpoint(tmp_path / "shards").model
    assert ours.config.hidden_act == "gelu_new"
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    ids, mask = texts(0)
    with torch.no_grad():
        wanted, got = theirs.float()(ids, attention_mask=mask), ours(ids, mask)
    present = mask.bool()
    torch.testing.assert_close(got.last_hidden_state[present], wanted.last_hidden_state[present], atol=1e-4, rtol=1e-4)


def test_pickled_weights_and_old_names_of_norms(tmp_path: Path) -> None:
    save(transformers.AutoModel, "bert", tmp_path / "source")
    before = load_checkpoint(tmp_path / "source").model.state_dict()
    state = load_file(tmp_path / "source" / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    }
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save(old, tmp_path / "source" / "pytorch_model.bin")
    for name, tensor in load_checkpoint(tmp_path / "source").model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.file), "w")


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    save(transformers.AutoModel, "bert", tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    victim = tmp_path / "victim"
    torch.save({"embeddings": Payload(victim)}, tmp_path / "source" / "pytorch_model.bin")
    victim.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="unpickling that could run code, so it was not read"):
        load_checkpoint(tmp_path / "source")
    (tmp_path / "source" / "pytorch_model.bin").write_bytes(pickle.dumps([1, 2], protocol=4)[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match=r"pytorch_model.bin: (damaged|holds)"):
            load_checkpoint(tmp_path / "source")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("hidden_act", "mish", "hidden_act is 'mish', which is not supported; supported: gelu"),
        ("position_embedding_type", "relative_key", "position_embedding_type is 'relative_key'"),
        ("is_decoder", True, "is_decoder is True"),
        ("vocab_size", 61, r"has shape \(60, 32\), config.json makes it \(61, 32\)"),
        ("num_hidden_layers", 3, r"lacks the tensor encoder.layer.2"),
        ("num_hidden_layers", 1, r"holds encoder.layer.1.*which this encoder has no place for"),
        ("num_attention_heads", 5, r"num_attention_heads \(5\) must divide"),
        ("model_type", "canine", "model_type is 'canine', which is not known; readable: bert, camembert, crammedBERT"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(key: str, value: Any, text: str, tmp_path: Path) -> None:
    save(transformers.AutoModel, "bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save(transformers.AutoModel, "bert", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.0.intermediate.dense.weight"
    save_file({**state, name: state[name].to(torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="quantised weights are not read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_dense_checkpoints_go_back_to_transformers(family: str, tmp_path: Path) -> None:
    theirs = save(transformers.AutoModelForMaskedLM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "back", to="dense"))
    back, loading = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    ids, mask = texts(back.config.pad_token_id)
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, back.eval()(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("feedforward", ["dense", "fff"])
def test_pre_norm_models_go_to_transformers_too(feedforward: str, tmp_path: Path) -> None:
    config = UltraFastBertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        feedforward=feedforward,
        trees=24,
        depth=0,
        intermediate_size=48,
        initializer_range=0.2,
    )
    ours = UltraFastBertModel(config).eval()
    ours.save_pretrained(tmp_path / "ours")
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "out", to="dense"))
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == "roberta-prelayernorm"
    ids, mask = texts(0)
    with torch.no_grad():
        wanted, got = ours(ids, mask).last_hidden_state, theirs(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


def test_trees_have_no_dense_equivalent(tmp_path: Path, tiny_config: UltraFastBertConfig) -> None:
    UltraFastBertModel(tiny_config).save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError, match="has trees of depth 3; which neurons a token uses depends on the token"):
        convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "out", to="dense"))
    assert not (tmp_path / "out").exists()
