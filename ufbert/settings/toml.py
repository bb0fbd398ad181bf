"""The settings of a run from TOML files and options, checked key by key; and back to TOML.

Precedence: command line > `--config` file > `--preset` > `./ufbert.toml` > the defaults, which the
repository's `ufbert.toml` repeats. Every error names the file and line, or the option, that it comes from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ufbert.errors import ConfigError

from .layers import ALIKE, Layers, Where
from .presets import preset_text
from .sections import (
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
    "line_finder",
    "load_settings",
    "parse_duration",
    "parse_override",
    "parse_toml",
    "read_toml",
    "settings_from_dict",
    "settings_to_dict",
    "settings_to_toml",
    "small_model",
]

DEFAULT_FILE = Path("ufbert.toml")


def load_settings(
    config: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    base: Settings | None = None,
    preset: str | None = None,
) -> Settings:
    """The defaults, changed by `./ufbert.toml`, the named `preset`, the file `config` and the command line, in turn.

    `overrides` are `section.key=value` strings; their values are TOML (`model.depth=7`,
    `data.lowercase=false`), and a bare word is a string. `options` maps `section.key` to the value of an
    option of the same name (`training.steps` is --steps); None stands for an option that was not given.
    With `base`, its values take the place of the defaults and of `./ufbert.toml`.

    Setting one of training.steps, .tokens and .budget clears the others where they come from a lower level;
    so do distillation.budget, .minutes and .steps.
    Raises `ConfigError` naming file and line (or the option) of anything unknown, of the wrong type, or out
    of range.
    """
    if config is not None and not config.is_file():
        raise ConfigError(f"{config}: no such file; --config takes a TOML file such as ufbert.toml")
    laid = Layers(Settings() if base is None else base)
    files: list[tuple[str, str]] = []  # (name, content)
    if base is None and DEFAULT_FILE.is_file():
        files.append((str(DEFAULT_FILE), read_toml(DEFAULT_FILE)))
    if preset is not None:
        files.append((f"preset {preset}", preset_text(preset)))
    if config is not None:
        files.append((str(config), read_toml(config)))
    for name, text in files:
        laid.lay(parse_toml(text, name), line_finder(text, name))
    # One level: an option does not outrank --set, so two ends among them are a contradiction.
    given: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}

    def give(key: str, value: Any, origin: str) -> None:
        section, _, name = key.partition(".")
        given.setdefault(section, {})[name] = value
        origins[key] = origin
        origins.setdefault(section, origin)

    for override in overrides:  # of a key given twice, the last one counts
        give(*parse_override(override))
    for key, value in (options or {}).items():
        origin = f"--{key.partition('.')[2].replace('_', '-')}"
        if value is None:
            continue
        if key in origins and given[key.partition(".")[0]][key.partition(".")[2]] != value:
            raise ConfigError(f"{origin}: {origins[key]} gives {key} another value")
        give(key, value, origin)
    _check_feedforward(given.get("model", {}), origins)
    laid.lay(given, lambda key: origins.get(key, "the command line"))
    return laid.settings()


def _check_feedforward(model: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Raise `ConfigError` for options of which one says it of all layers, and one of each."""
    if model.get("feedforward_layers"):
        for name in ALIKE:
            if name in model:
                raise ConfigError(
                    f"{origins[f'model.{name}']}: model.feedforward_layers says what each layer has; give one of them"
                )


def settings_to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """All sections as plain values that JSON can hold."""
    values: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return values


def settings_from_dict(values: Mapping[str, Mapping[str, Any]], source: str) -> Settings:
    """Read what `settings_to_dict` made; what is absent has its default. `source` is for errors.

    A corpus that is a string is of a run from the time when a comma separated its parts, and is read so.
    """
    laid = Layers(Settings())
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


def read_toml(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def parse_toml(text: str, name: str) -> dict[str, Any]:
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line = f":{error.lineno}" if getattr(error, "lineno", None) else ""
        raise ConfigError(f"{name}{line}: not valid TOML: {getattr(error, 'msg', error)}") from error


def parse_override(override: str) -> tuple[str, Any, str]:
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


def line_finder(text: str, file: str) -> Where:
    """`file:line` of a dotted key, or the file alone; the parser keeps no positions."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = re.sub(r"[\"' ]", "", header[1])
            lines.setdefault(table, number)
        elif pair := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            name = re.sub(r"[\"' ]", "", pair[1])
            lines.setdefault(f"{table}.{name}" if table else name, number)

    def where(key: str) -> str:
        while key not in lines and "." in key:
            key = key.rpartition(".")[0]
        return f"{file}:{lines[key]}" if key in lines else file

    return where


def _to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_to_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_to_toml(v) for v in value) + "]"
    # JSON writes non-ASCII characters as surrogate pairs, which TOML does not know.
    return json.dumps(value, ensure_ascii=False)
