"""The times that shapes are chosen by: of layers as `ufbert infer` packs them, and of the whole encoder."""

from __future__ import annotations

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertModel
from ufbert.benchmark import timing
from ufbert.benchmark.models import feedforward_shapes
from ufbert.benchmark.models.feedforward_shapes import time_shapes
from ufbert.conversion.distillation.automatic.times import MeasuredTimes
from ufbert.model.shapes import parse_shape


@pytest.mark.parametrize(("norm", "gated"), [("post", False), ("pre", True)])
def test_each_shape_and_the_whole_are_timed_and_nothing_changes(
    norm: str, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(feedforward_shapes, "TOKENS", 64)
    config = UltraFastBertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
        feedforward="dense", intermediate_size=32, norm_position=norm, is_gated_act=gated, use_bias=not gated,
        pad_token_id=1, position_embedding_type="rotary" if gated else "absolute", skip_first_prenorm=gated,
    )  # fmt: skip
    model = UltraFastBertModel(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = ["dense:32", "dense:16", "none", "2x2", "1x2+3", "4x0", "rows:7", "dense:16+rows:40"]
    texts = [[2, *range(3, 3 + length)] for length in range(1, 14)]
    threads = torch.get_num_threads()
    times = time_shapes(model, [parse_shape(shape) for shape in shapes], texts, 0.01)
    assert list(times.shapes) == shapes
    assert times.shapes["none"] == 0.0
    assert all(times.shapes[shape] > 0 for shape in shapes if shape != "none")
    assert times.whole > 0
    assert times.tokens == 64
    assert times.precision in ("float32", "bfloat16")
    assert "thread" in times.machine
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_remains_beside_the_layers_stays() -> None:
    times = MeasuredTimes(10.0, {"dense:32": 3.0, "2x2": 1.0, "none": 0.0}, "float32", 64, "")
    dense = ["dense:32", "dense:32"]
    assert times.estimate(dense, dense) == 10.0
    assert times.estimate(dense, ["2x2", "none"]) == 5.0
    # Layers that were timed as longer than the whole leave nothing beside them.
    assert times.estimate([*dense, *dense], ["none"] * 4) == 0.0
