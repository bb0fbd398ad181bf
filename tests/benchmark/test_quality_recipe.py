"""Recipes of `bench quality`: what variants are called, what a file says, and one line for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ufbert.benchmark.quality.recipe import Recipe, read_recipe, recipe_names, recipe_text
from ufbert.benchmark.quality.variants import folder_name, parse_form
from ufbert.errors import ConfigError
from ufbert.pretraining.run_folder import plan_run
from ufbert.settings.toml import settings_to_toml

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """[quality]
tokens = 4096
variants = ["none", "dense:31", "1x4", "dense:time:1x4"]
[model]
hidden_size = 32
num_attention_heads = 2
[training]
batch_size = 8
[variants.fast]
layer = "1x4"
[variants.fast.settings.training]
peak_learning_rate = 6e-3
[variants."wide:trees"]
trees = 4
depth = 2
norm_position = "post"
final_norm = false
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A recipe from its text, read in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(text: str, *overrides: str, corpus: tuple[str, ...] = ()) -> Recipe:
        Path("recipe.toml").write_text(text, encoding="utf-8")
        return read_recipe("recipe.toml", overrides, corpus)

    return call


@pytest.mark.parametrize(
    ("name", "model", "time_of"),
    [
        ("none", {"feedforward": "none"}, ""),
        ("dense:511", {"feedforward": "dense", "intermediate_size": 511}, ""),
        ("dense:time:1x8", {"feedforward": "dense"}, "1x8"),
        ("dense:time:4x6+64", {"feedforward": "dense"}, "4x6+64"),
        ("12x6", {"feedforward": "fff", "trees": 12, "depth": 6}, ""),
        ("12x0", {"feedforward": "fff", "trees": 12, "depth": 0}, ""),
        ("4x6+64", {"feedforward": "fff", "trees": 4, "depth": 6, "shared_neurons": 64}, ""),
    ],
)
def test_names_say_what_the_layers_are(name: str, model: dict[str, Any], time_of: str) -> None:
    form = parse_form(name)
    assert form is not None
    assert (form.model, form.time_of) == (model, time_of)


@pytest.mark.parametrize("name", ["", "dense", "dense:", "dense:time:", "4x", "x6", "4x6+", "4x6+1+2", "4x6-1", "None"])
def test_other_names_are_none_of_the_forms(name: str) -> None:
    assert parse_form(name) is None


def test_folders_have_no_colon() -> None:
    assert [folder_name(name) for name in ("dense:time:4x6+64", "none")] == ["dense-time-4x6+64", "none"]


def test_a_recipe_gives_every_variant_its_settings(read: Callable[..., Recipe]) -> None:
    recipe = read(RECIPE, "training.peak_learning_rate=1e-3", corpus=("a.txt", "b.txt"))
    assert list(recipe.variants) == ["none", "dense:31", "1x4", "dense:time:1x4", "fast", "wide:trees"]
    assert (recipe.quality.seeds, recipe.quality.reference, recipe.quality.twin) == ((1, 2), "none", "dense:31")
    for variant in recipe.variants.values():
        settings = variant.of(7)
        assert (settings.training.tokens, settings.training.steps, settings.training.budget) == (4096, 0, "")
        assert (settings.training.seed, settings.training.batch_size) == (7, 8)
        assert (settings.data.corpus, settings.held_out_seed) == (("a.txt", "b.txt"), 0)
        assert settings.training.peak_learning_rate == (6e-3 if variant.name == "fast" else 1e-3)
    models = {name: variant.settings.model for name, variant in recipe.variants.items()}
    assert (models["none"].feedforward, models["dense:31"].intermediate_size) == ("none", 31)
    assert [(models[name].trees, models[name].depth) for name in ("1x4", "fast")] == [(1, 4), (1, 4)]
    assert (models["wide:trees"].trees, models["wide:trees"].norm_position) == (4, "post")
    assert recipe.variants["dense:time:1x4"].time_of == "1x4"
    assert recipe.variants["dense:time:1x4"].of(1, 48).model.intermediate_size == 48


def test_settings_of_the_folder_have_no_say(read: Callable[..., Recipe]) -> None:
    Path("ufbert.toml").write_text("[training]\nbatch_size = 3\n[data]\nlowercase = false\n")
    recipe = read("[quality]\ntokens = 4096\nvariants = ['none']\n")
    assert (recipe.base.training.batch_size, recipe.base.data.lowercase) == (32, True)
    # Nor in the run, which is started from a file of all settings.
    Path("run.toml").write_text(settings_to_toml(recipe.variants["none"].of(1)))
    assert plan_run(Path("run"), config=Path("run.toml")).settings == recipe.variants["none"].of(1)


