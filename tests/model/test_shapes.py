"""Feedforward layers that differ: how they are written, what a config makes of them, and what reads the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ufbert import FFF, UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.card import model_card
from ufbert.model.encoder import DenseFeedforward
from ufbert.model.pretrained import read_config
from ufbert.model.shapes import describe_layers, parse_shape
from ufbert.settings.toml import load_settings, settings_from_dict, settings_to_dict, settings_to_toml
from ufbert.training.memory import parameter_count
from ufbert.training.throughput import training_operations

MIXED = ("2x3", "dense:24", "none", "1x2+5")


@pytest.mark.parametrize(
    ("text", "written", "used", "available", "width"),
    [
        ("none", "none", 0, 0, None),
        (" dense:216 ", "dense:216", 216, 216, 216),
        ("12x6", "12x6", 84, 1524, None),
        ("12x6+64", "12x6+64", 148, 1588, None),
        ("12x6+0", "12x6", 84, 1524, None),
        ("8x0+4", "8x0+4", 12, 12, 12),
        ("dense:216+rows:50", "dense:216+rows:50", 216, 216, None),
        ("12x6+64+rows:50", "12x6+64+rows:50", 148, 1588, None),
        ("rows:50", "rows:50", 0, 0, None),
    ],
)
def test_a_shape_and_its_neurons(text: str, written: str, used: int, available: int, width: int | None) -> None:
    shape = parse_shape(text)
    assert str(shape) == written
    assert parse_shape(written) == shape
    assert (shape.neurons_used, shape.neurons_available, shape.dense_width) == (used, available, width)


@pytest.mark.parametrize("text", ["", "dense", "dense:", "dense:-3", "12x", "x6", "12x6+", "12x6+64+2", "fff", 3, None])
def test_what_is_no_shape_is_one_line_with_the_forms(text: Any) -> None:
    with pytest.raises(ConfigError) as error:
        parse_shape(text)
    assert str(error.value) == (
        f"{text!r} is no feedforward layer; write none, dense:N, PxD or PxD+S, and +rows:N behind them, such as "
        "dense:216 or 12x6+64+rows:8192"
    )


def test_layers_have_the_modules_that_the_list_names(tiny_config: UltraFastBertConfig) -> None:
    config = tiny_config.replace(num_hidden_layers=4, feedforward_layers=MIXED, feedforward="dense")
    trees, dense, none, shared = (layer.feedforward for layer in UltraFastBertModel(config).layers)
    assert isinstance(trees, FFF)
    assert (trees.trees, trees.depth, trees.shared_neurons) == (2, 3, 0)
    assert isinstance(dense, DenseFeedforward)
    assert dense.linear_in.weight.shape == (24, 32)
    assert none is None
    assert isinstance(shared, FFF)
    assert (shared.trees, shared.depth, shared.shared_neurons) == (1, 2, 5)
    gated = UltraFastBertModel(config.replace(is_gated_act=True)).layers[1].get_submodule("feedforward.linear_in")
    assert gated.weight.shape == (48, 32)


def test_layers_that_are_alike_are_the_fields_for_all(tiny_config: UltraFastBertConfig) -> None:
    assert tiny_config.replace(feedforward_layers=("3x2+4", "3x2+4")) == tiny_config.replace(
        trees=3, depth=2, shared_neurons=4
    )
    dense = tiny_config.replace(feedforward_layers=["dense:7"] * 2)
    assert (dense.feedforward, dense.intermediate_size, dense.feedforward_layers) == ("dense", 7, ())
    assert tiny_config.replace(feedforward_layers=["none"] * 2).feedforward == "none"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["2x3"], "feedforward_layers has 1 entries, num_hidden_layers is 2: give one for each layer"),
        (
            ["2x3", "dense:0"],
            "feedforward_layers, layer 1: dense:0: a dense layer has at least 1 neuron; write none for",
        ),
        (["0x3", "none"], "feedforward_layers, layer 0: 0x3: a layer of trees has at least 1; write none for no"),
        (["1x40", "none"], "feedforward_layers, layer 0: depth 40 means 1 x 2,199,023,255,551 neurons, more than any"),
        (["none", 3], "feedforward_layers, layer 1: 3 is no feedforward layer; write none, dense:N, PxD or PxD+S,"),
        ("2x3,2x3", "feedforward_layers must be a list, with an entry for each layer, not '2x3,2x3'"),
    ],
)
def test_a_list_that_cannot_be_is_one_line(layers: Any, message: str, tiny_config: UltraFastBertConfig) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config.replace(feedforward_layers=layers)
    assert str(error.value).startswith(message)


def test_files_have_the_list_where_layers_differ_and_are_as_before_where_not(
    tiny_config: UltraFastBertConfig, tmp_path: Path
) -> None:
    mixed = tiny_config.replace(num_hidden_layers=4, feedforward_layers=MIXED)
    for name, config in (("alike", tiny_config), ("mixed", mixed)):
        model = UltraFastBertForMaskedLM(config)
        model.save_pretrained(tmp_path / name)
        again = UltraFastBertForMaskedLM.from_pretrained(tmp_path / name)
        assert again.config == config.replace(architectures=("UltraFastBertForMaskedLM",))
    alike, different = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("alike", "mixed"))
    assert "feedforward_layers" not in alike
    assert different["feedforward_layers"] == list(MIXED)
    assert alike.keys() | {"feedforward_layers"} == different.keys()
    # Weights of other shapes than the list names are told as the file's error.
    different["feedforward_layers"][1] = "dense:25"
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(different))
    with pytest.raises(CheckpointError, match=r"layers.1.feedforward.linear_in.weight has shape \(24, 32\)"):
        UltraFastBertForMaskedLM.from_pretrained(tmp_path / "mixed")
    different["feedforward_layers"].pop()
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(different))
    with pytest.raises(CheckpointError, match="feedforward_layers has 3 entries, num_hidden_layers is 4"):
        read_config(tmp_path / "mixed")


def test_what_reads_a_config_counts_each_layer(tiny_config: UltraFastBertConfig) -> None:
    config = tiny_config.replace(num_hidden_layers=4, feedforward_layers=MIXED)
    used, available = 8 + 24 + 0 + 8, 30 + 24 + 0 + 12
    assert (config.neurons_used, config.neurons_available) == (round(used / 4), round(available / 4))
    assert config.feedforward_kind == "fff"
    assert describe_layers(config.layer_shapes) == "0: 2x3, 1: dense:24, 2: none, 3: 1x2+5"
    card = model_card(config, title="mixed", origin="", figures={}, command="")
    assert "by layer 0: 2x3, 1: dense:24, 2: none, 3: 1x2+5: a token uses 40 of 66 neurons in all" in card
    alone = [
        training_operations(tiny_config.replace(num_hidden_layers=1, feedforward_layers=[shape]), 16, 0.0)
        for shape in MIXED
    ]
    assert training_operations(config, 16, 0.0) == sum(alone)
    gated = config.replace(is_gated_act=True)  # three products of the dense layer's 24 neurons in place of two
    assert training_operations(gated, 16, 0.0) - training_operations(config, 16, 0.0) == 3 * 2 * 32 * 24
    assert parameter_count(config) == sum(p.numel() for p in UltraFastBertForMaskedLM(config).parameters())


def test_the_setting_takes_the_place_of_those_for_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers = "model.feedforward_layers=['1x3', 'dense:8']"
    settings = load_settings(None, [layers])
    assert settings.model.feedforward_layers == ("1x3", "dense:8")
    assert settings_from_dict(settings_to_dict(settings), "a run") == settings
    (tmp_path / "own.toml").write_text(settings_to_toml(settings))
    assert load_settings(tmp_path / "own.toml") == settings
    # What is said of all layers at a higher level counts.
    for override in ("model.shape=2x2", "model.trees=2", "model.feedforward=none"):
        assert load_settings(tmp_path / "own.toml", [override]).model.feedforward_layers == ()
    for other in ("model.depth=3", "model.intermediate_size=9"):
        with pytest.raises(ConfigError) as error:
            load_settings(None, [layers, other])
        assert str(error.value) == f"--set {other}: model.feedforward_layers says what each layer has; give one of them"
    with pytest.raises(ConfigError, match=r"model.shape sets model.feedforward_layers too; give one of them"):
        load_settings(None, [layers, "model.shape=2x2"])
    with pytest.raises(ConfigError) as error:
        load_settings(None, ["model.feedforward_layers=['1x3']"])
    assert str(error.value).startswith("--set model.feedforward_layers=['1x3']: feedforward_layers has 1 entries")
    with pytest.raises(ConfigError, match=r"model.feedforward_layers must be a list, not '1x3'"):
        load_settings(None, ["model.feedforward_layers=1x3"])
