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


@pytest.mark.parametrize(("pooler", "pooling"), [("avg", "mean"), ("zero_index", "first")])
@pytest.mark.parametrize("labels", [1, 2])
def test_settings_of_a_finetuned_classifier(pooler: str, pooling: str, labels: int, reference: Path) -> None:
    head = {"include_ff_layer": True, "nonlin": "Tanh", "pooler": pooler, "head_dim": 8, "classifier_dropout": 0.3}
    change_config(reference, "arch", "num_labels", value=labels)
    change_config(reference, "arch", "classification_head", value=head)
    word = load_file(reference / "model.safetensors")[WORD]
    tensors = {
        "pooler.dense.weight": torch.randn(8, 64),
        "pooler.dense.bias": torch.randn(8),
        "head.weight": torch.randn(labels, 8),
        "head.bias": torch.randn(labels),
    }
    change(reference, **tensors, **{"decoder.weight": word + 1, "prediction_head.dense.weight": torch.ones(64, 64)})
    loaded = load_checkpoint(reference)
    config = loaded.model.config
    assert (config.classifier_pooling, config.classifier_hidden_size, config.classifier_dropout) == (pooling, 8, 0.3)
    problem = "regression" if labels == 1 else "single_label_classification"
    assert (config.num_labels, config.problem_type, config.head_transform) == (labels, problem, False)
    assert ("equal on unpadded texts" in " ".join(loaded.notes)) is (pooler == "avg")
    assert "left behind, as the model does not use it: prediction_head.dense.weight" in loaded.notes
    state = loaded.model.state_dict()
    for theirs, ours in (("pooler.dense", "classifier.dense"), ("head", "classifier.scores")):
        for part in ("weight", "bias"):
            assert torch.equal(state[f"{ours}.{part}"], tensors[f"{theirs}.{part}"])


@pytest.mark.parametrize(
    ("name", "inner", "sizes"),
    [("crammedbert-dense", "dense_", {"in": 96, "out": 48}), ("ultrafastbert-4x3", "linear_", {"out": 64})],
)
def test_biases_are_read_where_they_are(
    name: str, inner: str, sizes: dict[str, int], shared_data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shared_data / "reference-checkpoints" / name, tmp_path / "source"))
    plain = load_checkpoint(folder).model.config
    assert not plain.use_bias
    change_config(folder, "arch", "attention", "qkv_bias", value=True)
    layer = "encoder.layers.1."
    qkv, out = torch.randn(3 * plain.hidden_size), torch.randn(plain.hidden_size)
    change(folder, **{f"{layer}attn.self_attention.query_key_value.bias": qkv, f"{layer}attn.dense.bias": out})
    of_neurons = {part: torch.randn(size) for part, size in sizes.items()}
    change(folder, **{f"{layer}ffn.{inner}{part}.bias": bias for part, bias in of_neurons.items()})
    model = load_checkpoint(folder).model
    state = model.state_dict()
    assert model.config.use_bias
    assert torch.equal(state[f"{layer}attention.qkv.bias"], by_part(qkv, plain.num_attention_heads))
    assert torch.equal(state[f"{layer}attention.output.bias"], out)
    for part, bias in of_neurons.items():
        ours = f"linear_{part}.bias" if inner == "dense_" else "b_out"
        assert torch.equal(state[f"{layer}feedforward.{ours}"], bias)
    assert not state["encoder.layers.0.attention.qkv.bias"].any()  # absent is zero


def test_the_activation_and_biases_of_dense_layers(shared_data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared_data / "reference-checkpoints" / "crammedbert-dense", tmp_path / "source"))
    for name, activation in (("ReLU", "relu"), ("SiLU", "silu"), (None, "gelu")):
        change_config(folder, "arch", "nonlin", value=name)
        change_config(folder, "arch", "use_bias", value=name == "ReLU")
        config = load_checkpoint(folder).model.config
        assert (config.hidden_act, config.use_bias) == (activation, name == "ReLU")


@pytest.mark.parametrize(("kind", "scale"), [("sinusoidal", 1.0), ("none", 0.0), (None, 0.0)])
def test_positions_that_have_no_scale(kind: str | None, scale: float, reference: Path) -> None:
    change_config(reference, "arch", "embedding", "pos_embedding", value=kind)
    change(reference, **{"encoder.embedding.pos_embedding.scale_factor": None})
    model = load_checkpoint(reference).model
    assert model.config.position_embedding_type == "scaled-sinusoidal"
    assert model.state_dict()["encoder.embeddings.position_scale"].tolist() == [scale]


def test_learned_positions(reference: Path) -> None:
    change_config(reference, "arch", "embedding", "pos_embedding", value="learned")
    table = torch.randn(128, 64)
    name = "encoder.embedding.pos_embedding"
    change(reference, **{f"{name}.scale_factor": None, f"{name}.embedding.weight": table})
    model = load_checkpoint(reference).model
    assert model.config.position_embedding_type == "absolute"
    assert torch.equal(model.state_dict()["encoder.embeddings.position.weight"], table)


def test_a_transform_and_a_bias_before_and_behind_the_decoder(reference: Path) -> None:
    change_config(reference, "arch", "skip_head_transform", value=False)
    change_config(reference, "arch", "decoder_bias", value=True)
    change_config(reference, "cfg_arch_container", value=json.loads((reference / "config.json").read_text())["arch"])
    change_config(reference, "arch", value=None)  # the other name that the authors have saved it under
    tensors = {
        "prediction_head.dense.weight": torch.randn(64, 64),
        "prediction_head.norm.weight": torch.randn(64),
        "prediction_head.norm.bias": torch.randn(64),
        "decoder.bias": torch.randn(500),
    }
    change(reference, **tensors)
    state = load_checkpoint(reference).model.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(state[name.replace("prediction_head", "transform")], tensor)
    assert not state["transform.dense.bias"].any()


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
        (("arch", "attention", "sequence_op"), "cumsum", "sequence_op is 'cumsum'"),
        (("arch", "attention", "skip_output_projection"), True, "skip_output_projection is True"),
        (("arch", "ffn_layer_frequency"), 2, "ffn_layer_frequency is 2"),
        (("arch", "intermed_type"), "moe", "intermed_type is 'moe', which is not supported; supported: ff, fff"),
        (("arch", "nonlin"), "ReLU", "can only express nonlin = 'GELU'"),
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
