"""The analysis of dense layers: on layers whose answer is known, and its parts against what defines them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ufbert import FFF, UltraFastBertConfig
from ufbert.conversion.analysis.curves import analyse_layer
from ufbert.conversion.analysis.least_squares import RIDGE, LeastSquares, apply_map
from ufbert.conversion.analysis.results import LayerCurves, Point
from ufbert.conversion.analysis.sample import LayerUnderStudy
from ufbert.conversion.analysis.tree_shapes import shape_for
from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import relative_error
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.shapes import FeedforwardShape

HIDDEN = 16


def silent(_: str) -> None:
    """Nobody watches."""


def new_layer(neurons: int, *, gated: bool = False, norm_position: str = "post") -> tuple[Layer, DenseFeedforward]:
    config = UltraFastBertConfig(
        hidden_size=HIDDEN,
        num_attention_heads=2,
        feedforward="dense",
        intermediate_size=neurons,
        is_gated_act=gated,
        use_bias=True,
        norm_position=norm_position,
    )
    layer = Layer(config)
    assert isinstance(layer.feedforward, DenseFeedforward)
    with torch.no_grad():
        for parameter in layer.feedforward.parameters():
            parameter.normal_(std=0.5)
    return layer.requires_grad_(False), layer.feedforward


def errors(points: list[Point]) -> list[float]:
    return [point.error for point in points]


def test_a_layer_of_disjoint_groups_is_all_the_oracles() -> None:
    """Each token wakes the two neurons of its group, of sixteen groups: two are enough, if one knows which."""
    torch.manual_seed(0)
    layer, dense = new_layer(2 * HIDDEN, norm_position="pre")
    with torch.no_grad():
        dense.linear_in.weight.copy_(torch.eye(HIDDEN).repeat_interleave(2, 0) * 6.0)
        dense.linear_in.weight[::2] *= 1.5
        dense.linear_in.bias.fill_(-5.0)
        dense.linear_out.weight.normal_()
    group = torch.randint(HIDDEN, (3000,))
    x = torch.eye(HIDDEN)[group] * (1.0 + torch.rand(3000, 1))
    curves = analyse_layer(LayerUnderStudy(layer, x[:2000], x[2000:]), [2, 32], None, silent)
    assert curves.oracle[0].error < 1e-3
    assert curves.fixed[0].error > 0.7
    assert curves.linear[0].error > 0.4
    assert errors([curves.fixed[1], curves.oracle[1]]) == pytest.approx([0.0, 0.0], abs=1e-4)
    assert curves.routing_can_pay
    assert curves.conclusion(2).startswith("choosing for each token could be worth 0.")
    fixed, trees, oracle = (curves.at(2)[name].error for name in ("fixed", "trees", "oracle"))
    assert curves.share_of_way(2) == pytest.approx((fixed - trees) / (fixed - oracle))


def test_a_layer_that_is_linear_of_rank_three_needs_three_neurons_and_no_routing() -> None:
    torch.manual_seed(0)
    layer, dense = new_layer(24, norm_position="pre")
    with torch.no_grad():
        dense.linear_in.weight.copy_(torch.randn(24, 3) @ torch.randn(3, HIDDEN) * 0.1)
        dense.linear_in.bias.fill_(20.0)  # GELU is the identity there
    x = torch.randn(3000, HIDDEN)
    curves = analyse_layer(LayerUnderStudy(layer, x[:2000], x[2000:]), [3, 6], None, silent)
    assert errors(curves.linear) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert max(errors(curves.fixed)) < 0.05
    assert not curves.routing_can_pay
    assert curves.share_of_way(3) is None
    assert "routing cannot pay here" in curves.conclusion(3)
    assert "better narrow and dense" in curves.conclusion(3)


@pytest.mark.parametrize("gated", [False, True])
def test_more_neurons_are_no_worse_and_all_of_them_are_exact(gated: bool) -> None:
    torch.manual_seed(0)
    layer, _ = new_layer(40, gated=gated)
    x = torch.randn(6000, HIDDEN)
    numbers = [1, 3, 8, 20, 40]
    curves = analyse_layer(LayerUnderStudy(layer, x[:5000], x[5000:]), numbers, None, silent)
    for points in (curves.oracle, curves.fixed, curves.linear):
        assert [point.neurons for point in points] == numbers
        assert all(later <= earlier + 2e-3 for earlier, later in itertools.pairwise(errors(points)))
        assert errors(points)[0] > 0.3
    assert max(curves.oracle[-1].error, curves.fixed[-1].error) < 1e-6
    assert curves.linear[-1].error == pytest.approx(curves.linear[-2].error)  # its rank ends at the width of a token
    assert all(point.neurons <= point.among for point in curves.trees)


def test_trees_without_depth_are_the_dense_layer() -> None:
    torch.manual_seed(0)
    layer, _ = new_layer(24)
    x = torch.randn(3000, HIDDEN)
    curves = analyse_layer(LayerUnderStudy(layer, x[:2000], x[2000:]), [24], 0, silent)
    (point,) = curves.trees
    assert (point.neurons, point.shape, point.among) == (24, "24x0", 24)
    assert point.error < 1e-4


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_the_error_is_the_square_of_what_the_conversion_prints(norm_position: str) -> None:
    torch.manual_seed(0)
    layer, dense = new_layer(24, norm_position=norm_position)
    x = torch.randn(9000, HIDDEN)  # more than a chunk
    study = LayerUnderStudy(layer, x[:5000], x[5000:])
    torch.testing.assert_close(study.mean, dense(x[:5000]).mean(0))
    substitute = FFF(HIDDEN, 3, 2, output_bias=True, initializer_range=0.3).requires_grad_(False)
    wanted = relative_error(substitute, layer, LayerSample(x[5000:], dense(x[5000:])), study.mean)
    assert study.error(lambda chunk: substitute(chunk.x)) == pytest.approx(wanted**2, rel=1e-4)
    assert study.error(lambda chunk: chunk.y) == 0.0
    assert study.error(lambda chunk: study.mean.expand_as(chunk.y)) == pytest.approx(1.0)


def test_a_ridge_regression_in_chunks_is_that_of_all_tokens_at_once() -> None:
    torch.manual_seed(0)
    features, targets, weights = torch.randn(500, 6) + 1.0, torch.randn(500, 3), torch.rand(500, 1) + 0.5
    sums = LeastSquares(6, 3, torch.device("cpu"))
    for part in (slice(0, 200), slice(200, 500)):
        sums.add(features[part], targets[part], weights[part])
    towards = torch.randn(6, 3)
    for keep in (None, torch.tensor([4, 1])):
        columns = list(range(6)) if keep is None else keep.tolist()
        share = (weights.square() / weights.square().sum()).double().numpy()
        x, y = features[:, columns].double().numpy(), targets.double().numpy()
        root = weights.double().numpy()
        left, right = (root * (part - (share * part).sum(0)) for part in (x, y))
        ridge = np.sqrt(RIDGE * np.square(left).sum(0).mean())
        wanted = np.linalg.lstsq(
            np.concatenate([left, ridge * np.eye(len(columns))]),
            np.concatenate([right, ridge * towards[columns].double().numpy()]),
            rcond=None,
        )[0]
        intercept = (share * (y - x @ wanted)).sum(0)
        np.testing.assert_allclose(sums.ridge(towards, keep).numpy(), [*wanted, intercept], atol=1e-5)


def test_maps_of_low_rank_are_the_best_ones() -> None:
    """The least error of rank r is the full regression's plus what the smaller singular values of its fit hold."""
    torch.manual_seed(0)
    features = torch.randn(400, 6) @ torch.randn(6, 6) + 2.0
    targets = features @ torch.randn(6, 5) + torch.randn(400, 5) - 1.0
    sums = LeastSquares(6, 5, torch.device("cpu"))
    sums.add(features, targets, torch.ones(400, 1))
    maps = sums.low_rank([1, 3, 5])
    centred, wanted = (features - features.mean(0)).double(), (targets - targets.mean(0)).double()
    fit = centred @ torch.linalg.lstsq(centred, wanted).solution
    values = torch.linalg.svdvals(fit)
    rest = float((wanted - fit).square().sum())
    for rank, coefficients in zip([1, 3, 5], maps, strict=True):
        assert torch.linalg.matrix_rank(coefficients[:-1], rtol=1e-4) == rank
        error = float((targets - apply_map(features, coefficients)).square().sum())
        assert error == pytest.approx(rest + float(values[rank:].square().sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("neurons", "depth", "shape"),
    [
        (12, None, (2, 5)),
        (84, None, (12, 6)),
        (160, None, (22, 6)),
        (384, None, (76, 4)),  # 54x6 and 64x5 have too many nodes
        (384, 5, (64, 5)),
        (13, None, (2, 5)),  # none uses 95 % of them
        (240, 4, (48, 4)),
        (50, 4, (10, 4)),
        (8, 0, (8, 0)),
        (1, None, None),
        (4, 4, None),
        (20_000, None, None),
    ],
)
def test_trees_use_at_most_the_neurons_they_stand_for(
    neurons: int, depth: int | None, shape: tuple[int, int] | None
) -> None:
    assert shape_for(neurons, depth) == (None if shape is None else FeedforwardShape.of_trees(*shape))


def curves_of(fixed: float, oracle: float, trees: float | None, other_oracle: float = 0.1) -> LayerCurves:
    """At 8 neurons as given; at 4 with a gain that depends on `other_oracle`."""
    return LayerCurves(
        oracle=[Point(4, other_oracle), Point(8, oracle)],
        fixed=[Point(4, 0.6), Point(8, fixed)],
        linear=[Point(4, 0.5), Point(8, 0.4)],
        trees=[] if trees is None else [Point(6, trees, "2x2", 8)],
    )


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        (curves_of(0.5, 0.1, 0.4), "could be worth 0.400 with 8 neurons; our placement (2x2) goes 25% of that way"),
        (curves_of(0.5, 0.1, 0.6), "our placement (2x2, 0.600) is no better than the fixed choice"),
        (curves_of(0.5, 0.1, None), "there are no trees of so few neurons"),
        (
            curves_of(0.5, 0.47, 0.4),
            "with 8 neurons routing cannot pay: 0.500 by the fixed choice, 0.470 by",
        ),
        (
            curves_of(0.5, 0.47, 0.4, 0.58),
            "routing cannot pay here: nowhere is the oracle's error more than 0.05",
        ),
    ],
)
def test_conclusions_say_what_the_errors_say(curves: LayerCurves, sentence: str) -> None:
    assert sentence in curves.conclusion(8)
