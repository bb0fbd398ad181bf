"""Checks of single settings, whose errors name the setting as the user writes it, `section.key`."""

from __future__ import annotations

from ufbert.errors import ConfigError

__all__ = ["at_least", "in_range", "one_of"]


def at_least(name: str, value: float, least: float) -> None:
    """Raise `ConfigError` for a value below `least`, or NaN."""
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` for a value outside `low` to `high`, both allowed."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, not {value!r}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a word that is not among `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
