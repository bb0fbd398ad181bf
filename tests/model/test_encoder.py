"""Shapes, masks, losses and switches of the encoder and its heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ufbert import (
    UltraFastBertConfig,
    UltraFastBertForMaskedLM,
    UltraFastBertForSequenceClassification,
    UltraFastBertModel,
)
from ufbert.errors import ConfigError, DataError
from ufbert.model.attention import SelfAttention
from ufbert.model.encoder import set_dropout


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(5, 100, (3, 12))


def test_padding_does_not_touch_the_tokens(tiny_config: UltraFastBertConfig, ids: torch.Tensor) -> None:
    model = UltraFastBertModel(tiny_config).eval()
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=torch.int64)], dim=1)
    mask = (torch.arange(16) < 12).long().expand(3, 16)
    alone = model(ids).last_hidden_state
    torch.testing.assert_close(model(padded, mask).last_hidden_state[:, :12], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(ids, torch.ones_like(ids)).last_hidden_state, alone, rtol=1e-4, atol=1e-5)


def test_only_labelled_positions_reach_the_decoder(tiny_config: UltraFastBertConfig, ids: torch.Tensor) -> None:
    model = UltraFastBertForMaskedLM(tiny_config).eval()
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[2, 5] = 7, 9
    output = model(ids, labels=labels)
    full = model(ids).logits
    assert full.shape == (3, 12, 100)
    torch.testing.assert_close(output.logits, torch.stack([full[0, 2], full[2, 5]]))
    expected = torch.nn.functional.cross_entropy(full.reshape(-1, 100), labels.reshape(-1))
    assert output.loss is not None
    torch.testing.assert_close(output.loss, expected)
    nothing = model(ids, labels=torch.full_like(ids, -100)).loss
    assert nothing is not None
    assert nothing.item() == 0.0


def test_positions_that_the_caller_knows_are_not_looked_for(
    tiny_config: UltraFastBertConfig, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = UltraFastBertForMaskedLM(tiny_config).eval()
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[2, 5] = 7, 9
    expected = model(ids, labels=labels)

    def search(labels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("on a GPU this waits")

    monkeypatch.setattr("ufbert.model.heads.labelled_positions", search)
    given = model(ids, labels=labels, labelled=torch.tensor([2, 2 * ids.shape[1] + 5]))
    assert torch.equal(given.logits, expected.logits)
    assert given.loss is not None
    assert expected.loss is not None
    assert torch.equal(given.loss, expected.loss)


def test_dropout_of_all_parts_is_set_and_the_config_stays(tiny_config: UltraFastBertConfig, ids: torch.Tensor) -> None:
    model = UltraFastBertForMaskedLM(tiny_config).train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
    set_dropout(model, 0.0)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config == tiny_config
    assert model.config.hidden_dropout_prob == 0.1
    set_dropout(model, 0.5)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    assert {m.dropout for m in model.modules() if isinstance(m, SelfAttention)} == {0.5}


def test_decoder_is_the_embedding(tiny_config: UltraFastBertConfig) -> None:
    model = UltraFastBertForMaskedLM(tiny_config)
    assert model.decoder.weight is model.encoder.embeddings.word.weight
    assert model.decoder.bias is None
    untied = UltraFastBertForMaskedLM(tiny_config.replace(tie_word_embeddings=False))
    assert untied.decoder.weight is not untied.encoder.embeddings.word.weight


def test_crammed_recipe_has_no_biases_and_the_published_sizes() -> None:
    config = UltraFastBertConfig(num_hidden_layers=1)
    with torch.device("meta"):
        model = UltraFastBertForMaskedLM(config)
    biases = [n for n, _ in model.named_parameters() if n.endswith("bias") and "norm" not in n]
    assert biases == []
    feedforward = [p.numel() for n, p in model.named_parameters() if ".feedforward." in n]
    assert sum(feedforward) == 4095 * (2 * 768 + 1)
    assert config.neurons_available / config.neurons_used == pytest.approx(341.25)


def test_dense_twin_and_every_switch_run_and_train(ids: torch.Tensor) -> None:
    base = UltraFastBertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, depth=2,
        max_position_embeddings=16, intermediate_size=48,
    )  # fmt: skip
    bert = base.replace(
        norm_position="post", final_norm=False, position_embedding_type="absolute", type_vocab_size=2,
        use_bias=True, head_transform=True, decoder_bias=True,
    )  # fmt: skip
    none = base.replace(feedforward="none")
    for config in (
        none,
        bert.replace(feedforward="none"),
        base.replace(feedforward="dense"),
        bert,
        bert.replace(feedforward="dense", hidden_act="relu"),
    ):
        model = UltraFastBertForMaskedLM(config)
        loss = model(ids, labels=ids, token_type_ids=torch.ones_like(ids) if config.type_vocab_size else None).loss
        assert loss is not None
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())


def test_without_feedforward_layers_there_is_attention_alone(
    tiny_config: UltraFastBertConfig, ids: torch.Tensor
) -> None:
    config = tiny_config.replace(feedforward="none")
    assert config.neurons_used == config.neurons_available == 0
    model = UltraFastBertModel(config).eval()
    assert not [name for name, _ in model.named_parameters() if "feedforward" in name]
    silent = UltraFastBertModel(tiny_config).eval()
    silent.load_state_dict(model.state_dict(), strict=False)
    for name, parameter in silent.named_parameters():
        if name.endswith("feedforward.w_out"):
            torch.nn.init.zeros_(parameter)
    assert torch.equal(model(ids).last_hidden_state, silent(ids).last_hidden_state)


def test_roberta_numbering_skips_padding() -> None:
    config = UltraFastBertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=0, num_attention_heads=2, pad_token_id=1,
        position_embedding_type="absolute", position_offset=2, embedding_norm=False, final_norm=False,
        max_position_embeddings=6,
    )  # fmt: skip
    model = UltraFastBertModel(config).eval()
    ids = torch.tensor([[1, 1, 5, 6]])
    difference = model(ids).last_hidden_state - model.embeddings.word(ids)
    rows = model.embeddings.position.weight
    torch.testing.assert_close(difference[0], rows[[1, 1, 2, 3]])


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_classifier_pools_tokens_only(tiny_config: UltraFastBertConfig, ids: torch.Tensor, pooling: str) -> None:
    model = UltraFastBertForSequenceClassification(tiny_config.replace(classifier_pooling=pooling, num_labels=3)).eval()
    padded = torch.cat([ids, torch.zeros(3, 2, dtype=torch.int64)], dim=1)
    mask = (padded != 0).long()
    torch.testing.assert_close(model(padded, mask).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    loss = model(ids, labels=torch.tensor([0, 1, 2])).loss
    assert loss is not None
    assert loss.item() == pytest.approx(torch.log(torch.tensor(3.0)).item(), abs=0.3)


def test_regression_is_squared_error(tiny_config: UltraFastBertConfig, ids: torch.Tensor) -> None:
    model = UltraFastBertForSequenceClassification(tiny_config.replace(num_labels=1, problem_type="regression")).eval()
    output = model(ids, labels=torch.tensor([0.5, 1.0, 2.0]))
    assert output.loss is not None
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - torch.tensor([0.5, 1.0, 2.0])) ** 2).mean())


def test_too_long_a_sequence_says_so(tiny_config: UltraFastBertConfig) -> None:
    with pytest.raises(DataError, match="17 tokens are more than the model's maximum of 16"):
        UltraFastBertModel(tiny_config)(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"feedforward": "moe"}, "feedforward must be one of fff, dense, none"),
        ({"num_attention_heads": 5}, "must divide hidden_size"),
        ({"hidden_dropout_prob": 1.5}, r"must lie in \[0, 1\)"),
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1"),
        ({"depth": 99}, "the largest depth is 31"),
        ({"id2label": {0: "no"}, "num_labels": 2}, "id2label names classes"),
    ],
)
def test_impossible_configurations_name_the_field(
    tiny_config: UltraFastBertConfig, change: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        tiny_config.replace(**change)


@pytest.mark.parametrize("change", [{}, {"shared_neurons": 4}, {"feedforward": "dense"}, {"feedforward": "none"}])
def test_feedforward_layers_that_begin_by_adding_nothing(
    tiny_config: UltraFastBertConfig, ids: torch.Tensor, change: dict[str, Any]
) -> None:
    config = tiny_config.replace(**change)
    torch.manual_seed(0)
    ordinary = UltraFastBertModel(config).eval()
    torch.manual_seed(0)
    model = UltraFastBertModel(config.replace(zero_output_init=True)).eval()
    alone = UltraFastBertModel(config.replace(feedforward="none")).eval()
    alone.load_state_dict({k: v for k, v in model.state_dict().items() if ".feedforward" not in k})
    torch.testing.assert_close(model.encode(ids), alone.encode(ids))
    for name, parameter in ordinary.named_parameters():  # nothing else is changed
        if ".feedforward." not in name or "_in" in name:
            torch.testing.assert_close(model.get_parameter(name), parameter)
    loss = model.encode(ids).sin().sum()
    if change.get("feedforward") != "none":
        layer: Any = model.layers[0].feedforward
        weight = layer.w_out if config.feedforward == "fff" else layer.linear_out.weight
        loss.backward()
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
