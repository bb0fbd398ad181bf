"""Ready settings by name: the TOML files in `presets/`, which a wheel carries.

`crammed-1x11` is the paper's recipe, `crammed-dense` its dense twin, `small` a model of half an hour on two
cores, `tiny` one of seconds, for trying things.
"""

from __future__ import annotations

from pathlib import Path

from ufbert.errors import ConfigError

__all__ = ["preset_names", "preset_text"]

FOLDER = Path(__file__).with_name("presets")


def preset_names() -> list[str]:
    """All names, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def preset_text(name: str) -> str:
    """The TOML of a preset, with its comments. Raises `ConfigError` for a name that is none."""
    if name not in preset_names():
        raise ConfigError(f"--preset {name}: no such preset; known: {', '.join(preset_names())}")
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
