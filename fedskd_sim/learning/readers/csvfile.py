"""Tables as data sets are released with: every way in which one can be wrong is an error that names it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedskd_sim.learning.readers.npz import corrupt

Row = dict[str, str]


def rows(path: Path, needed: Sequence[str]) -> list[Row]:
    """Read a table with a header, separated by commas or, where the header has one, by tabs.

    Raises:
        DataCorrupt: unreadable, without rows, without a needed column, or a row without a value in one.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise corrupt(f"{path} cannot be read: {error}") from error
    lines = text.splitlines()
    try:
        reader = csv.DictReader(lines, delimiter="\t" if "\t" in "".join(lines[:1]) else ",")
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise corrupt(f"{path} lacks the columns {', '.join(missing)}")
        found = [{name: (row[name] or "").strip() for name in needed} for row in reader]
    except csv.Error as error:
        raise corrupt(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(found, 1):
        empty = [name for name, value in row.items() if not value]
        if empty:
            raise corrupt(f"{path}: row {number} has no {empty[0]}")
    if not found:
        raise corrupt(f"{path} has no rows")
    return found


def whole(path: Path, row: Row, name: str) -> int:
    """Read a whole number from a row; raises DataCorrupt."""
    try:
        return int(row[name])
    except ValueError as error:
        raise corrupt(f"{path}: {name} {row[name]!r} is not a whole number") from error
