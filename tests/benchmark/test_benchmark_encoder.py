"""The encoder benchmark: who takes part, the same weights for all, what is timed and how it is compared."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_processes import InProcess

from ufbert.benchmark import run
from ufbert.benchmark.models import encoder, encoder_processes
from ufbert.benchmark.models.encoder import waves
from ufbert.benchmark.models.encoder_processes import TOLERANCE, state_errors
from ufbert.benchmark.models.peers import tokenising, weights
from ufbert.benchmark.models.peers.job import Job, draw_inputs
from ufbert.benchmark.models.peers.ours import Ours
from ufbert.benchmark.models.peers.parts import PARTS, time_parts
from ufbert.benchmark.models.peers.process import Worker, WorkerError
from ufbert.benchmark.models.peers.roster import ENCODERS, choose_encoders
from ufbert.benchmark.models.peers.weights import write_models
from ufbert.benchmark.report.encoder_results import EncoderResult, Latency, compare_encoders
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Spread
from ufbert.commands.app import main
from ufbert.errors import ConfigError

VOCABULARY = 300
LENGTH = 16
DOCUMENTS = tuple(
    f"The walker number {n} goes left at node {n % 7}, or right where the logit is above 0." for n in range(400)
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little text, few words, and the process's threads as they were."""
    monkeypatch.setattr(tokenising, "embedded_documents", lambda: DOCUMENTS)
    monkeypatch.setattr(weights, "VOCABULARY", VOCABULARY)
    monkeypatch.setattr(encoder, "VOCABULARY", VOCABULARY)
    monkeypatch.setattr(encoder_processes, "SAMPLE_SECONDS", 0.002)
    monkeypatch.setattr(encoder_processes, "SETTLE_SECONDS", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings() -> BenchmarkSettings:
    return BenchmarkSettings.from_options(
        subject="encoder", hidden_size=24, heads=2, depth=3, layers=2, threads=1, sequence_length=LENGTH, seconds=0.1
    )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(
        module="ours", precision="float32", device="cpu", threads=1, folder=str(tmp_path), sequence_length=LENGTH,
        vocabulary=VOCABULARY, seed=0, options={"model": "fff"},
    )  # fmt: skip


class TestRoster:
    def test_every_default_encoder_in_every_precision_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
        monkeypatch.setattr("ufbert.benchmark.models.peers.roster.no_compiler", lambda: None)
        entries, absent = choose_encoders((), ("float32", "bfloat16", "int8"), "cpu")
        names = {(e.encoder.name, e.precision) for e in entries}
        assert absent == []
        assert names >= {
            ("ufbert", "float32"), ("ufbert", "int8"), ("ufbert-dense", "bfloat16"), ("transformers", "float32"),
            ("transformers", "bfloat16"), ("transformers-cast", "bfloat16"), ("transformers-compiled", "float32"),
            ("onnxruntime", "float32"), ("onnxruntime", "int8"), ("openvino", "float32"), ("openvino", "bfloat16"),
        }  # fmt: skip
        assert not {name for name, _ in names} & {"ufbert-reference", "transformers-frozen"}

    def test_what_is_not_installed_is_absent_with_the_command_that_installs_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for package in ("transformers", "onnxruntime", "openvino"):
            monkeypatch.setitem(sys.modules, package, None)
        entries, absent = choose_encoders((), ("float32",), "cpu")
        assert [e.encoder.name for e in entries] == ["ufbert", "ufbert-dense"]
        reasons = {a.implementation: a.reason for a in absent}
        install = "install it with: pip install 'ufbert[peers]'"
        assert reasons["transformers"] == f"transformers needs transformers; {install}"
        assert reasons["openvino"] == f"openvino needs transformers; {install}"

    def test_devices_and_precisions_that_an_encoder_lacks(self) -> None:
        _, absent = choose_encoders(("ufbert", "onnxruntime"), ("float32",), "cuda")
        assert [(a.implementation, a.reason) for a in absent] == [("onnxruntime", "runs on cpu here, not on cuda")]
        _, absent = choose_encoders(("transformers-cast",), ("float32",), "cpu")
        assert [a.reason for a in absent] == ["has only bfloat16"]

    def test_an_unknown_name_lists_all(self) -> None:
        with pytest.raises(ConfigError, match="unknown implementation 'theirs'; known: ufbert, ufbert-dense, "):
            choose_encoders(("theirs",), ("float32",), "cpu")

    def test_the_documentation_names_every_encoder(self) -> None:
        text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
        for one in ENCODERS:
            assert f"| `{one.name}` |" in text


class TestWeights:
    def test_ours_differs_from_the_peers_in_the_feedforward_layers_only(
        self, settings: BenchmarkSettings, job: Job
    ) -> None:
        paths = write_models(settings, job)
        assert paths["layers"] == 2
        assert paths["leaves_per_tree"] == 8
        from ufbert.model.encoder import UltraFastBertModel

        dense = UltraFastBertModel.from_pretrained(job.path / "dense")
        trees = UltraFastBertModel.from_pretrained(job.path / "fff")
        assert dense.config.intermediate_size == 4 * 24
        assert (trees.config.feedforward, trees.config.depth) == ("fff", 3)
        left, right = dense.state_dict(), trees.state_dict()
        shared = {name for name in left if ".feedforward." not in name}
        assert shared == {name for name in right if ".feedforward." not in name}
        assert all(torch.equal(left[name], right[name]) for name in shared)
        assert all(float(t.std()) > 0 for name, t in left.items() if "embeddings.norm" in name or "bias" in name)

    def test_ours_may_have_fewer_key_value_heads(self, settings: BenchmarkSettings, job: Job) -> None:
        write_models(dataclasses.replace(settings, key_value_heads=1), job)
        from ufbert.model.encoder import UltraFastBertModel

        dense = UltraFastBertModel.from_pretrained(job.path / "dense")
        trees = UltraFastBertModel.from_pretrained(job.path / "fff")
        assert (dense.config.key_value_heads, trees.config.key_value_heads) == (2, 1)
        every, grouped = (model.state_dict()["layers.1.attention.qkv.weight"] for model in (dense, trees))
        assert grouped.shape == (24 + 2 * 12, 24)
        assert torch.equal(grouped, torch.cat([every[:24], every[24:36], every[48:60]]))
        checked = torch.from_numpy(np.load(job.path / "checked.npy"))
        reference = torch.from_numpy(np.load(job.path / "reference-fff.npy"))
        torch.testing.assert_close(trees.encode(checked), reference, rtol=1e-4, atol=1e-5)

    def test_transformers_reads_them_and_computes_what_our_dense_twin_computes(
        self, settings: BenchmarkSettings, job: Job
    ) -> None:
        pytest.importorskip("transformers", reason="needs the extra peers")
        from ufbert.benchmark.models.peers.hugging_face import load

        write_models(settings, job)
        theirs = load(dataclasses.replace(job, options={}))
        checked = np.load(job.path / "checked.npy")
        assert checked.shape == (2, LENGTH)
        states = theirs.states(theirs.run(theirs.take(checked)))
        assert state_errors(states, np.load(job.path / "reference-ff.npy"))[1] < 1e-5

    def test_inputs_differ_from_call_to_call_and_agree_between_processes(self) -> None:
        first, second = draw_inputs(2, 3, LENGTH, VOCABULARY, 0)
        assert first.shape == (3, LENGTH)
        assert not np.array_equal(first, second)
        assert np.array_equal(first, draw_inputs(2, 3, LENGTH, VOCABULARY, 0)[0])
        assert min(first.min(), second.min()) >= 5


class TestParts:
    def test_the_parts_make_up_the_whole_and_leave_no_hook(self, settings: BenchmarkSettings, job: Job) -> None:
        write_models(settings, job)
        ours = Ours(job)
        inputs = [ours.take(ids) for ids in draw_inputs(2, 2, LENGTH, VOCABULARY, 0)]
        before = ours.states(ours.run(inputs[0]))
        found = time_parts(ours, inputs, 3)
        assert tuple(found["parts"]) == PARTS
        assert all(seconds > 0 for seconds in found["parts"].values())
        assert sum(found["parts"].values()) == pytest.approx(found["whole"])
        assert found["plain"] > 0
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in ours.encoder.modules())
        assert np.array_equal(before, ours.states(ours.run(inputs[0])))

    def test_a_slow_part_is_found(self, settings: BenchmarkSettings, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        from ufbert.model.fff import FFF

        write_models(settings, job)
        ours = Ours(job)
        walk = FFF.walk

        def slow(self: FFF, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return walk(self, x)

        monkeypatch.setattr(FFF, "walk", slow)
        parts = time_parts(ours, [ours.take(draw_inputs(1, 1, LENGTH, VOCABULARY, 0)[0])], 2)["parts"]
        assert parts["FFF"] > 0.04
        assert parts["FFF"] > sum(seconds for part, seconds in parts.items() if part != "FFF")


def result(
    name: str, dtype: str, seconds: float, *, batch: int = 1, peer: bool = True, layer: str = "ff"
) -> EncoderResult:
    return EncoderResult(
        layer=layer, implementation=name, peer=peer, device="cpu", dtype=dtype, threads=1, batch=batch,
        sequence_length=100, layers=2, spread=Spread(seconds, seconds, seconds), samples=3, calls_per_sample=1,
        latency=Latency.of([seconds] * 3), resident_bytes=None, peak_bytes=None, error=0.0, largest_error=0.0,
        lowest_cosine=1.0,
    )  # fmt: skip


class TestComparison:
    def test_each_against_the_fastest_peer_of_any_precision_at_its_batch(self) -> None:
        ours = result("ufbert", "bfloat16", 0.1, peer=False, layer="fff")
        twin = result("ufbert-dense", "bfloat16", 0.2, peer=False)
        slow, fast = result("a", "float32", 0.8), result("b", "int8", 0.4)
        other = result("ufbert", "bfloat16", 0.1, batch=4, peer=False, layer="fff")
        compare_encoders([ours, twin, slow, fast, other])
        assert (ours.fastest_peer, ours.fastest_dense) == ("b int8", "ufbert-dense bfloat16")
        assert ours.speedup_over_peer == pytest.approx(4.0)
        assert ours.speedup_over_dense == pytest.approx(2.0)
        assert fast.speedup_over_peer == 1.0
        assert other.speedup_over_peer is None
        assert ours.tokens_per_second == pytest.approx(1000)
        assert ours.texts_per_second == pytest.approx(10)

    def test_percentiles(self) -> None:
        latency = Latency.of([n / 1000 for n in range(1, 102)])
        assert (latency.p50, latency.p90, latency.p99, latency.calls) == pytest.approx((0.051, 0.091, 0.1, 101))

    def test_errors_of_the_median_and_the_worst_token(self) -> None:
        reference = np.ones((1, 3, 4), np.float32)
        states = reference.copy()
        states[0, 0] *= 1.5
        assert state_errors(states, reference)[0] == 0.0
        assert state_errors(states, reference)[1] == pytest.approx(0.5)
        assert state_errors(states[:, :2], reference)[0] == float("inf")

    def test_waves_fit_into_the_memory(self) -> None:
        entries, _ = choose_encoders(("ufbert", "ufbert-dense"), ("float32", "bfloat16"), "cpu")
        assert [len(wave) for wave in waves(entries, 10.0, 40)] == [3, 1]
        assert [len(wave) for wave in waves(entries, 10.0, None)] == [4]
        assert [len(wave) for wave in waves(entries, 100.0, 40)] == [1, 1, 1, 1]


class TestWorker:
    def test_a_process_serves_says_why_it_failed_and_ends(self, settings: BenchmarkSettings, job: Job) -> None:
        write_models(settings, job)
        with Worker(1, ours=True) as worker:
            assert set(worker.ask("load", job=job.to_dict())["versions"]) == {"torch", "numba"}
            states = job.path / "states.npy"
            worker.ask("check", ids=str(job.path / "checked.npy"), states=str(states))
            assert state_errors(np.load(states), np.load(job.path / "reference-fff.npy"))[1] < 1e-4
            assert worker.ask("shape", batch=2)["seconds_per_call"] > 0
            assert len(worker.ask("sample", calls=3, warm_up=1)["seconds"]) == 3
            assert worker.resident_bytes is None or worker.resident_bytes > 10**7
            missing = {**job.to_dict(), "options": {"model": "nowhere"}}
            with pytest.raises(WorkerError, match="nowhere"):
                worker.ask("load", job=missing)
            with pytest.raises(WorkerError):
                worker.ask("shape", batch=1)
        assert worker._process.returncode is not None

    def test_one_that_hangs_is_ended(self) -> None:
        with Worker(1, ours=True) as worker, pytest.raises(WorkerError, match="no answer within 0 s"):
            worker.ask("load", limit=0.01, job={})

    def test_peers_get_no_wait_policy_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from ufbert.benchmark.models.peers.process import environment

        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        assert "OMP_WAIT_POLICY" not in environment(2, ours=False)
        assert environment(2, ours=True)["OMP_WAIT_POLICY"] == "PASSIVE"
        assert environment(2, ours=True)["OMP_NUM_THREADS"] == "2"
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        assert environment(2, ours=False)["OMP_WAIT_POLICY"] == "ACTIVE"


LIMITS = {"threads": 1, "gigaflops": {}, "gigabytes_per_second": {"L1": 1.0}}
COMMAND = [
    "bench", "encoder", "--hidden-size=24", "--depth=3", "--batch=1,3", "--layers=2", "--threads=1", "--seconds=0.1",
    f"--sequence-length={LENGTH}",
]  # fmt: skip


class TestCommand:
    @pytest.fixture(autouse=True)
    def quick(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run, "measure_limits", lambda *_: LIMITS)
        monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(encoder_processes, "Worker", InProcess)
        monkeypatch.setattr(encoder, "Worker", InProcess)

    def call(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*COMMAND, *arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    def test_ours_and_the_peers_in_one_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for package in ("transformers", "onnx", "onnxruntime", "openvino", "matplotlib"):
            pytest.importorskip(package, reason="needs the extras peers and plot")
        names = "ufbert,ufbert-dense,ufbert-reference,transformers,transformers-cast,onnxruntime,openvino"
        code, out, err = self.call(capsys, f"--implementations={names}", "--json=out.json", "--plot=figure.svg")
        assert code == 0, err
        for text in (
            "Encoder, forward: 2 layers, sequences of 16 tokens", "p99 ms", "Where a token's time goes in ufbert",
            "projections", "tokenisation", "Paths (mean of 2 layers)", "Exporting: reference", "Versions: ",
        ):  # fmt: skip
            assert text in out
        document = json.loads((tmp_path / "out.json").read_text())
        rows = {(r["implementation"], r["dtype"], r["batch"]) for r in document["results"]}
        assert len(rows) == len(document["results"])
        expected = {
            ("ufbert", "float32"), ("ufbert-dense", "float32"), ("ufbert-reference", "float32"),
            ("transformers", "float32"), ("transformers", "bfloat16"), ("transformers-cast", "bfloat16"),
            ("onnxruntime", "float32"), ("onnxruntime", "int8"), ("openvino", "float32"), ("openvino", "bfloat16"),
        }  # fmt: skip
        assert {(name, dtype) for name, dtype, _ in rows} >= expected
        for row in document["results"]:
            assert row["layer"] == ("fff" if row["implementation"] in ("ufbert", "ufbert-reference") else "ff")
            assert row["microseconds_per_token"] == pytest.approx(1e6 / row["tokens_per_second"])
            assert row["tokens_per_second"] == pytest.approx(LENGTH * row["texts_per_second"])
            assert row["error"] <= TOLERANCE[row["dtype"]]
            latency = row["latency_milliseconds"]
            assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
            assert latency["calls"] >= row["samples"] >= 3
            peers = [r for r in document["results"] if r["peer"] and r["batch"] == row["batch"]]
            fastest = max(r["tokens_per_second"] for r in peers)
            assert row["speedup_over_peer"] == pytest.approx(row["tokens_per_second"] / fastest)
        assert {(b["dtype"], b["batch"]) for b in document["breakdown"]} >= {("float32", 1), ("float32", 3)}
        for entry in document["breakdown"]:
            times = entry["microseconds_per_token"]
            assert sum(times["parts"].values()) == pytest.approx(times["whole"])
            assert sum(entry["shares"].values()) == pytest.approx(1)
            assert times["tokenisation"] > 0
        assert set(document["processes"]["export_seconds"]) == {"reference", "onnx", "onnx-int8", "openvino"}
        figure = (tmp_path / "figure.svg").read_text()
        for text in ("batch 3, 1 thread", "onnxruntime int8", "tokens a second", "FFF", "microseconds a token"):
            assert text in figure

    def test_without_peers_ours_is_timed_and_they_are_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        names = "ufbert,ufbert-dense,transformers,openvino"
        code, out, _ = self.call(capsys, f"--implementations={names}", "--dtype=float32", "--json=out.json")
        assert code == 0
        flat = " ".join(out.split())
        assert "ff transformers (transformers needs transformers; install it with: pip install 'ufbert[peers]')" in flat
        document = json.loads((tmp_path / "out.json").read_text())
        assert {r["implementation"] for r in document["results"]} == {"ufbert", "ufbert-dense"}
        assert {r["speedup_over_peer"] for r in document["results"]} == {None}
        assert {a["implementation"] for a in document["absent"]} == {"transformers", "openvino"}

    def test_a_wrong_encoder_is_named_not_timed_and_ends_the_run_with_an_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(Ours, "states", lambda _self, result: np.zeros(tuple(result.shape), np.float32))
        code, out, err = self.call(capsys, "--implementations=ufbert", "--dtype=float32")
        assert code == 1
        assert "WRONG RESULT, not timed in float32: fff ufbert (hidden states differ from the reference by 1" in out
        assert err.splitlines()[-1] == "error: wrong results, hence not timed: ufbert; see the end of the table"

    def test_an_encoder_that_dies_is_absent_and_the_others_go_on(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Mortal(InProcess):
            def ask(self, do: str, *, limit: float = 0.0, **request: Any) -> dict[str, Any]:
                if do == "sample" and self.server.job.options["model"] == "dense":
                    raise WorkerError("its process was ended by signal 9; memory may not suffice")
                return super().ask(do, limit=limit, **request)

        monkeypatch.setattr(encoder_processes, "Worker", Mortal)
        code, out, _ = self.call(capsys, "--implementations=ufbert,ufbert-dense", "--dtype=float32")
        assert code == 0
        assert "Not timed in float32: ff ufbert-dense (batch 1: its process was ended by signal 9" in out
        assert "│ 3     │ ufbert  " in out

    def test_a_model_larger_than_the_memory_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["bench", "encoder", "--preset=gpt3", "--threads=1"])
        assert end.value.code == 1
        assert "error: an encoder of this shape needs about" in capsys.readouterr().err
