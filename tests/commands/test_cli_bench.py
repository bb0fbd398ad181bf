"""`ufbert bench` as a user meets it: tables on stdout, notes on stderr, files, exit codes, one line a mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ufbert.benchmark import run, timing
from ufbert.benchmark.models.step_parts import STEP_PARTS
from ufbert.commands.app import main
from ufbert.inference.engine.linear import packs
from ufbert.model.fff import FFF

LIMITS: dict[str, Any] = {
    "threads": 1,
    "gigaflops": {"float32": 100.0, "bfloat16": 200.0, "int8": 400.0},
    "gigabytes_per_second": {"L1": 200.0, "L2": 100.0, "L3": 50.0, "DRAM": 10.0},
}
LAYER = [
    "--hidden-size=16", "--depth=3", "--batch=1,8", "--layers=2", "--threads=1", "--seconds=0.3",
    "--implementations=torch-eager,torch-bmm,ufbert,path-eager,blas-gemv",
]  # fmt: skip
MODEL = [
    "--hidden-size=24", "--depth=3", "--batch=2", "--layers=2", "--threads=1", "--seconds=0.3", "--sequence-length=16",
    "--implementations=torch-eager,ufbert",
]  # fmt: skip

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run the command in an empty folder; exit code, stdout, stderr. The machine's limits are given, not measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "measure_limits", lambda *_: LIMITS)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.001)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return call


def check_result(result: dict[str, Any]) -> None:
    """What everybody who reads the file may rely on."""
    assert result["layer"] in ("ff", "fff")
    assert isinstance(result["implementation"], str)
    assert result["level"] in (1, 2, 3, None)
    assert result["device"] == "cpu"
    assert result["dtype"] in ("float32", "bfloat16")
    for name in ("threads", "batch", "samples", "calls_per_sample"):
        assert isinstance(result[name], int)
        assert result[name] >= 1
    assert result["microseconds_per_token"] > 0
    assert result["speedup_over_dense"] > 0
    spread = result["spread"]
    assert spread["lower_quartile"] <= result["microseconds_per_token"] <= spread["upper_quartile"]
    assert spread["relative"] >= 0


@pytest.mark.skipif(not packs(), reason="this torch has no oneDNN")
def test_a_layer_in_int8(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench(
        "layer", "--hidden-size=64", "--trees=4", "--depth=2", "--batch=8", "--layers=1", "--threads=1",
        "--seconds=0.3", "--dtype=int8", "--json=out.json",
    )  # fmt: skip
    assert code == 0, err
    assert "Microseconds a token, int8" in out
    assert "In dense neurons, int8" in out
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {(r["layer"], r["implementation"], r["dtype"]) for r in results} == {
        ("ff", "onednn-int8", "int8"), ("fff", "ufbert-packed", "int8"),
    }  # fmt: skip
    assert all(r["largest_error"] < 0.05 for r in results)


def test_layer_tables_and_json(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("layer", *LAYER, "--json=out.json")
    assert code == 0
    for text in (
        "4 of 15 neurons visited, against 15 dense neurons; bound 3.8x",
        "Microseconds a token, float32, one layer over and over",
        "Microseconds a token, bfloat16, cycling through 2 layers",
        "(does not exist)",
        "over the same method",
        "over the fastest dense",
        "share of the bound",
        "weights of one layer in float32: FFF 0 MiB, dense 0 MiB; the run took",
        "Reported by the paper for 1x11 (not measured here)",
        "48.0x", "78.0x", "40.0x",
        "Paths: 4,096 tokens reach 8 of 8 leaves",
        "Not timed in bfloat16: ff blas-gemv, fff blas-gemv (has no bfloat16)",
    ):  # fmt: skip
        assert text in out
    assert "batch 8" in err
    assert "wrote out.json" in err
    assert "wrote" not in out

    document = json.loads((tmp_path / "out.json").read_text())
    expected = {"machine", "settings", "paths", "results", "depth_sweep", "reported", "absent", "warnings", "seconds"}
    assert set(document) == expected | {"dense_widths", "shared_parts"}
    assert document["machine"]["limits"] == LIMITS
    assert document["machine"]["processor"]
    assert document["machine"]["peak_memory_bytes"] > 10**7
    settings = document["settings"]
    assert (settings["hidden_size"], settings["depth"], settings["batches"]) == (16, 3, [1, 8])
    assert settings["bound"] == 15 / 4
    paths = document["paths"]
    assert (paths["distinct_leaves"], paths["leaves_per_tree"]) == (8, 8)
    assert 2.5 < paths["entropy_bits"] <= 3
    assert [b["batch"] for b in paths["batches"]] == [1, 8]
    for result in document["results"]:
        check_result(result)
        assert result["weights"] in ("warm", "cycled")
    rows = {(r["layer"], r["implementation"], r["dtype"], r["batch"], r["weights"]) for r in document["results"]}
    assert len(rows) == len(document["results"]) == (7 + 5) * 2 * 2
    for result in document["results"]:
        rivals = [
            r["microseconds_per_token"]
            for r in document["results"]
            if r["layer"] == "ff"
            and r["role"] == "subject"
            and all(r[key] == result[key] for key in ("dtype", "batch", "weights"))
        ]
        assert result["speedup_over_dense"] == pytest.approx(min(rivals) / result["microseconds_per_token"])
    assert {entry["speedup_over_dense"] for entry in document["reported"] if entry["level"]} == {48.0, 78.0}
    assert all("2023" in entry["source"] for entry in document["reported"])


def test_the_dense_width_of_the_same_time(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench(
        "layer", *LAYER, "--depth=6", "--batch=64", "--dtype=float32", "--seconds=3", "--json=out.json",
        "--implementations=torch-eager,blas-gemm,ufbert",
    )  # fmt: skip
    assert code == 0
    assert "In dense neurons, float32, one layer over and over, 1x6 at hidden size 16" in out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["shared_parts"] == []
    (entry,) = document["dense_widths"]
    widths = [rung["neurons"] for rung in entry["rungs"]]
    assert widths[0] == entry["neurons_visited"] == 7
    assert widths[-1] == 127
    assert widths == sorted(set(widths))
    assert all(width % 8 == 0 for width in widths[1:-1])
    found = [entry[name] for name in ("lower", "dense_width", "upper")]
    assert all(7 <= width["neurons"] <= 127 for width in found)
    assert found[0]["neurons"] <= found[1]["neurons"] <= found[2]["neurons"]
    assert all(width["beyond"] in (None, "<", ">") for width in found)
    assert all(width["neurons"] in (7, 127) for width in found if width["beyond"])
    results = {r["implementation"]: r for r in document["results"] if r["weights"] == "warm"}
    ours, dense = results["ufbert"], results[results["ufbert"]["fastest_dense"]]
    full = entry["rungs"][-1]
    assert full["implementation"] == dense["implementation"]
    assert full["microseconds_per_token"] == pytest.approx(dense["microseconds_per_token"])
    assert entry["ours"]["microseconds_per_token"] == pytest.approx(ours["microseconds_per_token"])
    assert entry["visited_over_dense_neuron"] == pytest.approx(1 / ours["share_of_bound"])


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_shared_neurons_are_timed_beside_their_dense_layer(bench: Bench, tmp_path: Path, direction: str) -> None:
    code, out, _ = bench(
        "layer", *LAYER, "--trees=2", "--shared=5", "--batch=8", "--dtype=float32", f"--direction={direction}",
        "--json=out.json",
        "--implementations=torch-eager,torch-bmm,torch-masked,ufbert,ufbert-packed,ufbert-kernel,path-ufbert,blas-gemv",
    )  # fmt: skip
    assert code == 0
    forward = direction == "forward"
    assert "trees x depth 2x3+5: 13 of 35 neurons visited, against 35 dense neurons; bound 2.7x" in out
    assert "Microseconds a token, float32, one layer over and over, 5 shared neurons" in " ".join(out.split())
    assert "5 shared neurons, float32, microseconds a token" in " ".join(out.split())
    assert "(has no shared neurons)" in out
    document = json.loads((tmp_path / "out.json").read_text())
    settings = document["settings"]
    assert (settings["shared_neurons"], settings["intermediate_size"], settings["bound"]) == (5, 35, 35 / 13)
    results = {(r["layer"], r["implementation"]): r for r in document["results"] if r["weights"] == "warm"}
    conditional = {"torch-bmm", "torch-masked", "ufbert", "path-ufbert"} | ({"ufbert-packed"} if forward else set())
    assert {name for layer, name in results if layer == "fff"} == conditional
    absent = {(entry["implementation"], entry["reason"]) for entry in document["absent"]}
    assert absent == {
        (name, "has no shared neurons") for name in ("ufbert-kernel", *(["blas-gemv"] if forward else []))
    }
    ours, masked, control = (results["fff", name] for name in ("ufbert", "torch-masked", "path-ufbert"))
    assert (ours["neurons"], ours["neurons_visited"], ours["shared_neurons"]) == (35, 13, 5)
    assert masked["neurons_visited"] == 35
    assert (control["trees"], control["neurons"], control["shared_neurons"]) == (13, 13, 0)
    assert results["ff", "torch-eager"]["shared_neurons"] is None
    assert len(document["dense_widths"]) == (1 if forward else 0)
    parts = document["shared_parts"]
    assert [part["whole"]["implementation"] for part in parts] == ["ufbert", "ufbert-packed"][: 1 + forward]
    for part in parts:
        assert (part["shared_neurons"], part["direction"], part["trees"]["implementation"]) == (5, direction, "ufbert")
        assert part["dense"]["implementation"] in ("torch-eager", "torch-bmm", "blas-gemv")
        assert part["whole_over_trees_and_dense"]["median"] > 0
        assert set(part["shared_over_dense"]) == {"median", "lower", "upper"}


def test_the_packed_layer_stands_alone_without_the_module(bench: Bench, tmp_path: Path) -> None:
    code, _, _ = bench(
        *LAYER, "--batch=8", "--dtype=float32", "--implementations=torch-eager,ufbert-packed", "--json=out.json"
    )
    assert code == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert "ufbert-packed" in {result["implementation"] for result in document["results"]}
    assert [width["ours"]["implementation"] for width in document["dense_widths"]] == ["ufbert-packed"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_figure_shows_speedup_and_depth(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("ufbert.benchmark.layer.depth_sweep.DEPTHS", range(2, 5))
    code, out, _ = bench(*LAYER, "--dtype=float32", f"--plot=figure.{suffix}", "--json=out.json")
    assert code == 0
    assert "Microseconds a token over the depth, batch 8, float32" in out
    content = (tmp_path / f"figure.{suffix}").read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    else:
        for text in ("speedup over the fastest dense layer", "bound 4×", "cycling 2 layers", "ours", "PyTorch BMM"):
            assert text in content.decode()
    sweep = json.loads((tmp_path / "out.json").read_text())["depth_sweep"]
    assert [r["depth"] for r in sweep if r["layer"] == "fff"] == [2, 3, 4]
    assert [r["neurons"] for r in sweep if r["layer"] == "ff"] == [7, 15, 31]


def test_training_compares_whole_models(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench("training", *MODEL, "--json=training.json")
    assert code == 0
    assert "Training step" in out
    assert "Paths (mean of 2 layers)" in out
    document = json.loads((tmp_path / "training.json").read_text())
    names = [(r["layer"], r["implementation"], r["dtype"]) for r in document["results"]]
    assert names == [
        (layer, name, dtype)
        for dtype in ("float32", "bfloat16")
        for layer, name in (("ff", "torch-eager"), ("fff", "ufbert"))
    ]
    for result in document["results"]:
        check_result(result)
        per_token = 1e6 / result["microseconds_per_token"]
        assert result["tokens_per_second"] == pytest.approx(per_token)
    assert document["paths"]["layers"] == 2


def test_training_is_taken_apart_and_held_against_the_published_formulation(bench: Bench, tmp_path: Path) -> None:
    shape = [argument for argument in MODEL if not argument.startswith("--implementations")]
    code, out, _ = bench(
        "training", *shape, "--implementations=torch-eager,ufbert,torch-masked", "--dtype=float32", "--json=t.json"
    )
    assert code == 0
    assert "Where the time of a step of" in out
    results = {r["implementation"]: r for r in json.loads((tmp_path / "t.json").read_text())["results"]}
    ours, masked = results["ufbert"], results["torch-masked"]
    assert ours["speedup_over_masked"] == pytest.approx(ours["tokens_per_second"] / masked["tokens_per_second"])
    assert ours["speedup_over_dense"] == pytest.approx(
        ours["tokens_per_second"] / results["torch-eager"]["tokens_per_second"]
    )
    for result in results.values():
        parts = result["parts"]
        assert set(parts) == set(STEP_PARTS)
        assert min(parts[name] for name in ("forward feedforward", "backward feedforward", "clip", "AdamW")) > 0
    settings = json.loads((tmp_path / "t.json").read_text())["settings"]
    levels = settings["trees"] * (settings["depth"] + 1)
    # Logits in float32 and a leaf's number of 8 bytes for each tree; the masked one keeps rows of all neurons.
    assert ours["saved_bytes"] == settings["layers"] * (4 * levels + 8 * settings["trees"])
    assert masked["saved_bytes"] >= settings["layers"] * 4 * 3 * settings["neurons_available"]


def test_training_direction_of_a_layer(bench: Bench) -> None:
    code, out, _ = bench(*LAYER[:-1], "--direction=training", "--dtype=float32", "--implementations=torch-eager,ufbert")
    assert code == 0
    assert "direction: training" in out


def test_a_wrong_result_ends_the_run_with_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros_like(x)

    monkeypatch.setattr(FFF, "forward", lambda _self, x: wrong(x))
    code, out, err = bench(*LAYER, "--dtype=float32", "--implementations=torch-eager,ufbert")
    assert code == 1
    assert "WRONG RESULT, not timed in float32: fff ufbert (batch 1: 1 of 1 tokens differ" in out
    assert err.splitlines()[-1] == "error: wrong results, hence not timed: ufbert; see the end of the table"


def test_a_busy_machine_is_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "foreign_share", lambda *_: {"busy_cores": 1.5, "stolen_cores": 0.0})
    code, _, err = bench(*LAYER, "--dtype=float32", "--batch=8")
    assert code == 0
    assert err.count("the machine was busy before the run: others used 1.5 cores") == 1
    assert err.count("the machine was busy during the run: others used 1.5 cores") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--preset=bert"], "error: unknown preset 'bert'; known: bert-base, bert-large, gpt3"),
        (["--batch=some"], "error: --batch takes whole numbers separated by commas, not 'some'"),
        (["--dtype=int8", "--direction=training"], "error: --dtype takes float32 and bfloat16, not 'int8'"),
        (["--implementations=theirs"], "error: unknown implementation 'theirs'; known: blas-dot-axpy, "),
        (["encoder", "--implementations=theirs"], "error: unknown implementation 'theirs'; known: ufbert, "),
        (["training", "--implementations=theirs"], "error: unknown implementation 'theirs'; known: torch-eager, "),
        (["encoder", "--dtype=int4"], "error: --dtype takes float32, bfloat16 and int8, not 'int4'"),
        (["--depth=30"], "error: depth 30 with 1 trees and hidden_size 768 needs "),
        (["encoder", "--shared=8"], "error: --shared belongs to `bench layer`; `bench encoder` has trees alone"),
        (["--plot=figure.gif"], "error: --plot figure.gif: the name must end in .svg, .png, .pdf"),
        (["training", "--plot=figure.png"], "error: --plot draws the layer and encoder benchmarks"),
        (["--json=there.json"], "error: there.json: already exists; choose another --json for the results"),
        (["--plot=there.png"], "error: there.png: already exists; choose another --plot for the figure"),
    ],
)
def test_mistakes_are_one_line(bench: Bench, tmp_path: Path, arguments: list[str], line: str) -> None:
    for name in ("there.json", "there.png"):
        (tmp_path / name).write_text("precious")
    code, out, err = bench(*arguments)
    assert code == 1
    assert out == ""
    assert err.splitlines()[-1].startswith(line)
    assert "Traceback" not in err
    assert (tmp_path / "there.json").read_text() == "precious"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_cuda_is_one_line(bench: Bench) -> None:
    code, out, err = bench("--device=cuda")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: no CUDA")
    assert "--device cpu" in line


def test_a_figure_without_matplotlib_names_the_extra(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = bench("--plot=figure.png")
    assert code == 1
    assert err == "error: bench --plot needs matplotlib; install it with: pip install 'ufbert[plot]'\n"


def test_wrong_usage_exits_with_two(bench: Bench) -> None:
    assert bench("everything")[0] == 2
    assert bench("--threads=-1")[0] == 2


def test_the_documentation_names_every_implementation() -> None:
    from ufbert.benchmark.layer.conditional import CONDITIONAL
    from ufbert.benchmark.layer.dense import DENSE

    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for implementation in (*DENSE, *CONDITIONAL):
        assert f"`{implementation.name}`" in text


def save_tiny(folder: str, **changes: Any) -> None:
    """A checkpoint with two layers of trees of depth 3 and a vocabulary of a few words."""
    from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
    from ufbert.text.tokenization import train_tokenizer

    tokenizer = train_tokenizer(["a bird sings in the blue sky", "a dog runs"] * 20, 200)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8}
    vocabulary = {"vocab_size": tokenizer.get_vocab_size(), "trees": 2, "depth": 3}
    model = UltraFastBertForMaskedLM(UltraFastBertConfig(**{**shape, **vocabulary, **changes}))
    model.save_pretrained(folder, tokenizer=tokenizer)


def test_paths_of_a_checkpoint_are_a_table_a_layer(bench: Bench, tmp_path: Path) -> None:
    save_tiny("model")
    Path("a.txt").write_text(
        "a bird sings\n\na dog runs in the blue sky and the dog sings and runs\n", encoding="utf-8"
    )
    Path("b.jsonl").write_text('{"words": "a dog"}\n{"words": "the sky"}\n', encoding="utf-8")
    code, out, err = bench("paths", "model", "a.txt", "b.jsonl", "--text-column=words", "--json=paths.json")
    assert (code, err) == (0, "wrote paths.json\n")
    document = json.loads((tmp_path / "paths.json").read_text())
    # With [CLS] and [SEP]: 5 of the first, 8 of the one that is cut, 4 each of the others.
    assert (document["tokens"], document["texts"]) == (21, 4)
    assert "model: where 21 tokens of 4 texts go in trees of depth 3" in out
    assert [layer["layer"] for layer in document["layers"]] == [0, 1]
    rows = out.splitlines()[-2:]
    for row, layer in zip(rows, document["layers"], strict=True):
        assert row.startswith(f"{layer['layer'] + 1} ")
        assert f"{100 * layer['used_leaves']:.1f} % (uniform: " in row
        assert row.rstrip().endswith(" ".join(f"{100 * share:.0f}" for share in layer["right_share_by_level"]))
    code, out, _ = bench("paths", "model", "b.jsonl", "--text-column=words", "--tokens=1")
    assert "where 8 tokens of 2 texts" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["paths"], "bench paths takes a checkpoint and text files: ufbert bench paths CHECKPOINT FILE..."),
        (["paths", "model"], "bench paths takes a checkpoint and text files: ufbert bench paths CHECKPOINT FILE..."),
        (["paths", "dense", "a.txt"], "dense: has no trees, its feedforward layers are dense"),
        (["paths", "./absent", "a.txt"], "./absent: no such folder"),
        (["paths", "model", "absent.txt"], "absent.txt: no such file or folder"),
        (["paths", "model", "blank.txt"], "blank.txt: no text in it but blank lines; give a file with text"),
        (["paths", "model", "a.txt", "--json=a.txt"], "a.txt: already exists; choose another --json"),
        (["paths", "model", "a.txt", "--batch=3"], "--batch belongs to what is timed; bench paths takes --device"),
        (
            ["layer", "model"],
            "model: belongs to bench paths CHECKPOINT FILE... and bench quality RECIPE; bench layer",
        ),
        (["encoder", "--tokens=5"], "--tokens: belongs to bench paths CHECKPOINT FILE..."),
    ],
)
def test_mistakes_about_paths_are_one_line(bench: Bench, arguments: list[str], line: str) -> None:
    save_tiny("model")
    save_tiny("dense", feedforward="dense", intermediate_size=32)
    Path("a.txt").write_text("a bird sings\n", encoding="utf-8")
    Path("blank.txt").write_text("\n\n", encoding="utf-8")
    code, out, err = bench(*arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {line}")
