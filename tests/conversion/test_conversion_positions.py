"""Families whose attention knows of positions against transformers, in every way that our encoder runs."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import TEXTS, run_convert, write_documents
from safetensors.torch import load_file, save_file

from ufbert import (
    UltraFastBertForMaskedLM,
    UltraFastBertForSequenceClassification,
    UltraFastBertForTokenClassification,
    UltraFastBertModel,
)
from ufbert.conversion import ConversionRequest, convert_checkpoint, load_checkpoint
from ufbert.conversion.distillation import run
from ufbert.inference.engine import PackedEncoder, prepare
from ufbert.text.tokenization import train_tokenizer

transformers = pytest.importorskip("transformers")
from tiny_transformers import ONE_WAY, save  # noqa: E402  needs transformers

MASKED_LM = transformers.AutoModelForMaskedLM
CLASSIFIER = transformers.AutoModelForSequenceClassification
TAGGER = transformers.AutoModelForTokenClassification


def long_texts(pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask (4, 180); the later texts are shorter, one of them than any window."""
    torch.manual_seed(2)
    ids = torch.randint(5, 60, (4, 180))
    mask = (torch.arange(180) < torch.tensor([180, 180, 97, 3])[:, None]).long()
    return torch.where(mask.bool(), ids, pad), mask


