"""The packed encoder against the encoder it is made from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.errors import BackendError, DataError
from ufbert.inference.engine import PackedEncoder, prepare
from ufbert.inference.engine.linear import Int8Linear, PackedLinear, largest_weight, packs, quantized
from ufbert.inference.options import choose_inference_precision

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "crammed": {},
    "odd": {"hidden_size": 36, "num_attention_heads": 3, "trees": 3, "depth": 2},
    "bert": {
        "norm_position": "post", "position_embedding_type": "absolute", "type_vocab_size": 2, "use_bias": True,
        "embedding_norm": True, "final_norm": False,
    },
    "offset": {"position_embedding_type": "absolute", "position_offset": 2, "pad_token_id": 1},
    "dense": {"feedforward": "dense"},
    "none": {"feedforward": "none"},
    "none-post": {"feedforward": "none", "norm_position": "post", "final_norm": False},
    "alibi": {"alibi": True, "num_attention_heads": 2},
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2, "use_bias": True},
    "grouped-alibi": {"num_attention_heads": 4, "num_key_value_heads": 1, "alibi": True},
    "relative": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "alibi": True},
    "grouped-relative": {"num_attention_heads": 4, "num_key_value_heads": 2, "relative_attention_num_buckets": 4},
    "rotary": {"position_embedding_type": "rotary", "rope_theta": 100.0},
    "local": {
        "num_hidden_layers": 3, "position_embedding_type": "rotary", "local_rope_theta": 50.0, "local_attention": 5,
        "feedforward": "dense", "is_gated_act": True, "skip_first_prenorm": True, "norm_bias": False,
    },
    "grouped-local": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "local_attention": 6, "position_embedding_type": "rotary",
        "global_attn_every_n_layers": 2, "num_hidden_layers": 2,
    },
    "local-biased": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "local_attention": 6, "alibi": True,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6,
    },
    "shared": {"shared_neurons": 12, "use_bias": True, "norm_position": "post", "final_norm": False},
    "mixed": {"num_hidden_layers": 5, "feedforward_layers": ["2x3", "dense:24", "none", "1x2+5", "8x0+4"]},
    "mixed-post": {
        "num_hidden_layers": 4, "feedforward_layers": ["dense:24", "none", "2x3+5", "dense:7"], "norm_position": "post",
        "position_embedding_type": "absolute", "type_vocab_size": 2, "use_bias": True, "final_norm": False,
    },
    "mixed-gated": {
        "num_hidden_layers": 4, "feedforward_layers": ["dense:24", "2x3", "none", "dense:7"], "is_gated_act": True,
        "position_embedding_type": "rotary", "local_attention": 5, "skip_first_prenorm": True, "norm_bias": False,
    },
    "relu": {"feedforward": "dense", "hidden_act": "relu", "use_bias": True, "norm_position": "post"},
}  # fmt: skip


def make(config: UltraFastBertConfig, **changes: Any) -> UltraFastBertModel:
    """A model whose every parameter matters: no zeros, no ones."""
    model = UltraFastBertModel(config.replace(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random ids, the mask of those lengths, token types."""
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 100, (len(lengths), longest)) * mask + (1 - mask)
    return ids, mask, torch.randint(0, 2, ids.shape) * mask


def packed(model: UltraFastBertModel, precision: str) -> PackedEncoder:
    result = prepare(copy.deepcopy(model), precision, CPU, "numba")
    assert isinstance(result, PackedEncoder)
    return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lengths", [[9, 9, 7, 7, 7, 3], [4], [2, 16, 5]])
def test_float32_is_the_encoder(tiny_config: UltraFastBertConfig, variant: str, lengths: list[int]) -> None:
    model = make(tiny_config, **VARIANTS[variant])
    ids, mask, types = batch(lengths)
    given = types if model.config.type_vocab_size > 1 else None
    with torch.inference_mode():
        expected = model.encode(ids, mask, given)
        result = packed(model, "float32").encode(ids, mask, given)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    assert not result[~mask.bool()].any()


