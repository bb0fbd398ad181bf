"""What the readers say of foreign files whose values, tensors or parts are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ufbert import UltraFastBertForMaskedLM
from ufbert.conversion import load_checkpoint
from ufbert.conversion.readers.foreign import ForeignConfig, ForeignTensors, tensor_names
from ufbert.errors import CheckpointError

transformers = pytest.importorskip("transformers")
from tiny_transformers import save  # noqa: E402  needs transformers

BARE, MASKED_LM = transformers.AutoModel, transformers.AutoModelForMaskedLM
CLASSIFIER = transformers.AutoModelForSequenceClassification
REMOVED = object()


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed = {key: value for key, value in {**config, **values}.items() if value is not REMOVED}
    (folder / "config.json").write_text(json.dumps(changed))


def change_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    state = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({name: t for name, t in state.items() if t is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps is 'tiny', not a number"),
        ({"layer_norm_eps": True}, "layer_norm_eps is True, not a number"),
        ({"vocab_size": True}, "vocab_size is True, not a whole number"),
        ({"vocab_size": 60.0}, "vocab_size is 60.0, not a whole number"),
        ({"num_attention_heads": REMOVED}, "num_attention_heads is None, not a whole number"),
        ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu'], which is not supported; supported: gelu, "),
        ({"embedding_size": 16}, "embedding_size is 16; this encoder can only express embedding_size = 32"),
    ],
)
def test_a_value_of_another_kind_is_named(values: dict[str, Any], text: str, tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    change_config(tmp_path, **values)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {text}")


def test_a_value_that_is_absent_or_null_is_the_familys_own(tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4, layer_norm_eps=1e-3)
    given = load_checkpoint(tmp_path).model.config
    assert (given.hidden_dropout_prob, given.attention_probs_dropout_prob, given.layer_norm_eps) == (0.3, 0.4, 1e-3)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range", "hidden_act")
    for absent in (None, REMOVED):
        change_config(tmp_path, **dict.fromkeys((*names, "pad_token_id", "type_vocab_size"), absent))
        config = load_checkpoint(tmp_path).model.config
        theirs = transformers.BertConfig()
        for name in (*names, "pad_token_id", "type_vocab_size"):
            assert getattr(config, name) == getattr(theirs, name), name


def test_the_getters_of_a_config() -> None:
    config = ForeignConfig({"a": {"b": {"n": 3, "x": 2.5}}, "list": [1], "null": None, "flag": True}, "c.json")
    inner = config.section("a").section("b")
    assert (inner.where, inner.integer("n"), inner.number("n"), inner.number("x")) == ("c.json: a: b", 3, 3.0, 2.5)
    assert isinstance(inner.number("n"), float)
    assert config.section("null").values == config.section("nothing").values == {}
    assert (config.get("null", 7), config.get("nothing"), config.integer("nothing", 7)) == (7, None, 7)
    assert config.translate("nothing", {"one": "1"}, "one") == "1"
    assert config.translate("flag", {True: "yes"}) == "yes"
    config.require("nothing", 5)
    config.require("flag", True, default=False)
    with pytest.raises(CheckpointError, match=r"^c.json: list is \[1\], not an object$"):
        config.section("list")
    with pytest.raises(CheckpointError, match=r"^c.json: a: b: x is 2.5, not a whole number$"):
        inner.integer("x")
    with pytest.raises(CheckpointError, match="nothing is 4; this encoder can only express nothing = 5"):
        config.require("nothing", 5, default=4)
    with pytest.raises(CheckpointError, match="n is 3, which is not supported; supported: one, two"):
        inner.translate("n", {"one": "1", "two": "2"})


def test_tensors_are_given_in_float32_by_name_and_shape(tmp_path: Path) -> None:
    file = tmp_path / "w"
    half = torch.randn(2, 3).half()
    tensors = ForeignTensors({"encoder.a": half, "pooler.s": torch.tensor(1.0), "encoder.c": torch.ones(2)}, file)
    assert torch.equal(tensors.take("encoder.a", 2, 3), half.float())
    assert tensors.rows("encoder.a") == 2
    assert torch.equal(tensors.take_bias_of("encoder", 4), torch.zeros(4))
    assert tensors.unread() == ["encoder.c", "pooler.s"]
    tensors.skip("encoder.c")
    assert tensors.unread() == ["pooler.s"]
    assert (tensors.has_any("encoder."), tensors.has_any("coder."), "encoder.a" in tensors) == (True, False, True)
    with pytest.raises(CheckpointError, match=r"w: lacks the tensor x; is the checkpoint complete\?"):
        tensors.take("x", 1)
    for name in ("x", "pooler.s"):
        with pytest.raises(CheckpointError, match=rf"w: lacks the tensor {name}; is the checkpoint complete\?"):
            tensors.rows(name)
    with pytest.raises(CheckpointError, match=r"encoder.a has shape \(2, 3\), config.json makes it \(3, 2\)"):
        tensors.take("encoder.a", 3, 2)


def test_one_tensor_under_two_names_is_read_where_both_are_equal(tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    before = load_checkpoint(tmp_path).model.state_dict()
    name = "embeddings.LayerNorm.weight"
    change_tensors(tmp_path, **{f"module.{name}": load_file(tmp_path / "model.safetensors")[name].clone()})
    after = load_checkpoint(tmp_path).model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_that_are_missing_or_damaged_are_named(kind: str, tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    before = load_checkpoint(tmp_path).model.state_dict()
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    shards = {name: f"part-{number % 2}" for number, name in enumerate(state)}
    for part in ("part-0", "part-1"):
        chosen = {name: state[name] for name in state if shards[name] == part}
        if kind == "model.safetensors":
            save_file(chosen, tmp_path / part)
        else:
            torch.save(chosen, tmp_path / part)
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"../elsewhere/{part}" for name, part in shards.items()}}))
    after = load_checkpoint(tmp_path).model.state_dict()  # a shard lies beside its index, whatever the index says
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert sorted(tensor_names(tmp_path)) == sorted(state)
    (tmp_path / "part-1").unlink()
    with pytest.raises(CheckpointError, match="part-1: no such file, but the checkpoint's index names it; fetch it"):
        load_checkpoint(tmp_path)
    (tmp_path / "part-0").write_bytes(b"x" * 40)
    with pytest.raises(CheckpointError, match=r"part-0: (damaged or not a (safetensors|torch) file|holds)"):
        load_checkpoint(tmp_path)
    for content in ({}, {"weight_map": ["part-0"]}, {"weight_map": {"a": 1}}):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=rf"{kind}.index.json: has no weight_map; fetch the checkpoint again"):
            load_checkpoint(tmp_path)


def test_names_of_tensors_are_none_where_they_cannot_be_read(tmp_path: Path) -> None:
    assert tensor_names(tmp_path) == []
    torch.save({"module.bert.a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert tensor_names(tmp_path) == ["bert.a"]
    save_file({"bert.b": torch.ones(1)}, tmp_path / "model.safetensors")
    assert tensor_names(tmp_path) == ["bert.b"]
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert tensor_names(tmp_path) == []


def test_buffers_of_older_releases_are_no_parts(tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    buffers = {
        "embeddings.position_ids": torch.arange(20)[None],
        "embeddings.token_type_ids": torch.zeros(1, 20).long(),
    }
    change_tensors(tmp_path, **buffers)
    (left,) = [note for note in load_checkpoint(tmp_path).notes if "left behind" in note]
    assert left == "left behind, as the model does not use it: pooler.dense"
    assert left in load_checkpoint(tmp_path, drop_head=True).notes


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_a_decoder_that_is_not_the_embeddings_stays_one(family: str, tmp_path: Path) -> None:
    theirs = save(MASKED_LM, family, tmp_path, tie_word_embeddings=False)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours, UltraFastBertForMaskedLM)
    assert not ours.config.tie_word_embeddings
    ids = torch.randint(5, 60, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "head"), [("bert", "cls.predictions"), ("roberta", "lm_head")])
def test_of_two_biases_of_the_decoder_its_own_is_added(family: str, head: str, tied: bool, tmp_path: Path) -> None:
    save(MASKED_LM, family, tmp_path, tie_word_embeddings=tied)
    biases = {f"{head}.bias": torch.randn(60), f"{head}.decoder.bias": torch.randn(60)}
    change_tensors(tmp_path, **biases)
    assert torch.equal(load_checkpoint(tmp_path).model.state_dict()["decoder.bias"], biases[f"{head}.decoder.bias"])
    ids = torch.randint(5, 60, (2, 9))
    theirs, ours = MASKED_LM.from_pretrained(tmp_path).eval(), load_checkpoint(tmp_path).model
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_decoders_bias_may_have_the_name_of_its_layer(tmp_path: Path) -> None:
    save(MASKED_LM, "bert", tmp_path)
    before = load_checkpoint(tmp_path).model.state_dict()
    bias = before["decoder.bias"]
    assert bias.any()
    change_tensors(tmp_path, **{"cls.predictions.bias": None, "cls.predictions.decoder.bias": bias.clone()})
    assert torch.equal(load_checkpoint(tmp_path).model.state_dict()["decoder.bias"], bias)


def test_a_classifiers_settings(tmp_path: Path) -> None:
    save(CLASSIFIER, "bert", tmp_path, num_labels=1, hidden_dropout_prob=0.3)
    loaded = load_checkpoint(tmp_path)
    config = loaded.model.config
    assert (config.problem_type, config.score_activation, config.classifier_dropout) == (None, "sigmoid", 0.3)
    assert any(note.startswith("one score and no problem_type: its sigmoid is taken") for note in loaded.notes)
    encoder = load_checkpoint(tmp_path, drop_head=True).model.config
    assert (encoder.score_activation, encoder.num_labels) == (None, type(encoder)().num_labels)
    for task, problem in (("sts-b", "regression"), ("stsb", "regression"), ("mnli", None)):
        change_config(tmp_path, finetuning_task=task, classifier_dropout=0.25, id2label={"1": "one"})
        loaded = load_checkpoint(tmp_path)
        config = loaded.model.config
        assert (config.problem_type, config.score_activation) == (problem, None if problem else "sigmoid")
        assert any("sigmoid is taken" in note for note in loaded.notes) is (problem is None)
        assert (config.classifier_dropout, config.id2label) == (0.25, None)  # a name of no label


def test_what_architectures_says_of_a_head_and_what_the_file_holds(tmp_path: Path) -> None:
    save(CLASSIFIER, "bert", tmp_path / "classifier", num_labels=2)
    change_config(tmp_path / "classifier", architectures=REMOVED)
    (note,) = load_checkpoint(tmp_path / "classifier").notes[:1]
    assert note == "config.json names no architecture; the classifier in the file is read as one of whole texts"
    save(BARE, "bert", tmp_path / "bare")
    for name, expected in (("BertForQuestionAnswering", True), ("BertForMaskedLM", True), ("BertModel", False)):
        change_config(tmp_path / "bare", architectures=[name])
        text = f"config.json names {name}, but the file holds no such head: the result is the encoder alone"
        assert (text in load_checkpoint(tmp_path / "bare").notes) is expected


def test_of_many_parts_of_a_head_the_first_are_named(tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    parts = {f"span{number}.{part}": torch.ones(2) for number in range(10) for part in ("weight", "bias")}
    change_tensors(tmp_path, **parts)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    named = ", ".join(f"span{number}" for number in range(8))
    assert f"holds a head that cannot be expressed: {named} and 2 more; give --drop-head" in str(error.value)


def test_a_loaded_checkpoint_says_what_it_is(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save(BARE, "bert", tmp_path)
    for folder, kind in ((tmp_path, "bert"), (tiny_checkpoints["encoder"], "ultrafastbert")):
        loaded = load_checkpoint(folder)
        assert (loaded.name, loaded.model_type) == (str(folder), kind)
    provenance = load_checkpoint(tmp_path).model.config.provenance
    assert (provenance["source"], provenance["source_model_type"]) == (str(tmp_path), "bert")


def test_an_unknown_class_of_ours_is_named(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads((tiny_checkpoints["encoder"] / "config.json").read_text())
    for architectures in (["UltraFastBertForPoems"], []):
        (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": architectures}))
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(tmp_path)
        assert f"config.json: architectures is {architectures}; known: UltraFastBertModel, " in str(error.value)
