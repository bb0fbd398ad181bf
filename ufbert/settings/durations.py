"""Times as people write them."""

from __future__ import annotations

import re

from ufbert.errors import ConfigError

__all__ = ["parse_duration"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = r"(\d+(?:\.\d+)?)\s*([smhd])"


def parse_duration(text: str, name: str = "duration") -> float:
    """Seconds of `90s`, `20m`, `1.5h`, `1h30m` or `2d`. Raises `ConfigError` naming the setting `name`."""
    seconds = 0.0
    if re.fullmatch(rf"\s*(?:{PART}\s*)+", text):
        seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(PART, text))
    if seconds <= 0:
        raise ConfigError(f"{name} must be a time such as 90s, 20m, 24h or 1h30m, not {text!r}")
    return seconds
