"""What `bench quality` makes of losses and times, by hand-made ones; and the width of equal time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ufbert.benchmark.quality.measure import Measured
from ufbert.benchmark.quality.plot import draw_quality
from ufbert.benchmark.quality.report import cells, columns, markdown, sentences
from ufbert.benchmark.quality.results import Results, Row, front, pooled_deviation
from ufbert.benchmark.quality.speed import Timing
from ufbert.benchmark.quality.widths import find_width


def row(name: str, kind: str, losses: list[float], float32: float, int8: float, time_of: str = "") -> Row:
    runs = {
        seed: Measured(
            run_id="a", corpus="b", loss=loss, blocks=10, tokens=1000, seconds=1.0, parameters=12_345,
            neurons_used=9, neurons_available=511,
        )
        for seed, loss in enumerate(losses, 1)
    }  # fmt: skip
    timings = {name: Timing(time, 0.9 * time, 1.1 * time, 5) for name, time in (("float32", float32), ("int8", int8))}
    return Row(name=name, feedforward=kind, time_of=time_of, runs=runs, timings=timings, expected=2)


@pytest.fixture
def results() -> Results:
    """Two seeds each, 0.2 apart: a standard deviation of 0.1414 in every variant."""
    rows = [
        row("none", "none", [4.9, 5.1], 10.0, 5.0),
        row("dense:511", "dense", [2.9, 3.1], 40.0, 20.0),
        row("1x8", "fff", [3.9, 4.1], 20.0, 12.0),
        row("4x6", "fff", [4.4], 25.0, 11.0),
        row("dense:time:1x8", "dense", [4.3, 4.5], 20.0, 8.0, time_of="1x8"),
    ]
    return Results(
        rows=rows, precisions=("float32", "int8"), precision="float32", reference="1x8", none="none", twin="dense:511"
    )


def test_the_table_holds_means_noise_gap_and_times(results: Results) -> None:
    assert results.noise == pytest.approx(math.sqrt(0.02))
    assert columns(results)[-4:] == ["tokens/s float32", "tokens/s int8", "time (float32)", "front"]
    table = {row.name: cells(results, row) for row in results.rows}
    # 2 of 5 to 3: (5 - 4) / (5 - 3); its error is sd / 2 * sqrt(1/2 + 0.25/2 + 0.25/2).
    assert table["1x8"] == [
        "1x8", "9", "511", "12,345", "1,000", "2", "4.0000 ±0.1414", "50% ±6", "50,000 ±10%", "83,333 ±10%", "1.0x",
        "float32, int8",
    ]  # fmt: skip
    assert table["4x6"][5:8] == ["1 of 2", "4.4000", "30% ±8"]
    assert [table[name][7] for name in ("none", "dense:511")] == ["0%", "100%"]
    assert [table[name][10] for name in table] == ["0.50x", "2.0x", "1.0x", "1.2x", "1.0x"]
    assert [table[name][11] for name in table] == ["float32, int8"] * 3 + ["-", "int8"]


def test_comparisons_are_in_standard_deviations_of_a_seed(results: Results) -> None:
    scale, equal = results.scale(), results.equal_times()
    assert scale is not None
    assert (scale.first, scale.second) == ("dense:511", "none")
    assert scale.difference == pytest.approx(-2.0)
    assert scale.deviations == pytest.approx(-2.0 / math.sqrt(0.02))
    assert [(c.first, c.second) for c in equal] == [("1x8", "dense:time:1x8")]
    assert equal[0].deviations == pytest.approx(-0.4 / math.sqrt(0.02))
    assert equal[0].times == {"float32": 1.0, "int8": 1.5}
    lines = sentences(results)
    assert "standard deviation of 0.1414 nats" in lines[0]
    assert lines[2] == (
        "Equal time: the loss of 1x8 is 0.4000 nats lower than that of dense:time:1x8 (2.8 sd), at 1.00x in float32, "
        "1.50x in int8 of its time"
    )
    results.rows.append(row("dense:time:4x6", "dense", [4.0], 25.0, 11.0, time_of="4x6"))
    assert [line.partition(" is ")[0] for line in sentences(results)[2:]] == [
        "Equal time, the best trees: the loss of 1x8",
        "Equal time: the loss of 4x6",
    ]
    assert lines[3] == "Without dense layers of equal time beside them (dense:time:NAME): 4x6"


def test_what_is_not_known_is_a_dash(results: Results) -> None:
    single = [row("1x8", "fff", [4.0], 20.0, 8.0), row("dense:time:1x8", "dense", [4.0], 20.0, 8.0, time_of="1x8")]
    single[1].timings = {}
    less = Results(rows=single, precisions=("float32",), precision="float32", reference="none", none="none", twin="")
    assert cells(less, single[0])[6:] == ["4.0000", "-", "50,000 ±10%", "-", "float32"]
    assert cells(less, single[1])[6:] == ["4.0000", "-", "-", "-", "-"]
    assert sentences(less)[0].startswith("Noise: unknown, as no variant has two finished seeds")
    assert sentences(less)[1].endswith("nats higher than that of dense:time:1x8")


def test_a_difference_within_the_noise_says_so(results: Results) -> None:
    results.rows[2].runs = row("1x8", "fff", [4.25, 4.45], 1.0, 1.0).runs
    assert "(0.4 sd, within the noise)" in sentences(results)[2]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({}, []),
        ({"a": (1.0, 5.0)}, ["a"]),
        ({"slow": (3.0, 4.0), "fast": (1.0, 5.0), "bad": (2.0, 5.0), "worse": (4.0, 4.5)}, ["fast", "slow"]),
        ({"same": (1.0, 5.0), "same time": (1.0, 4.0), "same loss": (2.0, 4.0)}, ["same time"]),
    ],
)
def test_the_front_holds_what_no_other_beats(points: dict[str, tuple[float, float]], expected: list[str]) -> None:
    assert front(points) == expected


def test_the_pooled_deviation_is_that_within_the_groups() -> None:
    assert pooled_deviation([[1.0, 3.0], [10.0, 11.0, 12.0], [7.0]]) == pytest.approx(math.sqrt((2.0 + 2.0) / 3))
    assert pooled_deviation([[1.0], []]) is None


def test_the_picture_and_the_file_are_written(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / "quality.svg", tmp_path / "quality.png"]
    draw_quality(results, "a title", paths)
    drawn = paths[0].read_text(encoding="utf-8")
    assert all(f">{name}</text>" in drawn for name in ("none", "4x6", "dense:time:1x8", "float32", "int8", "a title"))
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    text = markdown(results, "a title", ["a remark"], "quality.svg")
    assert text.startswith("# a title\n\n| variant | neurons used |")
    assert "![loss over time a token](quality.svg)" in text
    assert text.endswith("- a remark\n")


@pytest.mark.parametrize(("target", "width"), [(0.5, 8), (10.0, 8), (53.0, 48), (61.0, 56), (1000.0, 1000), (3.0, 8)])
def test_the_width_of_equal_time_is_the_widest_multiple_of_8_that_takes_no_longer(target: float, width: int) -> None:
    asked: list[list[int]] = []

    def measure(widths: list[int], seconds: float) -> tuple[float, dict[int, float]]:
        asked.append(widths)
        assert seconds > 0
        return target, {w: float(w) for w in widths}

    found, time, times = find_width(measure, 12.0)
    assert (found, time) == (width, target)
    assert all(w % 8 == 0 and w > 0 for widths in asked for w in widths)
    assert set(times) >= {width}


def test_a_wrong_timing_does_not_make_the_dense_layer_narrower() -> None:
    """Of 24 neurons and more: the first look at 32 says too long, the race says otherwise, and goes on upwards."""
    looks: list[int] = []

    def measure(widths: list[int], seconds: float) -> tuple[float, dict[int, float]]:
        looks.extend(widths)
        wrong = widths == [32]
        return 45.0, {w: 99.0 if wrong else float(w) for w in widths}

    width, _, times = find_width(measure, 12.0)
    assert width == 40
    assert times[48] > 45.0
