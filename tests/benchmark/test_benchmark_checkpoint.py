"""`ufbert bench encoder --model`: a checkpoint of every kind beside other software on its own weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_processes import InProcess
from safetensors.torch import load_file, save_file

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.benchmark import run
from ufbert.benchmark.models import checkpoint_encoder, encoder, encoder_processes
from ufbert.benchmark.models.peers import tokenising
from ufbert.benchmark.models.peers.process import Worker
from ufbert.benchmark.models.peers.tokenising import text_rows
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.commands.app import main

LENGTH = 12
LIMITS: dict[str, Any] = {"threads": 1, "gigaflops": {}, "gigabytes_per_second": {"L1": 1.0}}
DOCUMENTS = tuple(" ".join(f"w{(7 * n + step * step) % 55}" for step in range(40)) for n in range(60))

Bench = Callable[..., tuple[int, str, str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little text, short samples, no processes, and the process's threads as they were."""
    monkeypatch.setattr(tokenising, "embedded_documents", lambda: DOCUMENTS)
    monkeypatch.setattr(encoder_processes, "SAMPLE_SECONDS", 0.002)
    monkeypatch.setattr(encoder_processes, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(run, "measure_limits", lambda *_: LIMITS)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    for module in (encoder_processes, encoder, checkpoint_encoder):
        monkeypatch.setattr(module, "Worker", InProcess)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run the command; exit code, stdout, stderr with its spaces single, and the JSON file."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str, dict[str, Any]]:
        options = ["--threads=1", "--seconds=0.1", "--batch=3", f"--sequence-length={LENGTH}", "--json=out.json"]
        with pytest.raises(SystemExit) as end:
            main(["bench", "encoder", *options, *arguments])
        out, err = capsys.readouterr()
        file = tmp_path / "out.json"
        assert isinstance(end.value.code, int)
        return end.value.code, " ".join(out.split()), err, json.loads(file.read_text()) if file.exists() else {}

    return call


def checkpoint(family: str, folder: Path) -> Path:
    """A tiny random model of transformers, with a tokenizer."""
    tiny = pytest.importorskip("tiny_transformers")
    tiny.save(tiny.transformers.AutoModel, family, folder)
    tiny.write_vocabulary(folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = tiny.transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def prefix_tensors(folder: Path) -> None:
    """As a training program wraps a model: ours unwraps it, transformers does not."""
    tensors = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": t for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def rows_of(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(row["layer"], row["implementation"], row["dtype"]) for row in document["results"]}


@pytest.mark.parametrize(
    ("family", "cls", "peers"),
    [
        ("bert", "BertModel with sdpa", "transformers,onnxruntime,openvino"),
        ("modernbert", "ModernBertModel with sdpa", "transformers,onnxruntime,openvino"),
        ("mpnet", "MPNetModel with eager", "transformers"),
        ("nomic_bert", "NomicBertModel with sdpa", "transformers"),
    ],
)
def test_a_checkpoint_of_transformers_beside_its_own_class(
    family: str, cls: str, peers: str, tmp_path: Path, bench: Bench
) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="needs the extra peers")
    folder = checkpoint(family, tmp_path / family)
    code, out, err, document = bench(f"--model={folder}", f"--implementations=ufbert,{peers}", "--dtype=float32,int8")
    assert code == 0, err
    layers = 4 if family == "modernbert" else 2
    assert f"model: {folder}, {family}: {layers} layers of hidden size 32, 4 heads, 48 dense neurons in a layer" in out
    assert f"peers: transformers' {cls} attention, of the folder itself" in out
    assert f"Encoder, forward: {layers} layers, sequences of 12 tokens" in out
    assert "against transformers' in float32" in out
    assert "│ feedforward │" in out
    expected = {("ff", name, "float32") for name in ("ufbert", *peers.split(","))} | {("ff", "ufbert", "int8")}
    assert rows_of(document) - {("ff", "onnxruntime", "int8")} == expected
    for row in document["results"]:
        assert row["layers"] == layers
        if row["dtype"] == "float32":
            assert 0 <= row["error"] <= row["largest_error"] < 1e-4
            assert row["lowest_cosine"] > 0.999999
        else:
            assert 1e-4 < row["error"] < 0.3
            assert 0.9 < row["lowest_cosine"] < 0.99999
    assert document["model"]["parameters"] == sum(
        tensor.numel() for name, tensor in load_file(folder / "model.safetensors").items() if "pooler" not in name
    )
    assert document["settings"]["model"] == str(folder)
    assert not {"depth", "layers", "bound"} & set(document["settings"])
    assert document["paths"] == {}


def test_the_text_is_the_tokenizers_between_its_special_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint("bert", tmp_path / "bert"))
    rows = text_rows(tokenizer, LENGTH, 0)
    assert rows.shape == (1024, LENGTH)
    assert set(rows[:, 0]) == {2}
    assert set(rows[:, -1]) == {3}
    whole = np.array(tokenizer.encode(" ".join(DOCUMENTS), add_special_tokens=False).ids)
    assert rows[0, 1:-1].tolist() == whole[: LENGTH - 2].tolist()
    assert len(np.unique(rows, axis=0)) > 500
    # A word that is padding, too, would move RoBERTa's positions.
    assert 9 in rows
    assert 9 not in text_rows(tokenizer, LENGTH, 9)


