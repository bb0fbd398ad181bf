"""Grouped-query attention: what it computes, and that every form of a model has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.conversion.export.hugging_face import write_hugging_face
from ufbert.conversion.export.onnx import export_onnx
from ufbert.conversion.readers.checkpoint import load_checkpoint
from ufbert.errors import ConfigError
from ufbert.model.attention import SelfAttention
from ufbert.model.card import model_card
from ufbert.settings.toml import load_settings
from ufbert.training.throughput import training_operations


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("key_value_heads", [1, 2])
def test_grouped_queries_are_attention_whose_heads_have_equal_keys_and_values(
    key_value_heads: int, alibi: bool
) -> None:
    config = UltraFastBertConfig(hidden_size=32, num_attention_heads=4, alibi=alibi, use_bias=True)
    grouped = SelfAttention(config.replace(num_key_value_heads=key_value_heads)).double().eval()
    every = SelfAttention(config).double().eval()
    assert grouped.qkv.weight.shape == (32 + 2 * 8 * key_value_heads, 32)
    with torch.no_grad():
        every.output.load_state_dict(grouped.output.state_dict())
        for name, parameter in grouped.qkv.named_parameters():
            query, key, value = parameter.split((32, 8 * key_value_heads, 8 * key_value_heads))
            copies = [
                torch.cat([part[8 * (h * key_value_heads // 4) :][:8] for h in range(4)]) for part in (key, value)
            ]
            every.qkv.get_parameter(name).copy_(torch.cat([query, *copies]))
    x = torch.randn(3, 10, 32, dtype=torch.float64)
    mask = (torch.arange(10) < torch.tensor([[6], [10], [1]]))[:, None, None]
    torch.testing.assert_close(grouped(x, mask), every(x, mask))
    torch.testing.assert_close(grouped(x, None), every(x, None))


def test_key_value_heads_divide_the_heads() -> None:
    with pytest.raises(ConfigError, match=r"num_key_value_heads \(3\) must divide num_attention_heads \(4\)"):
        UltraFastBertConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=3)
    with pytest.raises(ConfigError, match="num_key_value_heads must be a whole number of at least 1, not 0"):
        UltraFastBertConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=0)


def test_a_checkpoint_keeps_them_and_a_dense_one_has_a_copy_for_each_head(
    tiny_config: UltraFastBertConfig, tmp_path: Path
) -> None:
    config = tiny_config.replace(
        num_attention_heads=4, num_key_value_heads=2, feedforward="dense", use_bias=True,
        norm_position="post", final_norm=False, position_embedding_type="absolute",
    )  # fmt: skip
    model = UltraFastBertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.randint(5, 100, (2, 9))
    truth = model.encode(ids)
    model.save_pretrained(tmp_path / "ours")
    again = UltraFastBertModel.from_pretrained(tmp_path / "ours")
    assert again.config.num_key_value_heads == 2
    torch.testing.assert_close(again.encode(ids), truth)
    (tmp_path / "bert").mkdir()
    write_hugging_face(model, None, tmp_path / "bert", "ours")
    dense = load_checkpoint(tmp_path / "bert").model
    assert isinstance(dense, UltraFastBertModel)
    assert dense.config.num_key_value_heads is None
    torch.testing.assert_close(dense.encode(ids), truth, rtol=1e-4, atol=1e-5)
    assert "4, 2 of keys and values" in model_card(config, title="ours", origin="", figures={}, command="")


def test_onnx_has_them_at_any_length(tiny_config: UltraFastBertConfig, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    model = UltraFastBertForMaskedLM(tiny_config.replace(num_attention_heads=4, num_key_value_heads=1, alibi=True))
    export_onnx(model.eval(), tmp_path)
    session = ReferenceEvaluator(str(tmp_path / "model.onnx"))
    for rows, length in ((1, 3), (3, 12)):
        ids = torch.randint(5, model.config.vocab_size, (rows, length))
        mask = torch.ones_like(ids)
        mask[0, 2:] = 0
        with torch.no_grad():
            wanted = model(ids, mask).logits.numpy()
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        present = mask.bool().numpy()
        np.testing.assert_allclose(np.asarray(logits)[present], wanted[present], atol=1e-4)


def test_fewer_keys_and_values_are_fewer_operations() -> None:
    model = load_settings(None, ["model.hidden_size=96", "model.num_attention_heads=6"]).model
    grouped = load_settings(
        None, ["model.hidden_size=96", "model.num_attention_heads=6", "model.num_key_value_heads=1"]
    ).model
    saved = training_operations(model, 32, 0.15) - training_operations(grouped, 32, 0.15)
    assert saved == 3 * model.num_hidden_layers * 2 * 96 * 2 * (96 - 16)
