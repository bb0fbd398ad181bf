"""`ufbert convert --speed` and `--keep`: shapes chosen by measured errors, for times that the tests give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import TEXTS, run_convert, write_dense_model, write_documents
from shape_times import fixed_times

from ufbert import UltraFastBertForSequenceClassification
from ufbert.benchmark.models import feedforward_shapes
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.conversion.distillation import layer_regression, partial, run
from ufbert.conversion.distillation.automatic import measuring
from ufbert.conversion.distillation.automatic import run as automatic
from ufbert.model.pretrained import read_config

Capture = pytest.CaptureFixture[str]
GATED: dict[str, Any] = {
    "num_hidden_layers": 3, "is_gated_act": True, "norm_position": "pre", "final_norm": True, "use_bias": False,
    "norm_bias": False, "position_embedding_type": "rotary", "type_vocab_size": 0, "skip_first_prenorm": True,
    "head_transform": False, "decoder_bias": False,
}  # fmt: skip
"""As ModernBERT is."""
SECTION = "## How the shapes were chosen"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small corpus, times that no machine measured, and one thread, on which sums are the same each time."""
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 2000)
    monkeypatch.setattr(run, "timed", lambda *_: None)
    monkeypatch.setattr(measuring, "FITTING_TOKENS", 1000)
    monkeypatch.setattr(feedforward_shapes, "time_shapes", fixed_times)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A post-norm model of three layers of 64 neurons, which by `fixed_times` take 19.2 of its 23.2 microseconds."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder, num_hidden_layers=3)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def convert(capsys: Capture, source: Path, out: Path, corpus: Path, *options: str, steps: int = 2) -> tuple[int, str]:
    """Exit code, and what the command says."""
    text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu", "--steps", str(steps))
    return run_convert(capsys, source, out, *text, *options)


def chosen(folder: Path) -> list[str]:
    """What the layers of a model have."""
    return list(map(str, read_config(folder).layer_shapes))


def rows(folder: Path) -> dict[str, list[str]]:
    """The table of the survey in the model card, by shape: time, and a cell for each layer."""
    section = (folder / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    lines = [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines[2:]}


def test_a_speed_gets_the_most_exact_shapes_that_reach_it_and_goes_on_as_if_they_were_given(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    code, said = convert(capsys, dense, out, corpus, "--speed", "2x")
    assert code == 0, said
    table = rows(out)
    assert list(table) == ["dense:64", "1x5+16", "dense:32", "2x4", "dense:16", "1x5", "none"]
    assert table["dense:64"][0] == "6.4"
    shapes = chosen(out)
    assert [[shape for shape, cells in table.items() if "*" in cells[i]] for i in (1, 2, 3)] == [[s] for s in shapes]
    # No other choice that is as fast has a smaller sum of errors; the card has three digits of each.
    limit, best = 23.2 / 2 - 4.0, 9.9
    options = [[(float(us), float(cells[i].strip("* "))) for us, *cells in table.values()] for i in range(3)]
    for a in options[0]:
        for b in options[1]:
            best = min([best, *(a[1] + b[1] + c[1] for c in options[2] if a[0] + b[0] + c[0] <= limit + 1e-9)])
    mine = [next(o for o, shape in zip(options[i], table, strict=True) if shape == shapes[i]) for i in range(3)]
    assert sum(us for us, _ in mine) <= limit + 1e-9
    assert sum(error for _, error in mine) == pytest.approx(best, abs=2e-3)
    flat = " ".join(said.split())
    assert "How the shapes were chosen" in flat
    assert "(a machine of the tests); the original's whole encoder takes 23.2, and " in flat
    assert "Chosen for --speed 2x: estimated to be 2." in flat
    assert f"Distilling 3 layers of 64 dense neurons into {', '.join(shapes)}, on " in flat
    card = (out / "README.md").read_text()
    assert "| speed asked for | 2 times the original's; estimated 2." in card
    assert f"distilled into {', '.join(shapes)}, chosen layer by layer by measured error and time." in card
    page = (out / "report.html").read_text()
    assert "<h2>How the shapes were chosen</h2>" in page
    assert "<td>1x5+16</td>" in page
    code, said = convert(capsys, dense, tmp_path / "given", corpus, "--shape", ",".join(shapes))
    assert code == 0, said
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "given")]
    assert weights[0] == weights[1]


