"""What `convert --to onnx` writes, opened as optimum and sentence-transformers open it: without `ufbert`."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_command import TEXTS, run_convert

import ufbert
from ufbert import UltraFastBertConfig
from ufbert.checkpoint.sentence_transformers import read_embedder
from ufbert.conversion.export import onnx as graph
from ufbert.conversion.export.hugging_face import nearest_config
from ufbert.text.tokenization import train_tokenizer

transformers = pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra peers is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
SAMPLE = ["The old fox sleeps.", "The lazy brown dog sings near the river. It was noon, it was night.", "dog"]


def original(kind: str, folder: Path, **settings: Any) -> Any:
    """A random model of transformers with a tokenizer."""
    tokenizer = train_tokenizer(TEXTS, 200, min_frequency=1)
    family = "Roberta" if kind.startswith("Roberta") else "Bert"
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.get_vocab_size(), intermediate_size=48, pad_token_id=0, **{**SIZES, **settings}
    )
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def opened(folder: Path) -> tuple[Any, Any, Any]:
    """Config, tokenizer and session, from the folder alone."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    config = transformers.AutoConfig.from_pretrained(folder)
    # What transformers knows by itself: in this process our own classes may be registered.
    assert config.model_type in ("bert", "roberta", "roberta-prelayernorm")
    return config, transformers.AutoTokenizer.from_pretrained(folder), session


def outputs(tokenizer: Any, session: Any, texts: list[Any], **options: Any) -> tuple[dict[str, Any], Any]:
    """What the graph gives for all that the tokenizer says, by name; and what it said."""
    encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="np", **options)
    assert set(encoded) == {entry.name for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(encoded)), strict=True)), encoded


def test_an_embedder_of_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    tokenizer = train_tokenizer(TEXTS, 200, min_frequency=1)
    facts = {"pooling": "mean", "normalize": True, "max_seq_length": 9}
    config = UltraFastBertConfig(**SIZES, vocab_size=tokenizer.get_vocab_size(), trees=2, depth=1, provenance=facts)
    ufbert.UltraFastBertModel(config).save_pretrained(tmp_path / "ours", tokenizer=tokenizer)
    code, err = run_convert(capsys, tmp_path / "ours", tmp_path / "onnx", "--to", "onnx")
    assert code == 0, err
    assert {str(file.relative_to(tmp_path / "onnx")) for file in (tmp_path / "onnx").rglob("*.*")} >= {
        "model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
    }  # fmt: skip
    assert read_embedder(tmp_path / "onnx").facts() == facts
    settings, tokenize, session = opened(tmp_path / "onnx")
    assert settings.architectures == ["BertModel"]
    assert (settings.feedforward, settings.trees, settings.depth, settings.hidden_size) == ("fff", 2, 1, 32)
    assert tokenize.model_max_length == 9
    importlib.import_module("ufbert.hf")  # for our folder; the other one needs nothing of ours
    wanted = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(SAMPLE)
    for texts in (SAMPLE[:1], SAMPLE):
        result, encoded = outputs(tokenize, session, texts)
        kept = encoded["attention_mask"][..., None]
        mean = (result["last_hidden_state"] * kept).sum(1) / kept.sum(1)
        vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors, wanted[: len(texts)], atol=1e-4)
    if importlib.util.find_spec("optimum") is not None:
        embedder = sentence_transformers.SentenceTransformer(str(tmp_path / "onnx"), backend="onnx", device="cpu")
        np.testing.assert_allclose(embedder.encode(SAMPLE), wanted, atol=1e-4)
    for command in (["convert", "--to", "dense"], ["convert"]):
        code, err = run_convert(capsys, tmp_path / "onnx", tmp_path / "back", *command[1:])
        assert code == 1
        assert "holds an ONNX graph, which is not read back; give the checkpoint that it was made from" in err


def test_a_classifier_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {0: "no", 1: "maybe", 2: "yes"}
    theirs = original(
        "BertForSequenceClassification", tmp_path / "bert", id2label=names, label2id={v: k for k, v in names.items()}
    )
    code, err = run_convert(capsys, tmp_path / "bert", tmp_path / "onnx", "--to", "onnx")
    assert code == 0, err
    settings, tokenize, session = opened(tmp_path / "onnx")
    assert settings.architectures == ["BertForSequenceClassification"]
    assert settings.id2label == names
    for texts, pairs in ((SAMPLE, SAMPLE[::-1]), (SAMPLE[:1], SAMPLE[1:2])):
        result, encoded = outputs(tokenize, session, texts, text_pair=pairs)
        assert encoded["token_type_ids"].max() == 1
        with torch.no_grad():
            wanted = theirs(**{name: torch.from_numpy(value) for name, value in encoded.items()}).logits
        np.testing.assert_allclose(result["logits"], wanted.numpy(), atol=1e-4)
    if importlib.util.find_spec("optimum") is not None:
        from optimum.onnxruntime import ORTModelForSequenceClassification

        model = ORTModelForSequenceClassification.from_pretrained(tmp_path / "onnx")
        found = model(**tokenize(SAMPLE[:1], SAMPLE[1:2], return_tensors="pt")).logits
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_masked_lm_with_its_weights_in_a_file_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = original("RobertaForMaskedLM", tmp_path / "roberta", max_position_embeddings=33, type_vocab_size=1)
    monkeypatch.setattr(graph, "LARGEST_FILE", 0)
    code, err = run_convert(capsys, tmp_path / "roberta", tmp_path / "onnx", "--to", "onnx")
    assert code == 0, err
    assert (tmp_path / "onnx" / "model.onnx_data").is_file()
    assert not (tmp_path / "onnx" / "model.onnx.data").exists()
    settings, tokenize, session = opened(tmp_path / "onnx")
    assert (settings.model_type, settings.architectures) == ("roberta", ["RobertaForMaskedLM"])
    # One token type is none to choose: a second text's type 1 would lie outside its table.
    result, encoded = outputs(tokenize, session, SAMPLE, text_pair=SAMPLE)
    kept = encoded["attention_mask"].astype(bool)
    with torch.no_grad():
        wanted = theirs(**{name: torch.from_numpy(value) for name, value in encoded.items()}).logits.numpy()
    np.testing.assert_allclose(result["logits"][kept], wanted[kept], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 1, "problem_type": "regression"}, "regression"),
        ({"num_labels": 3}, None),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"num_labels": 3, "feedforward": "none"}, None),
    ],
)
def test_what_the_config_says_of_the_scores(changes: dict[str, Any], named: str | None) -> None:
    config = UltraFastBertConfig(**SIZES, vocab_size=60, trees=1, depth=2, **changes)
    values = nearest_config(ufbert.UltraFastBertForSequenceClassification(config))
    assert json.loads(json.dumps(values)) == values
    assert values["problem_type"] == named
    read = transformers.BertConfig.from_dict(values)
    assert read.num_labels == config.num_labels
    assert read.problem_type == named
