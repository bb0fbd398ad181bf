"""A recipe: base settings, how many tokens, which seeds and variants, and how speed is measured; from TOML.

[quality]                        tokens, seeds, variants, preset, reference, none, twin
[speed]                          how the encoders are timed
[model] [data] [training]        the base settings, over those of the preset
[variants.NAME]                  keys of [model] over the base's, `layer`, and whole sections under `settings`
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufbert.errors import ConfigError
from ufbert.settings.checks import at_least, one_of
from ufbert.settings.inference import PRECISIONS
from ufbert.settings.layers import Layers, Where, suggestion, typed
from ufbert.settings.presets import preset_names, preset_text
from ufbert.settings.sections import Settings
from ufbert.settings.toml import differences, line_finder, parse_override, parse_toml, read_toml

from .variants import FORMS, Form, folder_name, parse_form

__all__ = ["Quality", "Recipe", "Speed", "Variant", "read_recipe", "recipe_names", "recipe_text"]

# Installed as `ufbert.recipes`; in a checkout a link to the folder at its root.
FOLDER = Path(__file__).parents[2] / "recipes"
# Given by [quality], for all variants alike.
ENDS = ("tokens", "steps", "budget", "seed")
# What a variant may not change: all see the same tokens and are measured on the same masks.
SHARED = ("data.", *(f"training.{name}" for name in (*ENDS, "mlm_probability")), "model.vocab_size")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The table `[quality]`."""

    tokens: int
    """Tokens that each run sees."""
    variants: Sequence[str] = ()
    """In the order of the table; those of `[variants.NAME]` that are not named here follow."""
    seeds: tuple[int, ...] = (1, 2)
    """Of initialisation, order and masks; each gives a run of every variant."""
    preset: str = ""
    """Under the recipe's own settings."""
    reference: str = ""
    """The variant whose time is 1; by default the first one."""
    none: str = "none"
    """The variant without feedforward layers, where the closed gap begins."""
    twin: str = ""
    """The dense twin, where the closed gap ends; by default the widest `dense:N`."""

    def __post_init__(self) -> None:
        at_least("quality.tokens", self.tokens, 1)
        seeds_are_whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in self.seeds)
        if not self.seeds or not seeds_are_whole or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"quality.seeds must be different whole numbers, such as [1, 2], not {list(self.seeds)}")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The table `[speed]`: the encoders as `ufbert infer` runs them on a CPU."""

    precisions: Sequence[str] = ("float32", "int8")
    """Those that are timed."""
    precision: str = "float32"
    """The one of `dense:time:NAME` and of the times relative to the reference."""
    batch: int = 16
    """Sequences of a call, each of `data.sequence_length` tokens of the held-out text."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    seconds: float = 60.0
    """Time for all variants together; and for each width to be found."""

    def __post_init__(self) -> None:
        for precision in self.precisions:
            one_of("speed.precisions", precision, PRECISIONS)
        if not self.precisions:
            raise ConfigError(f"speed.precisions is empty; give some of {', '.join(PRECISIONS)}")
        one_of("speed.precision", self.precision, tuple(self.precisions))
        at_least("speed.batch", self.batch, 1)
        at_least("speed.threads", self.threads, 0)
        at_least("speed.seconds", self.seconds, 0)


