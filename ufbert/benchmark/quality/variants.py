"""The names that say what a variant's feedforward layers are.

none              no feedforward layers
dense:N           dense layers of N neurons
dense:time:NAME   dense layers that take the time of the variant NAME on this machine
PxD               P trees of depth D
PxD+S             the same beside S shared neurons, which every token uses
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FORMS", "Form", "folder_name", "parse_form"]

FORMS = "none, dense:N, dense:time:NAME, PxD or PxD+S"
# What may follow PxD, a number after each sign, and the key of [model] that the number is for.
TREE_PARTS = {"+": "shared_neurons"}


@dataclass(frozen=True)
class Form:
    """What a name stands for."""

    model: dict[str, Any] = field(default_factory=dict)
    """Keys of `[model]`."""
    time_of: str = ""
    """The variant whose time the dense layers take; their `intermediate_size` is to be found."""


def parse_form(name: str) -> Form | None:
    """What a variant's name stands for; None for a name that is none of the forms."""
    if name == "none":
        return Form({"feedforward": "none"})
    if match := re.fullmatch(r"dense:(\d+)", name):
        return Form({"feedforward": "dense", "intermediate_size": int(match[1])})
    if match := re.fullmatch(r"dense:time:(.+)", name):
        return Form({"feedforward": "dense"}, time_of=match[1])
    signs = "".join(map(re.escape, TREE_PARTS))
    if match := re.fullmatch(rf"(\d+)x(\d+)((?:[{signs}]\d+)*)", name):
        parts = re.findall(rf"([{signs}])(\d+)", match[3])
        if len({sign for sign, _ in parts}) < len(parts):
            return None
        trees = {"feedforward": "fff", "trees": int(match[1]), "depth": int(match[2])}
        return Form(trees | {TREE_PARTS[sign]: int(number) for sign, number in parts})
    return None


def folder_name(name: str) -> str:
    """The folder of a variant: `dense-time-1x8` for `dense:time:1x8`, as a colon means a host to scp and rsync."""
    return re.sub(r"[^\w.+-]", "-", name)
