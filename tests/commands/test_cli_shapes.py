"""`ufbert convert` into layers that differ, narrower or fewer ones, and every command on what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_command import TEXTS, call, distilled, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file

from ufbert import Pipeline, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.commands.app import main
from ufbert.conversion.distillation import run
from ufbert.model.pretrained import read_config

Capture = pytest.CaptureFixture[str]
GATED: dict[str, Any] = {
    "num_hidden_layers": 3, "is_gated_act": True, "norm_position": "pre", "final_norm": True, "use_bias": False,
    "norm_bias": False, "position_embedding_type": "rotary", "type_vocab_size": 0, "skip_first_prenorm": True,
    "head_transform": False, "decoder_bias": False,
}  # fmt: skip
"""As ModernBERT is."""
STILL = ("--steps", "1", "--learning-rate", "1e-12")
"""A training that leaves the student as it is, but for one step of each layer's regression."""


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has about 1,000 tokens."""
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 3000)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A post-norm model of four layers of 64 neurons."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder, num_hidden_layers=4)
    return folder


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gated pre-norm model of three layers of 64 neurons without biases."""
    folder = tmp_path_factory.mktemp("gated") / "model"
    write_dense_model(folder, **GATED)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def cells(said: str, row: str) -> list[str]:
    """The numbers of a row of the closing table."""
    line = said.split(f"│ {row} │")[1]
    return [cell.strip() for cell in line.split("│")[:4]]


