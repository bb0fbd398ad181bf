"""Settings: precedence, the end of a run, errors with their place, the files of the repository."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tomli

from ufbert.errors import ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.settings.presets import preset_names, preset_text
from ufbert.settings.toml import (
    Settings,
    TrainingSettings,
    differences,
    load_settings,
    parse_duration,
    settings_from_dict,
    settings_to_dict,
    settings_to_toml,
)

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("crammed-1x11", "crammed-dense", "small", "tiny")
# Filled in by the program: which class, where from, which labels, and what only other software's models have.
NOT_IN_FILES = {
    *("id2label", "problem_type", "architectures", "provenance"),
    *("embedding_size", "head_act", "num_key_value_heads", "score_activation"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without ufbert.toml."""
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str) -> Path:
    """A TOML file in the working folder."""
    file = Path(path)
    file.write_text(text, encoding="utf-8")
    return file


def test_the_repositorys_file_repeats_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    written = tomli.loads((ROOT / "ufbert.toml").read_text(encoding="utf-8"))
    defaults = Settings()
    assert list(written) == [f.name for f in dataclasses.fields(Settings)]
    for section, values in written.items():
        section_defaults = getattr(defaults, section)
        names = {f.name for f in dataclasses.fields(section_defaults)} - NOT_IN_FILES
        assert set(values) == names, section
        for name, value in values.items():
            default = getattr(section_defaults, name)
            read = tuple(value) if isinstance(value, list) else value
            assert read == default, f"{section}.{name}"
            assert type(read) is type(default), f"{section}.{name}"
    monkeypatch.chdir(ROOT)
    assert load_settings() == defaults


@pytest.mark.parametrize("file", ["ufbert.toml", *(f"ufbert/settings/presets/{name}.toml" for name in PRESETS)])
def test_every_key_of_a_shipped_file_has_a_comment(file: str) -> None:
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
        if "=" in line and not line.startswith("#"):
            assert " # " in line, f"{file}:{number}"


