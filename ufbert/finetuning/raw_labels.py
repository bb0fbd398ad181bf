"""What one raw label out of a file says: nothing, a number with or without a fraction, or the name of a class."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

__all__ = [
    "NO_LABEL",
    "PLAUSIBLE_CLASSES",
    "are_whole",
    "is_fractional",
    "name_of",
    "number_of",
    "shown_label",
    "whole_number",
]

# A column with more classes than this, and than half its rows, is text or an index taken for a label.
PLAUSIBLE_CLASSES = 20
NO_LABEL = frozenset({"", "-", "nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "#N/A"})
"""What stands for a label that is missing: `-` in SNLI and MultiNLI, the others where programs write tables."""
WHOLE_NUMBER = re.compile(r"[+-]?\d+\.0+|\+\d+")
"""Whole numbers as tables may write them; 01 is left as a code of its own."""


def number_of(label: Any) -> float | None:
    """The number that a label is or spells; None where it is none."""
    if isinstance(label, str):
        try:
            return float(label)
        except ValueError:
            return None
    return float(label) if isinstance(label, numbers.Real | Decimal) and not isinstance(label, bool) else None


def is_fractional(label: Any) -> bool:
    """Whether a label is a number written with a decimal point or exponent."""
    if isinstance(label, str):
        return number_of(label) is not None and whole_number(label) is None
    return number_of(label) is not None and not isinstance(label, numbers.Integral)


def whole_number(text: str) -> int | None:
    """The whole number that a text spells; None where it spells none."""
    try:
        return int(text)
    except ValueError:
        return None


def name_of(label: Any) -> str:
    """The class name that a raw label stands for."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    text = str(label).strip()
    return str(int(float(text))) if WHOLE_NUMBER.fullmatch(text) else text


def are_whole(labels: Sequence[Any]) -> bool:
    """Whether numbers with a decimal point are classes: all of them whole, from 0 on but for -1, and few."""
    distinct = {number_of(label) for label in labels}
    whole = all(n is not None and n >= -1 and n.is_integer() for n in distinct)
    return bool(labels) and whole and len(distinct) <= PLAUSIBLE_CLASSES


def shown_label(label: Any) -> str:
    """A label in an error, cut short."""
    text = repr(label)
    return text if len(text) <= 60 else text[:57] + "..."
