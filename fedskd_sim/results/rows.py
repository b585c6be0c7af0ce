"""A table, however it is shown: columns that know how their values are written, and rows of plain
values; as lines of text, as cells of a page, as plain values of JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import Any

from fedskd_sim.observe.words import short

GAP = 2
"""Blanks between two columns of text."""
THOUSAND = 999.5
"""What rounds to at least a thousand."""
SMALLEST = 1e-4
"""Below it three digits have a power of ten."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is called, and how it is shown.

    Text makes a column ``room`` characters wide, the gap before it among them, or as wide as its
    cells ask for, and cuts words to ``most``. A ``part`` begins at a column that is set apart from
    those before it; columns of one part and ``group`` share that title above their own.
    """

    title: str
    show: Callable[[Any], str] = str
    words: bool = False
    """Whether it holds words, which begin at the left, and not numbers."""
    group: str = ""
    part: bool = False
    room: int = 0
    most: int = 0
    long: str = ""
    """The whole title, where a page shows a shorter one."""
    key: str = ""
    """Its name among plain values; empty where it is none of them."""

    @property
    def look(self) -> str:
        """Return its classes in the style sheet of a page."""
        looks = {"word": self.words, "part": self.part}
        return " ".join(name for name, wanted in looks.items() if wanted)

    def written(self, value: Any) -> str:
        """Write a value, cut to what the column holds."""
        text = self.show(value)
        return short(text, self.most) if self.most else text


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, rows of a plain value for each, and rows below them that are words already."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    foot: Sequence[Sequence[str]] = ()
    caption: str = ""
    diagonal: bool = False
    """Whether a page marks the cells of a row's own column."""

    @property
    def body(self) -> list[list[str]]:
        """Return the rows as they are written."""
        return [
            [column.written(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Return the titles above those of columns, each with the number of columns that it is
        over; nothing where no column has one.
        """
        parts = accumulate(column.part for column in self.columns)
        keys = zip(parts, (column.group for column in self.columns), strict=True)
        found = [(group, len([*same])) for (_, group), same in groupby(keys)]
        return found if any(group for group, _ in found) else []

    def lines(self) -> Iterator[str]:
        """Write it as text, titles first."""
        cells = self._cells()
        wide = self._widths(cells)
        ends = [0, *accumulate(count for _, count in self.groups)]
        if self.groups:
            spans = [sum(wide[first:last]) for first, last in pairwise(ends)]
            titles = zip(self.groups, spans, strict=True)
            yield "".join(f"{title:>{room}}" for (title, _), room in titles)
        for row in cells:
            written = zip(self.columns, row, wide, strict=True)
            yield "".join(
                (" " * GAP * bool(place) + cell).ljust(room) if column.words else cell.rjust(room)
                for place, (column, cell, room) in enumerate(written)
            ).rstrip()

    def widths(self) -> list[int]:
        """Return how wide text makes each column, with the gap before it."""
        return self._widths(self._cells())

    def some(self, places: Sequence[int]) -> Table:
        """Return the table of some of its columns."""
        return replace(
            self,
            columns=[self.columns[place] for place in places],
            rows=[[row[place] for place in places] for row in self.rows],
            foot=[[row[place] for place in places] for row in self.foot],
        )

    def values(self) -> list[dict[str, Any]]:
        """Return a row each as plain values, of the columns that have a key."""
        return [
            {
                column.key: plain(value)
                for column, value in zip(self.columns, row, strict=True)
                if column.key
            }
            for row in self.rows
        ]

    def _cells(self) -> list[Sequence[str]]:
        titles = [
            short(column.title, column.most) if column.most else column.title
            for column in self.columns
        ]
        return [titles, *self.body, *self.foot]

    def _widths(self, cells: Sequence[Sequence[str]]) -> list[int]:
        found = []
        for place, (column, inside) in enumerate(
            zip(self.columns, zip(*cells, strict=True), strict=True)
        ):
            longest, first = max(map(len, inside)), not place
            found.append(max(column.room or longest + GAP * (not first), longest + (not first)))
        place = 0
        for title, count in self.groups:
            room = sum(found[place : place + count])
            found[place] += max(0, len(title) + GAP - room) if title else 0
            place += count
        return found


def plain(value: Any) -> Any:
    """Return mappings and sequences of values as JSON knows them, with None for a number that is
    missing: JSON has none for it.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage without the sign; nothing for a missing value."""
    return f"{100 * share:.1f}" if math.isfinite(share) else ""


def number(value: int) -> str:
    """Write a number; nothing for none."""
    return str(value or "")


def digits(value: float) -> str:
    """Write a number with three digits, whole from a thousand on, never with a power of ten;
    nothing for a missing value.
    """
    if not math.isfinite(value):
        return ""
    if abs(value) >= THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= SMALLEST else f"{value:.6f}".rstrip("0").rstrip(".")
