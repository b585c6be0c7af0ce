"""A sweep over keys, for ``fedskd-sim compare``: every combination of the values that a scenario's
``grid`` gives to keys of its is a method, a variant of the scenario with these values.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import product
from math import prod
from typing import Any

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.scenario.document import Document
from fedskd_sim.scenario.edit import apply_changes
from fedskd_sim.scenario.schema import NAME
from fedskd_sim.scenario.valid import ValidParts

GRID = "grid"
"""The key of a scenario, and the label that stands for all points together."""
SWEPT = ("algorithm", "training", "prediction")
"""Parts of a scenario whose keys may be swept."""
FIXED: Mapping[str, str] = {
    "algorithm.name": "name methods with --algorithms, or describe them under variants",
    "algorithm.rounds": "remove it: the budget says how many rounds there are",
}
MOST_POINTS = 1000
ON_VALIDATION = "instruments.evaluate_on=validation"
"""What is changed in a scenario whose whole grid is compared."""
Grid = Mapping[str, tuple[Any, ...]]
Point = dict[str, Any]


def points(grid: Grid) -> dict[str, Point]:
    """Return every combination of a grid's values, by its label.

    >>> points({"training.epochs": (1, 2), "algorithm.similarity.pixel": (0.1,)}).keys()
    dict_keys(['epochs-1-pixel-0-1', 'epochs-2-pixel-0-1'])

    A label tells the last part of each key and its value. Where that is no name, or not of one
    point alone, it is ``grid-`` and eight digits of the point's SHA-256: it stays what it is when
    the grid grows.
    """
    if not grid:
        return {}
    found = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    times = Counter(map(_label, found))
    named = {}
    for point in found:
        label = _label(point)
        if times[label] > 1 or not re.match(NAME, label):
            label = f"{GRID}-{sha256(words(point).encode()).hexdigest()[:8]}"
        named[label] = point
    return named


def words(point: Mapping[str, Any]) -> str:
    """Write the values of a point as ``--set`` takes them, with commas."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in point.items())


def as_variants(data: Mapping[str, Any], grid: Grid, labels: Iterable[str]) -> Iterator[str]:
    """Yield the changes that make variants of points of a grid.

    Args:
        data: the scenario as it stands in its file.
        grid: its grid.
        labels: of the points.

    """
    known = points(grid)
    for label in labels:
        variant: dict[str, Any] = {}
        for key, value in known[label].items():
            root, *steps = key.split(".")
            before = variant.get(root, data.get(root, {}))
            variant[root] = _with(before, steps, value)
        yield f"variants.{label}={json.dumps(variant)}"


def find_bad_grid(
    rest: ValidParts, document: Document, examine: Callable[[Document], Iterable[FedskdError]]
) -> Iterator[FedskdError]:
    """Find keys of a grid that there are not, or that may not be swept, and values that they may
    not have.

    Args:
        rest: what is right of the scenario.
        document: its file.
        examine: finds what is wrong with a document.

    """
    grid: Grid = rest.scenario.grid
    if not grid or rest.lacks(GRID):
        return
    count = prod(map(len, grid.values()))
    if count > MOST_POINTS:
        text = f"these are {count} combinations, and at most {MOST_POINTS} can be compared"
        yield InvalidValue(text, key=(GRID,), fix="give fewer values")
        return
    for label in rest.scenario.variants:
        if label in points(grid) and ("variants", label) not in document.places:
            text = f"{label!r} is the name of a point of the grid, too"
            yield InvalidValue(text, key=("variants", label), fix="give it another name")
    before = {(one.key, one.message) for one in examine(apply_changes(document, ["grid={}"]))}
    for key, values in grid.items():
        if problem := _unfit(key, values):
            yield problem
            continue
        for value in values:
            changes = ["grid={}", f"{key}={json.dumps(value)}"]
            found = examine(apply_changes(document, changes))
            yield from (_placed(one, key) for one in found if (one.key, one.message) not in before)


def _unfit(key: str, values: tuple[Any, ...]) -> InvalidValue | None:
    if key in FIXED:
        return InvalidValue(f"{key} cannot be swept", key=(GRID, key), fix=FIXED[key])
    root, *steps = key.split(".")
    if root not in SWEPT or not steps or not all(steps):
        fix = f"sweep keys of {', '.join(SWEPT)}, with dots, as in {{training.epochs: [1, 2]}}"
        return InvalidValue(f"{key!r} cannot be swept", key=(GRID, key), fix=fix)
    written = [json.dumps(value) for value in values]
    if twice := next((one for one in written if written.count(one) > 1), None):
        return InvalidValue(f"{twice} is given twice", key=(GRID, key), fix="name every value once")
    return None


def _placed(problem: FedskdError, key: str) -> FedskdError:
    """Return a problem of a value at the grid that gives the value."""
    inside = ".".join(map(str, problem.key))
    if inside != key:
        problem.message = f"{inside}: {problem.message}"
    problem.key, problem.where, problem.others = (GRID, key), None, ()
    return problem


def _label(point: Mapping[str, Any]) -> str:
    text = "-".join(f"{key.rpartition('.')[2]}-{json.dumps(it)}" for key, it in point.items())
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _with(values: Any, steps: list[str], value: Any) -> Any:
    """Copy a mapping with another value under keys of it, made where they are not there."""
    if not steps:
        return value
    inner = values if isinstance(values, Mapping) else {}
    return {**inner, steps[0]: _with(inner.get(steps[0]), steps[1:], value)}
