"""What is wrong with a release: errors, and names that may be one or two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataCorrupt

ROW = re.compile(r"\brows? \d")
FIX = "write one name in one way, and two so that they differ"


def corrupt(
    text: str, fix: str = "fetch or convert the file again (see docs/data.md)"
) -> DataCorrupt:
    """Say what is wrong with a file."""
    counted = " (row 1 is the first below the header)" if ROW.search(text) else ""
    return DataCorrupt(f"{text}{counted}", fix=fix)


def normal_form(name: str) -> str:
    """Write a name as it is apart from capital letters, blanks and the coding of accents."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_once(source: object, table: Sequence[Mapping[str, str]], *columns: str) -> None:
    """Refuse a value that stands twice in one of the columns, in whatever letters; raises
    DataCorrupt, naming both.
    """
    for column in columns:
        first: dict[str, int] = {}
        for number, row in enumerate(table, 1):
            before = first.setdefault(normal_form(row[column]), number)
            if before != number:
                one, other = table[before - 1][column], row[column]
                how = "stands there twice" if one == other else "is written in two ways"
                both = f"{one!r} in row {before} and {other!r} in row {number}"
                what = f"{'an' if column[0] in 'aeiou' else 'a'} {column}"
                raise corrupt(f"{source}: {what} {how}: {both}", FIX)


def in_order(numbers: NDArray[np.integer[Any]]) -> NDArray[np.str_]:
    """Write numbers as names that have the same order, in which subjects are drawn."""
    names = numbers.astype(str)
    return np.char.zfill(names, int(np.char.str_len(names).max(initial=1)))
