"""What is fetched from the hub, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from ufbert.checkpoint.download import choose_files
from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.errors import CheckpointError
from ufbert.model.pretrained import read_config

REVISIONS = {"main": "a" * 40, "v1": "b" * 40}
REFUSALS = {"someone/gated": (403, "GatedRepo"), "someone/absent": (401, "RepoNotFound")}


class Hub:
    """A hub with the one model `someone/model`, in two revisions."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {commit: {} for commit in REVISIONS.values()}
        self.fetched: list[str] = []
        hub = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        for name, (status, code) in REFUSALS.items():
            if name in path:
                return self.send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": "no"})
        parts = path.removeprefix("/api/models").removeprefix("/someone/model").strip("/").split("/")
        kind, revision = parts[0] or "revision", parts[1] if len(parts) > 1 else "main"
        commit = REVISIONS.get(revision, revision)
        if commit not in self.files:
            return self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = self.files[commit]
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.send_json(request, {"id": "someone/model", "sha": commit, "siblings": siblings})
        if kind == "tree":
            tree = [{"type": "file", "path": n, "size": len(c), "oid": etag(c)} for n, c in files.items()]
            return self.send_json(request, tree)
        name = "/".join(parts[2:])
        if request.command == "GET":
            self.fetched.append(name)
        headers = {"ETag": f'"{etag(files[name])}"', "X-Repo-Commit": commit}
        return self.send(request, 200, files[name], headers)

    def send_json(self, request: BaseHTTPRequestHandler, values: Any) -> None:
        self.send(request, 200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tiny_checkpoints: dict[str, Path]) -> Iterator[Hub]:
    """`someone/model` is a masked language model in `main` and a classifier in `v1`, with weights for all the world."""
    hub = Hub()
    for commit, name in zip(hub.files, ("masked_lm", "classifier"), strict=True):
        folder = tiny_checkpoints[name]
        hub.files[commit] = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
        for other in ("pytorch_model.bin", "model.fp16.safetensors", "training_args.bin", "onnx/model.onnx"):
            hub.files[commit][other] = b"not wanted"
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def environment(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    left_out = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", **more}


def locate(names: list[tuple[str, str | None]], env: dict[str, str]) -> list[str]:
    """For each name and revision the files of its folder, or the error."""
    program = (
        "import sys, json\nfrom ufbert.checkpoint.download import download_checkpoint\n"
        "from ufbert.errors import CheckpointError\n"
        "for name, revision in json.loads(sys.argv[1]):\n"
        "    try:\n        print(sorted(p.name for p in download_checkpoint(name, revision).iterdir()))\n"
        "    except CheckpointError as error:\n        print(error)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(names)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout.splitlines()


WANTED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_one_set_of_weights_is_fetched_once_and_serves_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert locate([("someone/model", None)], environment(hub, tmp_path)) == [str(WANTED)]
    assert sorted(set(hub.fetched)) == WANTED
    count = len(hub.fetched)
    assert locate([("someone/model", None)], environment(hub, tmp_path)) == [str(WANTED)]
    assert len(hub.fetched) == count
    for change in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        env = environment(hub, tmp_path, **change)
        assert locate([("someone/model", None)], env) == [str(WANTED)]


def test_without_safetensors_the_weights_of_torch_are_fetched(hub: Hub, tmp_path: Path) -> None:
    del hub.files[REVISIONS["main"]]["model.safetensors"]
    (files,) = locate([("someone/model", "main")], environment(hub, tmp_path))
    assert "pytorch_model.bin" in files
    assert not {"training_args.bin", "model.fp16.safetensors", "onnx/model.onnx"} & set(hub.fetched)


def test_a_revision_is_converted(hub: Hub, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ufbert", "convert", "someone/model", "out", "--revision", "v1"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**environment(hub, tmp_path), "PYTHONPATH": PATH}
    )
    assert done.returncode == 0, done.stderr
    config = read_config(tmp_path / "out")
    assert config.architectures == ("UltraFastBertForSequenceClassification",)
    assert "ufbert convert someone/model out --revision v1" in (tmp_path / "out" / "README.md").read_text()


PATH = str(Path(__file__).resolve().parents[2])


def test_what_is_not_to_be_had_is_one_line(hub: Hub, tmp_path: Path) -> None:
    names = [("someone/model", "v2"), ("someone/gated", None), ("someone/absent", None), ("some one", None)]
    assert locate(names, environment(hub, tmp_path)) == [
        "someone/model: has no revision 'v2' on the Hugging Face hub; give a branch, a tag or a commit of it",
        "someone/gated: a gated model; ask for access on its page of the hub, then log in with: hf auth login",
        "someone/absent: no such folder, and no such model on the Hugging Face hub; check the name, or log in with "
        "hf auth login if it is private",
        "some one: no such folder, and no name of a model on the Hugging Face hub",
    ]
    (offline,) = locate([("someone/model", None)], environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert offline == (
        "someone/model: no such folder, and not fetched before; unset HF_HUB_OFFLINE to fetch it from the hub"
    )


def test_a_proxy_that_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    env = environment(hub, tmp_path, NO_PROXY="", no_proxy="", HF_ENDPOINT="https://hub.example")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        env[name] = hub.address  # which knows no CONNECT
    (line,) = locate([("someone/model", None)], env)
    assert line.startswith("someone/model: no such folder, and not to be had from the Hugging Face hub (")
    assert line.endswith("); check the network and the proxy (HTTPS_PROXY)")


def test_a_folder_has_no_revisions(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a folder here, which has no revisions; leave out --revision v1"):
        locate_checkpoint(tiny_checkpoints["encoder"], "v1")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (
            "config.json README.md pytorch_model.bin.index.json model.safetensors model.fp16.safetensors tf_model.h5 "
            "flax_model.msgpack openvino/openvino_model.bin checkpoint-5/model.safetensors trainer_state.json",
            "config.json model.safetensors",
        ),
        (
            "model.safetensors.index.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model-00001-of-00002.fp16.safetensors pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            "model.safetensors.index.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
        ),
        (
            "vocab.txt merges.txt vocab.json sentencepiece.bpe.model modules.json 1_Pooling/config.json "
            "0_Transformer/pytorch_model.bin 2_Dense/model.safetensors 2_Dense/pytorch_model.bin onnx/config.json",
            "vocab.txt merges.txt vocab.json sentencepiece.bpe.model modules.json 1_Pooling/config.json "
            "0_Transformer/pytorch_model.bin 2_Dense/model.safetensors",
        ),
    ],
)
def test_the_files_that_are_read_are_chosen(offered: str, chosen: str) -> None:
    assert choose_files(offered.split()) == chosen.split()