def test_a_quality_gets_the_fastest_shapes_that_keep_it_before_training(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    kept, fast = [], []
    for keep in ("0.999", "0.97"):
        out = tmp_path / keep
        code, said = convert(capsys, dense, out, corpus, "--shape", "auto", "--keep", keep)
        assert code == 0, said
        found = re.search(rf"Chosen for --keep {keep}: estimated to be (\S+) times .* to keep (\S+) before", said)
        assert found
        fast.append(float(found[1]))
        kept.append(float(found[2]))
        assert kept[-1] >= float(keep)
        card = (out / "README.md").read_text()
        reached = float(
            re.findall(rf"asked for with --keep \| {keep}; expected 0\S+ before training, reached (\S+) \|", card)[0]
        )
        cosine = re.search(r"mean cosine to the original's embeddings, .* \| (\S+) \|", card)
        assert cosine
        assert float(cosine[1]) == reached
        assert ("warning: --keep" in said) == (reached < float(keep))
    assert kept[1] < kept[0]
    assert 1 < fast[0] < fast[1]


def test_candidates_beside_token_rows(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    """For a speed and for a quality, which puts the rows into the original; and as if the shapes were given."""
    out, errors = tmp_path / "out", []
    for folder, options in ((tmp_path / "plain", ()), (out, ("--token-rows", "30"))):
        code, said = convert(capsys, dense, folder, corpus, "--speed", "2x", *options)
        assert code == 0, said
        errors.append({shape: float(cells[1].strip("* ")) for shape, cells in rows(folder).items()})
    plain, beside = errors
    assert {str(shape).partition("+rows:30")[0] for shape in beside} == {*plain, "rows:30"}
    assert beside["dense:16+rows:30"] < plain["dense:16"]
    assert beside["rows:30"] < beside["none"] == plain["none"]
    shapes = chosen(out)
    assert any(shape.endswith("rows:30") for shape in shapes)
    code, said = convert(capsys, dense, tmp_path / "given", corpus, "--shape", ",".join(shapes))
    assert code == 0, said
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "given")]
    assert weights[0] == weights[1]
    code, said = convert(
        capsys, dense, tmp_path / "kept", corpus, "--shape", "auto", "--keep", "0.97", "--token-rows", "30"
    )
    assert code == 0, said
    assert re.search(r"Chosen for --keep 0.97: estimated to be \S+ times .* to keep 0.9[7-9]\d+ before", said)
    code, said = convert(capsys, dense, tmp_path / "no", corpus, "--speed", "2x", "--token-rows", "9999")
    assert (code, said.count("\n")) == (1, 1)
    assert "--speed 2x --token-rows 9999: rows for 9,999 tokens, and the vocabulary of" in said


