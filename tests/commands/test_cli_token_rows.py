"""`ufbert convert --token-rows`, and every command on what comes out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_command import TEXTS, call, distilled, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file, save_file

from ufbert import Pipeline, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.commands.app import main
from ufbert.conversion.distillation import run
from ufbert.errors import DataError
from ufbert.model.pretrained import read_config

Capture = pytest.CaptureFixture[str]
ADDED = "2x1+3+rows:20"
STILL = ("--steps", "1", "--learning-rate", "1e-12")


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has about 1,000 tokens."""
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 3000)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A post-norm model of two layers of 64 neurons."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder, num_hidden_layers=2)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def cells(said: str, row: str) -> list[float]:
    """The numbers of a row of the closing table."""
    line = said.split(f"│ {row} │")[1]
    return [float(cell) for cell in line.split("│")[:4] if cell.strip()]


@pytest.mark.parametrize(
    ("options", "described", "shape"),
    [
        ("--dense 8", "8 dense neurons beside rows of 20 tokens", "dense:8+rows:20"),
        ("--trees 2 --depth 2", "2 trees of depth 2 beside rows of 20 tokens", "2x2+rows:20"),
        ("--trees 2 --depth 1 --shared 3", "2 trees of depth 1 beside 3 shared neurons and rows of 20 tokens", ADDED),
        ("--dense 0", "rows of 20 tokens", "rows:20"),
    ],
)  # fmt: skip
def test_rows_beside_neurons_say_more_than_neurons_alone(
    options: str, described: str, shape: str, dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    plain = distilled(capsys, dense, tmp_path / "plain", corpus, *options.split(), *STILL)
    said = distilled(capsys, dense, tmp_path / "out", corpus, *options.split(), "--token-rows", "20", *STILL)
    assert f"2 layers of 64 dense neurons into {described}, on " in said
    for layer in range(2):
        without, beside = (cells(text, f"layer {layer}: relative error") for text in (plain, said))
        assert beside[1] < without[1] - 0.03, (layer, without, beside)
    config = read_config(tmp_path / "out")
    assert [str(one) for one in config.layer_shapes] == [shape] * 2
    assert config.feedforward_layers == ()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"its dense feedforward layers distilled into {described}." in card
    assert "rows of 20 tokens" in card.split("| feedforward |")[1].splitlines()[0]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["encoder.layers.1.token_rows.weight"].shape == (21, 32)
    ranks = tensors["encoder.embeddings.token_ranks"]
    assert sorted(ranks.tolist()) == list(range(config.vocab_size))
    UltraFastBertForMaskedLM.from_pretrained(tmp_path / "out")


@pytest.fixture(scope="module")
def converted(dense: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees beside rows in one layer, rows alone in the other; trained a little."""
    out = tmp_path_factory.mktemp("converted") / "converted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 3000)
        text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu")
        with pytest.raises(SystemExit) as end:
            main(["convert", str(dense), str(out), *text, "--shape", "2x2+rows:30,rows:30", "--steps", "5"])
    assert not end.value.code
    return out


def test_frequent_tokens_of_the_corpus_have_rows_and_all_others_one(converted: Path) -> None:
    encoder = UltraFastBertModel.from_pretrained(converted)
    tokenizer = Pipeline(converted, task="embed").tokenizer
    counts = torch.zeros(encoder.config.vocab_size)
    for encoding in tokenizer.encode_batch(TEXTS):
        counts += torch.bincount(torch.tensor(encoding.ids), minlength=len(counts))
    ranks = encoder.embeddings.token_ranks
    assert ranks is not None
    frequent = ranks[counts >= 30]
    assert len(frequent) > 3
    assert int(frequent.max()) < 30
    assert int(ranks[counts == 0].min()) > int(frequent.max())
    rows = encoder.layers[0].get_submodule("token_rows")
    rare = rows(torch.tensor([30, 31, encoder.config.vocab_size - 1]))
    assert torch.equal(rare[0], rare[1])
    assert torch.equal(rare[0], rare[2])
    assert not torch.equal(rows(torch.tensor([0])), rare[:1])


def test_inference_in_every_precision(converted: Path, tmp_path: Path, capsys: Capture) -> None:
    texts = TEXTS[:6]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    encoder, tokenizer = UltraFastBertModel.from_pretrained(converted), Pipeline(converted, task="embed").tokenizer
    exact = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            states = encoder.encode(ids, torch.ones_like(ids), torch.zeros_like(ids))[0]
        exact.append(torch.nn.functional.normalize(states.mean(0), dim=0))
    for precision in ("float32", "bfloat16", "int8"):
        options = ("--task", "embed", "--precision", precision)
        code, out, err = call(capsys, "infer", converted, tmp_path / "texts.txt", *options)
        assert code == 0, err
        rows = torch.tensor([json.loads(line)["embedding"] for line in out.splitlines()])
        if precision == "float32":
            torch.testing.assert_close(rows, torch.stack(exact), rtol=1e-4, atol=1e-5)
        assert torch.nn.functional.cosine_similarity(rows, torch.stack(exact), dim=1).median() > 0.99


def test_out_of_it_again(converted: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_dense_model(tmp_path / "rows", feedforward_layers=["dense:9+rows:5", "dense:9"])
    for source, said in (
        (converted, "has trees of depth 2; which neurons a token uses depends on the token"),
        (tmp_path / "rows", "has token rows beside its neurons; no BERT-family class of transformers has them; --to"),
    ):
        code, err = run_convert(capsys, source, tmp_path / "dense", "--to", "dense")
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    code, err = run_convert(capsys, tmp_path / "rows", tmp_path / "a", "--analyse", "--corpus", corpus)
    assert (code, err.count("\n")) == (1, 1)
    assert "--analyse takes a model whose layers are dense and alike" in err
    more = ("--dense", "4", "--corpus", str(corpus), "--text-column", "body")
    code, err = run_convert(capsys, tmp_path / "rows", tmp_path / "a", *more)
    assert (code, err.count("\n")) == (1, 1)
    assert "layer 0 has 9 dense neurons beside rows of 5 tokens already, and only dense layers can be distilled" in err


@pytest.mark.parametrize("options", ["--layers 1 --dense 4", "--layers 1 --dense 4 --token-rows 9", "--drop-layers 1"])
def test_rows_that_are_there_stay_those_of_their_tokens(
    options: str, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_dense_model(tmp_path / "rows", feedforward_layers=["dense:64+rows:20", "dense:64"])
    before = load_file(tmp_path / "rows" / "model.safetensors")
    ranks = torch.randperm(len(before["encoder.embeddings.token_ranks"]))  # by another corpus
    before |= {"encoder.embeddings.token_ranks": ranks}
    save_file(before, tmp_path / "rows" / "model.safetensors")
    distilled(capsys, tmp_path / "rows", tmp_path / "out", corpus, *options.split(), *STILL)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["encoder.embeddings.token_ranks"], ranks)
    name = "encoder.layers.0.token_rows.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_onnx_computes_the_same(converted: Path, tmp_path: Path, capsys: Capture) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    code, err = run_convert(capsys, converted, tmp_path / "onnx", "--to", "onnx")
    assert code == 0, err
    session = runtime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    encoder = UltraFastBertModel.from_pretrained(converted)
    ids = torch.randint(encoder.config.vocab_size, (3, 7))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    states = session.run(["last_hidden_state"], {name: value.numpy() for name, value in given.items()})[0]
    np.testing.assert_allclose(states, encoder(**given).last_hidden_state.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_transformers_loads_it(converted: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    importlib.import_module("ufbert.hf")

    model = transformers.AutoModel.from_pretrained(converted)
    encoder = UltraFastBertModel.from_pretrained(converted)
    vocabulary = encoder.config.vocab_size
    ids = torch.randint(vocabulary, (2, 9))
    wanted = encoder.encode(ids)
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state, wanted)
    model.resize_token_embeddings(vocabulary + 7)
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state, wanted)
    new = model(input_ids=torch.tensor([[1, vocabulary + 3]])).last_hidden_state
    model.save_pretrained(tmp_path / "larger")
    again = UltraFastBertModel.from_pretrained(tmp_path / "larger")
    torch.testing.assert_close(again.encode(torch.tensor([[1, vocabulary + 3]])), new)
    with pytest.raises(DataError, match="inputs_embeds: the model's layers have rows for tokens; give"):
        model(inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--token-rows 5 -", "--token-rows 5 stand beside neurons: give --trees and --depth or --dense too; --dense 0"),
        ("--token-rows 9999 --dense 4 -", "--dense 4 --token-rows 9999: rows for 9,999 tokens, and the vocabulary of"),
        ("--token-rows 5 --shape dense:4 -", "--token-rows 5: --shape writes rows itself, as in dense:216+rows:5;"),
        ("--token-rows 5 --drop-layers 1 -", "--drop-layers leaves whole layers out and converts no others; give it"),
        ("--shape dense:4+rows:0 -", "--shape dense:4+rows:0: dense:4+rows:0: rows are those of at least 1 token;"),
        ("--shape dense:4+rows:5+rows:6 -", "--shape dense:4+rows:5+rows:6: dense:4+rows:5+rows:6: has rows twice;"),
        ("--shape none+rows:5 -", "--shape none+rows:5: none+rows:5: write rows:5 for rows without neurons"),
        ("--shape rows:5+dense:4 -", "--shape rows:5+dense:4: 'rows:5+dense:4' is no feedforward layer; write none"),
    ],
)
def test_what_cannot_be_is_one_line(options: str, message: str, dense: Path, tmp_path: Path, capsys: Capture) -> None:
    words = options.removesuffix(" -").split() + (["--corpus", "embedded"] if options.endswith(" -") else [])
    code, err = run_convert(capsys, dense, tmp_path / "out", *words)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: {message}"), err
    assert not (tmp_path / "out").exists()
