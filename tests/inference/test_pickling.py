"""A pipeline between processes: small as a pickle, and the same on the other side."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ufbert import Pipeline, UltraFastBertConfig, UltraFastBertModel
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError, DataError, MissingExtraError
from ufbert.inference.pickling import Recipe

TEXTS = ["the fox jumps", "a walking dog is talking to the sleeping fox", "", "she sells sea shells"] * 3


def test_a_pickle_does_not_grow_with_the_weights(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    sizes = {}
    for hidden in (32, 512):
        config = UltraFastBertConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=hidden, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=16, depth=3,
        )  # fmt: skip
        folder = tmp_path / f"{hidden:03}"
        UltraFastBertModel(config).save_pretrained(folder, tokenizer=tokenizer)
        sizes[hidden] = len(pickle.dumps(Pipeline(folder)))
    assert (tmp_path / "512" / "model.safetensors").stat().st_size > 4_000_000
    assert max(sizes.values()) < 1500
    assert abs(sizes[512] - sizes[32]) < 20


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked_lm", {"task": "fill-mask", "targets": ("dog", "fox"), "max_length": 9}),
        ("classifier", {"batch_size": 2, "long_text": "window", "stride": 3, "max_length": 8}),
        ("encoder", {"pooling": "cls+mean", "normalize": True, "truncate_dim": 40, "prompt": "query: "}),
        ("encoder", {"precision": "bfloat16", "backend": "reference"}),
    ],
)
def test_the_same_options_and_results(name: str, options: dict[str, Any], tiny_checkpoints: dict[str, Path]) -> None:
    pipeline = Pipeline(tiny_checkpoints[name], **({"precision": "float32"} | options))
    again = pickle.loads(pickle.dumps(pipeline))
    assert vars(again).keys() == vars(pipeline).keys()
    for attribute in ("task", "max_length", "batch_size", "overlap", "precision", "backend", "embedding"):
        assert str(getattr(again, attribute)) == str(getattr(pipeline, attribute))
    texts = ["[MASK] " + text for text in TEXTS] if name == "masked_lm" else TEXTS
    for mine, theirs in zip(pipeline(texts), again(texts), strict=True):
        assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs


def test_every_argument_is_in_the_recipe(tiny_checkpoints: dict[str, Path]) -> None:
    pipeline = Pipeline(tiny_checkpoints["encoder"], device="cpu")
    assert list(pipeline._recipe.options) == [*inspect.signature(Pipeline).parameters]
    # What was chosen here for this machine is for the other one to choose.
    assert pipeline._recipe.options["precision"] == "auto"


def test_a_spawned_process_gets_it_and_gives_the_same(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoints["encoder"].parent)
    pipeline = Pipeline("encoder", precision="float32")  # by a relative path, and the child starts elsewhere
    here = pipeline(TEXTS)
    with multiprocessing.get_context("spawn").Pool(1, initializer=os.chdir, initargs=(tmp_path,)) as pool:
        there = pool.apply(pipeline, (TEXTS,))
        # Its errors come back as what they are.
        with pytest.raises(DataError, match=r"texts\[1\]: is a int, not a string"):
            pool.apply(pipeline, (["a", 1],))
    np.testing.assert_allclose(np.array(there), np.array(here), rtol=1e-5, atol=1e-6)


FORKED = """
import os, sys, numpy, torch
from datasets import Dataset
from ufbert import Pipeline
torch.set_num_threads(2)
pipeline = Pipeline(sys.argv[1], precision="float32")
texts = [f"the fox number {n} jumps over the lazy dog" for n in range(40)] * 8
here = numpy.array(pipeline(texts))  # starts the threads that a forked child does not have

def embed(rows):
    return {"vector": pipeline(rows["text"]), "process": [os.getpid()] * len(rows["text"]),
            "threads": [torch.get_num_threads()] * len(rows["text"])}