def test_the_known_presets_are_those_of_the_folder() -> None:
    assert preset_names() == sorted(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_it_holds_and_nothing_else(name: str) -> None:
    settings = load_settings(preset=name)
    written = tomli.loads(preset_text(name))
    changed = differences(Settings(), settings).keys() - {"training.budget"}  # `tiny` ends by steps
    assert changed <= {f"{section}.{key}" for section, keys in written.items() for key in keys}
    for section, keys in written.items():
        for key, value in keys.items():
            read = getattr(getattr(settings, section), key)
            assert read == (tuple(value) if isinstance(value, list) else value), f"{section}.{key}"
    config = Path("own.toml")
    config.write_text(preset_text(name), encoding="utf-8")
    assert load_settings(config) == settings


def test_the_crammed_preset_is_the_papers() -> None:
    settings = load_settings(preset="crammed-1x11")
    assert settings.model.replace(intermediate_size=3072) == UltraFastBertConfig()  # which trees do not have
    training = settings.training
    assert (training.budget, training.batch_size, training.peak_learning_rate) == ("24h", 8192, 1e-3)
    assert (training.adam_beta1, training.adam_beta2, training.adam_epsilon) == (0.9, 0.98, 1e-12)
    assert (training.weight_decay, training.gradient_clip, training.mlm_probability) == (0.01, 0.5, 0.25)
    assert (training.batch_ramp_fraction, training.initial_learning_rate_fraction) == (0.6, 0.25)
    assert (training.peak_fraction, training.dropout) == (0.75, 0.0)
    data = settings.data
    assert (data.max_tokens_per_character, data.sequence_length, data.lowercase) == (0.25, 128, True)
    assert (data.ascii_only, data.deduplicate, data.sort_by_likelihood) == (True, True, True)
    finetuning = settings.finetuning
    assert (finetuning.epochs, finetuning.batch_size, finetuning.learning_rate) == (5, 16, 4e-5)
    assert (finetuning.schedule, finetuning.warmup_fraction, finetuning.weight_decay) == ("cosine", 0.1, 0.0)


def test_the_dense_twin_differs_in_the_feedforward_layers_alone() -> None:
    fast, dense = load_settings(preset="crammed-1x11"), load_settings(preset="crammed-dense")
    assert differences(fast, dense).keys() - {"model.depth"} <= {"model.feedforward", "model.intermediate_size"}
    model = dense.model
    assert (model.feedforward, model.intermediate_size, model.use_bias, model.hidden_act) == (
        "dense",
        3072,
        False,
        "gelu",
    )


def test_the_recipe_is_not_changed_by_the_file_that_lies_around() -> None:
    alone = load_settings(preset="crammed-1x11")
    changed: dict[str, dict[str, Any]] = {
        "model": {"hidden_size": 64, "trees": 3, "use_bias": True, "layer_norm_eps": 1e-5, "feedforward": "none"},
        "data": {"sequence_length": 64, "lowercase": False},
        "training": {"steps": 3, "gradient_clip": 0.0, "adam_beta2": 0.999, "dropout": 0.1},
        "finetuning": {"epochs": 1, "learning_rate": 1.0},
    }
    write("ufbert.toml", settings_to_toml(settings_from_dict(changed, "here")))
    assert load_settings().training.steps == 3
    assert load_settings(preset="crammed-1x11") == alone


def test_command_line_over_config_over_preset_over_folder() -> None:
    write("ufbert.toml", "[model]\ndepth = 1\nnum_hidden_layers = 1\nhidden_size = 32\nnum_labels = 7\n")
    config = write("own.toml", "[model]\ndepth = 5\nnum_hidden_layers = 5\n")
    model = load_settings(config, ["model.depth=6"], preset="tiny").model
    assert (model.depth, model.num_hidden_layers, model.hidden_size, model.num_labels) == (6, 5, 64, 7)


PAPERS_FAMILY = {
    **{"3072x0": 3072, "1536x1": 4608, "512x2": 3584, "256x3": 3840, "128x4": 3968, "64x5": 4032, "32x6": 4064},
    **{"16x7": 4080, "8x8": 4088, "4x9": 4092, "2x10": 4094, "1x11": 4095},
}


@pytest.mark.parametrize(("shape", "neurons"), PAPERS_FAMILY.items())
def test_the_papers_family_is_one_setting_away(shape: str, neurons: int) -> None:
    for preset in ("crammed-1x11", "crammed-dense"):
        settings = load_settings(None, [f"model.shape={shape}"], preset=preset)
        assert (f"{settings.model.trees}x{settings.model.depth}", settings.model.feedforward) == (shape, "fff")
        assert settings.model.neurons_available == neurons
        assert load_settings(write("own.toml", settings_to_toml(settings))) == settings


def test_a_shape_in_a_file_outranks_lower_files_and_gives_way_to_higher_ones() -> None:
    write("ufbert.toml", "[model]\ntrees = 3\ndepth = 2\nfeedforward = 'none'\n")
    config = write("own.toml", "[model]\nhidden_size = 64\nshape = '5x4'\n")
    model = load_settings(config).model
    assert (model.trees, model.depth, model.feedforward, model.hidden_size) == (5, 4, "fff", 64)
    assert load_settings(config, ["model.depth=1"]).model.depth == 1
    assert load_settings(config, ["model.feedforward=none"]).model.feedforward == "none"


def test_errors_name_the_preset() -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(preset="tini")
    assert str(error.value) == "--preset tini: no such preset; known: crammed-1x11, crammed-dense, small, tiny"
    with pytest.raises(ConfigError, match=r"^preset tiny:12: num_attention_heads \(2\) must divide hidden_size \(63\)"):
        load_settings(None, ["model.hidden_size=63"], preset="tiny")


def test_command_line_over_config_over_folder_over_defaults() -> None:
    write("ufbert.toml", "[model]\ndepth = 3\ntrees = 3\nhidden_size = 96\nnum_attention_heads = 3\n")
    config = write("own.toml", "[model]\ndepth = 4\ntrees = 4\n")
    settings = load_settings(config, ["model.depth=5"], options={"training.seed": 6, "data.corpus": None})
    model = settings.model
    assert (model.depth, model.trees, model.hidden_size, model.num_hidden_layers) == (5, 4, 96, 2)
    assert settings.training.seed == 6
    assert settings.data.corpus == ("embedded",)


def test_values_of_overrides_are_toml_and_a_bare_word_is_a_string() -> None:
    settings = load_settings(
        None, ["data.lowercase=false", "training.dropout=0", 'data.corpus="a b.txt"', "data.tokenizer=x/y"]
    )
    assert settings.data.lowercase is False
    assert settings.training.dropout == 0.0
    assert isinstance(settings.training.dropout, float)
    assert (settings.data.corpus, settings.data.tokenizer) == (("a b.txt",), "x/y")
    assert load_settings(None, ['data.corpus=["a.txt", "b, c.txt"]']).data.corpus == ("a.txt", "b, c.txt")
    assert load_settings(None, ["model.depth=3", "model.depth=4"]).model.depth == 4


@pytest.mark.parametrize(
    ("lower", "higher", "end"),
    [
        ("budget = '2h'", "steps = 5", (5, 0, "")),
        ("steps = 5", "tokens = 70", (0, 70, "")),
        ("tokens = 70", "budget = '3m'", (0, 0, "3m")),
        ("steps = 5\ntokens = 0\nbudget = ''", "batch_size = 8", (5, 0, "")),
        ("steps = 5", "steps = 0\ntokens = 0\nbudget = '1h'", (0, 0, "1h")),
    ],
)
def test_an_end_clears_those_of_lower_levels(lower: str, higher: str, end: tuple[int, int, str]) -> None:
    write("ufbert.toml", f"[training]\n{lower}\n")
    training = load_settings(write("own.toml", f"[training]\n{higher}\n")).training
    assert (training.steps, training.tokens, training.budget) == end


@pytest.mark.parametrize(
    ("lower", "higher", "end"),
    [
        ("minutes = 3", "steps = 5", (0.0, 5)),
        ("steps = 5", "minutes = 0.5", (0.5, 0)),
        ("steps = 5", "batch_size = 8", (0.0, 5)),
        ("seed = 1", "steps = 0", (10.0, 0)),
    ],
)
def test_minutes_and_steps_of_a_distillation_clear_each_other(lower: str, higher: str, end: tuple[float, int]) -> None:
    write("ufbert.toml", f"[distillation]\n{lower}\n")
    distillation = load_settings(write("own.toml", f"[distillation]\n{higher}\n")).distillation
    assert (distillation.minutes, distillation.steps) == end
    assert distillation.seconds == (60 * end[0] or None)


def test_an_option_clears_the_files_end_and_two_options_are_at_odds() -> None:
    config = write("own.toml", "[training]\nbudget = '2h'\n")
    assert load_settings(config, options={"training.tokens": 9}).training.budget == ""
    with pytest.raises(ConfigError, match=r"--steps: training.steps and training.tokens both say when"):
        load_settings(config, ["training.tokens=9"], options={"training.steps": 3})
    with pytest.raises(ConfigError, match=r"--seed: --set training.seed=1 gives training.seed another value"):
        load_settings(None, ["training.seed=1"], options={"training.seed": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\n\ndept = 3\n", "own.toml:3: unknown key model.dept; did you mean depth?"),
        ("[training]\n[modl]\ndepth = 3\n", "own.toml:2: unknown section 'modl'; known: model, data,"),
        ("depth = 3\n", "own.toml:1: unknown section 'depth'"),
        ("model = 3\n", "own.toml:1: model must be a table [model]"),
        ("[model]\ndepth = '3'\n", "own.toml:2: model.depth must be a whole number, not '3'"),
        ("[model]\nuse_bias = 1\n", "own.toml:2: model.use_bias must be true or false, not 1"),
        ("[training]\nbatch_size = true\n", "own.toml:2: training.batch_size must be a whole number, not True"),
        ("[data]\n# a\ncorpus = 3\n", "own.toml:3: data.corpus must be a string or a list of strings, not 3"),
        ("[data]\ncorpus = ['a', 3]\n", "own.toml:2: data.corpus must be a string or a list of strings, not ['a', 3]"),
        ("[data]\ncorpus = ['a', '']\n", "own.toml:2: data.corpus has an empty entry"),
        ("[data]\ncorpus = []\n", "own.toml:2: data.corpus is empty; give a path"),
        ("[training]\ndropout = 1.5\n", "own.toml:2: training.dropout must lie between 0.0 and 0.99"),
        ("[training]\nbudget = 'long'\n", "own.toml:2: training.budget must be a time such as 90s"),
        ("[training]\nprecision = 'half'\n", "own.toml:2: training.precision must be one of auto, float32"),
        ("[training]\nseed = 1\nsteps = 3\ntokens = 4\n", "own.toml:3: training.steps and training.tokens both"),
        ("[training]\nsteps = 0\nbudget = ''\n", "own.toml:2: exactly one of training.steps"),
        ("[model]\nhidden_size = 100\nnum_attention_heads = 3\n", "own.toml:3: num_attention_heads (3) must divide"),
        ("[model]\ndepth = 40\n", "own.toml:2: depth 40 means 1 x 2,199,023,255,551 neurons"),
        ("[data]\nsequence_length = 512\n", "own.toml:2: data.sequence_length (512) is above"),
        (
            "[distillation]\nminutes = 1\nsteps = 2\n",
            "own.toml:2: distillation.minutes and distillation.steps both say",
        ),
        ("[distillation]\nsteps = -1\n", "own.toml:2: distillation.steps must be at least 0, not -1"),
        ("[finetuning]\nseed = -1\n", "own.toml:2: finetuning.seed must be at least 0, not -1"),
        ("[model]\nuse_bias = true\nshape = '2x40'\n", "own.toml:3: depth 40 means 2 x"),
        ("[model]\nshape = '0x4'\n", "own.toml:2: trees must be a whole number of at least 1, not 0"),
        (
            "[model]\nshape = [2, 3]\n",
            "own.toml:2: model.shape must be trees x depth, such as 256x3 or 1x11, with shared neurons 12x6+64, not [",
        ),
        ("[model]\nshape = '2x3'\ndepth = 3\n", "own.toml:2: model.shape sets model.depth too; give one of them"),
        ("[data]\nshape = '2x3'\n", "own.toml:2: unknown key data.shape"),
        ("model.depth = '3'\n", "own.toml:1: model.depth must be a whole number"),
        ("[model]\ndepth = \n", "not valid TOML"),
    ],
)
def test_errors_name_file_line_and_key(text: str, message: str) -> None:
    config = write("own.toml", text)
    with pytest.raises(ConfigError) as error:
        load_settings(config)
    assert message in str(error.value)
    assert str(error.value).startswith("own.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth=3", "--set depth=3: write section.key=value"),
        ("model.depth", "--set model.depth: write section.key=value"),
        ("model.dept=3", "--set model.dept=3: unknown key model.dept; did you mean depth?"),
        ("run.depth=3", "--set run.depth=3: unknown section 'run'"),
        ("model.depth=deep", "--set model.depth=deep: model.depth must be a whole number, not 'deep'"),
        ("model.shape=2by3", "--set model.shape=2by3: model.shape must be trees x depth, such as 256x3"),
        ("model.shap=2x3", "--set model.shap=2x3: unknown key model.shap; did you mean shape?"),
        ("training.batch_size=0", "--set training.batch_size=0: training.batch_size must be at least 1"),
    ],
)
def test_errors_name_the_override(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(None, [override])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("trees=2", "--set model.shape=1x3: model.shape sets model.trees too; give one of them"),
        ("feedforward=dense", "--set model.shape=1x3: model.shape is of trees, and model.feedforward is 'dense'; give"),
    ],
)
def test_a_shape_beside_what_it_sets_is_refused(other: str, message: str) -> None:
    for overrides in (["model.shape=1x3", f"model.{other}"], [f"model.{other}", "model.shape=1x3"]):
        with pytest.raises(ConfigError) as error:
            load_settings(None, overrides)
        assert str(error.value).startswith(message)
    assert load_settings(None, ["model.shape=1x3", "model.feedforward=fff"]).model.depth == 3


