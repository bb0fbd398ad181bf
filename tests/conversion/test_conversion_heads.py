"""Classifiers and cross-encoders of other software, there and back, and heads that would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import run_convert
from safetensors.torch import load_file, save_file

from ufbert import Pipeline, UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.conversion import ConversionRequest, convert_checkpoint, load_checkpoint

transformers = pytest.importorskip("transformers")
from tiny_transformers import CONFIGS, WORDS, save, texts, write_vocabulary  # noqa: E402  needs transformers

CLASSIFIER = transformers.AutoModelForSequenceClassification
SENTENCES = ["w1 w2 w3", "w7", "w9 w3 w20 w30 w2"]
PAIRS = [("w1 w2", "w3 w4 w5"), ("w6", "w7 w8 w30"), ("w11 w12 w13", "w2")]


def classify(folder: Path, inputs: Any) -> list[Any]:
    return Pipeline(folder, task="classify", precision="float32")(inputs)


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
@pytest.mark.parametrize("family", CONFIGS)
def test_classifiers_give_the_logits_of_transformers_there_and_back(
    family: str, problem: str | None, tmp_path: Path
) -> None:
    labels = 1 if problem == "regression" else 3
    names = {i: f"class {i}" for i in range(labels)}
    theirs = save(CLASSIFIER, family, tmp_path / "source", num_labels=labels, id2label=names, problem_type=problem)
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    ours = UltraFastBertForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert ours.config.problem_type == (problem or "single_label_classification")
    assert ours.config.label_names == list(names.values())
    ids, mask = texts(ours.config.pad_token_id)
    with torch.no_grad():
        wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, mask).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "back", to="dense"))
    back, loading = CLASSIFIER.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert back.config.id2label == names
    with torch.no_grad():
        torch.testing.assert_close(back.eval()(ids, attention_mask=mask).logits, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_classify_is_the_pipeline_of_transformers(family: str, tmp_path: Path) -> None:
    import ufbert.hf  # noqa: F401

    cases: dict[str, dict[str, Any]] = {
        "sentiment": {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}},
        "several": {"id2label": {0: "toxic", 1: "insult", 2: "threat"}, "problem_type": "multi_label_classification"},
        "one": {"id2label": {0: "toxic"}},
        "value": {"num_labels": 1, "problem_type": "regression"},
        "values": {"id2label": {0: "joy", 1: "fear"}, "problem_type": "regression"},
    }
    for name, more in cases.items():
        source, dest = tmp_path / name, tmp_path / f"{name}-ours"
        theirs = save(CLASSIFIER, family, source, **more)
        write_vocabulary(source)
        convert_checkpoint(ConversionRequest(source, dest))
        with torch.no_grad():
            logits = [theirs(ids_of(text)).logits[0] for text in SENTENCES]
        results = classify(dest, SENTENCES)
        tokenizer = transformers.AutoTokenizer.from_pretrained(dest)
        model = CLASSIFIER.from_pretrained(dest).eval()
        again = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)(SENTENCES)
        for result, row, fresh in zip(results, logits, again, strict=True):
            if name == "value":
                got, wanted = {"LABEL_0": result["value"]}, row
            elif name == "values":
                got, wanted = result["values"], row
            else:
                got, wanted = result["scores"], row.softmax(0) if name == "sentiment" else row.sigmoid()
            expected = dict(zip(theirs.config.id2label.values(), wanted.tolist(), strict=True))
            assert got == pytest.approx(expected, abs=1e-5), name
            assert {entry["label"]: entry["score"] for entry in fresh} == pytest.approx(expected, abs=1e-5), name
            if name == "several":
                assert result["labels"] == [label for label, score in expected.items() if score >= 0.5]


def test_an_activation_of_the_layers_that_the_head_has_not(tmp_path: Path) -> None:
    for family in ("roberta", "electra"):
        theirs = save(transformers.AutoModelForMaskedLM, family, tmp_path / family, hidden_act="relu")
        convert_checkpoint(ConversionRequest(tmp_path / family, tmp_path / f"{family}-ours"))
        ours = UltraFastBertForMaskedLM.from_pretrained(tmp_path / f"{family}-ours")
        ids, mask = texts(ours.config.pad_token_id)
        with torch.no_grad():
            wanted, got = theirs(ids, attention_mask=mask).logits, ours(ids, mask).logits
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)
        convert_checkpoint(ConversionRequest(tmp_path / f"{family}-ours", tmp_path / f"{family}-back", to="dense"))
        back = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / f"{family}-back").eval()
        with torch.no_grad():
            got = back(ids, attention_mask=mask).logits
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "new-sigmoid": {"sentence_transformers": {"activation_fn": SIGMOID}},
    "new-identity": {"sentence_transformers": {"activation_fn": IDENTITY}},
    "new-none": {"sentence_transformers": {"version": "4.1.0"}},
    "old-identity": {"sbert_ce_default_activation_function": IDENTITY},
    "old-sigmoid": {"sbert_ce_default_activation_function": SIGMOID},
    "old-short": {"sbert_ce_default_activation_function": "torch.nn.Identity"},
    "both": {"sentence_transformers": {"activation_fn": IDENTITY}, "sbert_ce_default_activation_function": SIGMOID},
    "foreign": {"sentence_transformers": {"activation_fn": "mymodule.Squash"}},
    "tanh": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
    "regression": {"problem_type": "regression", "sentence_transformers": {"activation_fn": SIGMOID}},
    "nothing": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_cross_encoder_scores_pairs_as_sentence_transformers(kind: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import ufbert.hf  # noqa: F401

    family = {"old-identity": "electra", "tanh": "distilbert"}.get(kind, "bert")
    save(CLASSIFIER, family, tmp_path / "source", num_labels=1, **ACTIVATIONS[kind])
    write_vocabulary(tmp_path / "source")
    wanted = _scores(sentence_transformers.CrossEncoder(str(tmp_path / "source"), device="cpu"))
    for form in ("ultrafastbert", "dense"):
        convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / form, to=form))
        again = sentence_transformers.CrossEncoder(str(tmp_path / form), device="cpu")
        assert _scores(again) == pytest.approx(wanted, abs=1e-4), form
    results = classify(tmp_path / "ultrafastbert", PAIRS)
    assert [result["score"] for result in results] == pytest.approx(wanted, abs=1e-4)


def _scores(cross_encoder: Any) -> list[float]:
    return [float(score) for score in cross_encoder.predict(PAIRS, show_progress_bar=False)]


@pytest.mark.filterwarnings("ignore")
def test_a_cross_encoder_saved_by_todays_sentence_transformers(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import ufbert.hf  # noqa: F401

    save(CLASSIFIER, "bert", tmp_path / "source", num_labels=1)
    write_vocabulary(tmp_path / "source")
    theirs = sentence_transformers.CrossEncoder(
        str(tmp_path / "source"), device="cpu", activation_fn=torch.nn.Identity()
    )
    theirs.save_pretrained(str(tmp_path / "saved"))
    assert "activation" not in (tmp_path / "saved" / "config.json").read_text()
    wanted = _scores(theirs)
    convert_checkpoint(ConversionRequest(tmp_path / "saved", tmp_path / "ours"))
    ours = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert _scores(ours) == pytest.approx(wanted, abs=1e-4)
    # Saved by the library with another activation, our folder follows.
    ours.activation_fn = torch.nn.Sigmoid()
    ours.save_pretrained(str(tmp_path / "again"))
    for folder, scores in (("ours", wanted), ("again", torch.tensor(wanted).sigmoid().tolist())):
        results = classify(tmp_path / folder, PAIRS)
        assert [result["score"] for result in results] == pytest.approx(scores, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_long_pairs_are_cut_where_the_cross_encoder_cuts_them(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    save(CLASSIFIER, "bert", tmp_path / "source", num_labels=1)
    write_vocabulary(tmp_path / "source")
    (tmp_path / "source" / "tokenizer_config.json").write_text('{"model_max_length": 12}')
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    words = [f"w{number}" for number in range(55)]
    pairs = [(" ".join(words[:n]), " ".join(words[-m:])) for n, m in ((3, 30), (30, 3), (20, 20), (5, 4), (17, 2))]
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "source"), device="cpu")
    wanted = [float(score) for score in theirs.predict(pairs, show_progress_bar=False)]
    assert [result["score"] for result in classify(tmp_path / "ours", pairs)] == pytest.approx(wanted, abs=1e-5)


def test_several_scores_of_a_cross_encoder(tmp_path: Path) -> None:
    for name, activation in (("Identity", IDENTITY), ("Sigmoid", SIGMOID)):
        source = tmp_path / name
        theirs = save(CLASSIFIER, "bert", source, num_labels=3, sentence_transformers={"activation_fn": activation})
        write_vocabulary(source)
        convert_checkpoint(ConversionRequest(source, tmp_path / f"{name}-ours"))
        with torch.no_grad():
            logits = theirs(ids_of("w1 w2")).logits[0]
        wanted = logits.softmax(0) if name == "Identity" else logits.sigmoid()
        (result,) = classify(tmp_path / f"{name}-ours", ["w1 w2"])
        assert list(result["scores"].values()) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_an_unknown_activation_of_a_cross_encoder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    activation = {"activation_fn": "torch.nn.modules.activation.Hardtanh"}
    save(CLASSIFIER, "bert", tmp_path / "source", num_labels=1, sentence_transformers=activation)
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert code == 1
    assert err.startswith("error: ")
    assert "activation is 'torch.nn.modules.activation.Hardtanh', which is not supported; known: Identity, Sig" in err
    assert len(err.strip().splitlines()) == 1


def test_onnx_holds_the_head(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    theirs = save(CLASSIFIER, "electra", tmp_path / "source", num_labels=3, num_hidden_layers=1)
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "onnx", to="onnx"))
    ids, mask = texts(0)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask).logits
    feed: Any = {
        "input_ids": ids.numpy(),
        "attention_mask": mask.numpy(),
        "token_type_ids": torch.zeros_like(ids).numpy(),
    }
    outputs: Any = ReferenceEvaluator(str(tmp_path / "onnx" / "model.onnx")).run(["logits"], feed)
    torch.testing.assert_close(torch.from_numpy(outputs[0]), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("auto", "family", "parts"),
    [
        ("AutoModelForMultipleChoice", "bert", "cannot be expressed: classifier; give --drop-head"),
        ("AutoModelForQuestionAnswering", "roberta", "cannot be expressed: qa_outputs; give --drop-head"),
        ("AutoModelForMultipleChoice", "distilbert", "cannot be expressed: classifier, pre_classifier; give"),
        ("AutoModelForNextSentencePrediction", "bert", "cannot be expressed: cls.seq_relationship; give --drop-head"),
        ("AutoModelForPreTraining", "electra", "discriminator_predictions.dense, discriminator_predictions.dense_pred"),
    ],
)
def test_a_head_is_not_lost_unless_asked(
    auto: str, family: str, parts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = save(getattr(transformers, auto), family, tmp_path / "source")
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out")
    assert (code, len(err.strip().splitlines())) == (1, 1), err
    assert parts in err
    assert "model.safetensors" in err
    assert not (tmp_path / "out").exists()
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "out", "--drop-head")
    assert code == 0, err
    ids, mask = texts(0)
    with torch.no_grad():
        wanted = getattr(theirs, theirs.base_model_prefix)(ids, attention_mask=mask).last_hidden_state
        got = load_checkpoint(tmp_path / "out").model(ids, mask).last_hidden_state
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


def test_the_head_that_architectures_names_goes_before_leftovers_of_pretraining(tmp_path: Path) -> None:
    save(transformers.AutoModelForPreTraining, "bert", tmp_path / "source")
    loaded = load_checkpoint(tmp_path / "source")
    assert isinstance(loaded.model, UltraFastBertForMaskedLM)
    assert any("as the model does not use it: bert.pooler.dense, cls.seq_relationship" in n for n in loaded.notes)
    pretraining = load_file(tmp_path / "source" / "model.safetensors")
    save(CLASSIFIER, "bert", tmp_path / "classifier")
    state = load_file(tmp_path / "classifier" / "model.safetensors")
    save_file({**pretraining, **state}, tmp_path / "classifier" / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "classifier")
    assert isinstance(loaded.model, UltraFastBertForSequenceClassification)
    save_file({**state, "projector.weight": torch.ones(2, 2)}, tmp_path / "classifier" / "model.safetensors")
    with pytest.raises(Exception, match=r"cannot be expressed: projector; give --drop-head"):
        load_checkpoint(tmp_path / "classifier")


def test_drop_head_takes_the_encoder_of_ours_too_and_of_what_dense_cannot_say(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_convert(capsys, tiny_checkpoints["classifier"], tmp_path / "encoder", "--drop-head")[0] == 0
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert (config["architectures"], config["id2label"]) == (["UltraFastBertModel"], None)
    save(CLASSIFIER, "bert", tmp_path / "source")
    convert_checkpoint(ConversionRequest(tmp_path / "source", tmp_path / "ours"))
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    (tmp_path / "ours" / "config.json").write_text(json.dumps({**values, "classifier_pooling": "mean"}))
    code, err = run_convert(capsys, tmp_path / "ours", tmp_path / "dense", "--to", "dense")
    assert code == 1
    assert (
        "classifier.dense, classifier.scores; pooling mean, 32 wide, tanh) is not the one of transformers' bert" in err
    )
    code, err = run_convert(capsys, tmp_path / "ours", tmp_path / "dense", "--to", "dense", "--drop-head")
    assert code == 0, err
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["architectures"] == ["BertModel"]
