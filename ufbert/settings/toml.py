"""The settings of a run from TOML files and options, checked key by key; and back to TOML.

Precedence: command line > `--config` file > `./ufbert.toml` > the defaults, which the repository's
`ufbert.toml` repeats. Every error names the file and line, or the option, that it comes from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ufbert.errors import ConfigError

from .sections import (
    ENDS,
    DataSettings,
    DistillationSettings,
    FinetuningSettings,
    Settings,
    TrainingSettings,
    parse_duration,
    small_model,
)

__all__ = [
    "DataSettings",
    "DistillationSettings",
    "FinetuningSettings",
    "Settings",
    "TrainingSettings",
    "differences",
    "load_settings",
    "parse_duration",
    "settings_from_dict",
    "settings_to_dict",
    "settings_to_toml",
    "small_model",
]

DEFAULT_FILE = Path("ufbert.toml")

Where = Callable[[str], str]


def load_settings(
    config: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    base: Settings | None = None,
) -> Settings:
    """The defaults, changed by `./ufbert.toml`, then by the file `config`, then by the command line.

    `overrides` are `section.key=value` strings; their values are TOML (`model.depth=7`,
    `data.lowercase=false`), and a bare word is a string. `options` maps `section.key` to the value of an
    option of the same name (`training.steps` is --steps); None stands for an option that was not given.
    With `base`, its values take the place of the defaults and of `./ufbert.toml`.

    Setting one of training.steps, .tokens and .budget clears the others where they come from a lower level;
    so do distillation.minutes and .steps.
    Raises `ConfigError` naming file and line (or the option) of anything unknown, of the wrong type, or out
    of range.
    """
    if config is not None and not config.is_file():
        raise ConfigError(f"{config}: no such file; --config takes a TOML file such as ufbert.toml")
    laid = _Layers(Settings() if base is None else base)
    for path in (DEFAULT_FILE if base is None and DEFAULT_FILE.is_file() else None, config):
        if path is not None:
            text = _read_text(path)
            laid.lay(_parse(text, path), _finder(text, path))
    # One level: an option does not outrank --set, so two ends among them are a contradiction.
    given: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}

    def give(key: str, value: Any, origin: str) -> None:
        section, _, name = key.partition(".")
        given.setdefault(section, {})[name] = value
        origins[key] = origin
        origins.setdefault(section, origin)

    for override in overrides:  # of a key given twice, the last one counts
        give(*_parse_override(override))
    for key, value in (options or {}).items():
        origin = f"--{key.partition('.')[2].replace('_', '-')}"
        if value is None:
            continue
        if key in origins and given[key.partition(".")[0]][key.partition(".")[2]] != value:
            raise ConfigError(f"{origin}: {origins[key]} gives {key} another value")
        give(key, value, origin)
    laid.lay(given, lambda key: origins.get(key, "the command line"))
    return laid.settings()


def settings_to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """All sections as plain values that JSON can hold."""
    values: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return values


def settings_from_dict(values: Mapping[str, Mapping[str, Any]], source: str) -> Settings:
    """Read what `settings_to_dict` made; what is absent has its default. `source` is for errors.

    A corpus that is a string is of a run from the time when a comma separated its parts, and is read so.
    """
    laid = _Layers(Settings())
    for section, keys in values.items():
        given = {key: value for key, value in keys.items() if value is not None}
        if section == "data":
            given |= {key: _parts(given[key]) for key in ("corpus", "validation_corpus") if key in given}
        laid.lay({section: given}, lambda key: source)
    return laid.settings()


def _parts(corpus: Any) -> Any:
    if not isinstance(corpus, str) or os.path.exists(corpus):  # noqa: PTH110  (Path.exists raises for a long text)
        return corpus
    return [part.strip() for part in corpus.split(",") if part.strip()]


def settings_to_toml(settings: Settings) -> str:
    """A file that `load_settings` reads back to equal settings."""
    lines = []
    for section, values in settings_to_dict(settings).items():
        lines += ["", f"[{section}]"]
        # A JSON string, number or list of those is TOML too.
        lines += [f"{k} = {_to_toml(v)}" for k, v in values.items() if v is not None]
    return "\n".join(lines[1:]) + "\n"


def differences(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """`section.key` -> (old, new) of every setting that is not the same."""
    before, after = settings_to_dict(old), settings_to_dict(new)
    return {
        f"{section}.{key}": (value, after[section][key])
        for section, values in before.items()
        for key, value in values.items()
        if value != after[section][key]
    }


class _Layers:
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
            for name, value in values.items():
                key = f"{section}.{name}"
                if name not in hints:
                    raise ConfigError(f"{where(key)}: unknown key {key}{_suggestion(name, hints)}")
                self.values[section][name] = _typed(value, hints[name], f"{where(key)}: {key}")
                self.origins[key] = where(key)
            if section in ENDS:
                self._settle_end(section, [name for name in ENDS[section] if values.get(name)], where)

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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line = f":{error.lineno}" if getattr(error, "lineno", None) else ""
        raise ConfigError(f"{path}{line}: not valid TOML: {getattr(error, 'msg', error)}") from error


def _parse_override(override: str) -> tuple[str, Any, str]:
    """(section.key, value, origin) of one --set."""
    import tomli

    key, equals, value = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ConfigError(f"--set {override}: write section.key=value, such as model.depth=7")
    try:
        parsed = tomli.loads(f"v = {value}")["v"]
    except tomli.TOMLDecodeError:
        parsed = value.strip()
    return f"{section}.{name}", parsed, f"--set {override}"


def _finder(text: str, path: Path) -> Where:
    """`file:line` of a dotted key, or the file alone; the parser keeps no positions."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = header[1].strip()
            lines.setdefault(table, number)
        elif pair := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            name = re.sub(r"[\"' ]", "", pair[1])
            lines.setdefault(f"{table}.{name}" if table else name, number)

    def where(key: str) -> str:
        section = key.partition(".")[0]
        number = lines.get(key, lines.get(section))
        return f"{path}:{number}" if number else str(path)

    return where


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def _typed(value: Any, hint: Any, where: str) -> Any:
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


def _to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_to_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_to_toml(v) for v in value) + "]"
    # JSON writes non-ASCII characters as surrogate pairs, which TOML does not know.
    return json.dumps(value, ensure_ascii=False)
