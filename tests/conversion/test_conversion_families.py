"""Which family a checkpoint is read as, how its tensors may be named, and what is said of one that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import run_convert
from safetensors.torch import load_file, save_file

from ufbert.conversion import FAMILIES, load_checkpoint
from ufbert.conversion.readers.families import recognise
from ufbert.errors import CheckpointError

transformers = pytest.importorskip("transformers")
from tiny_transformers import CONFIGS, ONE_WAY, SIZES, save  # noqa: E402  needs transformers

AUTO = {
    "bare": transformers.AutoModel,
    "masked LM": transformers.AutoModelForMaskedLM,
    "classifier": transformers.AutoModelForSequenceClassification,
}


def change_config(folder: Path, without: tuple[str, ...] = (), **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in without:
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def rename(folder: Path, new_name: Callable[[str], str], *, pickled: bool = False, inside: str = "") -> None:
    state = {new_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    if not pickled:
        save_file(state, folder / "model.safetensors")
        return
    (folder / "model.safetensors").unlink()
    torch.save({inside: state, "epoch": 3} if inside else state, folder / "pytorch_model.bin")


def same_weights(folder: Path, before: dict[str, torch.Tensor], **options: Any) -> None:
    after = load_checkpoint(folder, **options).model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("head", AUTO)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", *ONE_WAY])
def test_a_config_without_model_type_is_recognised(family: str, head: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_position_embeddings": 66} if family == "roberta" else {}
    config = (CONFIGS | ONE_WAY)[family]()
    config.update(more)
    torch.manual_seed(0)
    AUTO[head].from_config(config).save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    for keys in (("model_type",), ("model_type", "architectures", "transformers_version", "dtype")):
        change_config(tmp_path, without=keys)
        again = load_checkpoint(tmp_path)
        assert again.model_type == family
        assert type(again.model) is type(loaded.model)
        same_weights(tmp_path, loaded.model.state_dict())


BERTS = ["encoder.layer.0.attention.self.query.weight"]


@pytest.mark.parametrize(
    ("config", "names", "family"),
    [
        ({}, BERTS, "bert"),
        ({"architectures": ["MyForMaskedLM", "Encoder", "XLMRobertaForMaskedLM"]}, BERTS, "xlm-roberta"),
        ({"architectures": ["MyForMaskedLM"]}, [f"roberta.{BERTS[0]}"], "roberta"),
        ({"type_vocab_size": 1, "pad_token_id": 1}, BERTS, "roberta"),
        ({"type_vocab_size": 1, "pad_token_id": 0}, BERTS, "bert"),
        ({"type_vocab_size": 2, "pad_token_id": 1}, BERTS, "bert"),
        ({"max_position_embeddings": 514}, BERTS, "roberta"),
        ({"max_position_embeddings": 514}, [f"bert.{BERTS[0]}"], "bert"),
        ({"max_position_embeddings": 512}, BERTS, "bert"),
        ({"max_position_embeddings": 2}, BERTS, "bert"),
        ({"arch": {}}, [], "crammedBERT"),
        ({"arch": "bert"}, [], None),
        ({}, [], None),
    ],
)
def test_the_family_of_a_config_and_of_names(config: dict[str, Any], names: list[str], family: str | None) -> None:
    assert recognise(config, names) == family


def test_the_family_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(AUTO["bare"], "roberta", tmp_path / "source")
    before = load_checkpoint(tmp_path / "source").model.state_dict()
    change_config(tmp_path / "source", model_type="my-roberta")
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert code == 1
    assert "model_type is 'my-roberta', which is not known; readable: bert, camembert" in err
    assert "give --family" in err
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out", "--family", "roberta")
    assert code == 0, err
    same_weights(tmp_path / "out", before)
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "no", "--family", "berta")
    assert (code, "--family berta: unknown family; known: bert, camembert" in err) == (1, True), err
    code, err = run_convert(capsys, tmp_path / "out", tmp_path / "no", "--family", "bert")
    assert (code, "is an ultrafastbert checkpoint already; leave out --family bert" in err) == (1, True), err
    change_config(tmp_path / "source", without=("model_type", "architectures"))
    rename(tmp_path / "source", lambda name: name.replace("attention.self", "mixing"))
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "no")
    assert (code, "names no model_type, and its tensors show no family; give --family" in err) == (1, True), err


NAMES: dict[str, Callable[[str], str]] = {
    "data parallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "lightning": lambda name: f"model.{name}",
    "all of them": lambda name: f"model._orig_mod.module.{name}",
    "the other way round": lambda name: f"module.model._orig_mod.{name}",
    "within": lambda name: name.replace("encoder.layer", "encoder._orig_mod.layer").replace("bert.", "bert.module."),
    "sharded": lambda name: f"_fsdp_wrapped_module.{name.replace('layer.0.', 'layer.0._fsdp_wrapped_module.')}",
    "sentence-transformers": lambda name: f"0.auto_model.{name}",
    "an own class": lambda name: f"backbone.{name}",
    "old norms": lambda name: "module." + name.replace("orm.weight", "orm.gamma").replace("orm.bias", "orm.beta"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_what_stands_before_names_is_taken_off(kind: str, tmp_path: Path) -> None:
    head = "bare" if kind == "sentence-transformers" else "classifier"
    save(AUTO[head], "bert", tmp_path)
    before = load_checkpoint(tmp_path).model.state_dict()
    rename(tmp_path, NAMES[kind])
    same_weights(tmp_path, before)
    change_config(tmp_path, without=("model_type", "architectures"))
    rename(tmp_path, lambda name: name, pickled=True, inside="model_state_dict" if kind == "lightning" else "")
    same_weights(tmp_path, before)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra"])
def test_other_families_are_unwrapped_too(family: str, tmp_path: Path) -> None:
    save(AUTO["masked LM"], family, tmp_path)
    before = load_checkpoint(tmp_path).model.state_dict()
    rename(tmp_path, lambda name: f"module.model.{name}", pickled=True, inside="state_dict")
    same_weights(tmp_path, before)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    save(AUTO["bare"], "bert", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = "embeddings.LayerNorm.weight"
    save_file({**state, f"module.{name}": state[name] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds embeddings.LayerNorm.weight twice, once as module"):
        load_checkpoint(tmp_path)


REFUSED: dict[str, tuple[Any, str]] = {
    "deberta": (lambda: transformers.DebertaConfig(**SIZES, relative_attention=True), "relative positions"),
    "deberta-v2": (lambda: transformers.DebertaV2Config(**SIZES), "relative positions"),
    "roformer": (lambda: transformers.RoFormerConfig(**SIZES), "rotary positions"),
    "albert": (lambda: transformers.AlbertConfig(**SIZES), "layers that share their weights (num_hidden_groups is 1)"),
    "t5": (lambda: transformers.T5Config(d_model=32, num_layers=1), "a decoder beside the encoder"),
    "gpt2": (lambda: transformers.GPT2Config(n_embd=32, n_layer=1), "causal attention"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_an_unknown_family_is_told_what_cannot_be_expressed(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, text = REFUSED[family]
    config().save_pretrained(tmp_path / "source")
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert (code, len(err.strip().splitlines())) == (1, 1), err
    assert f"the family '{family}' cannot be read exactly, as it has" in err
    assert text in err
    readable = err.split("readable: ")[1].strip()
    assert readable.split(", ") == sorted([*FAMILIES, "ultrafastbert"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"position_embedding_type": "alibi"}, "ALiBi) (position_embedding_type is 'alibi')"),
        ({"feed_forward_type": "reglu"}, "gated feedforward layers (feed_forward_type is 'reglu')"),
        (
            {"rotary_emb_fraction": 1.0, "activation_function": "swiglu"},
            "rotary positions (rotary_emb_fraction is 1.0)",
        ),
        ({"model_type": "somebert"}, "tensor encoder.layer.0.attention.self.distance_embedding.weight"),
    ],
)
def test_keys_and_tensors_show_it_whatever_the_family(values: dict[str, Any], text: str, tmp_path: Path) -> None:
    save(AUTO["bare"], "bert", tmp_path)
    if "model_type" in values:
        state = load_file(tmp_path / "model.safetensors")
        name = "encoder.layer.0.attention.self.distance_embedding.weight"
        save_file({**state, name: torch.ones(3, 8)}, tmp_path / "model.safetensors")
    change_config(tmp_path, **values)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(tmp_path)
    assert text in str(raised.value)
