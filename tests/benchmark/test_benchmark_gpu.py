"""`ufbert bench --device cuda` as far as it can be tested without a GPU: what is compared, how, and what is absent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from benchmark_figures import figure

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.benchmark.layer.gpu_layers import no_gpu_kernels, no_kernels_on
from ufbert.benchmark.layer.roster import available
from ufbert.benchmark.machine.limits import Traffic, share_of_limit
from ufbert.benchmark.machine.tensor_float import in_tf32, tf32
from ufbert.benchmark.models.training import ModelBenchmark
from ufbert.benchmark.report.results import Report, Result, compare
from ufbert.benchmark.report.tables import show
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Clock, Contestant, TimeBudget, calibrate, race
from ufbert.cmm import operator as operator
from ufbert.cmm.operator import cmm, resolve_backend
from ufbert.cuda import launcher, machine
from ufbert.cuda.unavailable import MISSING_EXTRA
from ufbert.errors import BackendError
from ufbert.inference.engine.prepare import _convert
from ufbert.model.fff import FFF

GPU = torch.device("cuda", 0)
COMMAND = "pip install 'ufbert[cuda]'"
LIMITS: dict[str, Any] = {
    "gigaflops": {"float32": 100.0, "tf32": 400.0},
    "gigabytes_per_second": {"L2": 5000.0, "DRAM": 3000.0},
    "cache_bytes": {"L2": 50 << 20},
}


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine with a GPU and without cuda-core; the line it gives."""
    for module in (machine, launcher):
        monkeypatch.setattr(module, "availability", lambda *_: MISSING_EXTRA)
    cached = (operator._unavailable, operator._tell_slow)
    for function in cached:
        function.cache_clear()
    yield MISSING_EXTRA
    for function in cached:
        function.cache_clear()


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (machine, launcher):
        monkeypatch.setattr(module, "availability", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def on_gpu(layer: str, name: str, microseconds: float, **changes: Any) -> Result:
    limits = {"share_of_compute_limit": 0.1, "share_of_memory_limit": 0.2, "memory_level": "L2"}
    return figure(layer, name, microseconds, **{"device": "cuda", "limits": limits, **changes})


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize(
    ("dtype", "direction", "names"),
    [
        (
            "float32",
            "forward",
            "torch-eager torch-compiled torch-autotuned torch-eager-tf32 torch-compiled-tf32 torch-autotuned-tf32 "
            "torch-bmm path-eager torch-bmm cuda-naive ufbert path-ufbert",
        ),
        (
            "bfloat16",
            "forward",
            "torch-eager torch-compiled torch-autotuned torch-bmm path-eager torch-bmm cuda-naive ufbert path-ufbert",
        ),
        (
            "bfloat16",
            "training",
            "torch-eager torch-compiled torch-autotuned path-eager torch-bmm ufbert path-ufbert",
        ),
    ],
)
def test_a_gpu_is_given_the_papers_columns_and_the_strongest_dense_layers(
    dtype: str, direction: str, names: str
) -> None:
    chosen, absent = available(GPU, dtype, direction, ())
    assert [i.name for i in chosen] == names.split()
    assert [a.implementation for a in absent if "tf32" not in a.implementation] == []


def test_without_the_extra_torchs_masked_product_does_not_pass_for_ours(without_extra: str) -> None:
    chosen, absent = available(GPU, "bfloat16", "forward", ("cuda-naive", "ufbert", "path-ufbert", "torch-eager"))
    assert [i.name for i in chosen] == ["torch-eager"]
    assert {a.implementation: a.reason for a in absent} == dict.fromkeys(
        ("cuda-naive", "ufbert", "path-ufbert"), without_extra
    )
    assert COMMAND in without_extra
    assert no_kernels_on(torch.device("cpu")) is None
    settings = BenchmarkSettings.from_options(subject="training", device="cuda", implementations="ufbert,torch-eager")
    models = ModelBenchmark(settings, GPU, TimeBudget(1.0), lambda _: None)
    assert [v.name for v in models.variants()] == ["torch-eager"]
    assert [(a.implementation, a.reason) for a in models.absent] == [("ufbert", without_extra)]


def test_without_the_extra_the_torch_path_runs_and_the_command_is_told_once(
    without_extra: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_backend("auto", GPU) == "reference"
    assert resolve_backend("auto", GPU) == "reference"
    (record,) = caplog.records
    assert record.getMessage().startswith(without_extra)
    assert COMMAND in record.getMessage()
    with pytest.raises(BackendError) as caught:
        resolve_backend("cuda", GPU)
    assert str(caught.value) == without_extra
    # The same choice for tensors that this machine has.
    monkeypatch.setattr(operator, "_unavailable", lambda *_: without_extra)
    layer = FFF(8, 1, 2)
    x = torch.randn(5, 8)
    assert torch.equal(layer(x), cmm(x, layer.w_in, layer.b_in, layer.w_out, "auto"))
    layer.backend = "cuda"
    with pytest.raises(BackendError, match="pip install"):
        layer(x)


def test_a_gpu_too_old_for_the_compiler_computes_with_torch_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "_open_driver", object)
    monkeypatch.setattr(machine, "_gpu_count", lambda: 1)
    monkeypatch.setattr(machine, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(machine, "compiler_version", lambda: (13, 0))
    monkeypatch.setattr(machine, "supported_architectures", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr(machine, "architecture", lambda _: "sm_61")
    cached = (machine.availability, operator._unavailable, operator._tell_slow)
    for function in cached:
        function.cache_clear()
    try:
        assert resolve_backend("auto", GPU) == resolve_backend("auto", GPU) == "reference"
        (record,) = caplog.records
        line = (
            "the installed NVRTC 13.0 builds for sm_75 to sm_90, and this GPU is of architecture sm_61; CUDA 12 may "
            "still: pip install 'cuda-core[cu12]'"
        )
        assert record.getMessage() == f"{line}; until then torch computes every neuron and masks most of them"
        with pytest.raises(BackendError, match=f"^{re.escape(line)}$"):
            resolve_backend("cuda", GPU)
        assert no_gpu_kernels() == no_kernels_on(GPU) == line
    finally:
        for function in cached:
            function.cache_clear()


@pytest.mark.skipif(launcher.availability() is None, reason="there is a GPU")
def test_without_a_gpu_the_backend_is_one_line() -> None:
    with pytest.raises(BackendError) as caught:
        FFF(8, 1, 2, backend="cuda")(torch.randn(3, 8))
    assert str(caught.value).startswith("the CUDA backend needs")
    assert "\n" not in str(caught.value)


def test_a_gpus_batches_are_large_unless_given() -> None:
    assert BenchmarkSettings.from_options(device="cuda").batches == (1, 128, 1024, 16384, 131072)
    assert BenchmarkSettings.from_options(device="cuda", direction="training").batches == (1024, 16384, 131072)
    assert BenchmarkSettings.from_options(device="cuda", batches="7").batches == (7,)


def test_tf32_is_on_inside_its_calls_only() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with tf32(False):
        assert in_tf32(lambda x: (x, matmul.allow_tf32))(1) == (1, True)
        assert not matmul.allow_tf32
    assert matmul.allow_tf32 == before


def test_speedups_over_dense_layers_with_and_without_tf32_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    ours = on_gpu("fff", "ufbert", 2.0)
    flushed = on_gpu("fff", "ufbert", 4.0, weights="flushed")
    results = [
        on_gpu("ff", "torch-eager", 20.0), on_gpu("ff", "torch-compiled", 18.0),
        on_gpu("ff", "torch-eager-tf32", 6.0, tf32=True), ours,
        on_gpu("ff", "torch-eager", 24.0, weights="flushed"), flushed,
    ]  # fmt: skip
    compare(results)
    assert ours.fastest_dense == "torch-compiled"
    assert ours.speedup_over_dense == pytest.approx(9)
    assert ours.fastest_dense_tf32 == "torch-eager-tf32"
    assert ours.speedup_over_dense_tf32 == pytest.approx(3)
    assert flushed.speedup_over_dense == pytest.approx(6)
    assert flushed.speedup_over_dense_tf32 is None
    assert ours.to_dict()["speedup_over_dense_tf32"] == pytest.approx(3)
    settings = BenchmarkSettings.from_options(device="cuda", dtypes="float32", batches="4")
    software = dict.fromkeys(("torch", "numba", "numpy"), "1")
    described = {"gpu": "a GPU", "usable_cores": 1, "limits": LIMITS, **software}
    show(Report(settings, described, results=results))
    out = capsys.readouterr().out
    assert "reading L2 5,000, DRAM 3,000 GB/s" in out
    assert "float32, one layer, the GPU's L2 cache overwritten before each call" in " ".join(out.split())
    (line,) = [line for line in out.splitlines() if "over the fastest dense in TF32" in line]
    assert "3.0x" in line


def test_shares_are_of_the_gpus_own_memory() -> None:
    shape = Shape(hidden_size=768, trees=1, depth=11)
    traffic = Traffic(shape, 12, 16384, 4, per_token=True)
    weights = shape.weight_bytes(4095, 4)
    warm = share_of_limit(traffic, 1e-3, "float32", weights, LIMITS)
    assert warm["memory_level"] == "L2"
    assert warm["share_of_memory_limit"] == pytest.approx(traffic.bytes / 1e-3 / 1e9 / 5000)
    assert share_of_limit(traffic, 1e-3, "float32", weights, LIMITS, flushed=True)["memory_level"] == "DRAM"
    rounded = share_of_limit(traffic, 1e-3, "tf32", weights, LIMITS)
    assert rounded["share_of_compute_limit"] == pytest.approx(warm["share_of_compute_limit"] / 4)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens on a pretended GPU, in order; each call takes 2 ms between its events."""
    happened: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            happened.append("event")

        def elapsed_time(self, _: Any) -> float:
            return 2.0

    class Flood:
        def zero_(self) -> None:
            happened.append("flush")

    def empty(size: int, **_: Any) -> Flood:
        assert size >= 4 * (50 << 20)
        return Flood()

    class Properties:
        L2_cache_size = 50 << 20

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch, "empty", empty)
    return happened


def test_the_cache_is_flushed_outside_the_timed_span(pretended: list[str]) -> None:
    clock = Clock(GPU)
    calls = [(pretended.append, "a"), (pretended.append, "b")]
    assert clock.time(calls, flushed=True) == pytest.approx(4e-3)
    assert pretended == ["wait", "flush", "event", "a", "event", "flush", "event", "b", "event", "wait"]
    pretended.clear()
    assert clock.time(calls) == pytest.approx(2e-3)  # from the first to the last
    assert pretended == ["wait", "event", "a", "b", "event", "wait"]


def test_flushed_contestants_are_flushed_in_every_sample(pretended: list[str]) -> None:
    contestant = Contestant("a", [pretended.append], ["call"], flushed=True)
    clock = Clock(GPU)
    calibrate(contestant, clock)
    assert contestant.seconds_per_call == pytest.approx(2e-3)
    race([contestant], clock, 0.0)
    assert contestant.samples == pytest.approx([2e-3] * len(contestant.samples))
    assert pretended.count("call") == pretended.count("flush") > 5


@pytest.fixture
def autocast_on_gpu() -> Iterator[None]:
    """As inside `torch.autocast("cuda", torch.bfloat16)`, which refuses to begin without a GPU."""
    dtype = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.usefixtures("autocast_on_gpu")
def test_autocast_on_a_gpu_casts_as_a_linear_layer_does() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert operator._autocast_dtype("cuda", dtype) == torch.bfloat16
    assert operator._autocast_dtype("cuda", torch.float64) is None
    assert operator._autocast_dtype("cpu", torch.float32) is None
    torch.set_autocast_enabled("cuda", False)
    assert operator._autocast_dtype("cuda", torch.float32) is None


def test_what_autocast_casts_gets_its_gradients_in_its_own_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with the CPU's tensors; also compiled, where the casts are part of the graph."""
    monkeypatch.setattr(operator, "_autocast_dtype", lambda *_: torch.bfloat16)
    layer = FFF(8, 2, 2, initializer_range=0.5)
    x = torch.randn(20, 8, requires_grad=True)
    gradients = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        y = run(x)
        assert y.dtype == torch.bfloat16
        gradients.append(torch.autograd.grad(y.float().sum(), (x, layer.w_in, layer.b_in, layer.w_out)))
    for eager, compiled in zip(*gradients, strict=True):
        assert eager.dtype == torch.float32
        torch.testing.assert_close(eager, compiled)


def test_inference_on_a_gpu_converts_the_trees_once(tiny_config: UltraFastBertConfig) -> None:
    model = UltraFastBertForMaskedLM(tiny_config)
    _convert(model, "bfloat16")
    trees = [module for module in model.modules() if isinstance(module, FFF)]
    assert len(trees) == tiny_config.num_hidden_layers
    for layer in trees:
        for weight in (layer.w_in, layer.b_in, layer.w_out):
            assert weight.dtype == torch.bfloat16
            assert weight.to(torch.bfloat16) is weight  # what autocast's cast then is
    assert model.get_parameter("encoder.layers.0.feedforward_norm.weight").dtype == torch.float32
