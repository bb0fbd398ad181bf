"""Hooks that count where tokens end, without a word on what the model computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ufbert import UltraFastBertConfig
from ufbert.cmm.leaf_use import leaf_counts
from ufbert.cmm.tree import descend
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.tree_health import HEALTH_COLUMNS, LeafRecorder, health_rows, summarise_health


def encoder(**changes: Any) -> UltraFastBertModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    return UltraFastBertModel(UltraFastBertConfig(**{**shape, "trees": 2, "depth": 3, **changes})).eval()


def test_leaves_are_those_of_the_definition_and_the_output_stays() -> None:
    model = encoder()
    ids = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    met: list[torch.Tensor] = []
    recorder = LeafRecorder(model)
    with torch.inference_mode():
        plain = model.encode(ids)
        hook = recorder.layers[1].register_forward_pre_hook(lambda _module, inputs: met.append(inputs[0]))
        with recorder.record():
            recorded = model.encode(ids)
        hook.remove()
        model.encode(ids)  # no longer counted
    assert torch.equal(plain, recorded)
    layer = recorder.layers[1]
    weights = (t.detach().double().numpy() for t in (layer.w_in, layer.b_in, layer.w_out))
    _, _, leaves = descend(met[0].reshape(-1, 16).double().numpy(), *weights)
    assert np.array_equal(recorder.counts()[1], leaf_counts(leaves, 3))
    assert [layer["tokens"] for layer in recorder.health()] == [48, 48]


def test_padding_does_not_count() -> None:
    model = encoder()
    ids = torch.full((2, 6), 7)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    recorder = LeafRecorder(model)
    with torch.inference_mode(), recorder.record(mask):
        model.encode(ids, mask)
    assert [layer["tokens"] for layer in recorder.health()] == [8, 8]


@pytest.mark.parametrize("feedforward", ["dense", "none"])
def test_a_model_without_trees_has_no_health(feedforward: str) -> None:
    recorder = LeafRecorder(model := encoder(feedforward=feedforward))
    with torch.inference_mode(), recorder.record():
        model.encode(torch.full((1, 4), 7))
    assert recorder.health() == []


def test_the_table_has_a_row_a_layer() -> None:
    recorder = LeafRecorder(model := encoder())
    with torch.inference_mode(), recorder.record():
        model.encode(torch.full((1, 4), 7))
    health = recorder.health()
    rows = health_rows(health)
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(len(row) == len(HEALTH_COLUMNS) for row in rows)
    assert "of 3 bits" in rows[0][2]
    assert summarise_health(health).endswith("dead subtrees a layer")