def hidden_states(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What transformers' model with a head puts out last."""
    with torch.no_grad():
        states: torch.Tensor = getattr(model, model.base_model_prefix)(ids, attention_mask=mask).last_hidden_state
    return states


@pytest.mark.parametrize("family", ONE_WAY)
def test_hidden_states_and_masked_lm_logits(family: str, tmp_path: Path) -> None:
    theirs = save(MASKED_LM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = UltraFastBertForMaskedLM.from_pretrained(tmp_path / "ours")
    ids, mask = long_texts(ours.config.pad_token_id)
    present = mask.bool()
    with torch.no_grad():
        got, logits = ours(ids, mask), theirs(ids, attention_mask=mask).logits
    states = hidden_states(theirs, ids, mask)
    torch.testing.assert_close(got.last_hidden_state[present], states[present], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.logits[present], logits[present], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("family", ONE_WAY)
def test_the_packed_engine(family: str, precision: str, tmp_path: Path) -> None:
    theirs = save(MASKED_LM, family, tmp_path / "source")
    ours = load_checkpoint(tmp_path / "source").model
    ids, mask = long_texts(ours.config.pad_token_id)
    wanted = hidden_states(theirs, ids, mask)[mask.bool()]
    packed = prepare(copy.deepcopy(ours), precision, torch.device("cpu"), "numba").encoder
    assert isinstance(packed, PackedEncoder)
    with torch.inference_mode():
        got = packed.encode(ids, mask)[mask.bool()]
    if precision == "float32":
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert (
        torch.cosine_similarity(got, wanted, dim=-1).min()
        > {"float32": 0.99999, "bfloat16": 0.995, "int8": 0.97}[precision]
    )


@pytest.mark.parametrize("family", ONE_WAY)
def test_token_classifiers(family: str, tmp_path: Path) -> None:
    theirs = save(TAGGER, family, tmp_path / "source", num_labels=3, id2label={0: "O", 1: "B-X", 2: "I-X"})
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = UltraFastBertForTokenClassification.from_pretrained(tmp_path / "ours")
    assert ours.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    ids, mask = long_texts(ours.config.pad_token_id)
    with torch.no_grad():
        got, wanted = ours(ids, mask).logits, theirs(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ONE_WAY)
def test_classifiers(family: str, tmp_path: Path) -> None:
    names = {0: "bad", 1: "fair", 2: "good"}
    theirs = save(CLASSIFIER, family, tmp_path / "source", num_labels=3, id2label=names)
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = UltraFastBertForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert ours.config.label_names == list(names.values())
    ids, mask = long_texts(ours.config.pad_token_id)
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, mask).logits
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ONE_WAY)
def test_a_bare_encoder_is_saved_and_loaded_as_it_is(family: str, tmp_path: Path) -> None:
    theirs = save(transformers.AutoModel, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = UltraFastBertModel.from_pretrained(tmp_path / "ours")
    ours.save_pretrained(tmp_path / "again")
    again = UltraFastBertModel.from_pretrained(tmp_path / "again")
    assert again.config == ours.config
    ids, mask = long_texts(ours.config.pad_token_id)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(again.encode(ids, mask)[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ONE_WAY)
def test_transformers_classes_of_ours_compute_it_and_train(family: str, tmp_path: Path) -> None:
    import ufbert.hf  # noqa: F401

    theirs = save(MASKED_LM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = MASKED_LM.from_pretrained(tmp_path / "ours").eval()
    ids, mask = long_texts(ours.config.pad_token_id)
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)
    ours.save_pretrained(tmp_path / "saved")
    loaded = UltraFastBertForMaskedLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids, mask).logits, got)


@pytest.mark.parametrize("family", ["modernbert", "gte"])
def test_rotary_positions_may_be_given(family: str, tmp_path: Path) -> None:
    import ufbert.hf  # noqa: F401

    theirs = save(transformers.AutoModel, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = transformers.AutoModel.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(5, 60, (2, 30))
    positions = torch.stack([torch.arange(30) * 2, torch.randperm(30)])
    with torch.no_grad():
        wanted = theirs(ids, position_ids=positions).last_hidden_state
        got = ours(ids, position_ids=positions).last_hidden_state
        assert not torch.allclose(ours(ids).last_hidden_state, got, atol=1e-2)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ONE_WAY)
def test_gradients_with_checkpointing_are_those_without(family: str, reentrant: bool, tmp_path: Path) -> None:
    import ufbert.hf  # noqa: F401

    save(MASKED_LM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ours = MASKED_LM.from_pretrained(tmp_path / "ours", **no_dropout).train()
    ids, mask = long_texts(ours.config.pad_token_id)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        ours.zero_grad()
        ours(ids, attention_mask=mask, labels=ids.where(mask.bool(), -100)).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in ours.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# An export takes ten seconds; the other two families have nothing in the graph that these lack.
@pytest.mark.parametrize("family", ["mpnet", "modernbert"])
def test_onnx(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    theirs = save(MASKED_LM, family, tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "onnx", to="onnx"))
    config = load_checkpoint(tmp_path / "source").model.config
    ids, mask = long_texts(config.pad_token_id)
    feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    if config.type_vocab_size > 1:
        feed["token_type_ids"] = torch.zeros_like(ids).numpy()
    outputs: Any = ReferenceEvaluator(str(tmp_path / "onnx" / "model.onnx")).run(["last_hidden_state"], feed)
    got = torch.from_numpy(outputs[0])
    torch.testing.assert_close(got[mask.bool()], hidden_states(theirs, ids, mask)[mask.bool()], atol=1e-4, rtol=1e-4)


DENSE = {
    "mpnet": "has relative positions (relative_attention_num_buckets), which",
    "modernbert": "has rotary positions (position_embedding_type), local attention (local_attention), gated dense "
    "layers (is_gated_act), no norm before the first layer (skip_first_prenorm), which",
    "gte": "has rotary positions (position_embedding_type), gated dense layers (is_gated_act), which",
    "nomic_bert": "has rotary positions (position_embedding_type), gated dense layers (is_gated_act), which",
}


@pytest.mark.parametrize("family", ONE_WAY)
def test_what_dense_cannot_say_is_one_line(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(MASKED_LM, family, tmp_path / "source")
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "dense", "--to", "dense")
    assert (code, DENSE[family] in err, len([line for line in err.splitlines() if "error" in line])) == (1, True, 1), (
        err
    )
    assert not (tmp_path / "dense").exists()


def test_mpnet_as_its_code_fixes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(MASKED_LM, "mpnet", tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    for key, value in (("relative_attention_num_buckets", 16), ("pad_token_id", 0)):
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, key: value}))
        code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
        assert (code, f"{key} is {value}; this encoder can only express {key} = " in err) == (1, True), err
        file.write_text(json.dumps(values))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("head", ["classifier", "masked LM"])