@dataclass(frozen=True)
class Variant:
    """One layer, or one way to train it."""

    name: str
    settings: Settings
    """Of its runs, but for the seed; where `time_of` is set, the width is still the base's."""
    time_of: str = ""
    """The variant whose time its dense layers take."""

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return folder_name(self.name)

    def of(self, seed: int, width: int | None = None) -> Settings:
        """The settings of a run, with the dense layers' `width` where that had to be found."""
        model = self.settings.model if width is None else self.settings.model.replace(intermediate_size=width)
        training = dataclasses.replace(self.settings.training, seed=seed)
        return dataclasses.replace(self.settings, model=model, training=training)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe."""

    source: str
    """Its file, or its name among those that ufbert ships."""
    quality: Quality
    speed: Speed
    base: Settings
    variants: dict[str, Variant] = field(default_factory=dict)

    def choose(self, only: Sequence[str]) -> list[Variant]:
        """The variants of these names, all for none. Raises `ConfigError` for a name that the recipe lacks."""
        for name in only:
            if name not in self.variants:
                known = ", ".join(self.variants)
                raise ConfigError(f"--only {name}: {self.source} has no such variant; it has {known}")
        return [variant for name, variant in self.variants.items() if not only or name in only]


def recipe_names() -> list[str]:
    """The recipes that ufbert ships."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def recipe_text(recipe: str) -> str:
    """The TOML of a file, or of a recipe that ufbert ships by this name. Raises `ConfigError`."""
    if not Path(recipe).is_file() and recipe in recipe_names():
        return (FOLDER / f"{recipe}.toml").read_text(encoding="utf-8")
    if not Path(recipe).is_file():
        raise ConfigError(f"{recipe}: no such recipe; give a TOML file, or one of {', '.join(recipe_names())}")
    return read_toml(Path(recipe))


def read_recipe(recipe: str, overrides: Sequence[str] = (), corpus: Sequence[str] = ()) -> Recipe:
    """Read and check. `overrides` are `section.key=value` for the base settings, `corpus` is data.corpus.

    Neither `./ufbert.toml` nor anything else outside of the recipe and its preset has a say. Raises
    `ConfigError` with file and line of what is unknown, of the wrong type, out of range, or at odds.
    """
    text = recipe_text(recipe)
    where = line_finder(text, recipe)
    content = parse_toml(text, recipe)
    quality = _table(Quality, content.pop("quality", None), "quality", where)
    speed = _table(Speed, content.pop("speed", {}), "speed", where)
    tables = content.pop("variants", {})
    for name in ENDS:
        if name in _mapping(content.get("training", {}), "training", where):
            given = "seeds" if name == "seed" else "tokens"
            raise ConfigError(f"{where(f'training.{name}')}: training.{name}: a recipe gives quality.{given} instead")
    layers: list[tuple[Mapping[str, Any], Where]] = [
        (content, where),
        ({"training": {"tokens": quality.tokens}}, lambda _key: where("quality.tokens")),
    ]
    if quality.preset:
        one_of(f"{where('quality.preset')}: quality.preset", quality.preset, tuple(preset_names()))
        preset = preset_text(quality.preset)
        name = f"preset {quality.preset}"
        layers.insert(0, (parse_toml(preset, name), line_finder(preset, name)))
    layers += [_override(override) for override in overrides]
    if corpus:
        layers.append(({"data": {"corpus": list(corpus)}}, lambda _key: "--corpus"))
    base = _settings(layers)
    if not base.training.tokens:
        raise ConfigError("the runs of a recipe end by tokens: give --set training.tokens=N, no steps and no budget")
    if isinstance(base.data.held_out_seed, str):  # all seeds are measured on one text
        layers.append(({"data": {"held_out_seed": 0}}, where))
        base = _settings(layers)
    names = [*quality.variants, *(n for n in _mapping(tables, "variants", where) if n not in quality.variants)]
    if not names:
        raise ConfigError(f"{where('quality.variants')}: no variants; name some in quality.variants: {FORMS}")
    variants = {}
    for name in names:
        if name in variants:
            raise ConfigError(f"{where('quality.variants')}: quality.variants names {name} twice")
        variants[name] = _variant(name, tables, base, layers, where)
    _check_names(quality, variants, tables, where)
    return Recipe(recipe, _fill_in(quality, variants), speed, base, variants)


def _table(kind: type[Any], values: Any, name: str, where: Where) -> Any:
    """A dataclass from a table of the recipe."""
    if values is None:
        raise ConfigError(f"{where(name)}: no table [{name}]; a recipe has one with tokens, seeds and variants")
    hints = typing.get_type_hints(kind)
    checked = {}
    for key, value in _mapping(values, name, where).items():
        place = where(f"{name}.{key}")
        if key not in hints:
            raise ConfigError(f"{place}: unknown key {name}.{key}{suggestion(key, hints)}")
        checked[key] = typed(value, hints[key], f"{place}: {name}.{key}")
    if kind is Quality and "tokens" not in checked:
        raise ConfigError(f"{where(name)}: quality.tokens is missing; say how many tokens each run sees")
    try:
        return kind(**checked)
    except ConfigError as error:
        raise ConfigError(f"{where(str(error).split()[0])}: {error}") from error


