"""What a survey measures of each layer and of the whole, against the parts that it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.conversion.distillation.automatic.errors import BesideRows, LayerFits, Pace, fit_shapes
from ufbert.conversion.distillation.automatic.quality import ExpectedQuality, stored
from ufbert.conversion.distillation.dense_initialization import initialize_dense
from ufbert.conversion.distillation.layer_inputs import collect_layer_samples
from ufbert.conversion.distillation.layer_regression import relative_error
from ufbert.conversion.distillation.left_out import LeftOut
from ufbert.conversion.distillation.student import StudentPlan, new_student
from ufbert.conversion.distillation.texts import Batch
from ufbert.conversion.distillation.token_rows import RankedRows, RankedTokens
from ufbert.model.encoder import DenseFeedforward, Layer, UltraFastBertModel
from ufbert.model.pooling import pool
from ufbert.model.shapes import FeedforwardShape, parse_shape

SHAPES = tuple(map(parse_shape, ("none", "dense:8", "dense:16", "4x2", "2x3+4")))
BESIDE_ROWS = tuple(map(parse_shape, ("rows:20", "dense:8+rows:20", "4x2+rows:20")))


@pytest.fixture(params=[False, True], ids=["plain", "gated"])
def model(request: pytest.FixtureRequest) -> UltraFastBertForMaskedLM:
    """Two dense layers of 32 neurons with weights large enough to matter."""
    torch.manual_seed(0)
    config = UltraFastBertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
        feedforward="dense", intermediate_size=32, norm_position="post", final_norm=False, use_bias=True,
        position_embedding_type="absolute", initializer_range=0.3, is_gated_act=request.param,
    )  # fmt: skip
    return UltraFastBertForMaskedLM(config).eval().requires_grad_(False)


@pytest.fixture
def batches() -> list[Batch]:
    ids = torch.randint(5, 60, (8, 40, 12), generator=torch.Generator().manual_seed(1))
    return [Batch(rows, torch.ones_like(rows), None) for rows in ids]


@pytest.fixture
def fits(model: UltraFastBertForMaskedLM, batches: list[Batch]) -> list[LayerFits]:
    train = collect_layer_samples(model.encoder, batches[:6], 10_000)
    held_out = collect_layer_samples(model.encoder, batches[6:], 10_000)
    layers = [layer for layer in model.encoder.layers if isinstance(layer, Layer)]
    ranks = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    tokens = RankedTokens(ranks, model.encoder.embeddings.word.weight.detach())
    return [LayerFits(layers[i], model.config, train[i], held_out[i], tokens) for i in range(2)]


def test_each_shape_is_fitted_as_the_conversion_begins_with_it(fits: list[LayerFits]) -> None:
    here = fits[0]
    errors = {}
    for shape in (*SHAPES, *BESIDE_ROWS):
        error, fitted = here.fit(shape)
        errors[str(shape)] = error
        if isinstance(fitted, LeftOut):
            assert error == fitted.relative_error(here.teacher, here.held_out, here.mean) ** 2
        elif isinstance(fitted, BesideRows):
            assert here.tokens is not None
            rows = RankedRows(fitted.rows, here.tokens)
            both = relative_error(fitted.neurons, here.teacher, here.held_out, here.mean, rows)
            assert error == pytest.approx(both**2)
        else:
            assert error == pytest.approx(relative_error(fitted, here.teacher, here.held_out, here.mean) ** 2)
        if isinstance(fitted, DenseFeedforward):  # neurons are ranked once for all widths, which changes nothing
            alone = DenseFeedforward(here.config, fitted.neurons)
            initialize_dense(alone, here.dense, here.train.x, here.train.y)
            torch.testing.assert_close(fitted.state_dict(), alone.state_dict())
    assert 0 < errors["dense:16"] < errors["dense:8"] < errors["none"] <= 1.5
    assert errors["dense:8+rows:20"] < errors["dense:8"]
    assert errors["4x2+rows:20"] < errors["4x2"]
    assert errors["rows:20"] < 1


def test_what_would_not_be_ready_in_time_is_left_out(fits: list[LayerFits]) -> None:
    now = [0.0]
    seconds = {"none": 1.0, "dense:8": 2.0, "dense:16": 4.0, "4x2": 3.0, "2x3+4": 3.0}
    begun: list[str] = []

    def begins(shape: FeedforwardShape) -> None:
        begun.append(str(shape))
        now[0] += seconds[str(shape)]

    pace = Pace()
    found = fit_shapes(fits[0], SHAPES, pace, deadline=9.0, begins=begins, clock=lambda: now[0])
    # After 1 + 2 + 4 s nothing is known of trees, which are begun; after 10 s the next ones would end too late.
    assert list(map(str, found)) == begun == ["none", "dense:8", "dense:16", "4x2"]
    begun.clear()
    found = fit_shapes(fits[1], SHAPES, pace, deadline=14.5, begins=begins, clock=lambda: now[0])
    # At 11 s: dense:8 takes until 13 s, the others would end after the deadline.
    assert begun == ["none", "dense:8"]
    assert set(found) == set(SHAPES[:2])


@pytest.mark.parametrize("shapes", [("4x2", "none"), ("dense:32", "dense:8"), ("rows:20", "4x2+rows:20")])
def test_the_expected_quality_is_that_of_the_model_with_the_fitted_layers(
    shapes: tuple[str, str], model: UltraFastBertForMaskedLM, fits: list[LayerFits], batches: list[Batch]
) -> None:
    teacher = model.encoder
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    replaced = {i: fits[i].fit(parse_shape(s))[1] for i, s in enumerate(shapes) if s != "dense:32"}
    quality = ExpectedQuality(teacher, batches[6:], "mean", tokens=fits[0].tokens)
    assert quality.of({}) == pytest.approx(1.0)
    config = model.config.replace(feedforward_layers=shapes)
    student = new_student(model, StudentPlan(model.config, config, (0, 1), tuple(replaced)))
    encoder = student.encoder
    assert isinstance(encoder, UltraFastBertModel)
    encoder.requires_grad_(False)
    for index, fitted in replaced.items():
        layer = encoder.layers[index]
        assert isinstance(layer, Layer)
        if isinstance(fitted, LeftOut):
            fitted.put_into(layer)
        elif isinstance(fitted, BesideRows):
            tokens = fits[index].tokens
            assert tokens is not None
            encoder.embeddings.token_ranks = tokens.ranks
            layer.feedforward, layer.token_rows = fitted.neurons, fitted.rows
        else:
            assert layer.feedforward is not None
            layer.feedforward.load_state_dict(fitted.state_dict())
    cosines = torch.cat([F.cosine_similarity(*embeddings) for embeddings in _embeddings(teacher, encoder, batches[6:])])
    expected = quality.of(replaced)
    assert expected == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert expected < 1 - 1e-4
    assert quality.of({i: stored(fitted) for i, fitted in replaced.items()}) == pytest.approx(expected, abs=5e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert math.isclose(quality.of({}), 1.0, abs_tol=1e-6)  # the teacher has its own layers again


def _embeddings(
    teacher: UltraFastBertModel, student: UltraFastBertModel, batches: list[Batch]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in batches:
        states = [encoder.encode(batch.input_ids, batch.attention_mask) for encoder in (teacher, student)]
        theirs, mine = (pool(state, batch.attention_mask, "mean") for state in states)
        yield theirs, mine
