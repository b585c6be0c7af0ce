"""Rows of tables as networks take them: the numbers of each column, filled where they are missing,
and a flag that says where they were. The width depends on the declared columns alone, and so it is
the same at every hospital.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers.cohort import Unfit

Rows = NDArray[np.float32]


class Layout(NamedTuple):
    """The columns of a table, and for each of the W numbers of a row its column and which number
    of it this is.
    """

    columns: tuple[str, ...]
    of: NDArray[np.int64]
    slot: NDArray[np.int64]

    @property
    def features(self) -> int:
        """How many numbers a column has in a network: those of the widest column, and the flag."""
        return int(self.slot.max()) + 2


def layout(named: Sequence[str], width: int) -> Layout:
    """Lay out the numbers of a row.

    Args:
        named: the column of each number (W,); empty where each is a column of its own.
        width: how many numbers a row has.

    Raises:
        Unfit: there are more or fewer names than numbers, or a column's numbers stand apart.

    """
    names = list(named) or [f"column {place}" for place in range(width)]
    if len(names) != width:
        raise Unfit(f"gives {len(names)} columns for rows of {width} numbers")
    columns: list[str] = []
    of, slot = np.zeros(width, np.int64), np.zeros(width, np.int64)
    for place, name in enumerate(names):
        again = bool(columns) and columns[-1] == name
        if not again and name in columns:
            text = f"gives numbers of the column {name!r} that do not stand side by side"
            raise Unfit(f"{text}, the second time at {place} of columns")
        if not again:
            columns.append(name)
        of[place] = len(columns) - 1
        slot[place] = slot[place - 1] + 1 if again else 0
    return Layout(tuple(columns), of, slot)


def fill(values: Rows, laid: Layout, train: NDArray[np.int64]) -> tuple[Rows, str]:
    """Return rows of a hospital (N, W) as networks take them (N, F, R), and in words what was
    filled.

    A number that is missing becomes the mean of the hospital's training rows, or 0 where none of
    them has it; the last of a column's F numbers is 1 where any of its numbers was missing.

    Args:
        values: NaN is missing.
        laid: the columns.
        train: the places of the rows that train.

    """
    missing = np.isnan(values)
    seen = (~missing[train]).sum(axis=0)
    sums = np.where(missing[train], 0.0, values[train]).sum(axis=0, dtype=np.float64)
    means = (sums / np.maximum(seen, 1)).astype(np.float32)
    found = np.zeros((len(values), laid.features, len(laid.columns)), np.float32)
    found[:, laid.slot, laid.of] = np.where(missing, means, values)
    flags = np.zeros((len(values), len(laid.columns)), np.float32)
    for place, column in enumerate(laid.of):
        flags[:, column] = np.maximum(flags[:, column], missing[:, place])
    found[:, -1] = flags
    unknown = {laid.columns[column] for column in laid.of[seen == 0]} if len(train) else set()
    return found, "; ".join(_told(laid.columns, flags.sum(axis=0), len(values), unknown))


def _told(columns: Sequence[str], counts: NDArray[Any], rows: int, unknown: set[str]) -> list[str]:
    """Describe what was missing, and with what it was filled."""
    parts = [
        (name, int(count), name in unknown)
        for name, count in zip(columns, counts, strict=True)
        if count
    ]
    filled = [f"{name} {count}" for name, count, empty in parts if not empty]
    declared = [f"{name} {count}" for name, count, empty in parts if empty]
    told = []
    if filled:
        told.append(
            f"missing of {rows}, filled by the mean of the own training data: {', '.join(filled)}"
        )
    if declared:
        told.append(
            f"missing of {rows}, no training sample has it, filled by the declared value: "
            f"{', '.join(declared)}"
        )
    return told
