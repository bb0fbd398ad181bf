"""Token classifiers of other software: there and back, as an ONNX graph, and under transformers' Auto classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import run_convert

from ufbert import UltraFastBertForTokenClassification, UltraFastBertModel
from ufbert.conversion import ConversionRequest, convert_checkpoint

transformers = pytest.importorskip("transformers")
from tiny_transformers import CONFIGS, save, texts, write_vocabulary  # noqa: E402  needs transformers

TAGGER = transformers.AutoModelForTokenClassification
TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@pytest.mark.parametrize("family", CONFIGS)
def test_token_classifiers_give_the_logits_of_transformers_there_and_back(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ufbert.hf  # noqa: F401

    theirs = save(TAGGER, family, tmp_path / "source", id2label=TAGS)
    code, said = run_convert(capsys, tmp_path / "source", tmp_path / "ours")
    assert code == 0, said
    ours = UltraFastBertForTokenClassification.from_pretrained(tmp_path / "ours")
    assert ours.config.id2label == TAGS
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert values["label2id"] == {name: number for number, name in TAGS.items()}
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "| tags | O, B-PER, I-PER, B-LOC, I-LOC |" in card
    ids, mask = texts(ours.config.pad_token_id)
    real = mask.bool()
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, mask).logits
    assert got.shape == (3, 9, 5)
    torch.testing.assert_close(got[real], wanted[real], atol=1e-4, rtol=1e-4)
    auto = TAGGER.from_pretrained(tmp_path / "ours").eval()
    assert auto.config.id2label == TAGS
    labels = torch.where(real, torch.randint(5, ids.shape), -100)
    with torch.no_grad():
        out, reference = auto(ids, attention_mask=mask, labels=labels), theirs(ids, attention_mask=mask, labels=labels)
    torch.testing.assert_close(out.logits[real], wanted[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.loss, reference.loss, atol=1e-4, rtol=1e-4)
    code, said = run_convert(capsys, tmp_path / "ours", tmp_path / "back", "--to", "dense")
    assert code == 0, said
    back, loading = TAGGER.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert back.config.id2label == TAGS
    with torch.no_grad():
        got = back.eval()(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[real], wanted[real], atol=1e-4, rtol=1e-4)


def test_a_pre_norm_tagger_with_fixed_positions_leaves_as_roberta_prelayernorm(tmp_path: Path) -> None:
    from ufbert import UltraFastBertConfig

    config = UltraFastBertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=20,
        feedforward="dense", intermediate_size=48, initializer_range=0.2, num_labels=5, id2label=TAGS,
    )  # fmt: skip
    ours = UltraFastBertForTokenClassification(config).eval()
    ours.save_pretrained(tmp_path / "ours")
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "dense", to="dense"))
    theirs = TAGGER.from_pretrained(tmp_path / "dense").eval()
    assert type(theirs).__name__ == "RobertaPreLayerNormForTokenClassification"
    ids, mask = texts(0)
    with torch.no_grad():
        wanted, got = ours(ids, mask).logits, theirs(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


def test_the_onnx_graph_of_a_tagger(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    theirs = save(TAGGER, "bert", tmp_path / "source", id2label=TAGS)
    write_vocabulary(tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "onnx", to="onnx"))
    values = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert values["architectures"] == ["BertForTokenClassification"]
    assert values["id2label"] == {str(number): name for number, name in TAGS.items()}
    ids, mask = texts(0)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask).logits
    feed: Any = {
        "input_ids": ids.numpy(),
        "attention_mask": mask.numpy(),
        "token_type_ids": torch.zeros_like(ids).numpy(),
    }
    outputs: Any = ReferenceEvaluator(str(tmp_path / "onnx" / "model.onnx")).run(["logits"], feed)
    got = torch.from_numpy(outputs[0])
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


def test_drop_head_takes_a_taggers_encoder(tmp_path: Path) -> None:
    theirs = save(TAGGER, "roberta", tmp_path / "source", id2label=TAGS)
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours", drop_head=True))
    ours = UltraFastBertModel.from_pretrained(tmp_path / "ours")
    assert (ours.config.id2label, ours.config.num_labels) == (None, 2)
    ids, mask = texts(1)
    with torch.no_grad():
        wanted = theirs.roberta(ids, attention_mask=mask).last_hidden_state
        got = ours(ids, mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


def test_what_our_auto_class_saves_we_read(tmp_path: Path) -> None:
    import ufbert.hf  # noqa: F401

    save(TAGGER, "bert", tmp_path / "source", id2label=TAGS)
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    TAGGER.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    ids, mask = texts(0)
    both = [UltraFastBertForTokenClassification.from_pretrained(tmp_path / name) for name in ("ours", "again")]
    assert both[1].config.id2label == TAGS
    with torch.no_grad():
        torch.testing.assert_close(both[0](ids, mask).logits, both[1](ids, mask).logits)
