"""What is not believed of a stranger's reader: that it gives the same samples every time, in
whatever order and company they are asked for, and each of them to one hospital. Built-in readers
are held to the same by a test that asks for all that they give.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import cut, splits
from fedskd_sim.learning.readers.cohort import SPLITS, Checked, Unfit, form
from fedskd_sim.learning.samples import Given
from fedskd_sim.scenario import OwnData

AT_A_TIME = 64
"""Samples that are held at once to find whether any has changed."""
SAMPLED = 16
"""Samples that a function is asked for to find whether another hospital has them too."""


def look(found: Checked, rows: NDArray[np.int64] | None) -> NDArray[Any]:
    """Ask for a few samples, of some rows or of all, alone and, in falling order, together.

    Raises:
        Unfit: they are none, or not the same.

    """
    rows = np.arange(len(found.ids)) if rows is None else rows
    few = rows[_ends(len(rows))] if len(rows) else np.zeros(1, np.int64)
    form(found.take(few[-1:])[0], few[-1:])
    values = found.take(few)[0]
    form(values, few)
    _compare(found, few, values)
    return values


def look_again(found: Checked, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Compare samples that were asked for together, from a function, with a few of them asked for
    alone; raises Unfit.
    """
    some = _ends(len(rows) * bool(found.asks))
    _compare(found, rows[some], values[some])


def _compare(found: Checked, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Refuse samples that are other ones when they are asked for alone; raises Unfit."""
    for row, value in zip(rows.tolist(), values, strict=True):
        alone = found.take(np.array([row]))[0]
        form(alone, [row])
        if alone[0].tobytes() == value.tobytes():
            continue
        again = found.take(np.array([row]))[0]
        if alone.tobytes() != again.tobytes():
            text, fix = "each time it is asked for", "leave chance, as in augmentation, to training"
        else:
            text, fix = "alone than with others", "give samples in the order of the rows asked for"
        place = f" ({found.asks})" * bool(found.asks)
        raise Unfit(f"gives another sample for row {row} {text}{place}: {fix}")


def given_of(
    dataset: OwnData, found: Checked, chosen: splits.Splits, values: NDArray[Any]
) -> Given:
    """Note what was given in this call; ``values`` are the same few samples in each."""
    columns = found.columns
    held = {
        "labels": [found.classes, columns.labels.tolist()],
        "sites": columns.sites if columns.sites is None else columns.sites.tolist(),
        "subjects": None if {*columns.groups} == {*found.ids} else columns.groups.tolist(),
        "folds or splits": columns.strata.tolist(),
        "ids": found.ids,
    }
    if found.given is not None:
        return Given(dataset.file, found.given, bool(dataset.partition), _pictures(found, chosen))
    marks = {name: _mark(repr(column).encode("utf-8", "replace")) for name, column in held.items()}
    if dataset.partition:
        marks["samples"] = _mark(values.tobytes())
    return Given(dataset.file, marks, bool(dataset.partition), _pictures(found, chosen))


def _pictures(found: Checked, chosen: splits.Splits) -> dict[bytes, tuple[str, str]]:
    """Take digests of a hospital's samples, but of those without any contrast: of all that are in
    memory, and of a few that a function has to read, the same few ids at every hospital.
    """
    rows, ends = chosen.rows, np.cumsum([len(part) for part in chosen.places])
    split = np.searchsorted(ends, np.arange(len(rows)), side="right")
    names_of = cut.distinct(found.ids, rows)
    order: Sequence[int] = range(len(rows))
    if found.asks:
        order = sorted(order, key=lambda place: _mark(names_of[place].encode("utf-8", "replace")))
        order = order[: SAMPLED * found.named]
    pictures = {}
    for some in np.array_split(np.array(order, np.int64), 1 + len(order) // AT_A_TIME):
        values = found.take(rows[some])[0] if len(some) else ()
        for place, value in zip(some, values, strict=True):
            if value.min() != value.max():
                mark = sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).digest()
                pictures[mark] = names_of[place] * found.named, SPLITS[split[place]]
    return pictures


def _ends(size: int) -> NDArray[np.int64]:
    """Choose a few of so many places: the last, the middle, the first."""
    return np.unique(np.array([0, size // 2, size - 1])[: 3 * size])[::-1]


def _mark(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]
