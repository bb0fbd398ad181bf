"""What the readers of encoders with rotary positions share: the angles in config.json."""

from __future__ import annotations

from ufbert.errors import CheckpointError

from .foreign import ForeignConfig

__all__ = ["theta"]


def theta(parameters: ForeignConfig, default: float) -> float:
    """`rope_theta` out of `rope_parameters`, or an object like it. Raises `CheckpointError` for scaled angles."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{parameters.where}: rope_type is {kind!r}; only default angles can be expressed")
    return parameters.number("rope_theta", default)