def test_trees_have_no_peers_and_the_reason_is_said(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], bench: Bench
) -> None:
    folder, peers = tiny_checkpoints["masked_lm"], "transformers,onnxruntime,openvino"
    code, out, err, document = bench(f"--model={folder}", f"--implementations=ufbert,ufbert-reference,{peers}")
    assert code == 0, err
    assert "4 heads, 1 trees of depth 3 in a layer" in out
    assert "peers:" not in out
    assert "against our plain modules' in float32" in out
    assert "Paths (mean of 2 layers)" in out
    assert "│ FFF │" in out
    reason = f"no dense export: {folder}: has trees of depth 3; which neurons a token uses depends on the token"
    # Of software that is not there its absence is said instead, on a line of its own.
    there = [f"ff {name}" for name in peers.split(",") if find_spec(name)]
    assert f"Not timed in float32: {', '.join(there)} ({reason}" in out
    assert all(f"ff {name}" in out for name in peers.split(","))
    assert rows_of(document) >= {("fff", "ufbert", "float32"), ("fff", "ufbert-reference", "float32")}
    assert {row["implementation"] for row in document["results"]} == {"ufbert", "ufbert-reference"}
    assert (document["model"]["trees"], document["model"]["depth"]) == (1, 3)


def test_layers_that_differ_are_named_and_their_paths_are_means(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], tiny_config: UltraFastBertConfig, bench: Bench
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    layers = ("2x3", "dense:24", "none", "1x1+5")
    config = tiny_config.replace(
        num_hidden_layers=4, feedforward_layers=layers, vocab_size=tokenizer.get_vocab_size(), initializer_range=0.2
    )
    UltraFastBertForMaskedLM(config).save_pretrained(tmp_path / "mixed", tokenizer=tokenizer)
    arguments = ("--implementations=ufbert,ufbert-reference,transformers", "--dtype=float32,int8", "--batch=1")
    code, out, err, document = bench("--model=mixed", *arguments)
    assert code == 0, err
    assert "4 heads, feedforward layers 2x3, dense:24, none, 1x1+5; 0.0 million parameters without a head" in out
    assert "Paths (mean of 2 layers)" in out
    assert "no dense export: mixed: has trees of depth 3" in out
    assert rows_of(document) >= {("fff", "ufbert", "float32"), ("fff", "ufbert-reference", "float32")}
    assert document["model"]["feedforward_layers"] == list(layers)
    assert document["model"]["feedforward"] == "mixed"
    assert len(document["paths"]["right_share_by_level"]) == 3
    assert document["paths"]["leaves_per_tree"] == (8 + 2) / 2