def test_modernbert_in_other_settings(head: str, old: bool, tmp_path: Path) -> None:
    """Biases, other activations and angles, a classifier of the mean, a decoder of its own; as the hub writes them."""
    more: dict[str, Any] = {
        **{"attention_bias": True, "mlp_bias": head == "classifier", "norm_bias": True, "classifier_bias": True},
        **{"hidden_activation": "relu", "classifier_activation": "silu", "classifier_pooling": "mean"},
        **{"decoder_bias": False, "tie_word_embeddings": False, "num_labels": 2},
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
        },
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    }
    theirs = save(CLASSIFIER if head == "classifier" else MASKED_LM, "modernbert", tmp_path / "source", **more)
    if old:
        file = tmp_path / "source" / "config.json"
        values = json.loads(file.read_text())
        del values["rope_parameters"], values["layer_types"]
        values |= {"global_rope_theta": 700.0, "local_rope_theta": 90.0, "global_attn_every_n_layers": 2}
        file.write_text(json.dumps(values))
    ours = load_checkpoint(tmp_path / "source").model
    assert isinstance(ours, UltraFastBertForSequenceClassification | UltraFastBertForMaskedLM)
    ids, mask = long_texts(0)
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, mask).logits
    rows = torch.ones(4, dtype=torch.bool) if head == "classifier" else mask.bool()
    torch.testing.assert_close(got[rows], wanted[rows], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types is ['sliding_attention', "),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 100.0}}},
            "rope_parameters: full_attention: rope_type is 'yarn'",
        ),
    ],
)
def test_what_of_modernbert_cannot_be_expressed(
    values: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(MASKED_LM, "modernbert", tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert (code, text in err, len(err.strip().splitlines())) == (1, True, 1), err


def test_modernberts_other_heads_are_not_taken_for_its_masked_lm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(transformers.AutoModelForQuestionAnswering, "modernbert", tmp_path / "source")
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert (code, "cannot be expressed: classifier, head.dense, head.norm; give --drop-head" in err) == (1, True), err
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out", "--drop-head")
    assert code == 0, err


@pytest.mark.parametrize("family", ONE_WAY)
def test_their_dense_layers_become_trees(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 2000)
    tokenizer = train_tokenizer(TEXTS, 200, min_frequency=1)
    entries = tokenizer.get_vocab_size()
    save(MASKED_LM, family, tmp_path / "source", vocab_size=entries)
    tokenizer.save(str(tmp_path / "source" / "tokenizer.json"))
    corpus = write_documents(tmp_path / "texts.jsonl", TEXTS)
    options = ["--trees", "4", "--depth", "1", "--shared", "4", "--corpus", str(corpus), "--text-column", "body"]
    code, err = run_convert(
        capsys, tmp_path / "source", tmp_path / "trees", *options, "--steps", "20", "--device", "cpu"
    )
    assert code == 0, err
    trees = UltraFastBertForMaskedLM.from_pretrained(tmp_path / "trees")
    assert (trees.config.feedforward, trees.config.trees, trees.config.shared_neurons) == ("fff", 4, 4)
    cosines = next(line for line in err.splitlines() if "mean cosine of embeddings" in line)
    student, control = (float(cell) for cell in cosines.split("│")[-3:-1])
    assert student > control


# The names that the checkpoints' own code gives, and those of transformers' classes.
NOMIC = (
    ("encoder.layers.", "layers."),
    ("emb_ln.", "embeddings.LayerNorm."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".mlp.fc11.", ".mlp.up_proj."),
    (".mlp.fc12.", ".mlp.gate_proj."),
    (".mlp.fc2.", ".mlp.down_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)
GTE = (
    ("encoder.layer.", "layers."),
    (".attention.o_proj.", ".self_attn.o_proj."),
    (".attn_ln.", ".post_attention_layernorm."),
    (".mlp_ln.", ".post_mlp_layernorm."),
    ("lm_head.norm.", "lm_head.layer_norm."),
)
SPELLINGS: dict[str, tuple[Any, dict[str, list[str]]]] = {
    "nomic_bert": (NOMIC, {"attn.Wqkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]}),
    "gte": (
        GTE,
        {
            "attention.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "mlp.up_gate_proj": ["mlp.up_proj", "mlp.gate_proj"],
        },
    ),
}


def spelled(family: str, state: dict[str, torch.Tensor], prefix: tuple[str, str]) -> list[dict[str, torch.Tensor]]:
    """A file of either spelling -> as the checkpoints' own code has it, and as transformers' classes have it."""
    renamed, joined = SPELLINGS[family]
    apart, own = {}, {}
    for name, tensor in state.items():
        for theirs, ours in renamed:
            name = name.replace(theirs, ours)
        whole = next((part for part in joined if f".{part}." in name), None)
        parts = [whole] if whole is None else joined[whole]
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            apart[name if whole is None else name.replace(whole, str(part))] = rows.clone()
    for name, tensor in apart.items():
        whole = next((whole for whole, parts in joined.items() if any(f".{part}." in name for part in parts)), None)
        if whole is not None:
            first, *others = joined[whole]
            if f".{first}." not in name:
                continue
            tensor = torch.cat([tensor, *(apart[name.replace(first, other)] for other in others)])
            name = name.replace(first, whole)
        for theirs, ours in renamed:
            name = re.sub(rf"^{ours}" if ours == "layers." else re.escape(ours), theirs, name)
        name = name.replace(f"{prefix[0]}layers.", prefix[0] + renamed[0][0])
        own[name.replace(*prefix)] = tensor
    return [own, apart]


@pytest.mark.parametrize("head", [MASKED_LM, CLASSIFIER, transformers.AutoModel])
@pytest.mark.parametrize("family", SPELLINGS)
def test_both_spellings(family: str, head: Any, tmp_path: Path) -> None:
    save(head, family, tmp_path / "source")
    wanted = load_checkpoint(tmp_path / "source").model.state_dict()
    file = tmp_path / "source" / "model.safetensors"
    prefix = {"nomic_bert": ("nomic_bert.", "bert."), "gte": ("gte.", "new.")}[family]
    state = {name.replace("new.", "gte."): tensor for name, tensor in load_file(file).items()}
    own, apart = spelled(family, state, prefix)
    assert not own.keys() <= apart.keys()
    for names in (own, apart):
        save_file(names, file)
        found = load_checkpoint(tmp_path / "source").model.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_nomic_ais_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(MASKED_LM, "nomic_bert", tmp_path / "source")
    expected = load_checkpoint(tmp_path / "source").model.config
    file = tmp_path / "source" / "config.json"
    values = json.loads(file.read_text())
    for new, old in (("hidden_size", "n_embd"), ("num_attention_heads", "n_head"), ("num_hidden_layers", "n_layer")):
        values[old] = values.pop(new)
    values |= {"n_inner": values.pop("intermediate_size"), "layer_norm_epsilon": values.pop("layer_norm_eps")}
    values |= {"activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "n_positions": 400}
    for name in ("rope_parameters", "head_dim", "hidden_act"):
        values.pop(name, None)
    file.write_text(json.dumps({**values, "prenorm": False, "rotary_scaling_factor": None}))
    assert load_checkpoint(tmp_path / "source").model.config == expected.replace(max_position_embeddings=400)
    file.write_text(json.dumps({**values, "rotary_scaling_factor": 2, "max_trained_positions": 100}))
    loaded = load_checkpoint(tmp_path / "source")
    assert loaded.model.config.max_position_embeddings == 100
    assert any("angles of texts beyond 100 tokens" in note for note in loaded.notes)
    for key, value in (("rotary_emb_interleaved", True), ("prenorm", True), ("rotary_emb_fraction", 0.5)):
        file.write_text(json.dumps({**values, key: value}))
        code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
        assert (code, f"{key} is {value!r}; this encoder can only express" in err) == (1, True), err


def test_alibabas_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its NTK scaling turns by theta k to the power of the pair's share, and k^(2 / head size) times as slowly."""
    k, size = 2.0, 8
    scaled = {"rope_type": "linear", "factor": k ** (2 / size), "rope_theta": 500.0 * k}
    theirs = save(MASKED_LM, "gte", tmp_path / "source", rope_parameters=scaled, type_vocab_size=0, pad_token_id=0)
    file = tmp_path / "source" / "config.json"
    values = json.loads(file.read_text())
    del values["rope_parameters"]
    new = {"model_type": "new", "position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": True}
    ids, mask = long_texts(0)
    wanted = hidden_states(theirs, ids, mask)
    settings: list[dict[str, Any]] = [
        {"rope_parameters": scaled},
        {**new, "rope_theta": 500.0, "rope_scaling": {"type": "ntk", "factor": k}, "logn_attention_scale": False},
    ]
    for more in settings:
        file.write_text(json.dumps({**values, **more}))
        ours = load_checkpoint(tmp_path / "source").model
        assert ours.config.type_vocab_size == 0
        with torch.no_grad():
            got = ours(ids, mask).last_hidden_state
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"logn_attention_scale": True}, "logn_attention_scale is True; this encoder can only express"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}, "rope_scaling: mixed_b is 0.6"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling: rope_type is 'yarn', which is not"),
    ]
    for more, text in refused:
        file.write_text(json.dumps({**values, **new, **more}))
        code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
        assert (code, text in err, len(err.strip().splitlines())) == (1, True, 1), err
