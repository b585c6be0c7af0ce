"""What a reader of one's own gives, and whether it can be learned from: every way in which it can
be wrong is named, with the row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import cut, splits
from fedskd_sim.learning.samples import SampleKind

SPLITS = ("train", "validation", "test")
"""In the order of `cut.TRAIN`, `cut.VALIDATION` and `cut.TEST`."""
FEWEST_CLASSES = 2
EMPTY = ("", "nan", "NaT", "<NA>")
"""What an empty cell of a table has become where it was made a text."""
IMAGES = 4
NEAR_ONE = (0.1, 10.0)
ASYMMETRY = 1e-3
"""Of the spread, by which what should be symmetric may differ."""
WANTED = (
    "uint8 (n, S, S) or (n, S, S, 3) for images, float32 (n, R, R) for connectivity, (n, D, H, W) "
    "or (n, C, D, H, W) for volumes"
)


@dataclass(frozen=True, slots=True)
class Cohort:
    """All samples that a reader of one's own has found, N of them, and what is known of each.

    Only ``samples`` and ``labels`` are needed; every other field is a sequence of N, or None.
    """

    samples: Any
    """An array (N, ...), or a function that gives an array (n, ...) for an array of n row numbers:
    images uint8 (S, S) or (S, S, 3), connectivity (R, R) or volumes (D, H, W) or (C, D, H, W) of
    float32, which models see as they are: bring them to a spread near 1."""
    labels: Any
    """The class of each sample: its name, or its number from 0."""
    classes: Sequence[str] | None = None
    """The names of the classes in their order. None: the names in ``labels``, sorted, or the
    numbers."""
    subjects: Any = None
    """Whom a sample is of; nobody's samples come into two folds. None: each of another one."""
    sites: Any = None
    """The site of each sample, by which hospitals share them. None: they share by partition."""
    folds: Any = None
    """0 to 4. None: drawn, always the same ones, evenly over sites and classes."""
    splits: Any = None
    """Instead of folds: ``train``, ``validation`` or ``test``."""
    ids: Any = None
    """What a sample is called in tables of predictions and, without subjects, drawn by. None: its
    row, from 0."""


class Unfit(Exception):
    """A cohort, or samples of it, that cannot be learned from."""


class Checked(NamedTuple):
    """A cohort in which nothing is wrong but perhaps its samples; strata are folds, or splits by
    number if ``by_split``.
    """

    take: Callable[[NDArray[np.integer[Any]]], NDArray[Any]]
    columns: cut.Columns
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    by_split: bool
    named: bool
    """Whether the ids are the reader's own."""
    asks: str
    """The function that is asked for samples, and where it is written; empty for an array."""


class Form(NamedTuple):
    """What a sample is, its grid and its channels."""

    kind: SampleKind
    grid: tuple[int, ...]
    channels: int


def check(found: object) -> Checked:
    """Check all but the samples themselves; raises Unfit."""
    if not isinstance(found, Cohort):
        raise Unfit(f"gives {type(found).__name__}, not a Cohort")
    labels, classes = _labels(found)
    size = len(labels)
    given: dict[str, NDArray[Any] | None] = {
        name: None if values is None else _column(values, name, size)
        for name in ("subjects", "sites", "ids")
        for values in (getattr(found, name),)
    }
    sites, ids, subjects = given["sites"], given["ids"], given["subjects"]
    if subjects is None:  # ids stay the same where rows come in another order
        once = ids is not None and len({*ids.tolist()}) == size
        subjects = ids if ids is not None and once else np.arange(size)
    known, number = (
        ((), np.zeros(size, np.int64)) if sites is None else np.unique(sites, return_inverse=True)
    )
    strata = _strata(found, subjects, size)
    if strata is None:
        strata = cut.draw_folds(subjects, number.reshape(-1) * len(classes) + labels)
    columns = cut.Columns(labels, subjects, strata, sites, tuple(map(str, known)))
    named = tuple(map(str, range(size) if ids is None else ids))
    take = _taker(found.samples, size)
    by_split, own_ids = found.splits is not None, ids is not None
    return Checked(take, columns, classes, named, by_split, own_ids, _place(found.samples))


def notes(values: NDArray[Any], kind: SampleKind) -> tuple[str, ...]:
    """Say what is odd about samples (n, ...) that can be learned from all the same."""
    found = []
    if kind != "image" and not NEAR_ONE[0] <= (spread := float(values.std())) <= NEAR_ONE[1]:
        found.append(f"values have a spread of {spread:.3g}, which models see as it is, not near 1")
    if kind == "roi" and not np.allclose(values, values.swapaxes(1, 2), atol=ASYMMETRY * spread):
        found.append("connectivity is not symmetric, as if it were of time and regions")
    return tuple(found)


def form(values: NDArray[Any], rows: Sequence[int] | NDArray[np.integer[Any]]) -> Form:
    """Tell what samples are, and refuse what is none of these; raises Unfit.

    Args:
        values: the samples (n, ...).
        rows: the rows that were asked for (n,).

    """
    if len(values.shape) < 1 or len(values) != len(rows):
        raise Unfit(f"gives samples of shape {values.shape} for {len(rows)} rows")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))
        raise Unfit(
            f"gives {len(where)} values that are not finite, the first in row {rows[where[0][0]]}"
        )
    if values.dtype.kind == "f" and values.ndim == IMAGES and _as_image(*values.shape[1:]):
        text = f"gives floats of shape {values.shape}, which look like images"
        raise Unfit(f"{text}: give images as uint8 (n, S, S) or (n, S, S, 3)")
    match (values.dtype.name, *values.shape[1:]):
        case ("uint8", int(height), int(width)) if height == width:
            return Form("image", (height, width), 1)
        case ("uint8", int(height), int(width), int(channels)) if height == width and channels in {
            1,
            3,
        }:
            return Form("image", (height, width), channels)
        case ("float32", int(first), int(second)) if first == second:
            return Form("roi", (first, second), 1)
        case ("float32", int(depth), int(height), int(width)):
            return Form("volume", (depth, height, width), 1)
        case ("float32", int(channels), int(depth), int(height), int(width)):
            return Form("volume", (depth, height, width), channels)
    raise Unfit(f"gives samples of shape {values.shape} of {values.dtype}, not {WANTED}")


