"""Numbers as the tables show them."""

from __future__ import annotations

__all__ = ["percent_cell", "significant", "times_cell"]


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times_cell(value: float | None) -> str:
    """A factor."""
    if value is None:
        return "-"
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 1 else f"{value:.2f}x"


def percent_cell(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.1f}%"
