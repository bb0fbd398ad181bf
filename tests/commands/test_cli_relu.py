"""`ufbert convert --relu`: an original with ReLU and few active neurons, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from convert_command import TEXTS, distilled, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file

from ufbert import Pipeline, UltraFastBertModel
from ufbert.conversion.distillation import run
from ufbert.model.encoder import DenseFeedforward
from ufbert.model.pretrained import read_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 3000)
    monkeypatch.setattr(run, "TIMING_SECONDS", 0.01)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder, num_hidden_layers=2)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def active_of(said: str, layer: int) -> list[int]:
    """Active neurons of original and student, and those that hold 90 %, as the table on stderr has them."""
    line = said.split(f"│ layer {layer}, of 64 │")[1]
    return [int(cell) for cell in line.split("│")[:4]]


def test_neurons_stay_and_fewer_are_active_the_more_that_weighs(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = {
        weight: distilled(capsys, dense, tmp_path / weight, corpus, "--relu", "--sparsity", weight, "--steps", "40")
        for weight in ("0", "20")
    }
    for weight, text in said.items():
        assert "Distilling 2 layers of 64 dense neurons into as many with ReLU, few of them active, on " in text
        config = read_config(tmp_path / weight)
        assert config.hidden_act == "relu"
        assert [str(shape) for shape in config.layer_shapes] == ["dense:64"] * 2
    for layer in range(2):
        free, pressed = active_of(said["0"], layer), active_of(said["20"], layer)
        assert free[0] == pressed[0] == 64  # GELU is never zero
        assert pressed[1] < free[1] - 3, (free, pressed)
        assert pressed[3] < free[3] - 2, (free, pressed)
        assert all(holding <= active for active, holding in zip(free[:2], free[2:], strict=True))
    card = (tmp_path / "20" / "README.md").read_text()
    assert (
        "its dense feedforward layers distilled into as wide ones with ReLU that use few neurons for a token." in card
    )
    shown = " | ".join(map(str, active_of(said["20"], 1)))
    assert f"| layer 1, of 64 | {shown} |" in card
    assert "Active neurons" in (tmp_path / "20" / "report.html").read_text()
    # What is said of the student is what its activations are, on other text.
    encoder = UltraFastBertModel.from_pretrained(tmp_path / "20")
    second = encoder.layers[1].feedforward
    assert isinstance(second, DenseFeedforward)
    seen: list[torch.Tensor] = []
    second.linear_out.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    tokenizer = Pipeline(tmp_path / "20", task="embed").tokenizer
    with torch.no_grad():
        for text in TEXTS[:20]:
            encoder.encode(torch.tensor([tokenizer.encode(text).ids]))
    active = float(torch.cat([a.flatten(0, 1) for a in seen]).gt(0).float().sum(1).mean())
    assert abs(active - active_of(said["20"], 1)[1]) < 6


def test_before_it_is_trained_it_says_what_it_can_of_the_original(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Rows of all neurons in their order, output weights by regression: the error is below that of the mean."""
    said = distilled(capsys, dense, tmp_path / "out", corpus, "--relu", "--steps", "1", "--learning-rate", "1e-12")
    before, after = load_file(dense / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    name = "layers.0.feedforward.linear_in.weight"
    (theirs,) = (tensor for key, tensor in before.items() if key.endswith(name))
    (ours,) = (tensor for key, tensor in after.items() if key.endswith(name))
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # one step of the layer's regression
    for layer in range(2):
        cells = said.split(f"│ layer {layer}: relative error │")[1].split("│")
        assert float(cells[0]) < 0.5


def test_a_second_conversion_goes_on_from_it(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    distilled(capsys, dense, tmp_path / "relu", corpus, "--relu", "--steps", "2")
    distilled(capsys, tmp_path / "relu", tmp_path / "trees", corpus, "--trees", "2", "--depth", "2", "--steps", "2")
    distilled(capsys, tmp_path / "relu", tmp_path / "narrow", corpus, "--dense", "8", "--steps", "2")
    for name in ("trees", "narrow"):
        vectors = Pipeline(tmp_path / name, task="embed", precision="float32")(TEXTS[:3])
        assert len(vectors) == 3
    assert read_config(tmp_path / "narrow").hidden_act == "relu"
    # Told again, it only lowers further what is there.
    said = distilled(capsys, tmp_path / "relu", tmp_path / "again", corpus, "--relu", "--sparsity", "9", "--steps", "2")
    assert active_of(said, 0)[0] < 64


def test_the_head_keeps_its_activation(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_dense_model(tmp_path / "mlm", num_hidden_layers=1)
    distilled(capsys, tmp_path / "mlm", tmp_path / "out", corpus, "--relu", "--steps", "1")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_act"], config["head_act"]) == ("relu", "gelu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--relu --dense 8", "--relu keeps every layer and all of its neurons; give it without --dense, and convert"),
        ("--relu --drop-layers 1", "--relu keeps every layer and all of its neurons; give it without --drop-layers"),
        ("--relu --speed 2x", "--speed 2x chooses the shape of each layer itself; give it without --relu"),
        ("--dense 8 --sparsity 2", "--sparsity 2 is the weight of few active neurons, which --relu trains"),
        ("--relu --sparsity -1", "distillation.sparsity must be a number from 0 on, not -1.0"),
        ("--relu --sparsity nan", "distillation.sparsity must be a number from 0 on, not nan"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(
    options: str, said: str, dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, err = run_convert(
        capsys, dense, tmp_path / "out", *options.split(), "--corpus", str(corpus), "--text-column", "body"
    )
    assert code == 1
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_layers_that_have_no_activation_to_change_are_named(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = ("--corpus", str(corpus), "--text-column", "body", "--steps", "1")
    for shape in ("2x2", "dense:8+rows:10"):
        assert run_convert(capsys, dense, tmp_path / shape, "--shape", shape, *text)[0] == 0
    code, err = run_convert(capsys, tmp_path / "2x2", tmp_path / "out", "--relu", *text)
    assert code == 1
    assert "has no dense feedforward layers that could get ReLU" in " ".join(err.split())
    code, err = run_convert(capsys, tmp_path / "dense:8+rows:10", tmp_path / "out", "--relu", *text)
    assert code == 1
    assert "layers 0-1 have token rows beside their neurons" in " ".join(err.split())