def test_every_shipped_recipe_is_valid_and_found_by_its_name() -> None:
    assert recipe_names() == ["quality"]
    assert recipe_text("quality") == (ROOT / "recipes" / "quality.toml").read_text()
    recipe = read_recipe("quality")
    twin, tree = recipe.variants["dense:511"].settings.model, recipe.variants["1x8"].settings.model
    assert twin.neurons_available == tree.neurons_available == 511


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("tokens = 4096\n", "", "recipe.toml:1: quality.tokens is missing; say how many tokens each run sees"),
        ("tokens = 4096", "tokens = 0", "recipe.toml:2: quality.tokens must be at least 1, not 0"),
        ("tokens = 4096", "tokens = 'all'", "recipe.toml:2: quality.tokens must be a whole number, not 'all'"),
        ("tokens = 4096", "tokens = 1\nseed = 1", "recipe.toml:3: unknown key quality.seed; did you mean seeds?"),
        ("tokens = 4096", "tokens = 1\nseeds = [1, 1]", "recipe.toml:3: quality.seeds must be different whole numbers"),
        ("tokens = 4096", "tokens = 1\nseeds = []", "recipe.toml:3: quality.seeds must be different whole numbers"),
        ("tokens = 4096", "tokens = 1\npreset = 'big'", "recipe.toml:3: quality.preset must be one of crammed-1x11, "),
        ("tokens = 4096", "tokens = 1\ntwin = '1x9'", "recipe.toml:3: quality.twin: 1x9 is no variant of the recipe"),
        ("[quality]", "[qualities]", "recipe.toml: no table [quality]; a recipe has one with tokens, seeds"),
        ('"none"', '"none", "none"', "recipe.toml:3: quality.variants names none twice"),
        ('"none"', '"nothing"', "recipe.toml:3: variant nothing: give none, dense:N, dense:time:NAME, PxD or PxD+S"),
        ('"none"', '"dense:0"', "recipe.toml:3: variant dense:0: intermediate_size must be a whole number of at least"),
        ('"dense:time:1x4"', '"dense:time:1x5"', "recipe.toml:3: variant dense:time:1x5: 1x5 is no other variant of"),
        ('"1x4"', '"1x4", "dense-31"', "recipe.toml:3: variant dense-31: give none, dense:N"),
        (
            '[variants."wide',
            '[variants."dense-31"]\nfeedforward = "none"\n[variants."wide',
            "recipe.toml:3: dense:31 and",
        ),
        ("trees = 4", "treees = 4", "recipe.toml:14: unknown key model.treees; did you mean trees?"),
        ("trees = 4", "trees = '4'", "recipe.toml:14: model.trees must be a whole number, not '4'"),
        ('layer = "1x4"', 'layer = "huge"', "recipe.toml:9: variant huge: give none, dense:N"),
        ("peak_learning_rate = 6e-3", "peak_rate = 6e-3", "recipe.toml:12: unknown key training.peak_rate; "),
        ("peak_learning_rate = 6e-3", "steps = 3", "recipe.toml:9: variant fast changes training.steps; all variants"),
        ("peak_learning_rate = 6e-3", "mlm_probability = 0.2", "recipe.toml:9: variant fast changes training.mlm_prob"),
        (
            "peak_learning_rate = 6e-3",
            "initial_checkpoint = 'run'",
            "recipe.toml:9: training.initial_checkpoint = 'run': the variants of a recipe begin with random weights",
        ),
        ("trees = 4", "vocab_size = 4", "recipe.toml:13: variant wide:trees changes model.vocab_size; all variants"),
        ("batch_size = 8", "budget = '5m'", "recipe.toml:8: training.budget: a recipe gives quality.tokens instead"),
        ("batch_size = 8", "seed = 5", "recipe.toml:8: training.seed: a recipe gives quality.seeds instead"),
        ("[model]", "[speed]\nbatch = 0\n[model]", "recipe.toml:5: speed.batch must be at least 1, not 0"),
        (
            "[model]",
            "[speed]\nprecision = 'int4'\n[model]",
            "recipe.toml:5: speed.precision must be one of float32, int8",
        ),
        ("[model]", "[speed]\nprecisions = ['f']\n[model]", "recipe.toml:5: speed.precisions must be one of float32, "),
        ("[training]", "[trainings]", "recipe.toml:7: unknown section 'trainings'; known: model, data, training"),
        ("tokens = 4096", "tokens =", "recipe.toml:2: not valid TOML"),
    ],
)
def test_a_bad_recipe_is_one_line_with_its_place(read: Callable[..., Recipe], old: str, new: str, line: str) -> None:
    assert old in RECIPE
    with pytest.raises(ConfigError) as error:
        read(RECIPE.replace(old, new, 1))
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "training.steps=5",
            "the runs of a recipe end by tokens: give --set training.tokens=N, no steps and no budget",
        ),
        ("training.batch=5", "--set training.batch=5: unknown key training.batch; did you mean batch_size?"),
        ("tokens=5", "--set tokens=5: write section.key=value"),
    ],
)
def test_bad_overrides_name_the_option(read: Callable[..., Recipe], override: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(RECIPE, override)
    assert str(error.value).startswith(line)


def test_the_documented_recipe_is_valid(read: Callable[..., Recipe]) -> None:
    text = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    recipe = read(text.partition("```toml\n")[2].partition("```")[0])
    rates = {name: variant.settings.training.peak_learning_rate for name, variant in recipe.variants.items()}
    assert (rates["1x8"], rates["4x6"], rates["slow"], rates["post-norm"]) == (4e-3, 6e-3, 2e-3, 4e-3)
    assert recipe.variants["slow"].settings.model == recipe.variants["4x6"].settings.model


def test_a_recipe_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"^best: no such recipe; give a TOML file, or one of quality$"):
        read_recipe("best")
