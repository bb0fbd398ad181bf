"""Which implementations are timed: those asked for by name or by default, and why others cannot be had here."""

from __future__ import annotations

import torch

from ufbert.errors import ConfigError

from .conditional import CONDITIONAL
from .dense import DENSE
from .implementations import Absent, Implementation

__all__ = ["available"]


def available(
    device: torch.device, dtype: str, direction: str, names: tuple[str, ...], *, shared: bool = False
) -> tuple[list[Implementation], list[Absent]]:
    """The implementations to time, and those wanted but not to be had here with the reason.

    `names` selects, such as `torch-bmm` for both layers or `fff/torch-bmm` for one; empty takes the default
    ones. `shared` asks for neurons beside the trees. Raises `ConfigError` for an unknown name, listing all.
    """
    everything = [*DENSE, *CONDITIONAL]
    known = list(dict.fromkeys(i.name for i in everything))
    for name in names:
        if name not in known and name not in [i.full_name for i in everything]:
            raise ConfigError(f"unknown implementation {name!r}; known: {', '.join(known)}")
    chosen, absent = [], []
    for implementation in everything:
        wanted = not {implementation.name, implementation.full_name}.isdisjoint(names)
        if not (wanted if names else device.type in implementation.default_on):
            continue
        if direction not in implementation.directions or device.type not in implementation.devices:
            continue
        reason = None if dtype in implementation.dtypes else f"has no {dtype}"
        if shared not in implementation.timed_with:
            if not shared and not names:
                continue  # without shared neurons it is what another one is
            reason = "has no shared neurons" if shared else "takes --shared"
        reason = reason or implementation.missing() or implementation.missing_on(device)
        if reason:
            absent.append(
                Absent(layer=implementation.layer, implementation=implementation.name, dtype=dtype, reason=reason)
            )
        else:
            chosen.append(implementation)
    return chosen, absent
