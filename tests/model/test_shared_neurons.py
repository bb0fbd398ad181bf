"""Dense neurons beside the trees: what they compute, where they are kept, and how they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ufbert import FFF, UltraFastBertConfig, UltraFastBertModel
from ufbert.conversion.distillation.straight_through import StraightThroughFFF
from ufbert.conversion.export.hugging_face import write_hugging_face
from ufbert.conversion.export.onnx import WalkedFFF
from ufbert.conversion.readers.checkpoint import load_checkpoint
from ufbert.errors import ConfigError
from ufbert.model.card import model_card
from ufbert.model.fff import masked_dense_fff
from ufbert.settings.toml import load_settings


def layer_of(trees: int = 3, depth: int = 2, shared: int = 5, dtype: torch.dtype = torch.float64) -> FFF:
    layer = FFF(16, trees, depth, shared_neurons=shared, output_bias=True, initializer_range=0.5, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def expected(layer: FFF, x: torch.Tensor) -> torch.Tensor:
    """The masked dense layer of the trees, plus the dense layer written out, plus the bias."""
    shared, bias = layer.shared, layer.b_out
    assert shared is not None
    assert bias is not None
    dense = F.gelu(x @ shared.linear_in.weight.T + shared.linear_in.bias) @ shared.linear_out.weight.T
    return masked_dense_fff(x, layer.w_in, layer.b_in, layer.w_out) + dense + bias


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_every_token_uses_them_and_all_gradients_flow(backend: str) -> None:
    layer = layer_of()
    layer.backend = backend
    x = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    y, truth = layer(x), expected(layer, x)
    torch.testing.assert_close(y, truth)
    weight = torch.randn_like(y)
    got = torch.autograd.grad((y * weight).sum(), (x, *parameters))
    wanted = torch.autograd.grad((truth * weight).sum(), (x, *parameters))
    for name, one, other in zip(("x", *names), got, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9), name


@pytest.mark.parametrize("shape", [(16,), (7, 16), (2, 3, 16)])
def test_inference_adds_them_in_place_and_leaves_its_input(shape: tuple[int, ...]) -> None:
    layer = layer_of(dtype=torch.float32)
    x = torch.randn(shape)
    kept = x.clone()
    truth = expected(layer, x.reshape(-1, 16)).reshape(shape)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), truth)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(x).float(), truth, rtol=0.05, atol=0.05)
    assert torch.equal(x, kept)


def test_what_replaces_or_watches_the_second_product_is_called_in_inference_too() -> None:
    class Twice(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer = layer_of(dtype=torch.float32)
    shared = layer.shared
    assert shared is not None
    x = torch.randn(7, 16)
    trees, truth = layer.walk(x), expected(layer, x)
    seen: list[torch.Size] = []
    handle = shared.linear_out.register_forward_hook(lambda _module, _inputs, y: seen.append(y.shape))
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), truth)
    handle.remove()
    assert seen == [x.shape]
    changed = Twice(5, 16, bias=False)
    changed.weight = shared.linear_out.weight
    shared.linear_out = changed
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), trees + 2 * (truth - trees))


def test_other_forms_of_the_layer_keep_them() -> None:
    layer = layer_of(dtype=torch.float32)
    x = torch.randn(2, 7, 16)
    truth = expected(layer, x.reshape(-1, 16)).reshape(x.shape)
    torch.testing.assert_close(WalkedFFF(layer)(x), truth, rtol=1e-4, atol=1e-5)
    trained = StraightThroughFFF(16, 3, 2, shared_neurons=5, output_bias=True)
    trained.load_state_dict(layer.state_dict())
    torch.testing.assert_close(trained(x), truth, rtol=1e-2, atol=1e-2)


def test_a_checkpoint_carries_them_and_a_dense_one_too(tiny_config: UltraFastBertConfig, tmp_path: Path) -> None:
    config = tiny_config.replace(
        trees=4, depth=0, shared_neurons=6, norm_position="post", final_norm=False, position_embedding_type="absolute"
    )
    model = UltraFastBertModel(config).eval()
    ids = torch.randint(5, 100, (2, 9))
    model.save_pretrained(tmp_path / "ours")
    again = UltraFastBertModel.from_pretrained(tmp_path / "ours")
    assert again.config.shared_neurons == 6
    truth = model.encode(ids)
    torch.testing.assert_close(again.encode(ids), truth)
    (tmp_path / "bert").mkdir()
    write_hugging_face(model, None, tmp_path / "bert", "ours")
    dense = load_checkpoint(tmp_path / "bert").model
    assert (dense.config.feedforward, dense.config.intermediate_size) == ("dense", 10)
    assert isinstance(dense, UltraFastBertModel)
    torch.testing.assert_close(dense.encode(ids), truth, rtol=1e-4, atol=1e-5)
    card = model_card(config, title="ours", origin="", figures={}, command="")
    assert "a token uses 10 of 10 neurons per layer, 6 of which all tokens share" in card


def test_one_setting_names_trees_and_shared_neurons() -> None:
    model = load_settings(None, ["model.shape=12x6+64"]).model
    assert (model.trees, model.depth, model.shared_neurons) == (12, 6, 64)
    assert (model.neurons_used, model.neurons_available) == (12 * 7 + 64, 12 * 127 + 64)
    with pytest.raises(ConfigError, match=r"model.shape sets model.shared_neurons too; give one of them"):
        load_settings(None, ["model.shape=12x6+64", "model.shared_neurons=3"])
    with pytest.raises(ConfigError, match=r"shared_neurons must be a whole number of at least 0, not -1"):
        UltraFastBertConfig(shared_neurons=-1)
