"""`ufbert.hf`: transformers and sentence-transformers compute from our folders what we do, and write them back."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ufbert
from ufbert import Pipeline, UltraFastBertConfig
from ufbert.checkpoint.embedder import Embedder
from ufbert.checkpoint.embedder_files import write_embedder
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.conversion import ConversionRequest, convert_checkpoint
from ufbert.errors import ConfigError, DataError
from ufbert.model.pretrained import read_config

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

hf: Any = importlib.import_module("ufbert.hf")

AUTO = {
    "UltraFastBertModel": transformers.AutoModel,
    "UltraFastBertForMaskedLM": transformers.AutoModelForMaskedLM,
    "UltraFastBertForSequenceClassification": transformers.AutoModelForSequenceClassification,
}
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "classifier_hidden_size": 16,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
CRAMMED = UltraFastBertConfig(**SIZES, trees=2, depth=3)
BERT = UltraFastBertConfig(
    **SIZES,
    feedforward="dense",
    intermediate_size=48,
    norm_position="post",
    final_norm=False,
    position_embedding_type="absolute",
    type_vocab_size=2,
    use_bias=True,
    head_transform=True,
    decoder_bias=True,
    classifier_pooling="first",
)
ROBERTA = BERT.replace(
    position_offset=2,
    pad_token_id=1,
    type_vocab_size=1,
    tie_word_embeddings=False,
    num_labels=1,
    problem_type="regression",
)
MIXED = BERT.replace(num_hidden_layers=4, feedforward_layers=("2x3", "dense:24", "none", "1x2+5"), is_gated_act=True)
CONFIGS = {"crammed": CRAMMED, "bert": BERT, "roberta": ROBERTA, "mixed": MIXED}


def save_random(name: str, config: UltraFastBertConfig, folder: Path) -> Any:
    """One of our models whose biases and norms are random too, saved."""
    model = getattr(ufbert, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def batch(config: UltraFastBertConfig) -> dict[str, torch.Tensor]:
    """Three texts of 9, 6 and 2 tokens."""
    ids = torch.randint(5, config.vocab_size, (3, 9))
    mask = torch.ones_like(ids)
    for row, length in ((1, 6), (2, 2)):
        ids[row, length:], mask[row, length:] = config.pad_token_id, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.randint(0, config.type_vocab_size, ids.shape)
    return inputs


def labels_for(name: str, config: UltraFastBertConfig) -> torch.Tensor:
    if name == "UltraFastBertForMaskedLM":
        labels = torch.full((3, 9), -100)
        labels[0, 3], labels[1, 1] = 7, 8
        return labels
    return torch.tensor([0.5, -1.0, 2.0]) if config.num_labels == 1 else torch.tensor([0, 1, 1])


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", AUTO)
def test_values_and_gradients_are_ours(name: str, family: str, tmp_path: Path) -> None:
    config = CONFIGS[family]
    ours = save_random(name, config, tmp_path / "model")
    theirs = AUTO[name].from_pretrained(tmp_path / "model")
    assert type(theirs) is getattr(hf, name)
    assert not theirs.training
    inputs = batch(config)
    wanted, got = ours(**inputs), theirs(**inputs)
    assert isinstance(got, transformers.utils.ModelOutput)
    if name == "UltraFastBertModel":
        torch.testing.assert_close(got.last_hidden_state, wanted.last_hidden_state)
        return
    torch.testing.assert_close(got.logits, wanted.logits)
    labels = labels_for(name, config)
    wanted, got = ours(**inputs, labels=labels), theirs(**inputs, labels=labels)
    torch.testing.assert_close(got.loss, wanted.loss)
    assert got.logits.shape[0] == 3  # every row, as transformers' Trainer expects
    wanted.loss.backward()
    got.loss.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for parameter, p in ours.named_parameters():
        torch.testing.assert_close(gradients[parameter], p.grad, msg=parameter)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", AUTO)
def test_what_transformers_saves_is_the_folder_we_wrote(name: str, family: str, tmp_path: Path) -> None:
    config = CONFIGS[family].replace(provenance={"source": "a test", "nested": {"epochs": 2}})
    save_random(name, config, tmp_path / "model")
    AUTO[name].from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("model", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert read_config(tmp_path / "again").replace(id2label=None) == read_config(tmp_path / "model")
    getattr(ufbert, name).from_pretrained(tmp_path / "again")


def test_label_names_go_there_and_back(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_checkpoints["classifier"])
    assert model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert model.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    model.save_pretrained(tmp_path / "model")
    assert read_config(tmp_path / "model").label_names == ["no", "maybe", "yes"]
    assert read_config(tmp_path / "model").problem_type == "single_label_classification"


def test_a_head_that_no_file_holds_is_initialised(tmp_path: Path) -> None:
    ours = save_random("UltraFastBertModel", CRAMMED, tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=4)
    inputs = batch(CRAMMED)
    assert theirs(**inputs).logits.shape == (3, 4)
    assert 0.1 < theirs.classifier.dense.weight.std() < 0.3
    assert not theirs.classifier.dense.bias.any()
    torch.testing.assert_close(theirs.encoder(**inputs).last_hidden_state, ours(**inputs).last_hidden_state)
    several = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", num_labels=4, problem_type="multi_label_classification"
    )
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0]]).repeat(3, 1)
    output = several(**inputs, labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)


def test_a_model_made_from_a_config_has_our_initialisation() -> None:
    config = hf.UltraFastBertConfig(**SIZES, depth=3)
    theirs = transformers.AutoModelForMaskedLM.from_config(config)
    ours = ufbert.UltraFastBertForMaskedLM(UltraFastBertConfig(**SIZES, depth=3))
    assert theirs.config.to_core() == ours.config.replace(id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert theirs.decoder.weight is theirs.encoder.embeddings.word.weight
    expected = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(tensor.mean(), expected[name].mean(), atol=0.03, rtol=0, msg=name)
        spread, wanted = tensor.std(correction=0), expected[name].std(correction=0)
        torch.testing.assert_close(spread, wanted, atol=0.03, rtol=0, msg=name)
    assert torch.equal(theirs.encoder.embeddings.positions, ours.encoder.embeddings.positions)
    with pytest.raises(ConfigError, match=r"num_attention_heads \(5\) must divide hidden_size \(32\)"):
        transformers.AutoModel.from_config(hf.UltraFastBertConfig(**{**SIZES, "num_attention_heads": 5}))


def test_half_precision(tmp_path: Path) -> None:
    save_random("UltraFastBertForMaskedLM", CRAMMED, tmp_path / "model")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert {t.dtype for t in (*theirs.parameters(), *theirs.buffers())} == {torch.bfloat16}
    ours = ufbert.UltraFastBertForMaskedLM.from_pretrained(tmp_path / "model").bfloat16()
    inputs = batch(CRAMMED)
    torch.testing.assert_close(theirs(**inputs).logits, ours(**inputs).logits)


@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states_and_forms_of_output(family: str, tmp_path: Path) -> None:
    config = CONFIGS[family]
    save_random("UltraFastBertForMaskedLM", config, tmp_path / "model")
    model = transformers.AutoModel.from_pretrained(tmp_path / "model")
    inputs = batch(config)
    output = model(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == config.num_hidden_layers + 1
    embeddings = model.encoder.embeddings(inputs["input_ids"], inputs.get("token_type_ids"))
    torch.testing.assert_close(output.hidden_states[0], embeddings)
    mask = inputs["attention_mask"][:, None, None, :].bool()
    torch.testing.assert_close(output.hidden_states[1], model.encoder.layers[0](embeddings, mask))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert model(**inputs).hidden_states is None
    last, states = model(**inputs, output_hidden_states=True, return_dict=False)
    torch.testing.assert_close(last, output.last_hidden_state)
    assert len(states) == config.num_hidden_layers + 1
    model.config.output_hidden_states = True
    assert len(model(**inputs).hidden_states) == config.num_hidden_layers + 1
    head = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    labels = labels_for("UltraFastBertForMaskedLM", config)
    loss, logits = head(**inputs, labels=labels, return_dict=False)
    assert loss.dim() == 0
    assert logits.shape == (3, 9, 60)


def test_what_the_encoder_cannot_do_is_one_line(tmp_path: Path) -> None:
    save_random("UltraFastBertModel", CRAMMED, tmp_path / "model")
    model = transformers.AutoModel.from_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"^output_attentions: the attention is fused and keeps no weights; leave"):
        model(**batch(CRAMMED), output_attentions=True)
    with pytest.raises(DataError, match="17 tokens are more than the model's maximum of 16; truncate"):
        model(torch.ones((1, 17), dtype=torch.int64))


def test_a_batch_without_labelled_positions_is_harmless(tmp_path: Path) -> None:
    save_random("UltraFastBertForMaskedLM", CRAMMED, tmp_path / "model")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert model(**batch(CRAMMED), labels=torch.full((3, 9), -100)).loss == 0


def test_a_larger_vocabulary(tmp_path: Path) -> None:
    save_random("UltraFastBertForMaskedLM", CRAMMED, tmp_path / "model")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    before = model(**(inputs := batch(CRAMMED))).logits
    model.resize_token_embeddings(64)
    assert model.decoder.weight is model.get_input_embeddings().weight
    torch.testing.assert_close(model(**inputs).logits[..., :60], before)
    model.save_pretrained(tmp_path / "larger")
    ours = ufbert.UltraFastBertForMaskedLM.from_pretrained(tmp_path / "larger")
    torch.testing.assert_close(ours(**inputs).logits, model(**inputs).logits)


def test_fill_mask_pipeline(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["masked_lm"]
    fill = transformers.pipeline("fill-mask", model=str(folder))
    texts = ["the quick [MASK] jumps", "[MASK] is talking"]
    expected: Any = Pipeline(folder, precision="float32")(texts)
    for answers, wanted in zip(fill(texts), expected, strict=True):
        assert [a["token_str"] for a in answers] == [t["token"] for t in wanted["masks"][0]]
        scores = [t["probability"] for t in wanted["masks"][0]]
        np.testing.assert_allclose([a["score"] for a in answers], scores, rtol=1e-4)


@pytest.mark.parametrize("kind", ["classifier", "regression"])
def test_text_classification_pipeline(kind: str, tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints[kind]
    classify = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    texts = ["The quick brown fox.", "She sells sea shells, and nobody is listening."]
    expected: Any = Pipeline(folder, precision="float32")(texts)
    for answers, wanted in zip(classify(texts, batch_size=2), expected, strict=True):
        scores = wanted["scores"] if kind == "classifier" else {"LABEL_0": wanted["value"]}
        assert {a["label"] for a in answers} == set(scores)
        for answer in answers:
            np.testing.assert_allclose(answer["score"], scores[answer["label"]], rtol=1e-4)


def test_one_score_is_a_value_whether_the_config_says_so_or_not(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = ufbert.UltraFastBertForSequenceClassification.from_pretrained(
        tiny_checkpoints["regression"], problem_type=None
    )
    model.save_pretrained(tmp_path / "model", tokenizer=load_tokenizer(tiny_checkpoints["regression"]))
    (answer,) = transformers.pipeline("text-classification", model=str(tmp_path / "model"))("The quick brown fox.")
    expected: Any = Pipeline(tmp_path / "model", precision="float32")(["The quick brown fox."])
    np.testing.assert_allclose(answer["score"], expected[0]["value"], rtol=1e-4)


def test_a_second_text_is_no_trouble_without_token_types(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["classifier"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("the fox", "the dog", return_tensors="pt")
    assert encoded["token_type_ids"].max() == 1
    logits = transformers.AutoModelForSequenceClassification.from_pretrained(folder)(**encoded).logits
    expected: Any = Pipeline(folder, precision="float32")([("the fox", "the dog")])
    np.testing.assert_allclose(logits.softmax(-1).detach()[0], list(expected[0]["scores"].values()), rtol=1e-4)


TEXTS = ["The quick brown fox.", "She sells sea shells by the sea shore.", "dog"] * 2


def embeddings_of(folder: Path) -> Any:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def test_sentence_transformers_takes_the_mean_of_a_plain_folder(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["encoder"]
    expected = np.stack(Pipeline(folder, "embed", precision="float32")(TEXTS))  # type: ignore[arg-type]
    np.testing.assert_allclose(embeddings_of(folder).encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", True), ("mean", True), ("cls", False)])
def test_a_converted_model_embeds_like_its_original(
    pooling: str, normalize: bool, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(tmp_path / "original")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "original" / name).write_text((tiny_checkpoints["encoder"] / name).read_text())
    facts = {"pooling": pooling, "normalize": normalize, "max_seq_length": 8}
    write_embedder(Embedder.from_facts(facts), 32, 32, tmp_path / "original")
    convert_checkpoint(ConversionRequest(tmp_path / "original", tmp_path / "ours"))
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "dense", to="dense"))
    wanted = embeddings_of(tmp_path / "original").encode(TEXTS)
    assert np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-5) == normalize
    got = embeddings_of(tmp_path / "ours")
    assert got.max_seq_length == 8  # the second text is longer
    np.testing.assert_allclose(got.encode(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(embeddings_of(tmp_path / "dense").encode(TEXTS), wanted, atol=1e-5)
    pipeline = Pipeline(tmp_path / "ours", precision="float32")
    assert (pipeline.pooling, pipeline.normalize, pipeline.max_length) == (pooling, normalize, 8)
    np.testing.assert_allclose(np.stack(pipeline(TEXTS)), wanted, atol=1e-5)  # type: ignore[arg-type]


def test_what_sentence_transformers_saves_we_embed_alike(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    mean = embeddings_of(tiny_checkpoints["encoder"])
    first = type(mean)(modules=[mean[0], type(mean[1])(32, pooling_mode="cls")], device="cpu")
    first.save(str(tmp_path / "model"))
    expected = first.encode(TEXTS)
    got = np.stack(Pipeline(tmp_path / "model", precision="float32")(TEXTS))  # type: ignore[arg-type]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    convert_checkpoint(ConversionRequest(tmp_path / "model", tmp_path / "copy"))
    np.testing.assert_allclose(embeddings_of(tmp_path / "copy").encode(TEXTS), expected, atol=1e-5)


def test_no_pooling_no_files(tmp_path: Path) -> None:
    write_embedder(Embedder(max_seq_length=8), 32, 16, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_transformers_one_line_says_how_to_install_it() -> None:
    code = (
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'transformers' else find(name, *a)\n"
        "from ufbert.errors import MissingExtraError\n"
        "try:\n    import ufbert.hf\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "ufbert.hf needs transformers; install it with: pip install 'ufbert[hf]'\n"
