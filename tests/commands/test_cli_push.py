"""`ufbert convert --push`: the result goes to a hub, here a small stand-in for it, or one line says how to send it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from convert_command import TEXTS, run_convert, write_dense_model, write_documents
from hub_server import HubServer, running_hub
from huggingface_hub import constants

from ufbert.conversion.distillation import run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    return "hf_of_a_test"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("form", ["ultrafastbert", "dense"])
def test_a_conversion_goes_to_the_hub_as_it_lies_on_the_disk(
    form: str, dense: Path, hub: HubServer, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, err = run_convert(capsys, dense, out, "--to", form, "--push", "me/tiny", "--private")
    assert code == 0, err
    assert err.splitlines()[-1] == f"{out}: sent to {hub.address}/me/tiny"
    assert hub.visibility == {"me/tiny": "private"}
    assert hub.files["me/tiny"] == contents(out)
    assert hub.tokens == {f"Bearer {token}"}
    # A second one goes to the same repository.
    code, err = run_convert(capsys, dense, tmp_path / "again", "--to", form, "--push", "me/tiny", "--private")
    assert code == 0, err


def test_a_distillation_is_sent_and_a_complete_one_too(
    dense: Path,
    hub: HubServer,
    token: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 1000)
    monkeypatch.setattr(run, "timed", lambda *_: None)
    corpus = write_documents(tmp_path / "texts.jsonl", TEXTS)
    options = f"--trees 2 --depth 1 --corpus {corpus} --text-column body --steps 1 --push tiny".split()
    hub.refuses = 403
    out = tmp_path / "out"
    code, err = run_convert(capsys, dense, out, *options)
    assert code == 1
    assert err.splitlines()[-1].startswith(
        f"error: {out}: is complete, but could not be sent to tiny on the Hugging Face hub (403 Forbidden"
    )
    assert err.endswith(f"send it by hand: hf upload tiny {out} .\n")
    assert not (tmp_path / "out.partial").exists()
    hub.refuses = 0
    code, err = run_convert(capsys, dense, out, *options, "--resume")
    assert code == 0, err
    assert err == f"{out}: is complete; nothing to resume\n{out}: sent to {hub.address}/me/tiny\n"
    assert hub.visibility == {"me/tiny": "public"}
    assert "report.html" in hub.files["me/tiny"]


def test_nothing_private_goes_where_all_can_read_it(
    dense: Path, hub: HubServer, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.visibility["me/open"] = "public"
    code, err = run_convert(capsys, dense, tmp_path / "out", "--push", "me/open", "--private")
    assert code == 1
    assert "is complete, but me/open on the Hugging Face hub exists already and is public" in err
    assert hub.files == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push", "a/b/c"], "--push a/b/c: no name of a repository on the Hugging Face hub; write USER/MODEL"),
        (["--push", "me/my model"], "--push me/my model: no name of a repository"),
        (["--push", "me/tiny"], "--push me/tiny: not logged in to the Hugging Face hub; log in with `hf auth login`"),
        (["--private"], "--private is of the repository that --push sends to"),
        (["--analyse", "--corpus", "embedded", "--push", "me/tiny"], "--push: --analyse converts nothing"),
    ],
)
def test_what_cannot_be_sent_is_told_before_anything_is_converted(
    options: list[str], message: str, dense: Path, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()
    assert not hub.tokens


def test_a_hub_that_is_not_there_leaves_the_result(
    dense: Path, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.address)
    code, err = run_convert(capsys, dense, tmp_path / "out", "--push", "me/tiny")
    assert (code, err.count("\n")) == (1, 2), err
    assert f"hf upload me/tiny {tmp_path / 'out'} ." in err
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_environment_names_hub_and_token(dense: Path, hub: HubServer, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_own", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "ufbert", "convert", str(dense), str(tmp_path / "out"), "--push", "me/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert hub.files["me/tiny"] == contents(tmp_path / "out")
    assert hub.tokens == {"Bearer hf_own"}