def test_what_training_has_not_kept_is_a_warning(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ("--shape", "auto", "--keep", "0.98", "--learning-rate", "0.3")
    code, said = convert(capsys, dense, tmp_path / "out", corpus, *options)
    assert code == 0
    assert re.search(r"warning: --keep 0.98 was asked for, and the student keeps 0\.\d+: give a longer --budget", said)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_of_both_the_one_that_binds_is_named(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    code, said = convert(capsys, dense, tmp_path / "fast", corpus, "--keep", "0.5", "--speed", "1.5")
    assert code == 0, said
    assert "Chosen for --speed 1.5x, which binds before --keep 0.5: estimated to be 1." in said
    code, said = convert(
        capsys, dense, tmp_path / "exact", corpus, "--keep", "0.9995", "--speed", "5x", "--shape", "auto"
    )
    assert code == 0, said
    assert re.search(r"--keep 0\.9995, which binds before --speed 5x \(that would keep 0\.\d+ before training\)", said)


def test_only_the_layers_that_are_named_are_chosen_for(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, said = convert(capsys, dense, tmp_path / "out", corpus, "--speed", "1.7", "--layers", "0,2")
    assert code == 0, said
    shapes = chosen(tmp_path / "out")
    assert shapes[1] == "dense:64"
    assert "dense:64" not in (shapes[0], shapes[2])
    assert len(rows(tmp_path / "out")["none"]) == 3  # the time, and two layers
    code, said = convert(capsys, dense, tmp_path / "no", corpus, "--speed", "3", "--layers", "0,2")
    assert (code, said.splitlines()[-1]) == (
        1,
        "error: --speed 3x: without feedforward layers in the layers 0, 2 the model would be 2.23 times as fast; give "
        "at most --speed 2.23x, or leave out whole layers with --drop-layers",
    )
    assert not (tmp_path / "no.partial").exists()
    # A model that has other layers already: those that are dense.
    code, said = convert(capsys, tmp_path / "out", tmp_path / "more", corpus, "--speed", "1.1x")
    assert code == 0, said
    assert [after for i, after in enumerate(chosen(tmp_path / "more")) if not shapes[i].startswith("dense")] == [
        shape for shape in shapes if not shape.startswith("dense")
    ]


def test_a_gated_model(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_dense_model(tmp_path / "gated", **GATED)
    code, said = convert(capsys, tmp_path / "gated", tmp_path / "out", corpus, "--shape", "auto", "--keep", "0.9")
    assert code == 0, said
    config = read_config(tmp_path / "out")
    assert config.is_gated_act
    assert chosen(tmp_path / "out") != ["dense:64"] * 3
    # Trees have no gates, and say less of gated layers than dense neurons do.
    narrow, trees = (float(rows(tmp_path / "out")[shape][1].strip("* ")) for shape in ("dense:32", "2x4"))
    assert narrow < trees


def write_classifier(folder: Path, like: Path, **changes: Any) -> None:
    torch.manual_seed(3)
    config = read_config(like).replace(
        **{"architectures": (), "provenance": {}, "classifier_hidden_size": 16, "initializer_range": 0.4, **changes}
    )
    UltraFastBertForSequenceClassification(config).save_pretrained(folder, tokenizer=load_tokenizer(like))


def test_a_classifier_keeps_its_labels(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_classifier(tmp_path / "model", dense, num_labels=3, problem_type="single_label_classification")
    code, said = convert(capsys, tmp_path / "model", tmp_path / "out", corpus, "--shape", "auto", "--keep", "0.8")
    assert code == 0, said
    assert "texts, for the classifier's outputs" in said
    expected = float(re.findall(r"to keep (\S+) before training", said)[0])
    assert expected in {n / 20 for n in range(16, 21)}  # a share of the 20 texts that are held out
    card = (tmp_path / "out" / "README.md").read_text()
    reached = re.search(
        r"\| agreement with the original, asked for with --keep \| 0\.8; expected .*, reached (\S+) \|", card
    )
    assert reached
    agreement = re.search(r"\| same best label, .* \| (\S+) %; ", card)
    assert agreement
    assert float(agreement[1]) == pytest.approx(100 * float(reached[1]), abs=0.01)


def test_plain_values_have_no_agreement_to_keep(dense: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    write_classifier(tmp_path / "model", dense, num_labels=1, problem_type="regression")
    options = ("--shape", "auto", "--keep", "0.8")
    code, said = convert(capsys, tmp_path / "model", tmp_path / "out", corpus, *options)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("error: --keep 0.8: the model's scores are plain values, which are never the same; give ")
    code, said = convert(capsys, tmp_path / "model", tmp_path / "out", corpus, "--speed", "2")
    assert code == 0, said


def test_without_time_for_more_no_feedforward_layer_is_what_there_is(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "SURVEY_SHARE", 1e-9)
    text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu", "--budget", "1s")
    code, said = run_convert(capsys, dense, tmp_path / "out", *text, "--speed", "1.2", "--keep", "0.2")
    assert code == 0, said
    shapes = "dense:16, dense:32, 1x5, 1x5+16, 2x4"
    assert f"warning: no time to fit every layer by {shapes}; a longer --budget gives more" in said
    assert sorted(chosen(tmp_path / "out")) == ["dense:64", "dense:64", "none"]
    table = rows(tmp_path / "out")
    assert all(table[shape][1:] == ["no time"] * 3 for shape in shapes.split(", "))


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C twice, as that step of the layers' regressions begins."""
    steps: list[int] = []
    module: Any = layer_regression
    before = module.set_learning_rate

    def interrupt(*arguments: Any) -> None:
        steps.append(1)
        if len(steps) == number:
            raise KeyboardInterrupt
        before(*arguments)

    monkeypatch.setattr(module, "set_learning_rate", interrupt)


def test_a_resumed_conversion_keeps_its_shapes_and_measures_nothing_again(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(partial, "LARGEST_SHARE", 1e9)
    wish = ("--shape", "auto", "--keep", "0.999")
    code, said = convert(capsys, dense, tmp_path / "whole", corpus, *wish, steps=4)
    assert code == 0, said
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1)  # the first regression has not begun
        assert convert(capsys, dense, out, corpus, *wish, steps=4)[0] == 130
    journal = json.loads((tmp_path / "out.partial" / "journal.json").read_text())
    assert journal["survey"]["after"] == chosen(tmp_path / "whole")
    assert len(journal["layers"]) < 3

    def no_more(*_: Any) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(feedforward_shapes, "time_shapes", no_more)
    code, said = convert(capsys, dense, out, corpus, *wish, steps=4)
    assert "holds an interrupted conversion; continue it with the same command and --resume" in said
    code, said = convert(capsys, dense, out, corpus, "--shape", "auto", "--keep", "0.9", "--resume", steps=4)
    assert code == 1
    assert "was made with options --shape auto --keep 0.999, not --shape auto --keep 0.9; give the same again" in said
    code, said = convert(capsys, dense, out, corpus, "--shape", "auto", "--speed", "2", "--resume", steps=4)
    assert code == 1
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 7)  # in the second layer
        assert convert(capsys, dense, out, corpus, *wish, "--resume", steps=4)[0] == 130
    code, said = convert(capsys, dense, out, corpus, *wish, "--resume", steps=4)
    assert code == 0, said
    assert "choosing shapes" not in said
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert rows(out) == rows(tmp_path / "whole")


def test_an_interrupted_choice_leaves_nothing(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "fit_shapes", interrupt)
    assert convert(capsys, dense, tmp_path / "out", corpus, "--speed", "2")[0] == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--speed 0.5x",
            "--speed 0.5x: say how many times as fast as the original the student is to be, above 1, such",
        ),
        ("--speed fast", "--speed fast: say how many times as fast"),
        ("--speed 1x", "--speed 1x: say how many times as fast"),
        ("--shape auto --keep 1.2", "--keep 1.2: give a share of the original's quality above 0 and below 1, such as"),
        ("--shape auto --keep nan", "--keep nan: give a share of the original's quality"),
        ("--keep 0.9", "--keep 0.9 is for shapes that are chosen: give --shape auto"),
        ("--keep 0.9 --shape 2x1", "--keep 0.9 is for shapes that are chosen: give --shape auto"),
        ("--keep 0.9 --dense 4", "--keep 0.9 is for shapes that are chosen: give --shape auto, and leave out --dense"),
        ("--shape auto", "--shape auto must know what to choose for: give --keep 0.97, --speed 2x or both"),
        ("--shape auto,2x1,none --speed 2", "--shape auto,2x1,none: auto chooses for all layers; give it alone, or"),
        (
            "--speed 2x --trees 4 --depth 1 --random-routing",
            "--speed 2x chooses the shape of each layer itself; give it without --trees, --random-routing",
        ),
        ("--speed 2x --shape 2x1", "--speed 2x chooses the shape of each layer itself; give it without --shape 2x1"),
        ("--speed 2x --drop-layers 1", "--speed 2x chooses the shape of each layer itself; give it without --drop-"),
        ("--shape auto --keep 0.9 --dense 3", "--shape auto chooses the shape of each layer itself; give it without"),
        ("--speed 2x --layers 2-7", "--layers 2-7: {source} has 3 layers, from 0 to 2"),
        ("--speed 2x --to onnx", "--speed makes an ultrafastbert checkpoint; convert that with --to onnx in a second"),
    ],
)
def test_what_cannot_be_is_one_line(options: str, message: str, dense: Path, tmp_path: Path, capsys: Capture) -> None:
    code, said = run_convert(capsys, dense, tmp_path / "out", *options.split(), "--corpus", "embedded")
    assert (code, said.count("\n")) == (1, 1), said
    assert said.startswith(f"error: {message.format(source=dense)}"), said
    assert list(tmp_path.iterdir()) == []


def test_layers_that_are_no_longer_dense_cannot_be_named(
    dense: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, said = convert(capsys, dense, tmp_path / "trees", corpus, "--shape", "2x1,dense:64,2x1", steps=1)
    assert code == 0, said
    code, said = convert(capsys, tmp_path / "trees", tmp_path / "out", corpus, "--speed", "2", "--layers", "1-2")
    assert (code, said.count("\n")) == (1, 1)
    assert "layer 2 has 2 trees of depth 1, and only dense layers can be distilled; choose others with" in said
    write_dense_model(tmp_path / "none", feedforward="none")
    code, said = convert(capsys, tmp_path / "none", tmp_path / "out", corpus, "--speed", "2")
    assert (code, said.count("\n")) == (1, 1)
    assert "has no dense feedforward layers, and only those can be distilled" in said
