"""`ufbert convert --analyse` as a user meets it: what it shows and writes, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from convert_command import TEXTS, run_convert, write_dense_model, write_documents

from ufbert.commands.app import main
from ufbert.conversion.analysis import run

Capture = pytest.CaptureFixture[str]


def run_analysis(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(["convert", *map(str, arguments), "--analyse"])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def test_table_and_files_say_the_same(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    options = [
        "--corpus",
        str(corpus),
        "--text-column",
        "body",
        "--neurons",
        "24,6,6,999",
        "--at",
        "24",
        "--device",
        "cpu",
    ]
    code, shown, err = run_analysis(capsys, dense, *options, "--out", tmp_path / "out")
    assert code == 0, err
    assert "Analysing 2 dense layers of 64 neurons: fitted on" in err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "analysis.json",
        "analysis.md",
        "analysis.svg",
    ]
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert (found["neurons"], found["at"], found["margin"], len(found["layers"])) == ([6, 24], 24, 0.05, 2)
    assert found["text"]["held_out_from"] == "other documents"
    assert found["text"]["fitting_tokens"] > found["text"]["held_out_tokens"] >= 100
    report = (tmp_path / "out" / "analysis.md").read_text()
    assert f"ufbert convert {dense} --corpus {corpus}" in report
    assert "](analysis.svg)" in report
    for index, layer in enumerate(found["layers"]):
        assert layer["trees"][1]["shape"] == "4x5"
        alone, few, beside = (point["error"] for point in layer["rows"])
        others = (layer[name][1]["error"] for name in ("linear", "trees", "oracle"))
        cells = [f"{error:.3f}" for error in (layer["fixed"][1]["error"], beside, *others)]
        assert ["24", *cells, "4x5"] in [line.split()[1:8] for line in shown.splitlines()], shown
        assert few < layer["fixed"][0]["error"]
        assert beside < few < alone < 1
        assert f"rows for the tokens alone leave {alone:.3f}, beside 24 neurons {beside:.3f}" in layer["conclusion"]
        assert f"| {index} | 24 | {' | '.join(cells)} | 4x5 |" in report
        assert f"layer {index}: {layer['conclusion']}" in shown
        assert f"- layer {index}: {layer['conclusion']}" in report
        for name in ("fixed", "oracle"):
            first, second = (point["error"] for point in layer[name])
            assert 0 < second < first < 1.2
    picture = (tmp_path / "out" / "analysis.svg").read_text()
    assert "layer 1" in picture
    assert "neurons that a token uses" in picture


def test_nothing_is_written_unasked_and_nothing_replaced(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--corpus", str(corpus), "--text-column", "body", "--neurons", "12"]
    code, shown, err = run_analysis(capsys, dense, *options)
    assert code == 0, err
    assert "of the way" in shown
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    for place in (("out",), ("--out", "out")):
        code, shown, err = run_analysis(capsys, dense, *place, *options)
        assert (code, shown) == (1, "")
        assert err.startswith("error: out: already exists; choose another --out for the analysis")
    code, _, err = run_analysis(capsys, dense, "new", *options, "--out", "other")
    assert (code, err) == (1, "error: --out other: the analysis goes to DEST new already; give one of the two\n")


def test_without_matplotlib_a_line_says_how_to_get_the_picture(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "can_plot", lambda: False)
    options = ["--corpus", str(corpus), "--text-column", "body", "--neurons", "12"]
    code, _, err = run_analysis(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    assert "no analysis.svg: the picture needs matplotlib; install it with: pip install 'ufbert[plot]'\n" in err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["analysis.json", "analysis.md"]
    assert "svg" not in (tmp_path / "out" / "analysis.md").read_text()


def test_gated_layers_are_analysed_with_a_word_on_their_cost(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_dense_model(tmp_path / "gated", is_gated_act=True)
    options = ["--corpus", str(corpus), "--text-column", "body", "--neurons", "12,64"]
    code, shown, err = run_analysis(capsys, tmp_path / "gated", tmp_path / "out", *options)
    assert code == 0, err
    assert "gated layers: a neuron is a product of two" in shown
    layers = json.loads((tmp_path / "out" / "analysis.json").read_text())["layers"]
    assert all(layer["oracle"][1]["error"] < 1e-5 for layer in layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--analyse needs text to look at the layers on; give --corpus FILE, or --corpus embedded"),
        (["--corpus", "absent.txt"], "absent.txt: no such file"),
        (["--corpus", "short.txt"], "short.txt: too short: "),
        (["--corpus", "short.txt", "--tokens", "127"], "--tokens 127: layers of 64 neurons need at least 128"),
        (["--corpus", "short.txt", "--tokens", "0"], "--tokens must be at least 1, not 0"),
        (["--corpus", "short.txt", "--neurons", "few"], "--neurons few: must be whole numbers with commas between"),
        (["--corpus", "short.txt", "--neurons", "0,4"], "--neurons 0,4: a token uses at least 1 neuron"),
        (["--corpus", "short.txt", "--neurons", "65"], "--neurons 65: the layers of "),
        (
            ["--corpus", "short.txt", "--at", "13"],
            "--at 13: is not among the numbers of neurons that are measured",
        ),
        (["--corpus", "short.txt", "--at", "768"], "--at 768: the layers of "),
        (["--corpus", "short.txt", "--depth", "-1"], "--depth must be at least 0, not -1"),
        (["--corpus", "short.txt", "--trees", "4"], "--trees: --analyse converts nothing, and has no use for it"),
        (["--corpus", "short.txt", "--to", "onnx"], "--to: --analyse converts nothing, and has no use for it"),
        (["--corpus", "short.txt", "--minutes", "3"], "--minutes: --analyse converts nothing, and has no use for it"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    message: str,
    dense: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("A short text of some words.\n\nAnd another one of some words.\n")
    code, shown, err = run_analysis(capsys, dense, *options)
    assert (code, shown, err.count("\n")) == (1, "", 1), err
    assert err.startswith(f"error: {message}")


def test_models_without_dense_layers_are_one_line(
    tiny_checkpoints: dict[str, Path], corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_dense_model(tmp_path / "none", feedforward="none")
    for source, message in (
        (tmp_path / "none", "has no feedforward layers to analyse"),
        (tiny_checkpoints["encoder"], "its feedforward layers are trees already (1 of depth 3); --analyse takes the"),
    ):
        code, shown, err = run_analysis(capsys, source, "--corpus", corpus)
        assert (code, shown, err.count("\n")) == (1, "", 1), err
        assert message in err


@pytest.mark.parametrize("option", [("--out", "x"), ("--neurons", "12"), ("--at", "12"), ("--tokens", "4096")])
def test_options_of_the_analysis_are_refused_without_it(
    option: tuple[str, str], dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, err = run_convert(capsys, dense, tmp_path / "out", *option)
    assert (code, err) == (1, f"error: {option[0]} belongs to --analyse; give that too, or leave it out\n")


def test_a_conversion_still_needs_a_destination(dense: Path, capsys: Capture) -> None:
    code, err = run_convert(capsys, dense)
    assert code == 2
    assert "Missing argument 'DEST'" in err
