"""The feedforward layers among which the choice for one layer is made, and the layers it is made for."""

from __future__ import annotations

from ufbert.conversion.distillation.student import check_layers, check_tokenizer
from ufbert.conversion.readers.checkpoint import LoadedCheckpoint
from ufbert.conversion.student import StudentRequest
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.shapes import FeedforwardShape

__all__ = ["candidate_shapes", "choosable_layers"]

# Widths as divisors of the original's; beyond a half, little time is saved.
DIVISORS = (24.0, 12.0, 6.0, 4.0, 3.0, 2.0)
# Kernels take neurons in sixteens, so what lies between costs as much.
MULTIPLE = 16
DEPTHS = (6, 5, 4)


def candidate_shapes(width: int, token_rows: int = 0) -> tuple[FeedforwardShape, ...]:
    """Shapes for a dense layer of `width` neurons, the cheapest to fit first; the layer itself is not among them.

    None, dense layers, and trees that have about as many nodes as the layer has neurons: of a layer of 1,536 neurons
    `none`, `dense:64` to `dense:768`, `12x6`, `12x6+64`, `24x5` and `48x4`. With `token_rows` all but `none` have
    them, and there are rows alone.
    """
    widths = sorted({max(MULTIPLE, MULTIPLE * round(width / divisor / MULTIPLE)) for divisor in DIVISORS})
    trees = [FeedforwardShape.of_trees(width >> (depth + 1), depth) for depth in DEPTHS if width >> (depth + 1)]
    if trees and widths[0] < width:
        trees.insert(1, FeedforwardShape.of_trees(trees[0].trees, trees[0].depth, widths[0]))
    dense = [FeedforwardShape.of_dense(neurons) for neurons in widths if neurons < width]
    shapes = FeedforwardShape("none"), *dense, *trees
    return (shapes[0], *(shape.with_rows(token_rows) for shape in shapes)) if token_rows else shapes


def choosable_layers(loaded: LoadedCheckpoint, request: StudentRequest) -> tuple[int, ...]:
    """The layers of the model whose shapes are to be chosen: those that `request` names, else all dense ones.

    Raises `ConfigError` for layers that the model lacks, `CheckpointError` for those that are not dense,
    and for a model without a tokenizer.
    """
    config, name = loaded.model.config, loaded.name
    check_layers("--layers", request.layers, config, name)
    dense = tuple(i for i, shape in enumerate(config.layer_shapes) if shape.kind == "dense" and not shape.token_rows)
    if request.token_rows > config.vocab_size:
        raise ConfigError(
            f"{request.options}: rows for {request.token_rows:,} tokens, and the vocabulary of {name} has "
            f"{config.vocab_size:,}"
        )
    for layer in request.layers:
        if layer not in dense:
            raise CheckpointError(
                f"{name}: layer {layer} has {config.layer_shape(layer).describe()}, and only dense layers can be "
                "distilled; choose others with --layers"
            )
    if not dense:
        raise CheckpointError(f"{name}: has no dense feedforward layers, and only those can be distilled")
    check_tokenizer(loaded)
    return request.layers or dense
