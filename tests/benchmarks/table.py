"""Medians, ratios, a small table to read and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Table:
    """Measurements by row; ``reference`` is the row that ratios refer to (None: no ratios)."""

    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    reference: str | None = None

    def ratio(self, row: str) -> float | None:
        """Divide a row's median by the reference's."""
        return (
            None
            if self.reference is None
            else median(self.values[row]) / median(self.values[self.reference])
        )

    def text(self) -> str:
        """Write median, range and ratio of each row."""
        lines = [
            f"{self.title} ({self.unit}; median, min to max"
            + (f", ratio to {self.reference})" if self.reference else ")")
        ]
        for row, found in self.values.items():
            ratio = self.ratio(row)
            line = f"  {row:<42}{median(found):>9.1f}  {min(found):>8.1f} to {max(found):<8.1f}"
            lines.append(line if ratio is None else f"{line}{ratio:>7.2f}x")
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Give everything that was measured, for a JSON file."""
        rows = [
            {"row": row, "median": median(found), "ratio": self.ratio(row), "values": list(found)}
            for row, found in self.values.items()
        ]
        return {"title": self.title, "unit": self.unit, "reference": self.reference, "rows": rows}
