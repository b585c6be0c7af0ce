"""Tables as data sets are released with: every way in which one can be wrong is an error that
names it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedskd_sim.datasets.refusals import corrupt, normal_form

CsvRow = dict[str, str]
LONGEST = 1000


def rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[CsvRow]:
    """Read the needed columns of a table with a header, and the optional ones it has, without an
    empty cell.

    Raises:
        DataCorrupt: as `cells`, and for a row without a value in a column.

    """
    found = cells(path, needed, optional)
    for number, row in enumerate(found, 1):
        empty = [name for name, value in row.items() if not value]
        if empty:
            raise corrupt(f"{path}: row {number} has no {empty[0]}")
    return found


def cells(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[CsvRow]:
    """Read the needed columns of a table with a header, and the optional ones it has; cells may be
    empty.

    It is separated by commas or, where the header has one, by tabs.

    Raises:
        DataCorrupt: unreadable, without rows, without a needed column or with two of its name, or a
            row with more values than there are columns.

    """
    header, table = _table(path, needed)
    there = places(path, header, needed, optional)
    found: list[CsvRow] = []
    for number, line in enumerate(filter(None, table), 1):
        if any(cell.strip() for cell in line[len(header) :]):
            raise corrupt(f"{path}: row {number} has {len(line)} values for {len(header)} columns")
        row = {
            name: line[place].strip() if place < len(line) else "" for name, place in there.items()
        }
        _check(path, number, row)
        found.append(row)
    if not found:
        raise corrupt(f"{path} has no rows")
    return found


def _table(path: Path, needed: Sequence[str]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Take a file apart: the names of its columns, and the cells of its rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise corrupt(f"{path} cannot be read: {error.strerror}", "make it readable") from error
    except UnicodeDecodeError as error:
        raise corrupt(f"{path} is no text in UTF-8", "save it as UTF-8") from error
    if not text.strip():
        raise corrupt(f"{path} is empty")
    lines = text.splitlines()
    try:
        header, *table = csv.reader(lines, delimiter="\t" if "\t" in "".join(lines[:1]) else ",")
    except csv.Error as error:
        raise corrupt(f"{path} cannot be read: {error}") from error
    if ";" in lines[0] and not any(name in header for name in needed):
        fix = "save it with commas or tabs between the values"
        raise corrupt(f"{path} is separated by semicolons", fix)
    return [name.strip() for name in header], table


def _check(path: Path, number: int, row: CsvRow) -> None:
    """Refuse a row with a value that is no word."""
    strange = [
        name
        for name, value in row.items()
        if len(value) > LONGEST or not value.replace("\n", "").isprintable()
    ]
    if strange:
        raise corrupt(
            f"{path}: row {number} has a {strange[0]} that is no word: {row[strange[0]][:40]!r}"
        )


def whole(path: Path, row: CsvRow, name: str) -> int:
    """Read a whole number from a row; raises DataCorrupt."""
    try:
        return int(row[name])
    except ValueError as error:
        raise corrupt(f"{path}: {name} {row[name]!r} is not a whole number") from error


def places(
    path: Path, header: Sequence[str], needed: Sequence[str], optional: Sequence[str]
) -> dict[str, int]:
    """Find the columns, each once; raises DataCorrupt."""
    missing = [name for name in needed if name not in header]
    if missing:
        fix = f"correct their names, or the file: it has {', '.join(header)}; see docs/data.md"
        raise corrupt(f"{path} lacks the columns {', '.join(missing)}", fix)
    found: dict[str, int] = {}
    for name in (*needed, *optional):
        alike = [
            place for place, other in enumerate(header) if normal_form(other) == normal_form(name)
        ]
        if len(alike) > 1:
            both = " and ".join(f"{header[place]!r} in column {place + 1}" for place in alike[:2])
            raise corrupt(f"{path} has {both}", "keep the one that is meant")
        if alike and header[alike[0]] != name:
            text = f"{path} has the column {header[alike[0]]!r}, which may be meant as {name!r}"
            raise corrupt(text, "rename it, to that or to something else")
        if alike:
            found[name] = alike[0]
    return found
