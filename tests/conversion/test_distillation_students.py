"""What a student starts from: narrow dense layers, none, trees at random, fewer layers, against what defines it."""

from __future__ import annotations

import math

import pytest
import torch

from ufbert import FFF, UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.cmm.tree import path_to
from ufbert.conversion.distillation.dense_initialization import initialize_dense
from ufbert.conversion.distillation.layer_inputs import LayerSample, collect_layer_samples
from ufbert.conversion.distillation.layer_regression import relative_error, sublayer
from ufbert.conversion.distillation.left_out import leave_out
from ufbert.conversion.distillation.random_placement import place_at_random
from ufbert.conversion.distillation.student import StudentPlan, new_student
from ufbert.conversion.distillation.texts import Batch
from ufbert.conversion.distillation.tree_initialization import place_neurons
from ufbert.conversion.student import name_layers, parse_layers
from ufbert.model.encoder import DenseFeedforward, Layer

HIDDEN, NEURONS = 16, 40


def dense_layer(*, gated: bool = False, bias: bool = True, norm: str = "post") -> tuple[Layer, DenseFeedforward]:
    layer = Layer(
        UltraFastBertConfig(
            hidden_size=HIDDEN, num_attention_heads=2, feedforward="dense", intermediate_size=NEURONS,
            is_gated_act=gated, use_bias=bias, norm_position=norm,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    assert isinstance(layer.feedforward, DenseFeedforward)
    return layer, layer.feedforward


def narrow(layer: Layer, neurons: int) -> DenseFeedforward:
    """An untrained dense layer of so many neurons, as wide and gated as that of `layer`."""
    dense = layer.feedforward
    assert isinstance(dense, DenseFeedforward)
    config = UltraFastBertConfig(
        hidden_size=HIDDEN, num_attention_heads=2, is_gated_act=dense.gated, use_bias=dense.linear_in.bias is not None
    )
    return DenseFeedforward(config, neurons)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_narrow_dense_layer_is_made_of_whole_neurons(gated: bool, bias: bool) -> None:
    teacher, dense = dense_layer(gated=gated, bias=bias)
    x = torch.randn(4000, HIDDEN) @ torch.randn(HIDDEN, HIDDEN) * 0.3
    with torch.no_grad():
        y = dense(x)
    ours = narrow(teacher, 12)
    initialize_dense(ours, dense, x[:3000], y[:3000])
    same = (ours.linear_in.weight[:12, None] == dense.linear_in.weight[None, :NEURONS]).all(2)
    assert bool((same.sum(1) == 1).all())
    neurons = same.int().argmax(1)
    assert len(set(neurons.tolist())) == 12
    if gated:
        assert torch.equal(ours.linear_in.weight[12:], dense.linear_in.weight[NEURONS:][neurons])
    if bias:
        assert torch.equal(ours.linear_in.bias[:12], dense.linear_in.bias[:NEURONS][neurons])
    else:
        assert ours.linear_in.bias is None
    # The output weights are those of a least-squares fit, so the fit of any other twelve neurons does no better.
    held_out, mean = LayerSample(x[3000:], y[3000:]), y.mean(0)
    error = relative_error(ours, teacher, held_out, mean)
    features = torch.nn.functional.pad(ours.activations(x[:3000]), (0, 1), value=float(bias))
    fitted = torch.linalg.lstsq(features.double(), y[:3000].double(), driver="gelsd").solution.float()
    torch.testing.assert_close(ours.linear_out.weight, fitted[:-1].T, rtol=0.05, atol=0.05)
    others = []
    teacher.requires_grad_(False)
    for _ in range(4):
        chosen = torch.randperm(NEURONS)[:12]
        a = torch.nn.functional.pad(dense.activations(x)[:, chosen], (0, 1), value=float(bias)).detach()
        weights = torch.linalg.lstsq(a[:3000], y[:3000], driver="gelsd").solution
        wanted, got, constant = (
            sublayer(teacher, x[3000:], out) for out in (y[3000:], a[3000:] @ weights, mean.expand(1000, -1))
        )
        others.append(math.sqrt(float((got - wanted).square().sum() / (constant - wanted).square().sum())))
    assert error < min(others), (error, others)


@pytest.mark.parametrize("gated", [False, True])
def test_all_neurons_are_the_layer_itself(gated: bool) -> None:
    teacher, dense = dense_layer(gated=gated)
    x = torch.randn(3000, HIDDEN)
    with torch.no_grad():
        y = dense(x)
    ours = narrow(teacher, NEURONS)
    initialize_dense(ours, dense, x, y)
    assert relative_error(ours, teacher, LayerSample(x, y), y.mean(0)) < 2e-2


@pytest.mark.parametrize(("norm", "bias"), [("pre", True), ("pre", False), ("post", True)])
def test_without_a_feedforward_layer_the_rest_says_its_mean(norm: str, bias: bool) -> None:
    """The student's whole layer against what the error is said to be."""
    teacher, dense = dense_layer(norm=norm, bias=bias)
    config = UltraFastBertConfig(
        hidden_size=HIDDEN, num_attention_heads=2, feedforward="none", use_bias=bias, norm_position=norm
    )
    student = Layer(config)
    state = {name: t for name, t in teacher.state_dict().items() if not name.startswith("feedforward")}
    student.load_state_dict(state)
    tokens = torch.randn(1, 1000, HIDDEN)
    seen: list[torch.Tensor] = []
    dense.register_forward_hook(lambda _module, inputs, output: seen.extend((inputs[0][0], output[0])))
    teacher.eval(), student.eval()
    with torch.no_grad():
        wanted = teacher(tokens, None)[0]
        x, y = seen
        sample, mean = LayerSample(x, y), y.mean(0)
        left_out = leave_out(student, teacher, sample)
        left_out.put_into(student)
        error = left_out.relative_error(teacher, sample, mean)
        got = student(tokens, None)[0]
        constant = sublayer(teacher, x, mean.expand_as(y)) - sublayer(teacher, x, y)
    measured = math.sqrt(float((got - wanted).square().sum() / constant.square().sum()))
    assert measured == pytest.approx(error, rel=1e-3)
    if norm == "post":
        assert error < 1.2  # of a layer that has one norm less
    else:
        assert error == pytest.approx(1.0, abs=1e-3) if bias else error > 1.0


@pytest.mark.parametrize(("count", "trees", "depth"), [(40, 3, 3), (7, 2, 4), (3, 1, 4)])
def test_neurons_at_random_are_spread_and_no_path_has_one_twice(count: int, trees: int, depth: int) -> None:
    placed = place_at_random(count, trees, depth)
    assert placed.shape == (trees, 2 ** (depth + 1) - 1)
    assert 0 <= int(placed.min()) <= int(placed.max()) < count
    assert len(set(placed.flatten().tolist())) == min(count, placed.numel())
    if count > depth:
        for tree in placed.tolist():
            for leaf in range(2**depth - 1, 2 ** (depth + 1) - 1):
                path = [tree[node] for node in path_to(leaf, depth)]
                assert len(set(path)) == len(path)
    assert not torch.equal(place_at_random(count, trees, depth), placed)


def test_at_random_every_node_still_is_a_neuron_of_the_original() -> None:
    _, dense = dense_layer()
    x = torch.randn(500, HIDDEN)
    layers = [FFF(HIDDEN, 3, 3, shared_neurons=4, output_bias=True) for _ in range(2)]
    for layer, at_random in zip(layers, (False, True), strict=True):
        place_neurons(layer, dense, x, at_random=at_random)
    considered, arbitrary = layers
    same = (arbitrary.w_in[:, :, None] == dense.linear_in.weight).all(3)
    assert bool(same.any(2).all())
    torch.testing.assert_close(arbitrary.w_out, dense.linear_out.weight.T[same.int().argmax(2)])
    assert not torch.equal(arbitrary.w_in, considered.w_in)
    assert arbitrary.shared is not None
    assert considered.shared is not None
    assert torch.equal(arbitrary.shared.linear_in.weight, considered.shared.linear_in.weight)  # chosen as ever


def test_a_layer_stands_before_the_next_kept_one(tiny_config: UltraFastBertConfig) -> None:
    original = tiny_config.replace(num_hidden_layers=6, feedforward="dense", final_norm=True)
    plan = StudentPlan(original, original.replace(num_hidden_layers=3), (0, 2, 4))
    assert plan.dropped == (1, 3, 5)
    assert plan.targets == [1, 3, 5, 6]
    first = StudentPlan(original, original.replace(num_hidden_layers=4), (1, 2, 4, 5))
    assert first.targets == [1, 3, 4, 5, 6]
    whole = StudentPlan(original, original, tuple(range(6)), (2,))
    assert whole.targets == list(range(7))
    model = UltraFastBertForMaskedLM(original)
    student = new_student(model, plan)
    assert isinstance(student, UltraFastBertForMaskedLM)
    ours, theirs = student.encoder.layers, model.encoder.layers
    for new, old in enumerate(plan.kept):
        for name, tensor in ours[new].state_dict().items():
            assert torch.equal(tensor, theirs[old].state_dict()[name]), name
    assert torch.equal(student.decoder.weight, model.decoder.weight)


def test_samples_are_of_the_layers_asked_for(tiny_config: UltraFastBertConfig) -> None:
    config = tiny_config.replace(num_hidden_layers=3, feedforward_layers=["dense:8", "none", "dense:6"])
    encoder = UltraFastBertForMaskedLM(config).eval().encoder
    ids = torch.randint(5, 100, (2, 7))
    batch = Batch(ids, torch.ones_like(ids), None)
    (sample,) = collect_layer_samples(encoder, [batch], 10, [2])
    with torch.no_grad():
        expected = encoder.layers[2].get_submodule("feedforward")(sample.x.float())
    torch.testing.assert_close(sample.y.float(), expected, rtol=0.05, atol=0.02)
    assert collect_layer_samples(encoder, [batch], 10, []) == []


@pytest.mark.parametrize(("text", "layers"), [("2-5", "2-5"), ("3, 0", "0, 3"), ("0,1,4-4,2", "0-2, 4")])
def test_layers_are_named_as_they_are_read(text: str, layers: str) -> None:
    assert name_layers(parse_layers("--layers", text)) == layers
    assert name_layers(parse_layers("--layers", layers)) == layers
