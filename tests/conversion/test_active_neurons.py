"""Active neurons, counted and as a loss, against their definitions."""

from __future__ import annotations

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertModel
from ufbert.conversion.distillation.active_neurons import hoyer_share, measure_active, record_active
from ufbert.conversion.distillation.batch import Batch
from ufbert.model.encoder import DenseFeedforward


def test_the_share_is_of_equals_and_knows_no_scale() -> None:
    one, half, all_ = torch.zeros(1, 8), torch.zeros(1, 8), torch.ones(1, 8)
    one[0, 3], half[0, :4] = 5.0, 2.0
    assert [float(hoyer_share(s)) for s in (one, half, all_)] == pytest.approx([1 / 8, 1 / 2, 1])
    assert float(hoyer_share(torch.cat((one, 100 * half)))) == pytest.approx((1 / 8 + 1 / 2) / 2)
    assert float(hoyer_share(torch.zeros(2, 8))) == 0  # and no division by zero


def encoder_of_two_layers() -> UltraFastBertModel:
    config = UltraFastBertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, feedforward="dense",
        intermediate_size=12, hidden_act="relu", max_position_embeddings=16,
    )  # fmt: skip
    return UltraFastBertModel(config).eval()


def test_only_tokens_of_the_chosen_layer_count() -> None:
    torch.manual_seed(1)
    encoder = encoder_of_two_layers()
    ids, mask = torch.randint(5, 30, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:], mask[2, 2:] = 0, 0
    dense = encoder.layers[1].feedforward
    assert isinstance(dense, DenseFeedforward)
    inputs: list[torch.Tensor] = []
    dense.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    (measured,) = measure_active(encoder, (1,), [Batch(ids, mask, None, None)])
    said = dense.activations(inputs[0])[mask.bool()].detach()  # (tokens, I)
    assert (measured.layer, measured.width) == (1, 12)
    assert measured.active == pytest.approx(float((said != 0).sum(1).float().mean()))
    squares = (said * dense.linear_out.weight.detach().norm(dim=0)).square()
    fewest = []
    for row in squares:
        total, taken = 0.0, 0
        for value in sorted(row.tolist(), reverse=True):
            if total >= 0.9 * float(row.sum()):
                break
            total, taken = total + value, taken + 1
        fewest.append(taken)
    assert measured.holding == pytest.approx(sum(fewest) / len(fewest), abs=0.1)


def test_the_loss_reaches_what_makes_neurons_active_and_not_their_output_weights() -> None:
    torch.manual_seed(2)
    encoder = encoder_of_two_layers()
    with record_active(encoder, (1,)) as sizes:
        encoder.encode(torch.randint(5, 30, (2, 6)))
    hoyer_share(sizes[0].flatten(0, 1)).backward()
    first, second = (layer.feedforward for layer in encoder.layers)
    assert isinstance(first, DenseFeedforward)
    assert isinstance(second, DenseFeedforward)
    assert second.linear_in.weight.grad is not None
    assert float(second.linear_in.weight.grad.abs().sum()) > 0
    assert second.linear_out.weight.grad is None
    assert first.linear_out.weight.grad is not None  # through the sums between layers
