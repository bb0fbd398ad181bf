"""The errors of one dense layer's substitutes over the number of neurons that a token uses.

All of them are fitted on the same tokens by weighted ridge regression with an intercept, and measured on others:

- **oracle**: for each token its k neurons of the greatest |activation| |w_out|, as if somebody told which; the output
  weights are fitted anew. It is no bound: it picks by size alone, where a search could pick those that fit together.
- **fixed**: the same k neurons for all tokens, by orthogonal matching pursuit, output weights fitted anew.
- **beside rows**: the same k neurons for all tokens, beside a row for each of the most frequent tokens.
- **linear**: the best linear map of rank k from the layer's input; it costs as many products as k neurons.
- **trees**: the trees of `ufbert convert` before their training: neurons placed, output weights fitted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ufbert.conversion.distillation.token_rows import RankedRows
from ufbert.conversion.distillation.tree_initialization import PLACEMENT_TOKENS, activations_of, place_neurons
from ufbert.model.fff import FFF
from ufbert.model.shapes import FeedforwardShape
from ufbert.model.token_rows import TokenRows

from .least_squares import LeastSquares, apply_map
from .results import LayerCurves, Point
from .sample import Chunk, LayerUnderStudy
from .tree_shapes import shape_for, visited

__all__ = ["analyse_layer"]

TOKEN_ROWS = 16_384  # or as many as the vocabulary has
Features = Callable[[Chunk], torch.Tensor]


@torch.no_grad()
def analyse_layer(
    study: LayerUnderStudy, neurons: Sequence[int], depth: int | None, report: Callable[[str], None]
) -> LayerCurves:
    """Measure all substitutes at each of `neurons`; `report` is told what comes next, `len(neurons) + 2` times.

    Every entry of `neurons` is at most the layer's width; `depth` is that of the trees, None chooses it.
    """
    report("fixed, linear")
    fixed, linear = _fixed(study, neurons), _linear(study, neurons)
    report("token rows")
    rows = _beside_rows(study, neurons)
    oracle, trees = [], []
    for k in neurons:
        report(f"{k} neurons")
        oracle.append(Point(k, _oracle(study, k)))
        if (shape := shape_for(k, depth)) is not None:
            trees.append(Point(visited(shape), _trees(study, shape), f"{shape.trees}x{shape.depth}", k))
    return LayerCurves(oracle=oracle, fixed=fixed, linear=linear, trees=trees, rows=rows)


def strongest(chunk: Chunk, sizes: torch.Tensor, k: int) -> torch.Tensor:
    """Activations (n, I) of each token's k neurons of the greatest |activation| * `sizes` (I,) among zeros."""
    chosen = (chunk.activations.abs() * sizes).topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(chunk.activations).scatter(1, chosen, chunk.activations.gather(1, chosen))


def _oracle(study: LayerUnderStudy, k: int) -> float:
    columns = study.dense.linear_out.weight.T
    sizes = columns.norm(dim=1)

    def features(chunk: Chunk) -> torch.Tensor:
        return strongest(chunk, sizes, k)

    coefficients = _regress(study, features, len(sizes)).ridge(columns)
    return study.error(lambda chunk: apply_map(features(chunk), coefficients))


def _fixed(study: LayerUnderStudy, neurons: Sequence[int]) -> list[Point]:
    columns = study.dense.linear_out.weight.T
    sums = _regress(study, lambda chunk: chunk.activations, len(columns))
    order = sums.pursuit(max(neurons))
    points = []
    for k in neurons:
        chosen = order[:k]
        coefficients = sums.ridge(columns, keep=chosen)
        points.append(Point(k, study.error(_selected(chosen, coefficients))))
    return points


def _selected(chosen: torch.Tensor, coefficients: torch.Tensor) -> Features:
    return lambda chunk: apply_map(chunk.activations[:, chosen], coefficients)


def _beside_rows(study: LayerUnderStudy, neurons: Sequence[int]) -> list[Point]:
    """Of no neurons, and of each of `neurons`; nothing where the study does not know its tokens."""
    if study.tokens is None:
        return []
    table = TokenRows(min(TOKEN_ROWS, len(study.tokens.ranks)), study.fitting.shape[1], study.device)
    rows, sample = RankedRows(table, study.tokens), study.sample()
    rows.fit(study.layer, sample, torch.zeros_like)
    points = [Point(0, study.error(lambda chunk: _rows_of(rows, chunk)))]
    rows.fit(study.layer, sample, None)
    columns = study.dense.linear_out.weight.T
    sums = LeastSquares(len(columns), study.fitting.shape[1], study.device)
    for chunk in study.chunks(study.fitting, study.fitting_ids):
        sums.add(chunk.activations, chunk.y - _rows_of(rows, chunk), chunk.weights)
    order = sums.pursuit(max(neurons))
    for k in neurons:
        chosen = order[:k]
        coefficients = sums.ridge(columns, keep=chosen)
        said = _said_by(study, chosen, coefficients)
        rows.fit(study.layer, sample, said)
        points.append(Point(k, study.error(lambda chunk: said(chunk.x) + _rows_of(rows, chunk))))  # noqa: B023  at once
    return points


def _said_by(
    study: LayerUnderStudy, chosen: torch.Tensor, coefficients: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What these neurons make of the layer's input (n, H)."""
    return lambda x: apply_map(study.dense.activations(x)[:, chosen], coefficients)


def _rows_of(rows: RankedRows, chunk: Chunk) -> torch.Tensor:
    assert chunk.token_ids is not None
    return rows(chunk.token_ids)


def _linear(study: LayerUnderStudy, neurons: Sequence[int]) -> list[Point]:
    hidden = study.fitting.shape[1]
    maps = _regress(study, lambda chunk: chunk.x, hidden).low_rank([min(k, hidden) for k in neurons])
    return [Point(k, study.error(_mapped(coefficients))) for k, coefficients in zip(neurons, maps, strict=True)]


def _mapped(coefficients: torch.Tensor) -> Features:
    return lambda chunk: apply_map(chunk.x, coefficients)


def _trees(study: LayerUnderStudy, shape: FeedforwardShape) -> float:
    layer = FFF(study.fitting.shape[1], shape.trees, shape.depth, output_bias=True, device=study.device)
    place_neurons(layer, study.dense, study.fitting[:PLACEMENT_TOKENS].float())

    def features(chunk: Chunk) -> torch.Tensor:
        return activations_of(layer, chunk.x)

    coefficients = _regress(study, features, layer.trees * layer.nodes).ridge(layer.w_out.flatten(0, 1))
    return study.error(lambda chunk: apply_map(features(chunk), coefficients))


def _regress(study: LayerUnderStudy, features: Features, count: int) -> LeastSquares:
    """The sums of the regression of the layer's output on so many features, over the fitting tokens."""
    sums = LeastSquares(count, study.fitting.shape[1], study.device)
    for chunk in study.chunks(study.fitting):
        sums.add(features(chunk), chunk.y, chunk.weights)
    return sums
