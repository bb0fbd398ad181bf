"""`ufbert convert --teacher`: the layers of one model, the lessons of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_command import TEXTS, distilled, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file, save_file

from ufbert import Pipeline
from ufbert.conversion.distillation import end_to_end, partial, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 3000)
    monkeypatch.setattr(run, "timed", lambda *_: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    write_dense_model(folder)
    return folder


@pytest.fixture(scope="module")
def source(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher with other feedforward layers, so that its embeddings are others."""
    folder = tmp_path_factory.mktemp("source") / "model"
    write_dense_model(folder)
    torch.manual_seed(1)
    state = load_file(folder / "model.safetensors")
    for name, tensor in state.items():
        if ".feedforward.linear" in name:
            state[name] = tensor + 0.1 * torch.randn_like(tensor)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def cosine(first: Path, second: Path) -> float:
    pipelines = (Pipeline(f, task="embed", normalize=True, precision="float32") for f in (first, second))
    a, b = (np.stack([np.asarray(vector) for vector in embed(TEXTS)]) for embed in pipelines)
    return float((a * b).sum(1).mean())


def test_the_student_comes_near_to_its_teacher_and_not_to_its_source(
    source: Path, teacher: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    options = ("--dense", "32", "--task", "embed", "--steps", "40")
    distilled(capsys, source, tmp_path / "own", corpus, *options)
    said = distilled(capsys, source, tmp_path / "taught", corpus, *options, "--teacher", str(teacher))
    assert cosine(tmp_path / "own", source) > cosine(tmp_path / "own", teacher) + 0.01
    assert cosine(tmp_path / "taught", teacher) > cosine(tmp_path / "taught", source) + 0.01
    assert cosine(tmp_path / "taught", teacher) > cosine(tmp_path / "own", teacher) + 0.01
    # The closing table compares with the teacher too, on other texts of the same kind.
    card = (tmp_path / "taught" / "README.md").read_text()
    measured = float(card.split(f"| mean cosine to {teacher}'s embeddings, ")[1].split("|")[1])
    assert measured == pytest.approx(cosine(tmp_path / "taught", teacher), abs=0.02)
    assert f"whole runs are compared with those of {teacher}, which was learned from" in said
    assert f"distilled into 32 dense neurons, learning from `{teacher}`." in card


def test_it_is_taken_up_again_from_the_same_teacher_alone(
    source: Path, teacher: Path, corpus: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(partial, "LARGEST_SHARE", 1e9)
    text = ("--corpus", str(corpus), "--text-column", "body", "--device", "cpu")
    options = ("--dense", "8", "--task", "embed", "--steps", "4", *text)
    taught = (*options, "--teacher", str(teacher))
    with pytest.MonkeyPatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(end_to_end, "set_learning_rate", interrupt)
        assert run_convert(capsys, source, tmp_path / "out", *taught)[0] == 130
    code, err = run_convert(capsys, source, tmp_path / "out", *options, "--resume")
    assert code == 1
    assert "was made with teacher another model, not the source; give the same again" in " ".join(err.split())
    again = (*options, "--teacher", str(source), "--resume")
    code, err = run_convert(capsys, source, tmp_path / "out", *again)
    assert code == 1
    assert f"was made from another teacher, {teacher}; give that again" in " ".join(err.split())
    code, err = run_convert(capsys, source, tmp_path / "out", *taught, "--resume")
    assert code == 0, err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 16}, "its hidden size (16) is not that of"),
        ({"num_hidden_layers": 1}, "its number of layers (1) is not that of"),
        ({"norm_position": "pre", "final_norm": True}, "its place of the norms (pre) is not that of"),
        ({"type_vocab_size": 0}, "only one has token types"),
        ({"max_position_embeddings": 16}, "reads 16 tokens of a text, and"),
    ],
)  # fmt: skip
def test_a_teacher_of_other_states_is_refused(
    changes: dict[str, Any], said: str, source: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_dense_model(tmp_path / "other", **changes)
    options = ("--dense", "8", "--task", "embed", "--corpus", str(corpus), "--text-column", "body", "--steps", "1")
    code, err = run_convert(capsys, source, tmp_path / "out", *options, "--teacher", str(tmp_path / "other"))
    assert code == 1
    err = " ".join(err.split())
    assert f"--teacher {tmp_path / 'other'}: " in err
    assert said in err
    assert not (tmp_path / "out").exists()


def test_a_teacher_with_another_head_or_tokenizer_is_refused(
    source: Path, corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_dense_model(tmp_path / "head")
    file = tmp_path / "head" / "model.safetensors"
    state = load_file(file)
    (name,) = (name for name in state if name.endswith("decoder.bias"))
    save_file({**state, name: state[name] + 1}, file, metadata={"format": "pt"})
    options = ("--dense", "8", "--corpus", str(corpus), "--text-column", "body", "--steps", "1")
    masked = (*options, "--task", "mlm", "--teacher", str(tmp_path / "head"))
    code, err = run_convert(capsys, source, tmp_path / "out", *masked)
    assert code == 1
    assert "its head is not that of" in " ".join(err.split())
    tokenizer = tmp_path / "head" / "tokenizer.json"
    text = tokenizer.read_text()
    assert '"fox"' in text
    tokenizer.write_text(text.replace('"fox"', '"fax"'))
    embedded = (*options, "--task", "embed", "--teacher", str(tmp_path / "head"))
    code, err = run_convert(capsys, source, tmp_path / "out", *embedded)
    assert code == 1
    assert "its tokenizer is not that of" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "is what a distillation learns from; give --trees and --depth too, or leave it out"),
        ("--shape auto --keep 0.9 --corpus embedded", "--keep 0.9 is measured beside SOURCE, before anything is"),
        ("--analyse --corpus embedded", "--teacher: --analyse converts nothing, and has no use for it"),
        ("--dense 8 --corpus embedded", "nowhere: no such folder"),
    ],
)  # fmt: skip
def test_a_teacher_without_lessons_is_refused(
    options: str, said: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, err = run_convert(capsys, source, tmp_path / "out", *options.split(), "--teacher", str(tmp_path / "nowhere"))
    assert code == 1
    assert said in " ".join(err.split()), err