@pytest.mark.parametrize("biased", [False, True])
def test_local_attention_goes_by_pieces(tiny_config: UltraFastBertConfig, biased: bool) -> None:
    more: dict[str, Any] = {"alibi": True, "num_key_value_heads": 1} if biased else {}
    config = tiny_config.replace(num_attention_heads=2, max_position_embeddings=300, **more)
    model = make(config, local_attention=30, num_hidden_layers=2, feedforward="dense", position_embedding_type="rotary")
    ids, mask, _ = batch([290, 290, 129, 20])
    with torch.inference_mode():
        expected = model.encode(ids, mask)
        result = packed(model, "float32").encode(ids, mask)
        rounded = packed(model, "bfloat16").encode(ids, mask)
    torch.testing.assert_close(result[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    assert torch.cosine_similarity(rounded, expected, dim=-1)[mask.bool()].min() > 0.995


@pytest.mark.usefixtures("steady_products")
def test_a_texts_states_do_not_depend_on_its_batch(tiny_config: UltraFastBertConfig) -> None:
    encoder = packed(make(tiny_config, hidden_size=64, max_position_embeddings=64), "float32")
    ids, mask, _ = batch([60, 41, 41, 17, 9, 9, 9, 2])
    with torch.inference_mode():
        together = encoder.encode(ids, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = encoder.encode(ids[row : row + 1, :length])
            assert torch.equal(together[row, :length], alone[0])


def test_batches_of_many_sizes_take_few_numbers_of_rows(tiny_config: UltraFastBertConfig) -> None:
    """Each number of rows costs oneDNN a compilation of every product."""
    encoder = packed(make(tiny_config), "float32")
    computed: list[int] = []
    encoder.layers[0].register_forward_pre_hook(lambda layer, given: computed.append(len(given[0])))
    sizes = range(257, 512, 3)
    with torch.inference_mode():
        for size in sizes:
            states = encoder.encode(torch.ones((size, 1), dtype=torch.int64))
            assert states.shape[0] == size
    assert all(size <= rows <= size * 17 / 16 for size, rows in zip(sizes, computed, strict=True))
    assert len(set(computed)) <= 16


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("variant", ["crammed", "bert", "dense", "mixed", "mixed-post", "mixed-gated"])
def test_reduced_precision_stays_close(tiny_config: UltraFastBertConfig, precision: str, variant: str) -> None:
    if precision == "int8" and not packs():
        pytest.skip("this torch has no oneDNN")
    model = make(tiny_config, **VARIANTS[variant])
    ids, mask, _ = batch([16] * 8)
    with torch.inference_mode():
        expected = model.encode(ids, mask)
        result = packed(model, precision).encode(ids)
    # A token whose logit lies within rounding of zero takes another path; the median sees none of those.
    similarity = torch.cosine_similarity(result, expected, dim=-1)
    assert similarity.median() > 0.995
    assert not torch.equal(result, expected)


def test_a_head_keeps_its_encoder_packed(tiny_config: UltraFastBertConfig) -> None:
    model = UltraFastBertForMaskedLM(tiny_config).eval()
    ids, mask, _ = batch([5, 5, 3])
    with torch.inference_mode():
        expected = model(ids, mask).logits
        ready = prepare(copy.deepcopy(model), "bfloat16", CPU, "numba")
        assert isinstance(ready, UltraFastBertForMaskedLM)
        assert isinstance(ready.encoder, PackedEncoder)
        result = ready(ids, mask).logits
    chosen = mask.bool()
    assert torch.cosine_similarity(result.float()[chosen], expected[chosen], dim=-1).median() > 0.99


def test_too_long_texts_are_refused(tiny_config: UltraFastBertConfig) -> None:
    with pytest.raises(DataError, match="17 tokens are more than the model's maximum of 16"):
        packed(make(tiny_config), "float32").encode(torch.zeros((1, 17), dtype=torch.int64))


@pytest.mark.skipif(not packs(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 37])
def test_int8_products_are_those_of_the_rounded_numbers(rows: int, bias: bool) -> None:
    x = torch.randn(rows, 70).bfloat16()
    weight, offset = torch.randn(45, 70), torch.randn(45) if bias else None
    bytes_of_x, scales = quantized(x)
    scale = x.float().abs().amax(1, keepdim=True) / 127
    torch.testing.assert_close(scales[:, None], scale)
    assert (bytes_of_x.int() - 128 - (x.float() / scale + 0.5).floor()).abs().max() <= 1  # a tie may go either way
    assert (bytes_of_x.int() - 128 == (x.float() / scale + 0.5).floor()).double().mean() > 0.99
    weight_scale = weight.abs().amax(1, keepdim=True) / largest_weight()
    rounded = (weight / weight_scale).round() * weight_scale
    expected = (bytes_of_x.float() - 128) * scale @ rounded.T + (0 if offset is None else offset)
    with torch.inference_mode():
        y = Int8Linear(weight, offset)(x)
        torch.testing.assert_close(Int8Linear(weight, offset)(x, torch.ones_like(y)), y + 1, rtol=0.01, atol=0.02)
        gelu = Int8Linear(weight, offset)(x, activation="gelu").float()
    torch.testing.assert_close(y.float(), expected, rtol=0.01, atol=0.05)
    torch.testing.assert_close(gelu, torch.nn.functional.gelu(expected), rtol=0.01, atol=0.05)


@pytest.mark.skipif(not packs(), reason="this torch has no oneDNN")
def test_large_int8_products_do_not_overflow() -> None:
    """As they did, unnoticed, on processors that add up pairs of products in 16 bits."""
    sign = torch.where(torch.arange(32) % 2 > 0, 1.0, -1.0)
    with torch.inference_mode():
        y = Int8Linear(sign[:, None].expand(32, 512), None)(torch.ones(40, 512, dtype=torch.bfloat16))
    torch.testing.assert_close(y.float(), 512 * sign.expand(40, 32), rtol=0.01, atol=0)


@pytest.mark.skipif(not packs(), reason="this torch has no oneDNN")
def test_a_rows_int8_result_does_not_depend_on_its_company_and_keeps_what_is_not_finite() -> None:
    linear = Int8Linear(torch.randn(45, 70), torch.randn(45))
    x = torch.randn(9, 70).bfloat16()
    x[3] = 0
    x[4] = 1e-38  # whose scale has no reciprocal
    with torch.inference_mode():
        alone = torch.cat([linear(row[None]) for row in x])
        x[5] *= 1000
        x[6, 1] = torch.nan
        x[7, 2] = torch.inf
        y = linear(x)
    same = [0, 1, 2, 3, 4, 8]
    assert torch.equal(y[same], alone[same])
    for row in (3, 4):
        torch.testing.assert_close(y[row].float(), linear.bias, rtol=0.01, atol=0.01)
    assert y[6:8].isnan().all()


@pytest.mark.skipif(not packs(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("variant", ["crammed", "bert", "dense"])
def test_an_int8_text_does_not_depend_on_its_batch(tiny_config: UltraFastBertConfig, variant: str) -> None:
    model = packed(make(tiny_config, **VARIANTS[variant]), "int8")
    ids, mask, types = batch([12, 9, 9, 5])
    kinds = types if model.config.type_vocab_size else None
    with torch.inference_mode():
        together = model.encode(ids, mask, kinds)
        for i, length in enumerate((12, 9, 9, 5)):
            part = slice(i, i + 1)
            own = model.encode(ids[part, :length], mask[part, :length], None if kinds is None else kinds[part, :length])
            # A bfloat16 product within attention may round another way; scales that reach over texts change nearly all.
            assert (own[0] == together[i, :length]).double().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_packed_linear_layer_is_torchs(
    dtype: torch.dtype, supported: bool, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a processor whose oneDNN refuses bfloat16, and with GELU and residual inside and after the product."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    if not supported:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    weight, bias, x = torch.randn(24, 40), torch.randn(24), torch.randn(3, 5, 40)
    residual = torch.randn(3, 5, 24)
    kept = residual.clone()
    linear = PackedLinear(weight, bias, dtype)
    assert linear.fuses == (capability == "AVX512")
    exact = torch.nn.functional.linear(x, weight, bias)
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (0.02, 0.1)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x).float(), exact, rtol=rtol, atol=atol)
        torch.testing.assert_close(
            linear(x, activation="gelu").float(), torch.nn.functional.gelu(exact), rtol=rtol, atol=atol
        )
        torch.testing.assert_close(linear(x, residual.to(dtype)).float(), exact + residual, rtol=rtol, atol=atol)
        assert linear(x).dtype == linear(x, residual.to(dtype)).dtype == dtype
    assert torch.equal(residual, kept)


def test_int8_is_refused_on_a_gpu_in_one_line() -> None:
    with pytest.raises(BackendError, match="int8 computes on a CPU only; take bfloat16"):
        choose_inference_precision("int8", torch.device("cuda"))
