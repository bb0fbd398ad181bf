"""The choice of a shape for each layer, on errors and times that are given."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ufbert.conversion.distillation.automatic import choice
from ufbert.conversion.distillation.automatic.candidates import candidate_shapes
from ufbert.conversion.distillation.automatic.choice import Option, furthest, least_error, useful, walk
from ufbert.conversion.distillation.automatic.errors import Pace
from ufbert.conversion.distillation.automatic.survey import LayerSurvey, Survey
from ufbert.conversion.distillation.automatic.times import MeasuredTimes
from ufbert.conversion.distillation.automatic.wish import Choice, Wish
from ufbert.conversion.student import StudentRequest
from ufbert.errors import ConfigError
from ufbert.model.shapes import FeedforwardShape, parse_shape

numbers = st.integers(0, 12).map(lambda n: n / 4)  # few values, so that ties occur
options = st.builds(Option, st.just("none"), numbers, numbers)
layers = st.lists(st.lists(options, min_size=1, max_size=4), min_size=1, max_size=4)


def total(chosen: Choice) -> tuple[float, float]:
    """Sum of the errors, and of the times."""
    return sum(o.error for o in chosen), sum(o.microseconds for o in chosen)


@given(layers, st.integers(0, 48).map(lambda n: n / 4))
def test_the_least_error_is_that_of_all_choices(layers: list[list[Option]], limit: float) -> None:
    fits = [total(chosen)[0] for chosen in itertools.product(*layers) if total(chosen)[1] <= limit]
    found = least_error(layers, limit)
    if not fits:
        assert found is None
        return
    assert found is not None
    assert all(option in layer for option, layer in zip(found, layers, strict=True))
    assert total(found)[0] == min(fits)
    assert total(found)[1] <= limit


def test_many_layers_are_chosen_nearly_as_well_and_never_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rolls = torch.rand(24, 9, 2, generator=generator, dtype=torch.float64)
    layers = [[Option("none", 1.0, 0.0), *(Option("2x1", float(e), float(t)) for e, t in layer)] for layer in rolls]
    best = dict.fromkeys((50, 1000), 0.0)
    for most in best:
        monkeypatch.setattr(choice, "MOST_STATES", most)
        found = least_error(layers, 3.0)
        assert found is not None
        best[most], spent = total(found)
        assert spent <= 3.0
    assert best[1000] <= best[50] <= 1.05 * best[1000]
    assert least_error(layers, 0.0) == tuple(layer[0] for layer in layers)


@given(layers)
def test_the_walk_goes_from_the_most_exact_to_the_fastest_by_the_cheapest_moves(layers: list[list[Option]]) -> None:
    steps = walk(layers)
    assert total(steps[0])[0] == sum(min(o.error for o in layer) for layer in layers)
    assert total(steps[-1])[1] == sum(min(o.microseconds for o in layer) for layer in layers)
    prices = []
    for before, after in itertools.pairwise(steps):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        (error, slow), (more, fast) = total(before), total(after)
        assert fast < slow
        assert more > error
        prices.append((more - error) / (slow - fast))
    assert prices == pytest.approx(sorted(prices))  # what is cheap in error comes first
    if prices:
        assert prices[0] == pytest.approx(
            min(
                (option.error - here.error) / (here.microseconds - option.microseconds)
                for layer, here in zip(layers, steps[0], strict=True)
                for option in useful(layer)
                if option.microseconds < here.microseconds
            )
        )


@given(st.integers(1, 40).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps - 1))))
def test_the_last_step_that_keeps_enough_is_found_by_few_measurements(case: tuple[int, int]) -> None:
    steps, last = case
    asked: list[int] = []

    def keeps(step: int) -> bool:
        asked.append(step)
        return step <= last

    assert furthest(steps, keeps) == last
    assert len(asked) <= steps.bit_length()
    assert 0 not in asked


def test_what_is_neither_faster_nor_more_exact_is_of_no_use() -> None:
    dense, narrow, tree, none = (
        Option("dense:9", 0, 9),
        Option("dense:3", 0.2, 3),
        Option("2x1", 0.3, 4),
        Option("none", 1, 0),
    )
    assert useful([dense, tree, none, narrow]) == [none, narrow, dense]


def test_candidates_of_common_widths() -> None:
    assert [str(shape) for shape in candidate_shapes(1536)] == [
        *("none", "dense:64", "dense:128", "dense:256", "dense:384", "dense:512", "dense:768"),
        *("12x6", "12x6+64", "24x5", "48x4"),
    ]
    assert [str(shape) for shape in candidate_shapes(64)] == ["none", "dense:16", "dense:32", "1x5", "1x5+16", "2x4"]
    assert [str(shape) for shape in candidate_shapes(16)] == ["none"]


def test_shapes_that_were_not_fitted_are_expected_to_take_what_their_kind_takes() -> None:
    pace = Pace()
    shapes = {text: parse_shape(text) for text in ("dense:16", "dense:32", "dense:64", "2x4")}
    assert pace.expected(shapes["dense:16"]) == 0.0
    pace.seconds[shapes["dense:16"]] = 2.0
    assert pace.expected(shapes["dense:32"]) == 2.0
    pace.seconds[shapes["dense:32"]] = 3.0
    assert pace.expected(shapes["dense:64"]) == 5.0
    assert pace.expected(shapes["dense:16"]) == 2.0
    assert pace.expected(shapes["2x4"]) == 0.0


TIMES = MeasuredTimes(30.0, {"dense:64": 10.0, "dense:16": 4.0, "2x1": 3.0, "none": 0.0}, "float32", 1024, "a machine")
OPTIONS = [Option("dense:64", 0.0, 10.0), Option("dense:16", 0.1, 4.0), Option("none", 1.0, 0.0)]


def wish(*, keep: float | None = None, speed: float | None = None, layers: tuple[int, ...] = (0, 1)) -> Wish:
    """Of a model of two layers of 64 neurons, which take 20 of its 30 microseconds."""
    return Wish(StudentRequest("", keep=keep, speed=speed), TIMES, ["dense:64", "dense:64"], layers)


def quality(chosen: Choice) -> float:
    return 1 - 0.1 * total(chosen)[0]


def shapes(chosen: Choice) -> list[str]:
    return [option.shape for option in chosen]


def test_a_speed_takes_the_least_error_that_reaches_it() -> None:
    chosen, expected, said = wish(speed=1.5).choose([OPTIONS, OPTIONS], None)
    assert sorted(shapes(chosen)) == ["dense:16", "dense:16"]  # 20 - 2 * 6 saved: 18 us; one alone would take 24
    assert expected is None
    assert said == "Chosen for --speed 1.5x: estimated to be 1.67 times as fast as the original"
    chosen, _, _ = wish(speed=3.0).choose([OPTIONS, OPTIONS], None)
    assert shapes(chosen) == ["none", "none"]


def test_a_speed_beyond_reach_says_what_can_be_had() -> None:
    with pytest.raises(ConfigError, match=r"^--speed 3.1x: without feedforward layers the model would be 3.00 times"):
        wish(speed=3.1)
    with pytest.raises(ConfigError, match=r"without feedforward layers in the layers 1 .* at most --speed 1.50x, or"):
        wish(speed=2.0, layers=(1,))


def test_a_quality_takes_the_fastest_that_keeps_it() -> None:
    chosen, expected, said = wish(keep=0.98).choose([OPTIONS, OPTIONS], quality)
    assert shapes(chosen) == ["dense:16", "dense:16"]
    assert expected == pytest.approx(0.98)
    assert said.endswith("1.67 times as fast as the original, and to keep 0.9800 before training")
    with pytest.raises(ConfigError, match=r"--keep 0.995: .* one layer of dense:16, the model keeps 0.9900 before"):
        wish(keep=0.995).choose([OPTIONS, OPTIONS], quality)
    with pytest.raises(ConfigError, match="no shape of any layer is faster"):
        wish(keep=0.5).choose([OPTIONS[:1], OPTIONS[:1]], quality)


def test_of_both_wishes_the_one_that_binds_first_is_followed_and_named() -> None:
    chosen, expected, said = wish(keep=0.7, speed=1.5).choose([OPTIONS, OPTIONS], quality)
    assert shapes(chosen) == ["dense:16", "dense:16"]
    assert expected == pytest.approx(0.98)
    assert said.startswith("Chosen for --speed 1.5x, which binds before --keep 0.7: ")
    chosen, expected, said = wish(keep=0.985, speed=1.5).choose([OPTIONS, OPTIONS], quality)
    assert sorted(shapes(chosen)) == ["dense:16", "dense:64"]
    assert expected == pytest.approx(0.99)
    assert said.startswith(
        "Chosen for --keep 0.985, which binds before --speed 1.5x (that would keep 0.9800 before training): "
    )


def test_a_survey_comes_back_as_it_was_kept() -> None:
    layer = LayerSurvey(0, "dense:64", {"dense:16": 0.1, "none": 1.0}, ["2x1"], [], "dense:16")
    survey = Survey(
        keep=None, speed=1.5, times=TIMES, layers=[layer], before=["dense:64"], after=["dense:16"], binds="so",
        quality="", expected=None, tokens=(9, 5), seconds=2.0,
    )  # fmt: skip
    assert Survey.from_dict(json.loads(json.dumps(survey.to_dict()))) == survey
    assert survey.shapes == (FeedforwardShape.of_dense(16),)
    assert survey.times_as_fast == pytest.approx(30 / 24)
    assert survey.rows() == [
        ["dense:64", "10", "0"], ["dense:16", "4", "0.100 *"], ["2x1", "3", "slow"], ["none", "0", "1.000"]
    ]  # fmt: skip
