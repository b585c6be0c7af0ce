"""Medians, ratios and a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median


def rows(title: str, values: Mapping[str, Sequence[float]], unit: str, reference: str) -> list[str]:
    """Format medians, range and the ratio of medians to one of the rows."""
    base = median(values[reference])
    lines = [f"{title} ({unit}; median, min to max, ratio to {reference})"]
    for name, found in values.items():
        middle = median(found)
        lines.append(f"  {name:<34}{middle:>10.1f}  {min(found):>8.1f} to {max(found):<8.1f}{middle / base:>7.2f}x")
    return lines