def test_what_transformers_does_not_load_has_peers_by_its_dense_export(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("transformers", reason="needs the extra peers")
    folder = checkpoint("bert", tmp_path / "bert")
    prefix_tensors(folder)
    arguments = ("--implementations=ufbert,transformers", "--dtype=float32", "--batch=1")
    code, out, err, document = bench(f"--model={folder}", *arguments)
    assert code == 0, err
    assert "BertModel with sdpa attention, of the folder as ufbert convert --to dense writes it" in out
    assert {row["implementation"]: row["largest_error"] < 1e-4 for row in document["results"]} == {
        "ufbert": True,
        "transformers": True,
    }


def test_one_of_ours_with_dense_layers_has_peers_too(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], tiny_config: UltraFastBertConfig, bench: Bench
) -> None:
    pytest.importorskip("transformers", reason="needs the extra peers")
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    config = tiny_config.replace(feedforward="dense", vocab_size=tokenizer.get_vocab_size(), initializer_range=0.2)
    UltraFastBertForMaskedLM(config).save_pretrained(tmp_path / "dense", tokenizer=tokenizer)
    arguments = ("--implementations=ufbert,transformers", "--dtype=float32", "--batch=1")
    code, _, err, document = bench("--model=dense", *arguments)
    assert code == 0, err
    assert "RobertaPreLayerNormModel" in document["model"]["peers"]
    assert rows_of(document) == {("ff", "ufbert", "float32"), ("ff", "transformers", "float32")}


def test_what_neither_loads_nor_exports_is_left_out_with_both_reasons(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_encoder, "Worker", Worker)  # whose words come through a pipe
    pytest.importorskip("transformers", reason="needs the extra peers")
    folder = checkpoint("gte", tmp_path / "gte")
    prefix_tensors(folder)
    arguments = ("--implementations=ufbert,transformers", "--dtype=float32", "--batch=1")
    code, out, err, document = bench(f"--model={folder}", *arguments)
    assert code == 0, err
    assert "transformers cannot load it: its GteModel finds no " in out
    assert f"there; no dense export: {folder}: has rotary positions (position_embedding_type)" in out
    assert rows_of(document) == {("ff", "ufbert", "float32")}


class TestErrors:
    def message(self, bench: Bench, *arguments: str) -> str:
        code, _, err, document = bench(*arguments)
        assert code == 1
        assert document == {}
        return err.splitlines()[-1]

    @pytest.mark.parametrize(
        "option",
        ["--preset=bert-large", "--trees=2", "--depth=3", "--hidden-size=24", "--intermediate-size=96", "--layers=2",
         "--key-value-heads=1", "--shared=4"],
    )  # fmt: skip
    def test_options_of_shape(self, option: str, bench: Bench) -> None:
        name = option.split("=")[0]
        assert self.message(bench, "--model=somewhere", option) == (
            f"error: {name} shapes a model that is built; somewhere has a shape of its own: leave out {name} or --model"
        )

    def test_other_subjects(self, capsys: pytest.CaptureFixture[str]) -> None:
        for subject in ("layer", "training"):
            with pytest.raises(SystemExit):
                main(["bench", subject, "--model=somewhere"])
            assert capsys.readouterr().err == "error: --model belongs to `bench encoder`\n"

    def test_longer_sequences_than_the_model_has(self, tiny_checkpoints: dict[str, Path], bench: Bench) -> None:
        folder = tiny_checkpoints["encoder"]
        text = self.message(bench, f"--model={folder}", "--sequence-length=33")
        assert text == f"error: --sequence-length 33: {folder} takes 32 tokens at most"

    def test_the_twin_and_the_walk_of_trees(self, tmp_path: Path, tiny_checkpoints: Any, bench: Bench) -> None:
        text = self.message(bench, f"--model={tiny_checkpoints['encoder']}", "--implementations=ufbert-dense")
        assert text.startswith("error: 'ufbert-dense' does not run this checkpoint; these do: ufbert, ufbert-reference")
        folder = checkpoint("bert", tmp_path / "bert")
        text = self.message(bench, f"--model={folder}", "--implementations=ufbert-reference")
        assert text.startswith("error: 'ufbert-reference' does not run this checkpoint; these do: ufbert, transformers")

    def test_no_checkpoint_and_no_tokenizer(self, tmp_path: Path, bench: Bench) -> None:
        assert self.message(bench, "--model=./nowhere") == "error: ./nowhere: no such folder"
        tiny = pytest.importorskip("tiny_transformers")
        tiny.save(tiny.transformers.AutoModel, "bert", tmp_path / "bare")
        text = self.message(bench, "--model=bare")
        assert text == "error: bare: has no tokenizer that can be read; put the model's own there, for its text"
