"""Values of settings from several places, one over the other: checked key by key, each with its place.

Every error names the file and line, or the option, that the value comes from.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ufbert.errors import ConfigError

from .sections import ENDS, Settings

__all__ = ["ALIKE", "Layers", "Where", "suggestion", "typed"]

ALIKE = ("feedforward", "trees", "depth", "shared_neurons", "intermediate_size", "token_rows")
"""The keys of `[model]` in whose place `feedforward_layers` speaks of each layer."""
Where = Callable[[str], str]
"""The place of a dotted key, for an error."""


class Layers:
    """Values by section, the later ones over the earlier ones, each with the place it comes from."""

    def __init__(self, base: Settings) -> None:
        self.base = base
        self.values: dict[str, dict[str, Any]] = {f.name: {} for f in dataclasses.fields(Settings)}
        self.origins: dict[str, str] = {}

    def lay(self, layer: Mapping[str, Any], where: Where) -> None:
        """Check `layer` against the dataclasses and put it on top; `where(key)` places a key."""
        for section, values in layer.items():
            if section not in self.values:
                known = ", ".join(self.values)
                raise ConfigError(f"{where(section)}: unknown section {section!r}; known: {known}")
            if not isinstance(values, Mapping):
                raise ConfigError(f"{where(section)}: {section} must be a table [{section}]")
            hints = typing.get_type_hints(type(getattr(self.base, section)))
            spelled = _spell_out_shape(values, where) if section == "model" and "shape" in values else {}
            for name, value in (spelled or values).items():
                key = f"{section}.{name}"
                place = where(key if name in values else f"{section}.shape")
                if name not in hints:
                    names = [*hints, *(["shape"] if section == "model" else [])]
                    raise ConfigError(f"{place}: unknown key {key}{suggestion(name, names)}")
                self.values[section][name] = typed(value, hints[name], f"{place}: {key}")
                self.origins[key] = place
            if section == "model":
                self._settle_feedforward(spelled or values)
            if section in ENDS:
                self._settle_end(section, [name for name in ENDS[section] if values.get(name)], where)

    def _settle_feedforward(self, values: Mapping[str, Any]) -> None:
        """What says that all layers are alike clears the list of a lower layer that says how they differ."""
        alike = [name for name in ALIKE if name in values]
        if alike and "feedforward_layers" not in values:
            self.values["model"]["feedforward_layers"] = ()
            self.origins.pop("model.feedforward_layers", None)

    def _settle_end(self, section: str, ends: list[str], where: Where) -> None:
        """`ends` are the names of the ends that the layer sets; they clear those of lower layers."""
        if len(ends) > 1:
            names = " and ".join(f"{section}.{name}" for name in ends)
            raise ConfigError(f"{where(f'{section}.{ends[0]}')}: {names} both say when the run ends; set one of them")
        if ends:
            self.values[section] |= {name: nothing for name, nothing in ENDS[section].items() if name not in ends}

    def settings(self) -> Settings:
        """The dataclasses, whose own checks run here."""
        sections = {}
        for section, values in self.values.items():
            try:
                sections[section] = dataclasses.replace(getattr(self.base, section), **values)
            except ConfigError as error:
                raise ConfigError(self._place(section, str(error))) from error
        try:
            return Settings(**sections)
        except ConfigError as error:
            raise ConfigError(self._place("", str(error))) from error

    def _place(self, section: str, text: str) -> str:
        """The text with the origin of the first setting in it that a file or option has set."""
        mentioned = re.findall(r"[a-z][a-z0-9_.]*", text)
        for word in mentioned:
            for key in (word, f"{section}.{word}"):
                if key in self.origins:
                    return f"{self.origins[key]}: {text}"
        return text


def _spell_out_shape(values: Mapping[str, Any], where: Where) -> dict[str, Any]:
    """`[model]` with the `feedforward`, `trees` and `depth` that its `shape = "256x3"` stands for.

    The paper names its models so, from 3072x0 (3,072 trees of a single neuron) to 1x11. "12x6+64" adds 64 shared
    neurons.
    """
    shape, place = values["shape"], where("model.shape")
    match = re.fullmatch(r"\s*(\d+)x(\d+)(?:\+(\d+))?\s*", shape) if isinstance(shape, str) else None
    if match is None:
        raise ConfigError(
            f"{place}: model.shape must be trees x depth, such as 256x3 or 1x11, with shared neurons 12x6+64, "
            f"not {shape!r}"
        )
    for name in ("trees", "depth", *(["shared_neurons"] if match[3] else []), "feedforward_layers"):
        if values.get(name) not in (None, []):
            raise ConfigError(f"{place}: model.shape sets model.{name} too; give one of them")
    if values.get("feedforward", "fff") != "fff":
        raise ConfigError(
            f"{place}: model.shape is of trees, and model.feedforward is {values['feedforward']!r}; give one of them"
        )
    rest = {name: value for name, value in values.items() if name != "shape"}
    shared = {"shared_neurons": int(match[3])} if match[3] else {}
    return rest | {"feedforward": "fff", "trees": int(match[1]), "depth": int(match[2])} | shared


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error on an unknown name: the known one that is meant, or all of them."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def typed(value: Any, hint: Any, where: str) -> Any:
    """`value` if TOML gave it the type of the field (a whole number serves as a float)."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        expected = typing.get_origin(option) or option
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if expected is Sequence and not isinstance(value, str):  # of strings; a string stands for a list of one
            if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
                return tuple(value)
            continue
        if expected is tuple and isinstance(value, list):
            return tuple(value)
        if isinstance(value, expected) and not (expected is int and isinstance(value, bool)):
            return value
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", tuple: "a list"}
    kinds[Sequence] = "a string or a list of strings"
    names = " or ".join(kinds.get(typing.get_origin(o) or o, "a table") for o in options if o is not type(None))
    raise ConfigError(f"{where} must be {names}, not {value!r}")
