"""The parts of the distillation, each against what defines it."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from ufbert import FFF, UltraFastBertConfig
from ufbert.cmm.reference import paths
from ufbert.conversion.distillation import straight_through as module
from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import relative_error
from ufbert.conversion.distillation.path_passes import StraightThroughByPasses, path_mask
from ufbert.conversion.distillation.shared_neurons import choose_shared
from ufbert.conversion.distillation.straight_through import TEMPERATURE, StraightThroughByKernels, StraightThroughFFF
from ufbert.conversion.distillation.tree_initialization import initialize_trees, place_neurons, solve_output_weights
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import masked_dense_fff

HIDDEN = 16


def straight_through(trees: int, depth: int) -> StraightThroughFFF:
    layer = StraightThroughFFF(HIDDEN, trees, depth, output_bias=True, initializer_range=0.5)
    torch.nn.init.normal_(layer.b_in, std=0.3)
    return layer


def soft_masked(x: torch.Tensor, layer: FFF) -> torch.Tensor:
    """The same by autograd alone: gates that are steps in the value and sigmoids in the gradient."""
    logits = torch.einsum("th,pnh->tpn", x, layer.w_in) + layer.b_in
    soft = torch.sigmoid(logits / TEMPERATURE)
    gate = (logits > 0).float() + soft - soft.detach()
    weights: list[torch.Tensor] = [torch.ones_like(logits[:, :, 0])]
    for node in range(layer.nodes // 2):
        weights += [weights[node] * (1 - gate[:, :, node]), weights[node] * gate[:, :, node]]
    y = torch.einsum("tpn,pnh->th", torch.stack(weights, 2) * F.gelu(logits), layer.w_out)
    assert layer.b_out is not None
    return y + layer.b_out


@pytest.mark.parametrize(("trees", "depth"), [(1, 1), (3, 2), (2, 4)])
def test_straight_through_equals_its_definition(trees: int, depth: int) -> None:
    layer = straight_through(trees, depth)
    x = torch.randn(50, HIDDEN, requires_grad=True)
    target = torch.randn(50, HIDDEN)
    operands = [x, *layer.parameters()]
    outputs = layer(x), soft_masked(x, layer)
    results = [[y, *torch.autograd.grad((y * target).sum(), operands)] for y in outputs]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-3)
    assert layer.b_out is not None
    with torch.no_grad():
        hard = masked_dense_fff(x, layer.w_in, layer.b_in, layer.w_out) + layer.b_out
        torch.testing.assert_close(layer(x), hard, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("trees", "depth"), [(1, 6), (5, 3), (12, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kernels_and_passes_train_alike(trees: int, depth: int, dtype: torch.dtype) -> None:
    """What trains on the CPU and what trains on a GPU, from the same logits."""
    layer = straight_through(trees, depth).double()
    x, target = (torch.randn(150, HIDDEN, dtype=torch.float64) for _ in range(2))  # of more than one chunk
    # Numbers that the product rounds nowhere, so that both take the same decisions.
    rounded = [(t.detach() * 8).round() / 8 for t in (x, layer.w_in, layer.b_in, layer.w_out, target)]
    results = []
    for function in (StraightThroughByKernels, StraightThroughByPasses):
        operands = [t.to(dtype).requires_grad_() for t in rounded[:4]]
        y = function.apply(*operands, TEMPERATURE)  # type: ignore[no-untyped-call]
        results.append([y, *torch.autograd.grad((y * rounded[4].to(dtype)).sum(), operands)])
    for got, wanted in zip(*results, strict=True):
        scale = float(wanted.detach().abs().max())
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(got, wanted, atol=tolerance * scale, rtol=0.0)
    y = layer(x)
    gradient = torch.autograd.grad((y * target).sum(), layer.w_in)[0]
    visited = paths(torch.einsum("th,pnh->tpn", x, layer.w_in) + layer.b_in)
    never = torch.ones_like(layer.b_in).scatter(1, visited.transpose(0, 1).flatten(1), 0.0).bool()
    assert not gradient[never].any()


@pytest.mark.parametrize("output_bias", [True, False])
def test_straight_through_under_autocast(output_bias: bool) -> None:
    layer = StraightThroughFFF(HIDDEN, 3, 3, output_bias=output_bias, initializer_range=0.5)
    x = torch.randn(200, HIDDEN, requires_grad=True)
    operands = [x, *layer.parameters()]
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert layer(x.bfloat16()).dtype == (torch.float32 if output_bias else torch.bfloat16)
    assert y.dtype == x.dtype
    assert not torch.equal(y, exact)  # its products were those of bfloat16
    target = torch.randn_like(y)
    for got, wanted in zip(
        [y, *torch.autograd.grad((y * target).sum(), operands)],
        [exact, *torch.autograd.grad((exact * target).sum(), operands)],
        strict=True,
    ):
        assert got.dtype == wanted.dtype
        # A logit that rounding takes across zero changes the path, so not every number is near.
        assert F.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.97


def test_without_gradients_or_routing_or_in_large_layers_it_is_the_plain_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, HIDDEN)
    small, dense = straight_through(3, 2), straight_through(8, 0)
    assert small(x).grad_fn is not None
    monkeypatch.setattr(module, "MAXIMUM_NEURONS", 21)
    monkeypatch.setattr(module, "StraightThroughByKernels", None)
    with pytest.raises(AttributeError):
        small(x)  # 21 neurons are not too many
    with torch.no_grad():
        assert torch.equal(small(x), small.walk(x))
    assert dense(x).requires_grad
    monkeypatch.setattr(module, "MAXIMUM_NEURONS", 20)
    assert small(x).requires_grad


def test_path_mask_marks_the_visited_nodes() -> None:
    logits = torch.randn(20, 15, 3)
    visited = paths(logits.transpose(1, 2))  # (tokens, P, D + 1)
    wanted = torch.zeros(20, 3, 15).scatter(2, visited, 1.0).transpose(1, 2).bool()
    assert torch.equal(path_mask(logits), wanted)


def test_training_finds_the_routing_that_the_hard_gradient_misses() -> None:
    """The target is +v left and -v right of a plane; the root starts with a plane that is off."""
    torch.manual_seed(3)
    plane, value = F.one_hot(torch.tensor(0), HIDDEN).float(), torch.randn(HIDDEN)
    x = torch.randn(2048, HIDDEN)
    y = torch.where((x @ plane > 0)[:, None], -value, value)
    losses = {}
    for kind in (FFF, StraightThroughFFF):
        torch.manual_seed(0)
        layer = kind(HIDDEN, 1, 1, output_bias=True)
        with torch.no_grad():  # leaves that put out a constant, a root that puts out nothing
            layer.w_in.zero_()
            layer.w_in[0, 0] = 0.3 * plane + 0.5 * F.one_hot(torch.tensor(1), HIDDEN)
            layer.b_in[0, 1:] = 1.0
            layer.w_out.zero_()
            layer.w_out[0, 1], layer.w_out[0, 2] = value, -value
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(150):
            loss = (layer(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[kind] = float(loss.detach())
    assert losses[StraightThroughFFF] < 0.6 * losses[FFF], losses


def dense_layer(neurons: int, *, gated: bool = False) -> tuple[Layer, DenseFeedforward]:
    config = UltraFastBertConfig(
        hidden_size=HIDDEN,
        num_attention_heads=2,
        feedforward="dense",
        intermediate_size=neurons,
        is_gated_act=gated,
        use_bias=True,
        norm_position="post",
        final_norm=False,
    )
    layer = Layer(config)
    dense = layer.feedforward
    assert isinstance(dense, DenseFeedforward)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.normal_(std=0.5)
        dense.linear_in.bias.sub_(1.0)  # most neurons are silent most of the time
    return layer, dense


def test_every_node_is_a_dense_neuron_and_the_path_has_no_neuron_twice() -> None:
    _, dense = dense_layer(40)
    layer = FFF(HIDDEN, 3, 3, output_bias=True)
    x = torch.randn(2000, HIDDEN)
    place_neurons(layer, dense, x)
    same = (layer.w_in[:, :, None] == dense.linear_in.weight).all(3)  # (P, N, I)
    assert bool(same.any(2).all())
    neurons = same.int().argmax(2)  # (P, N)
    torch.testing.assert_close(layer.b_in, dense.linear_in.bias[neurons])
    torch.testing.assert_close(layer.w_out, dense.linear_out.weight.T[neurons])
    assert len(set(neurons[:, 0].tolist())) == 3
    for tree, leaf in itertools.product(range(3), range(7, 15)):
        path = [leaf]
        while path[-1]:
            path.append((path[-1] - 1) // 2)
        assert len(set(neurons[tree, path].tolist())) == len(path)


def test_of_a_gated_neuron_a_node_takes_the_gate_and_what_it_says_of_the_product() -> None:
    _, dense = dense_layer(40, gated=True)
    layer = FFF(HIDDEN, 3, 3, output_bias=True)
    x = torch.randn(2000, HIDDEN) + 1.0
    place_neurons(layer, dense, x)
    gates = dense.linear_in.weight[:40]
    same = (layer.w_in[:, :, None] == gates).all(3)  # (P, N, I)
    assert bool(same.any(2).all())
    neurons = same.int().argmax(2)
    torch.testing.assert_close(layer.b_in, dense.linear_in.bias[:40][neurons])
    product, alone = dense.activations(x), torch.nn.functional.gelu(dense.linear_in(x)[:, :40])
    for tree, node in itertools.product(range(3), range(15)):
        neuron = neurons[tree, node]
        share = torch.linalg.lstsq(alone[:, neuron, None], product[:, neuron, None]).solution
        expected = share[0] * dense.linear_out.weight[:, neuron]
        torch.testing.assert_close(layer.w_out[tree, node], expected, rtol=1e-3, atol=1e-4)


def test_initialisation_beats_random_neurons_and_regression_improves_on_it() -> None:
    teacher, dense = dense_layer(48)
    x = torch.randn(6000, HIDDEN) @ torch.randn(HIDDEN, HIDDEN) * 0.3
    with torch.no_grad():
        y = dense(x)
    train, held_out = LayerSample(x[:5000], y[:5000]), LayerSample(x[5000:], y[5000:])
    mean = train.y.mean(0)
    considered, arbitrary = (FFF(HIDDEN, 4, 2, output_bias=True) for _ in range(2))
    initialize_trees(considered, dense, train.x, train.y)
    with torch.no_grad():
        chosen = torch.randperm(48)[:28].view(4, 7)
        arbitrary.w_in.copy_(dense.linear_in.weight[chosen])
        arbitrary.b_in.copy_(dense.linear_in.bias[chosen])
    solve_output_weights(arbitrary, train.x, train.y)
    errors = [relative_error(layer, teacher, held_out, mean) for layer in (considered, arbitrary)]
    assert errors[0] < errors[1] < 1.0, errors


def test_a_layer_with_room_for_all_neurons_is_exact() -> None:
    """Depth 0 with as many trees as neurons is the dense layer again."""
    teacher, dense = dense_layer(24)
    x = torch.randn(3000, HIDDEN)
    with torch.no_grad():
        y = dense(x)
    layer = FFF(HIDDEN, 24, 0, output_bias=True)
    initialize_trees(layer, dense, x, y)
    assert relative_error(layer, teacher, LayerSample(x, y), y.mean(0)) < 1e-2


def test_shared_neurons_that_are_all_there_are_make_the_layer_exact() -> None:
    teacher, dense = dense_layer(24)
    x = torch.randn(3000, HIDDEN)
    with torch.no_grad():
        y = dense(x)
    layer = FFF(HIDDEN, 1, 0, shared_neurons=24, output_bias=True)
    initialize_trees(layer, dense, x, y)
    assert relative_error(layer, teacher, LayerSample(x, y), y.mean(0)) < 1e-2


def test_shared_neurons_are_those_that_explain_the_output_and_trees_add_to_them() -> None:
    torch.manual_seed(0)
    activations = torch.randn(500, 12)
    activations[:, 7] = activations[:, 3] + 0.01 * torch.randn(500)  # says what neuron 3 says, and little else
    activations -= activations.mean(0)
    outputs = activations[:, [3, 5, 8]] @ torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    assert choose_shared(activations, outputs, 3).tolist() == [3, 5, 8]
    assert sorted(choose_shared(activations, outputs, 12).tolist()) == list(range(12))

    teacher, dense = dense_layer(48)
    x = torch.randn(6000, HIDDEN) @ torch.randn(HIDDEN, HIDDEN) * 0.3
    with torch.no_grad():
        y = dense(x)
    errors = []
    for trees, shared in ((1, 8), (4, 0), (4, 8)):
        layer = FFF(HIDDEN, trees, 2, shared_neurons=shared, output_bias=True)
        initialize_trees(layer, dense, x[:5000], y[:5000])
        errors.append(relative_error(layer, teacher, LayerSample(x[5000:], y[5000:]), y.mean(0)))
    assert errors[2] < 0.9 * min(errors[:2]), errors


def test_the_mean_output_has_relative_error_one() -> None:
    teacher, dense = dense_layer(24)
    x = torch.randn(500, HIDDEN)
    with torch.no_grad():
        y = dense(x)
    constant = FFF(HIDDEN, 1, 0, output_bias=True)
    with torch.no_grad():
        constant.w_out.zero_()
        assert constant.b_out is not None
        constant.b_out.copy_(y.mean(0))
    assert relative_error(constant, teacher, LayerSample(x, y), y.mean(0)) == pytest.approx(1.0, abs=1e-5)