mapped = Dataset.from_dict({"text": texts}).map(embed, batched=True, batch_size=100, num_proc=2)
numpy.testing.assert_allclose(numpy.array(mapped["vector"], numpy.float32), here, rtol=1e-5, atol=1e-6)
assert len(set(mapped["process"]) | {os.getpid()}) == 3
assert set(mapped["threads"]) == {1}, set(mapped["threads"])
child = os.fork()
if child == 0:
    same = numpy.allclose(numpy.array(pipeline(texts)), here, rtol=1e-5, atol=1e-6)
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
print("done", torch.get_num_threads())
"""


def test_datasets_map_on_two_processes(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        environment.pop(name, None)
    command = [sys.executable, "-c", FORKED, str(tiny_checkpoints["encoder"])]
    # Threads that were lost in the fork would let it hang.
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-2:] == ["done", "2"]


class TestErrors:
    def test_no_folder_on_the_other_machine(self, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
        shutil.copytree(tiny_checkpoints["encoder"], tmp_path / "model")
        pickled = pickle.dumps(Pipeline(tmp_path / "model"))
        shutil.rmtree(tmp_path / "model")
        with pytest.raises(CheckpointError) as error:
            pickle.loads(pickled)
        assert str(error.value) == (
            f"{tmp_path / 'model'}: no such folder on this machine; a pickled pipeline is made of its folder again: "
            "put it at the same path on every machine, or name a model on the hub"
        )

    def test_a_folder_that_was_trained_anew(self, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_checkpoints["encoder"], folder)
        pipeline = Pipeline(folder)
        before = pickle.dumps(pipeline)
        model = UltraFastBertModel.from_pretrained(folder)
        torch.nn.init.normal_(model.embeddings.word.weight)
        model.save_pretrained(folder, tokenizer=pipeline.tokenizer, replace=True)
        with pytest.raises(CheckpointError) as error:
            pickle.dumps(pipeline)
        assert str(error.value) == (
            f"{folder}: has changed since this pipeline was made of it, and a pickled one is made of it again; make a "
            "new pipeline first"
        )
        # datasets.map takes equal pickles for equal results.
        assert pickle.dumps(Pipeline(folder)) != before
        assert pickle.dumps(Pipeline(folder)) == pickle.dumps(Pipeline(folder))

    def test_a_model_of_the_hub_is_named_with_its_commit(self, tmp_path: Path) -> None:
        cached = tmp_path / "models--org--name" / "snapshots" / "0123abc"
        cached.mkdir(parents=True)
        recipe = Recipe.of(cached, {"folder": "org/name", "revision": None, "targets": None})
        assert recipe.options == {"folder": "org/name", "revision": "0123abc", "targets": None}

    def test_a_missing_extra_is_told_by_another_process(self) -> None:
        error = MissingExtraError("ray", "ray", "this")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is MissingExtraError
        assert str(again) == "this needs ray; install it with: pip install 'ufbert[ray]'" == str(error)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")
def test_trees_in_float32_stay_in_the_file_that_processes_share(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["encoder"].resolve()
    shared: dict[str, int] = {}
    for precision in ("float32", "bfloat16"):
        pipeline = Pipeline(folder, precision=precision)
        pipeline(TEXTS)
        model: Any = pipeline._task
        rows = [getattr(layer.feedforward.trees, name) for layer in model.model.layers for name in ("w_in", "w_out")]
        rows.append(model.model.embeddings.word.weight)
        mapped = [lines for name, lines in mappings() if name == str(folder / "model.safetensors")]
        spans = [span for span, _ in mapped]
        inside = [any(start <= tensor.data_ptr() < end for start, end in spans) for tensor in rows]
        shared[precision] = sum(inside)
        assert sum(dirty for _, dirty in mapped) == 0  # nothing was written to, which would make a copy
    assert shared == {"float32": 5, "bfloat16": 1}


def mappings() -> list[tuple[str, tuple[tuple[int, int], int]]]:
    """File, addresses and pages written to, in KiB, of what this process has mapped."""
    found: list[tuple[str, tuple[tuple[int, int], int]]] = []
    name, span = "", (0, 0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            start, end = words[0].split("-")
            name, span = " ".join(words[5:]), (int(start, 16), int(end, 16))
        elif words[0] == "Private_Dirty:":
            found.append((name, (span, int(words[1]))))
    return found
