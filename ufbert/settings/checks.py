"""Checks of single settings, whose errors name the setting."""

from __future__ import annotations

from ufbert.errors import ConfigError

__all__ = ["at_least", "in_range", "one_of"]


def at_least(name: str, value: float, least: float) -> None:
    """Raise `ConfigError` for less."""
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError` for what lies outside of both ends."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, not {value!r}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` for any other."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