def test_a_file_that_is_missing_or_not_text() -> None:
    with pytest.raises(ConfigError, match=r"absent.toml: no such file; --config takes a TOML file"):
        load_settings(Path("absent.toml"))
    Path("own.toml").write_bytes(b"[model]\n\xff = 3\n")
    with pytest.raises(ConfigError, match=r"own.toml: not UTF-8 \(byte 8\)"):
        load_settings(Path("own.toml"))


def test_a_corpus_is_a_list_and_a_string_is_a_list_of_one() -> None:
    config = write("own.toml", "[data]\ncorpus = ['a.txt', 'Austen, Jane.txt']\nvalidation_corpus = 'b, c.txt'\n")
    data = load_settings(config).data
    assert (data.corpus, data.validation_corpus) == (("a.txt", "Austen, Jane.txt"), ("b, c.txt",))
    assert load_settings(None, ["data.validation_corpus=''"]).data.validation_corpus == ()
    assert load_settings(write("own.toml", settings_to_toml(load_settings(config)))) == load_settings(config)


def test_a_stored_string_of_a_corpus_is_read_as_it_was_meant() -> None:
    Path("Austen, Jane.txt").touch()
    for stored, corpus in (
        ("a.txt, b.txt,", ("a.txt", "b.txt")),
        ("Austen, Jane.txt", ("Austen, Jane.txt",)),
        (",".join(["text.txt"] * 1000), ("text.txt",) * 1000),
        (["a, b-*.txt"], ("a, b-*.txt",)),
    ):
        data = settings_from_dict({"data": {"corpus": stored, "validation_corpus": ""}}, "here").data
        assert (data.corpus, data.validation_corpus) == (corpus, ())