def _as_image(first: int, second: int, third: int) -> bool:
    """Return whether a grid is that of an image with one or three channels, first or last."""
    return (first in {1, 3} and second == third) or (third in {1, 3} and first == second)


def _place(samples: Any) -> str:
    """Say where a function is written; empty if it is none."""
    code = getattr(samples, "__code__", None)
    if code is None:
        return type(samples).__name__ * callable(samples)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}, in {code.co_name}"


def _taker(samples: Any, size: int) -> Callable[[NDArray[np.integer[Any]]], NDArray[Any]]:
    if callable(samples):
        return lambda rows: np.asarray(samples(rows))
    values = np.asarray(samples)
    if values.ndim < 1 or len(values) != size:
        raise Unfit(f"gives samples of shape {values.shape} and {size} labels")
    return lambda rows: values[rows]


def _labels(found: Cohort) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the number of each sample's class (N,), and the classes."""
    given = np.asarray(found.labels)
    if given.ndim != 1 or not len(given):
        raise Unfit(f"gives labels of shape {given.shape}, not one for each sample")
    named = _column(found.labels, "labels", len(given))
    numbered = given.dtype.kind in "iu"
    if found.classes is not None:
        classes = tuple(found.classes)
        for row, name in enumerate(classes):
            _check_name(name, row, "classes")
        if wrong := splits.problem("classes", "class", [*map(str, classes)], once=True):
            raise Unfit(f"gives names twice: {wrong}")
    elif numbered:
        classes = tuple(map(str, range(int(given.max()) + 1)))
    else:
        classes = tuple(map(str, np.unique(named)))
    if not all(isinstance(name, str) for name in classes) or len(classes) < FEWEST_CLASSES:
        raise Unfit(f"gives the classes {classes!r}, not two names or more")
    labels = given if numbered else np.array([_index(classes, name) for name in named])
    strange = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(strange):
        raise Unfit(
            f"gives the label {str(given[strange[0]])!r} in row {strange[0]}, and the classes "
            f"{', '.join(classes)}"
        )
    nobody = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if found.classes is None and len(nobody):
        raise Unfit(
            f"gives labels from {labels.min()} to {labels.max()}, none of them {nobody[0]}, and no "
            "classes"
        )
    return labels.astype(np.int64), classes


def _index(classes: Sequence[str], name: str) -> int:
    return classes.index(name) if name in classes else -1


def _column(given: Any, name: str, size: int) -> NDArray[np.str_]:
    """Return a field as texts (N,), none of which stands for an empty cell."""
    plain = hasattr(given, "__array__")  # numpy makes names of all that is in a list with names
    values = np.asarray(given) if plain else np.asarray(given, dtype=object)
    if values.shape != (size,):
        raise Unfit(f"gives {name} of shape {values.shape} and {size} labels")
    cells = [
        value.item() if hasattr(value, "item") and not isinstance(value, str) else value
        for value in values.tolist()
    ]
    for row, value in enumerate(cells):
        if isinstance(value, bool) or not isinstance(value, int | str) or value in EMPTY:
            raise Unfit(f"gives {value!r} in row {row} of {name}, not a name or a whole number")
        _check_name(value, row, name)
    texts = np.array(cells).astype(str)
    if name != "ids" and (wrong := splits.problem(name, name[:-1], texts.tolist(), once=False)):
        raise Unfit(f"gives names in two ways: {wrong}")
    return texts


def _check_name(value: object, row: int, name: str) -> None:
    """Refuse a name that no table may have; ids may begin and end as files do."""
    if not isinstance(value, str):
        return
    shown = value.isprintable() and value == value.strip()
    if name == "ids":
        shown = not any(unicodedata.category(sign) == "Cc" for sign in value)
    if not shown:
        raise Unfit(
            f"gives {value!r} in row {row} of {name}, which has blanks around it or signs that "
            "cannot be printed"
        )


def _strata(found: Cohort, subjects: NDArray[Any], size: int) -> NDArray[np.int64] | None:
    """Return the fold of each sample (N,), or the number of its split; None if it has neither."""
    if found.folds is not None and found.splits is not None:
        raise Unfit("gives both folds and splits")
    what, known = ("splits", SPLITS) if found.splits is not None else ("folds", range(cut.FOLDS))
    if getattr(found, what) is None:
        return None
    given = _column(getattr(found, what), what, size)
    wanted = [*map(str, known)]
    for row, value in enumerate(given):
        if value not in wanted:
            raise Unfit(f"gives {str(value)!r} in row {row} of {what}, not {', '.join(wanted)}")
    strata = np.array([wanted.index(value) for value in given])
    first: dict[Any, int] = {}
    for row, (subject, stratum) in enumerate(zip(subjects.tolist(), strata, strict=True)):
        before = first.setdefault(subject, row)
        if strata[before] != stratum:
            raise Unfit(
                f"gives subject {subject!r} in two {what}: {given[before]} in row {before}, "
                f"{given[row]} in row {row}"
            )
    return strata
