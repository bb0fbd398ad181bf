"""Operations of a model, and the share of the hardware that a speed means."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.training.throughput import Throughput, matrix_product_peak, training_operations


@pytest.mark.parametrize("head_transform", [False, True])
def test_operations_are_those_that_torch_counts_for_a_dense_model(
    tiny_config: UltraFastBertConfig, head_transform: bool
) -> None:
    config = tiny_config.replace(feedforward="dense", head_transform=head_transform)
    model = UltraFastBertForMaskedLM(config).eval()
    labels = torch.full((4, 16), -100)
    labels[:, :4] = 7
    # It does not know the CPU's fused attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.ones(4, 16, dtype=torch.int64), labels=labels)
    assert 4 * 16 * training_operations(config, 16, 4 / 16) == 3 * counter.get_total_flops()


def test_trees_count_the_neurons_of_a_path(tiny_config: UltraFastBertConfig) -> None:
    trees = tiny_config.replace(trees=2, depth=3)
    dense = tiny_config.replace(feedforward="dense", intermediate_size=2 * 4)
    assert training_operations(trees, 16, 0.25) == training_operations(dense, 16, 0.25)


def test_utilisation_is_the_share_of_a_peak_that_is_measured() -> None:
    throughput = Throughput(operations_per_token=2e6, peak=1e9, products="bfloat16")
    throughput.add(tokens=50, seconds=1.0)
    throughput.add(tokens=150, seconds=1.0)
    assert throughput.utilisation(250.0) == pytest.approx(0.5)
    assert throughput.describe() == "20.0 % of the 1 GFLOP/s that bfloat16 products reach here"
    assert matrix_product_peak(torch.device("cpu"), torch.float32) > 1e6