@pytest.fixture(scope="module")
def mixed(dense: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a layer of each kind, trained a little."""
    out = tmp_path_factory.mktemp("mixed") / "mixed"
    shape = ("--shape", "4x2, dense:16,none,2x1+3", "--steps", "5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 3000)
        text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu")
        with pytest.raises(SystemExit) as end:
            main(["convert", str(dense), str(out), *text, *shape])
    assert not end.value.code
    return out


def test_every_layer_becomes_what_its_entry_says(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    said = distilled(capsys, dense, tmp_path / "out", corpus, "--shape", "4x2,dense:16,none,2x1+3", "--steps", "20")
    assert "Distilling 4 layers of 64 dense neurons into 4x2, dense:16, none, 2x1+3, on " in said
    assert "layer 2: relative error 0." in said or "layer 2: relative error 1." in said
    assert "without a feedforward layer" in said
    used, available = round((12 + 16 + 0 + 7) / 4), round((28 + 16 + 0 + 9) / 4)
    assert cells(said, "neurons used of available")[2:] == [f"{used} of {available}", "0"]
    student, control = map(float, cells(said, "mean cosine of embeddings")[2:])
    assert student > control
    assert "control: every feedforward layer puts out its mean; neurons: of a layer, the mean of all" in said
    config = read_config(tmp_path / "out")
    assert config.feedforward_layers == ("4x2", "dense:16", "none", "2x1+3")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its dense feedforward layers distilled into 4x2, dense:16, none, 2x1+3." in card
    assert "by layer 0: 4x2, 1: dense:16, 2: none, 3: 2x1+3: a token uses 35 of 53 neurons in all" in card
    assert "--shape 4x2,dense:16,none,2x1+3 --steps 20" in card


def test_a_list_of_what_there_is_converts_the_rest(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    said = distilled(capsys, dense, tmp_path / "out", corpus, "--shape", "dense:64,3x1,dense:64,dense:64", *STILL)
    assert "Distilling layers 1 of 64 dense neurons into 3 trees of depth 1" in said
    assert read_config(tmp_path / "out").feedforward_layers == ("dense:64", "3x1", "dense:64", "dense:64")
    # And on: of a model that has trees already, another layer.
    said = distilled(capsys, tmp_path / "out", tmp_path / "more", corpus, "--layers", "3", "--dense", "9", *STILL)
    assert "Distilling layers 3 of 64 dense neurons into 9 dense neurons" in said
    assert read_config(tmp_path / "more").feedforward_layers == ("dense:64", "3x1", "dense:64", "dense:9")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "more"))
    torch.testing.assert_close(after["encoder.layers.1.feedforward.w_in"], before["encoder.layers.1.feedforward.w_in"])
    code, err = run_convert(
        capsys, tmp_path / "out", tmp_path / "no", "--trees", "2", "--depth", "1", "--corpus", corpus
    )
    assert (code, err.count("\n")) == (1, 1)
    assert "layer 1 has 3 trees of depth 1 already, and only dense layers can be distilled; choose others with" in err


@pytest.mark.parametrize("kind", ["dense", "gated"])
def test_of_some_layers_the_others_stay_as_they_are(
    kind: str, corpus: Path, tmp_path: Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    options = ("--layers", "1-2", "--trees", "2", "--depth", "1", *STILL)
    said = distilled(capsys, source, tmp_path / "out", corpus, *options)
    assert "layers 1-2 of 64 dense neurons into 2 trees of depth 1" in said
    assert "control: feedforward layers 1-2 put out only their mean" in said
    assert cells(said, "layer 0: relative error")[:3] == ["0.000", "0.000", "0.000"]
    assert float(cells(said, "layer 1: relative error")[2]) > 0.01
    count = 4 if kind == "dense" else 3
    assert cells(said, "neurons used of available")[3] == str(round(64 * (count - 2) / count))
    assert read_config(tmp_path / "out").feedforward_layers == ("dense:64", "2x1", "2x1", "dense:64")[:count]
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    for name, tensor in before.items():
        if "layers.1.feedforward." not in name and "layers.2.feedforward." not in name:
            torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-9, msg=name)
    assert after["encoder.layers.1.feedforward.w_in"].shape == (2, 3, 32)


@pytest.mark.parametrize("kind", ["dense", "gated"])
def test_narrow_dense_layers(
    kind: str, corpus: Path, tmp_path: Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    said = distilled(capsys, source, tmp_path / "out", corpus, "--dense", "24", "--steps", "20")
    config = read_config(tmp_path / "out")
    assert (config.feedforward, config.intermediate_size, config.feedforward_layers) == ("dense", 24, ())
    assert config.is_gated_act == (kind == "gated")
    student, control = map(float, cells(said, "mean cosine of embeddings")[2:])
    assert student > control
    assert cells(said, "neurons used of available")[2:] == ["24 of 24", "0"]
    weight = load_file(tmp_path / "out" / "model.safetensors")["encoder.layers.0.feedforward.linear_in.weight"]
    assert weight.shape == (48 if kind == "gated" else 24, 32)
    UltraFastBertForMaskedLM.from_pretrained(tmp_path / "out")


def test_no_feedforward_layers_begin_as_the_control(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    """Where the mean outputs have a place: in a pre-norm model with biases."""
    write_dense_model(tmp_path / "model", norm_position="pre", final_norm=True)
    said = distilled(capsys, tmp_path / "model", tmp_path / "out", corpus, "--dense", "0", *STILL)
    assert "layer 1: relative error 1.0" in said
    assert read_config(tmp_path / "out").feedforward == "none"
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "feedforward" in name]
    student, control = map(float, cells(said, "mean cosine of embeddings")[2:])
    assert student == pytest.approx(control, abs=2e-4)  # samples have 8 bits
    trained = distilled(capsys, tmp_path / "model", tmp_path / "more", corpus, "--dense", "0", "--steps", "20")
    assert float(cells(trained, "mean cosine of embeddings")[2]) > control


def test_no_feedforward_layers_where_nothing_can_say_their_mean(
    gated: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    """In a pre-norm model without biases."""
    distilled(capsys, gated, tmp_path / "out", corpus, "--layers", "1", "--dense", "0", *STILL)
    assert read_config(tmp_path / "out").feedforward_layers == ("dense:64", "none", "dense:64")


def test_dropped_layers_are_trained_from_the_others_as_they_are(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = distilled(capsys, dense, tmp_path / "still", corpus, "--drop-layers", "1,3", *STILL)
    assert "Distilling 4 layers into 2, without 1, 3, on " in said
    student, control = map(float, cells(said, "mean cosine of embeddings")[2:])
    assert student == pytest.approx(control, abs=1e-4)
    assert cells(said, "layer 2: relative error")[:2] == ["0.000", "0.000"]
    trained, untrained = map(float, cells(said, "layer 2: relative error")[2:])
    assert trained == pytest.approx(untrained, abs=2e-3)
    assert "control: the original without these layers, untrained" in said
    config = read_config(tmp_path / "still")
    assert (config.num_hidden_layers, config.feedforward, config.intermediate_size) == (2, "dense", 64)
    before, after = (load_file(folder / "model.safetensors") for folder in (dense, tmp_path / "still"))
    for name in ("attention.qkv.weight", "feedforward.linear_out.bias"):
        torch.testing.assert_close(after[f"encoder.layers.1.{name}"], before[f"encoder.layers.2.{name}"])
    said = distilled(capsys, dense, tmp_path / "out", corpus, "--drop-layers", "1,3", "--steps", "25")
    assert float(cells(said, "mean cosine of embeddings")[2]) > control
    assert "without its layers 1, 3, whose work the others" in (tmp_path / "out" / "README.md").read_text()


def test_the_trees_of_a_model_that_lacks_layers_keep_the_originals_numbers(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    trees = tmp_path / "trees"
    distilled(capsys, dense, trees, corpus, "--trees", "2", "--depth", "2", "--layers", "2-3", *STILL)
    distilled(capsys, trees, tmp_path / "fewer", corpus, "--drop-layers", "0,2", *STILL)
    card = (tmp_path / "fewer" / "README.md").read_text()
    health = card.partition("## Tree health")[2].partition("## Expected speed")[0]
    assert re.findall(r"^\| (\d) \|", health, re.MULTILINE) == ["3"]


def test_routing_at_random_is_said_and_placed(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    trees = ("--trees", "6", "--depth", "2", *STILL)
    said = distilled(capsys, dense, tmp_path / "random", corpus, *trees, "--random-routing")
    assert "into 6 trees of depth 2, neurons at random, on " in said
    assert (
        "6 trees of depth 2, whose nodes were given neurons at random"
        in (tmp_path / "random" / "README.md").read_text()
    )
    placed = distilled(capsys, dense, tmp_path / "placed", corpus, *trees)
    errors = [float(cells(text, "layer 0: relative error")[0]) for text in (said, placed)]
    assert errors[0] != errors[1]
    again = distilled(capsys, dense, tmp_path / "again", corpus, *trees, "--random-routing")
    assert cells(again, "layer 0: relative error") == cells(said, "layer 0: relative error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--layers 2-7 --trees 2 --depth 1 -", "--layers 2-7: {source} has 4 layers, from 0 to 3"),
        ("--drop-layers 4 -", "--drop-layers 4: {source} has 4 layers, from 0 to 3"),
        ("--drop-layers 0-3 -", "--drop-layers 0-3: leaves no layer of {source}; keep one at least"),
        ("--layers 3-1 --dense 2 -", "--layers 3-1: write layers from 0 on, such as 2-5 or 0,3"),
        ("--drop-layers x -", "--drop-layers x: write layers from 0 on, such as 2-5 or 0,3"),
        ("--layers 1", "--layers 1 says where, not what: give --trees and --depth, --dense or --shape too"),
        ("--random-routing", "--random-routing is of trees: give --trees and --depth too"),
        ("--random-routing --dense 3 -", "--random-routing is of trees, and --dense 3 makes none; leave it out"),
        ("--dense 3 --trees 2 --depth 1 -", "--trees and --dense both say what the layers become; give one of them"),
        ("--dense 3 --shape none -", "--dense and --shape both say what the layers become; give one of them"),
        ("--dense -1 -", "--dense must be at least 0, not -1"),
        ("--dense 3", "--dense needs text to distil on; give --corpus FILE, or --corpus embedded"),
        ("--dense 3 --to onnx -", "--dense makes an ultrafastbert checkpoint; convert that with --to onnx in a second"),
        ("--dense 65 -", "--dense 65: the neurons are the original's own, and it has 64"),
        ("--dense 64 -", "--dense 64: {source} has these layers already; there is nothing to distil"),
        ("--dense 3 --shared 2 -", "--shared 2 without trees to stand beside: give --trees and --depth too"),
        ("--shape 2x1 --shared 2 -", "--shared 2: --shape writes shared neurons itself, as in 12x6+64; leave it out"),
        (
            "--shape 2x1,2y1 -",
            "--shape 2x1,2y1: '2y1' is no feedforward layer; write none, dense:N, PxD or PxD+S, and",
        ),
        ("--shape 2x1,none -", "--shape 2x1,none: 2 shapes, and {source} has 4 layers; give one for all of them, or"),
        ("--shape 2x1,none --layers 0 -", "--layers 0: --shape has an entry for each layer already; give one shape,"),
        ("--shape 2x1+99 -", "--shape 2x1+99: the shared neurons are the original's own, and it has 64"),
        (
            "--drop-layers 1 --trees 2 --depth 1 --random-routing -",
            "--drop-layers leaves whole layers out and converts no others; give it without --trees, --random-routing",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options: str, message: str, dense: Path, tmp_path: Path, capsys: Capture) -> None:
    words = options.removesuffix(" -").split() + (["--corpus", "embedded"] if options.endswith(" -") else [])
    code, err = run_convert(capsys, dense, tmp_path / "out", *words)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: {message.format(source=dense)}"), err
    assert not (tmp_path / "out").exists()


def test_layers_whose_place_counts_are_not_dropped(gated: Path, tmp_path: Path, capsys: Capture) -> None:
    code, err = run_convert(capsys, gated, tmp_path / "out", "--drop-layers", "0", "--corpus", "embedded")
    assert (code, err.count("\n")) == (1, 1)
    assert f"--drop-layers 0: the first layer of {gated} has no norm before its attention, so that no other" in err
    write_dense_model(tmp_path / "local", **(GATED | {"num_hidden_layers": 4, "local_attention": 6}))
    code, err = run_convert(capsys, tmp_path / "local", tmp_path / "out", "--drop-layers", "1", "--corpus", "embedded")
    assert (code, err.count("\n")) == (1, 1)
    assert "of every 3 layers of" in err
    assert "and layer 3 would change sides; drop other layers" in err


def test_inference_in_every_precision_and_paths(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    texts = TEXTS[:6]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    exact = torch.from_numpy(np.array(Pipeline(mixed, task="embed", precision="float32")(texts)))
    encoder = UltraFastBertModel.from_pretrained(mixed)
    ids = torch.tensor([Pipeline(mixed, task="embed").tokenizer.encode(texts[0]).ids])
    with torch.inference_mode():
        states = encoder.encode(ids, torch.ones_like(ids), torch.zeros_like(ids))[0]
    own = torch.nn.functional.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(exact[0], own, rtol=1e-4, atol=1e-5)
    for precision in ("float32", "bfloat16", "int8"):
        options = ("--task", "embed", "--precision", precision)
        code, out, err = call(capsys, "infer", mixed, tmp_path / "texts.txt", *options)
        assert code == 0, err
        assert "backend numba" in err
        rows = torch.tensor([json.loads(line)["embedding"] for line in out.splitlines()])
        closeness = torch.nn.functional.cosine_similarity(rows, exact, dim=1)
        assert closeness.median() > (0.999999 if precision == "float32" else 0.99)
    code, out, err = call(capsys, "bench", "paths", mixed, tmp_path / "texts.txt")
    assert code == 0, err
    assert "in trees of depth 1, 2" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["1", "4"]  # layers, from 1 on


def test_out_of_it_again(mixed: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    code, err = run_convert(capsys, mixed, tmp_path / "dense", "--to", "dense")
    assert (code, err.count("\n")) == (1, 1)
    assert "has trees of depth 2; which neurons a token uses depends on the token" in err
    write_dense_model(tmp_path / "narrowing", feedforward_layers=["dense:8", "dense:9"])
    code, err = run_convert(capsys, tmp_path / "narrowing", tmp_path / "dense", "--to", "dense")
    assert (code, err.count("\n")) == (1, 1)
    assert "has feedforward layers that differ (0: dense:8, 1: dense:9); the classes of transformers have one" in err
    code, err = run_convert(capsys, tmp_path / "narrowing", tmp_path / "a", "--analyse", "--corpus", corpus)
    assert (code, err.count("\n")) == (1, 1)
    assert "--analyse takes a model whose layers are dense and alike" in err


@pytest.mark.parametrize("written", ["dense:12,dense:12", "12x0,dense:12"])
def test_dense_layers_of_one_width_leave_exactly(written: str, tmp_path: Path, capsys: Capture) -> None:
    write_dense_model(tmp_path / "model", feedforward_layers=written.split(","))
    code, err = run_convert(capsys, tmp_path / "model", tmp_path / "bert", "--to", "dense")
    assert code == 0, err
    assert run_convert(capsys, tmp_path / "bert", tmp_path / "again")[0] == 0
    ours, again = (UltraFastBertModel.from_pretrained(tmp_path / name) for name in ("model", "again"))
    assert (again.config.feedforward, again.config.intermediate_size) == ("dense", 12)
    ids = torch.randint(5, 100, (2, 9))
    with torch.inference_mode():
        torch.testing.assert_close(again.encode(ids), ours.encode(ids), rtol=1e-4, atol=1e-5)


def test_the_onnx_graph_computes_the_same(tmp_path: Path, capsys: Capture) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra peers is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    folder = tmp_path / "model"
    write_dense_model(folder, **(GATED | {"feedforward_layers": ["dense:9", "2x1+3", "none"]}))
    code, err = run_convert(capsys, folder, tmp_path / "onnx", "--to", "onnx")
    assert code == 0, err
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["feedforward_layers"] == list(read_config(folder).feedforward_layers)
    model = UltraFastBertForMaskedLM.from_pretrained(folder)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = torch.randint(5, 100, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    with torch.inference_mode():
        expected = model(**inputs).logits
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(logits)[mask.bool()], expected[mask.bool()], rtol=1e-3, atol=1e-4)


def test_it_is_finetuned(mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = [f"{text},{'day' if 'noon' in text else 'dark'}" for text in TEXTS]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    files = ("--train", tmp_path / "rows.csv", "--validation", tmp_path / "rows.csv", "--out", tmp_path / "out")
    code, _, err = call(capsys, "finetune", mixed, *files, "--set", "finetuning.epochs=1", "--device", "cpu")
    assert code == 0, err
    config = read_config(tmp_path / "out")
    assert config.feedforward_layers == ("4x2", "dense:16", "none", "2x1+3")
    before, after = (load_file(folder / "model.safetensors") for folder in (mixed, tmp_path / "out"))
    for name in ("0.feedforward.w_in", "1.feedforward.linear_in.weight", "3.feedforward.shared.linear_in.weight"):
        assert not torch.equal(after[f"encoder.layers.{name}"], before[f"encoder.layers.{name}"])


def test_it_is_pretrained(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("\n\n".join(TEXTS * 4) + "\n")
    settings = [
        "model.feedforward_layers=['1x3', 'dense:8', '2x1+2']", "model.num_hidden_layers=3", "model.hidden_size=32",
        "model.num_attention_heads=2", "model.max_position_embeddings=16", "data.sequence_length=16",
        "data.cache_dir=cache", "data.min_frequency=2", "training.batch_size=4", "training.micro_batch_size=4",
        "training.steps=3", "training.device=cpu", "training.level_updates=true", "model.zero_output_init=true",
    ]  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    code, _, err = call(capsys, "pretrain", "--corpus", "corpus.txt", "--out", "run", *options)
    assert code == 0, err
    assert f"{round((4 + 8 + 6) / 3)} of {round((15 + 8 + 8) / 3)} neurons used on average" in err
    assert read_config(Path("run")).feedforward_layers == ("1x3", "dense:8", "2x1+2")
    card = Path("run", "README.md").read_text()
    assert [line[:4] for line in card.split("## Tree health")[1].splitlines() if line[:3] in ("| 1", "| 3")] == [
        "| 1 ",
        "| 3 ",
    ]
    code, _, err = call(capsys, "pretrain", "--out", "run2", "--set", "model.feedforward_layers=['1x3']")
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "error: --set model.feedforward_layers=['1x3']: feedforward_layers has 1 entries, num_hidden_layers is 2"
    )