def _mapping(value: Any, name: str, where: Where) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where(name)}: {name} must be a table [{name}]")
    return value


def _override(override: str) -> tuple[dict[str, Any], Where]:
    key, value, origin = parse_override(override)
    section, _, name = key.partition(".")
    return {section: {name: value}}, lambda _key: origin


def _settings(layers: Sequence[tuple[Mapping[str, Any], Where]]) -> Settings:
    laid = Layers(Settings())
    for layer, where in layers:
        laid.lay(layer, where)
    return laid.settings()


def _variant(
    name: str,
    tables: Mapping[str, Any],
    base: Settings,
    layers: Sequence[tuple[Mapping[str, Any], Where]],
    where: Where,
) -> Variant:
    """The variant of a name and of its table, if it has one."""
    key = f"variants.{name}"
    place = _place(name, tables, where)
    own = dict(_mapping(tables.get(name, {}), key, where))
    sections = _mapping(own.pop("settings", {}), f"{key}.settings", where)
    layer = own.pop("layer", name)
    form = parse_form(layer) if isinstance(layer, str) else None
    if form is None and (name not in tables or layer != name):
        raise ConfigError(f"{place}: variant {layer}: give {FORMS}, or a table [variants.NAME] with keys of [model]")
    form = form or Form()

    def of_form(_key: str) -> str:
        return f"{place}: variant {name}"

    def of_table(wanted: str) -> str:
        return where(f"{key}.{wanted.removeprefix('model.')}")

    def of_sections(wanted: str) -> str:
        return where(f"{key}.settings.{wanted}")

    own_layers = [({"model": form.model}, of_form), ({"model": own}, of_table), (sections, of_sections)]
    settings = _settings([*layers, *own_layers])
    if settings.training.initial_checkpoint:
        raise ConfigError(
            f"{place}: training.initial_checkpoint = {settings.training.initial_checkpoint!r}: "
            "the variants of a recipe begin with random weights; leave it out"
        )
    for changed in differences(base, settings):
        if changed.startswith(SHARED):
            raise ConfigError(
                f"{place}: variant {name} changes {changed}; all variants see the same tokens and are measured on the "
                "same masks, so set it for all"
            )
    return Variant(name, settings, form.time_of)


def _place(name: str, tables: Mapping[str, Any], where: Where) -> str:
    return where(f"variants.{name}" if name in tables else "quality.variants")


def _check_names(quality: Quality, variants: Mapping[str, Variant], tables: Mapping[str, Any], where: Where) -> None:
    """Raise `ConfigError` for names that mean nothing, or share a folder."""
    folders: dict[str, str] = {}
    for name, variant in variants.items():
        if (other := folders.setdefault(variant.folder, name)) != name:
            raise ConfigError(f"{where('quality.variants')}: {other} and {name} would share a folder; rename one")
        if variant.time_of and (variant.time_of not in variants or variants[variant.time_of].time_of):
            raise ConfigError(
                f"{_place(name, tables, where)}: variant {name}: {variant.time_of} is no other variant of the recipe "
                "whose time could be measured"
            )
    for key in ("reference", "twin"):
        named = getattr(quality, key)
        if named and named not in variants:
            raise ConfigError(f"{where(f'quality.{key}')}: quality.{key}: {named} is no variant of the recipe")


def _fill_in(quality: Quality, variants: Mapping[str, Variant]) -> Quality:
    """The defaults that depend on the variants."""
    widths = {
        name: variant.settings.model.neurons_used
        for name, variant in variants.items()
        if variant.settings.model.feedforward_kind == "dense" and not variant.time_of
    }
    twin = quality.twin or max(widths, key=widths.__getitem__, default="")
    return dataclasses.replace(quality, reference=quality.reference or next(iter(variants)), twin=twin)