def test_settings_survive_toml_and_json() -> None:
    settings = load_settings(
        None, ["training.steps=7", 'data.corpus="naïve \\"q\\" 😀.txt"', "model.depth=2", "training.adam_epsilon=1e-9"]
    )
    assert load_settings(write("own.toml", settings_to_toml(settings))) == settings
    assert settings_from_dict(settings_to_dict(settings), "here") == settings
    assert differences(settings, Settings())["training.steps"] == (7, 0)
    assert set(differences(settings, load_settings(None, ["training.steps=7"]))) == {
        "data.corpus",
        "model.depth",
        "training.adam_epsilon",
    }


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "-3m", "3 weeks", "h", "1h30"])
def test_a_duration_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"training.budget must be a time such as 90s, 20m, 24h or 1h30m"):
        parse_duration(text, "training.budget")


def test_a_run_needs_one_end() -> None:
    with pytest.raises(ConfigError, match="exactly one of"):
        TrainingSettings(budget="")
    with pytest.raises(ConfigError, match="exactly one of"):
        TrainingSettings(steps=3)


def test_the_seed_of_the_held_out_text_is_the_runs_own_unless_it_is_set() -> None:
    assert load_settings(None, ["training.seed=5"]).held_out_seed == 5
    assert load_settings(None, ["training.seed=5", "data.held_out_seed=2"]).held_out_seed == 2
    for value, line in (("-1", "must be at least 0, not -1"), ("'own'", "must be a whole number or auto, not 'own'")):
        with pytest.raises(ConfigError, match=rf"^--set data.held_out_seed={value}: data.held_out_seed {line}$"):
            load_settings(None, [f"data.held_out_seed={value}"])
