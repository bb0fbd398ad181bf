"""Ours in dense neurons: interpolation between widths, what lies beyond them, and what shared neurons cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ufbert.benchmark.layer.operands import draw_dense
from ufbert.benchmark.layer.preparation import PreparedImplementation
from ufbert.benchmark.layer.shared_part import shared_parts
from ufbert.benchmark.machine.limits import Traffic
from ufbert.benchmark.report.comparison_tables import bracket_cell
from ufbert.benchmark.report.comparisons import DenseWidth, Rung, Timed, Width, width_at
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Contestant


def taking(microseconds: float, spread: float = 0.0, name: str = "onednn-prepacked") -> Timed:
    low, high = microseconds * (1 - spread), microseconds * (1 + spread)
    return Timed(implementation=name, microseconds=microseconds, lower=low, upper=high)


def entry(ours: Timed, *rungs: tuple[int, Timed]) -> DenseWidth:
    return DenseWidth(dtype="float32", batch=8, neurons_visited=20, ours=ours, rungs=[Rung(n, t) for n, t in rungs])


@pytest.mark.parametrize(
    ("time", "expected", "text"),
    [
        (15.0, Width(150), "150"),
        (10.0, Width(100), "100"),
        (20.0, Width(200), "200"),
        (40.0, Width(1200), "1,200"),
        (9.9, Width(100, "<"), "< 100"),
        (40.1, Width(1200, ">"), "> 1,200"),
    ],
)
def test_a_time_is_a_width_between_two_and_never_beyond(time: float, expected: Width, text: str) -> None:
    found = width_at(time, [(200, 20.0), (100, 10.0), (1200, 40.0)])
    assert found.neurons == pytest.approx(expected.neurons)
    assert found.beyond == expected.beyond
    assert str(found) == text


def test_a_width_costs_no_more_than_a_wider_one() -> None:
    rungs = [(100, 10.0), (200, 24.0), (300, 20.0), (400, 30.0)]
    assert width_at(20.0, rungs) == Width(300)
    assert width_at(15.0, rungs) == Width(150)
    assert width_at(25.0, rungs) == Width(350)


def test_the_quartiles_of_both_make_the_uncertainty() -> None:
    found = entry(taking(20.0, 0.1), (100, taking(10.0, 0.1)), (300, taking(30.0, 0.1)))
    assert found.width.neurons == pytest.approx(200)
    # 18 between 11 and 33; 22 between 9 and 27.
    assert found.lower.neurons == pytest.approx(100 + 200 * 7 / 22)
    assert found.upper.neurons == pytest.approx(100 + 200 * 13 / 18)
    assert found.neuron_ratio == pytest.approx((20 / 20) / (30 / 300))
    document = found.to_dict()
    assert document["dense_width"] == {"neurons": pytest.approx(200), "beyond": None}
    assert document["rungs"][1]["microseconds_per_token"] == 30.0
    assert bracket_cell(found) == "100: 10.0, 300: 30.0"


@pytest.mark.parametrize(("time", "beyond", "beside"), [(5.0, "<", "100: 10.0"), (50.0, ">", "300: 30.0")])
def test_beyond_the_widths_the_nearest_is_shown(time: float, beyond: str, beside: str) -> None:
    found = entry(taking(time), (100, taking(10.0)), (300, taking(30.0)))
    assert found.to_dict()["dense_width"]["beyond"] == beyond
    assert bracket_cell(found) == beside


def test_shared_neurons_are_compared_turn_by_turn_with_the_faster_dense_layer() -> None:
    def raced(name: str, samples: list[float]) -> Contestant:
        implementation: Any = type("Named", (), {"name": name})()
        check: Any = None
        prepared = PreparedImplementation(implementation, [], 4, check)
        return Contestant((prepared, "warm"), [], [], samples=samples)

    settings = BenchmarkSettings.from_options(shared_neurons=8)
    cell: Any = type("Place", (), {"dtype_name": "float32", "batch": 4})()
    # The machine is twice as slow in the second turn.
    whole, trees = raced("ufbert", [13e-6, 26e-6, 13e-6]), raced("ufbert", [10e-6, 20e-6, 10e-6])
    slow, fast = raced("torch-eager", [4e-6, 8e-6, 4e-6]), raced("onednn-prepacked", [2e-6, 4e-6, 2e-6])
    (found,) = shared_parts([whole], [trees, slow, fast], cell, settings)
    assert found.dense.implementation == "onednn-prepacked"
    assert found.dense.microseconds == pytest.approx(0.5)
    assert [found.ratio.lower, found.ratio.upper] == pytest.approx([13 / 12] * 2)
    assert found.part.median == pytest.approx(1.5)
    assert found.to_dict()["shared_over_dense"]["upper"] == pytest.approx(1.5)


def test_a_narrowed_layer_is_the_first_neurons() -> None:
    whole = draw_dense(8, 12, 0, torch.float32, torch.device("cpu"))
    part = whole.narrowed(5)
    assert torch.equal(part.w_in, whole.w_in[:5])
    assert torch.equal(part.w_out, whole.w_out[:, :5])
    assert part.w_out.is_contiguous()


def test_all_tokens_read_the_shared_weights() -> None:
    shape = Shape(hidden_size=100, trees=1, depth=1, intermediate_size=3, shared_neurons=7)
    traffic = Traffic(shape, shape.neurons_visited, 10, 4, per_token=True, shared=7)
    assert traffic.operations == 4 * 9 * 100 * 10
    assert traffic.bytes == 2 * (2 * 10 + 7) * 100 * 4 + 2 * 10 * 100 * 4
