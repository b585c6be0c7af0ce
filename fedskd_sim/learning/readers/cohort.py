"""What a reader gives, a built-in one or a user's, and whether it can be learned from: the one
place where names, labels, folds and counts are checked. Every way in which they can be wrong is
named, with the row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import cut, splits
from fedskd_sim.learning.samples import Geometry, SampleKind
from fedskd_sim.learning.task import MOST_LABELS, pack

SPLITS = ("train", "validation", "test")
"""In the order of `cut.TRAIN`, `cut.VALIDATION` and `cut.TEST`."""
NO_SPLIT = "none"
FEWEST_CLASSES = 2
MOST_CLASSES = 1000
"""Of which nobody says the names: one stray number makes no millions of them."""
EMPTY = ("", "nan", "NaT", "<NA>")
"""What an empty cell of a table has become where it was made a text."""
IMAGES, TABLES = 4, 2
PATTERN_AXES = 2
"""Of labels, where a sample may have several."""
NEAR_ONE = (0.1, 10.0)
ASYMMETRY = 1e-3
"""Of the spread, by which what should be symmetric may differ."""
WANTED = (
    "Images are uint8 (n, S, S) or (n, S, S, 3). Others are float32: connectivity (n, R, R), "
    "volumes (n, D, H, W) or (n, C, D, H, W), rows of a table (n, W)"
)
Rows = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Preview:
    """The kind and size of samples, known before they are read.

    With a ``Cohort.preview`` data are checked and networks are built without reading samples; they
    are read when a hospital trains.

    >>> Preview(np.empty((0, 28, 28, 3), np.uint8)).like.shape
    (0, 28, 28, 3)

    """

    like: Any
    """An empty array (0, ...) with the shape and dtype of the samples."""
    atlas: Any = None
    """For volumes: the region of each voxel, whole numbers (D, H, W) from 1 on; 0 is outside."""
    space: Geometry | None = None
    """For volumes: where their voxels lie."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """What a reader returns: all N samples that it has found, of all sites.

    ``samples`` and ``labels`` are required. Every other field is a sequence of N, or None, unless
    it says otherwise. What is wrong ends `launch` and ``validate`` with an error that names the
    row, counted from 0.

    >>> pixels = np.zeros((2, 8, 8, 3), np.uint8)
    >>> cohort = Cohort(pixels, ["benign", "malignant"], subjects=["p1", "p2"])
    >>> len(cohort.samples), cohort.labels
    (2, ['benign', 'malignant'])

    """

    samples: Any
    """An array (N, ...), or a function that returns an array (n, ...) for an array of n row
    numbers. Images are uint8 (S, S) or (S, S, 3). Connectivity (R, R) and volumes (D, H, W) or
    (C, D, H, W) are float32, which models see as they are: bring them to a spread near 1. Rows of a
    table are float32 (W,), NaN for missing. A function may return a pair instead: the array, and a
    text for the records, such as what was masked."""
    labels: Any
    """The class of each sample: its name, or its number from 0. Or, for several labels per sample,
    an array (N, L) of 0 and 1 that tells which of L labels each has."""
    classes: Sequence[str] | None = None
    """The names of the classes, in order. None: the names in ``labels``, sorted, or 0, 1, ..."""
    subjects: Any = None
    """The subject of each sample; no subject is in two folds. None: every sample is of another
    one. Drawn folds and parts depend on the names, sorted as texts (``10`` before ``9``)."""
    sites: Any = None
    """The site of each sample, which a hospital names as ``data.site``. None: hospitals share by
    ``data.partition``."""
    folds: Any = None
    """The fold of each sample, 0 to 4. None: five are drawn, always the same, evenly over sites
    and classes."""
    splits: Any = None
    """Instead of folds: ``train``, ``validation`` or ``test``, or ``none`` to leave a sample
    out."""
    ids: Any = None
    """The name of each sample in tables of predictions. Without subjects, drawn folds and parts
    depend on it. None: its row, from 0."""
    blocks: Any = None
    """Groups, such as scanners, over which drawn folds are even, beside classes. None: sites."""
    besides: Mapping[str, Sequence[tuple[str, str]]] | None = None
    """What was found and is no sample, for the counts: by reason a pair of site and class for
    each, such as ``{"without a scan": [("Aachen", "melanoma")]}``; '' for none."""
    columns: Sequence[str] | None = None
    """For tables: the column of each of the W numbers; a category has several, side by side.
    Missing ones become the mean of the hospital's own training samples, or 0 if it has none, and
    are flagged. None: each number is a column."""
    preview: Callable[[Rows], Preview] | None = None
    """A function that returns a `Preview` for an array of row numbers, or raises an error if they
    cannot be read. None: a few samples are read."""


class Unfit(Exception):
    """A cohort, or samples of it, that cannot be learned from; ``classes`` if it is for their names
    or number.
    """

    def __init__(self, text: str, *, classes: bool = False) -> None:
        """Keep what is wrong as the message."""
        super().__init__(text)
        self.classes = classes


class Checked(NamedTuple):
    """A cohort in which nothing is wrong but perhaps its samples; strata are folds, or splits by
    number if ``by_split``.
    """

    take: Callable[[Rows], tuple[NDArray[Any], str]]
    """Gives samples, floats as float32, and what is to be remarked of them."""
    columns: cut.Columns
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    by_split: bool
    besides: Mapping[str, Sequence[tuple[str, str]]]
    preview: Callable[[Rows], Preview] | None
    named: bool
    """Whether the ids are the reader's own."""
    asks: str
    """The function that is asked for samples, and where it is written; empty for an array."""
    of_numbers: tuple[str, ...] = ()
    """The column of each number of a table, if the reader says so."""
    multi_label: bool = False
    """Whether labels are patterns of bits, of several classes for a sample."""
    given: Mapping[str, str] | None = None
    """Of a hospital's part: digests of what a reader of one's own gave, from which it was made."""


class Form(NamedTuple):
    """What a sample is, its grid and its channels."""

    kind: SampleKind
    grid: tuple[int, ...]
    channels: int


def check(found: object) -> Checked:
    """Check all but the samples themselves; raises Unfit."""
    if not isinstance(found, Cohort):
        raise Unfit(f"gives {type(found).__name__}, not a Cohort")
    several = np.ndim(found.labels) == PATTERN_AXES
    labels, classes = _several_labels(found) if several else _labels(found)
    size = len(labels)
    sites, ids, whose, blocks = (
        None if values is None else _column(values, name, size)
        for name in ("sites", "ids", "subjects", "blocks")
        for values in (getattr(found, name),)
    )
    subjects: NDArray[Any] = np.arange(size)
    if whose is not None:
        subjects = whose
    elif ids is not None and len({*ids.tolist()}) == size:
        subjects = ids  # which stay the same where rows come in another order
    strata = _strata(found, subjects, size)
    if strata is None:
        over = next((one for one in (blocks, sites) if one is not None), np.zeros(size))
        _, block = np.unique(over, return_inverse=True)
        kinds, of_labels = len(classes), labels
        if several:
            patterns, of_labels = np.unique(labels, return_inverse=True)
            kinds, of_labels = len(patterns), of_labels.reshape(-1)
        strata = cut.draw_folds(subjects, block.reshape(-1) * kinds + of_labels)
    known = () if sites is None else tuple(map(str, np.unique(sites)))
    return Checked(
        _taker(found.samples, size),
        cut.Columns(labels, subjects, strata, sites, known),
        classes,
        tuple(map(str, range(size) if ids is None else ids)),
        found.splits is not None,
        _besides(found, classes),
        found.preview,
        ids is not None,
        _place(found.samples),
        () if found.columns is None else tuple(_named(found.columns)),
        several,
    )


def previewed(seen: object) -> tuple[Form, Preview]:
    """Check a preview, and tell what the samples will be; raises Unfit."""
    if not isinstance(seen, Preview):
        raise Unfit(f"previews {type(seen).__name__}, not a Preview")
    found = form(np.asarray(seen.like), ())
    if found.kind != "volume" and (seen.atlas is not None or seen.space is not None):
        raise Unfit("previews an atlas or a space of samples that are no volumes")
    if seen.space is not None and tuple(seen.space.grid) != found.grid:
        raise Unfit(f"previews a space of {seen.space.grid} voxels and volumes of {found.grid}")
    if seen.atlas is not None:
        atlas = np.asarray(seen.atlas)
        whole = atlas.shape == found.grid and atlas.dtype.kind in "iu"
        if not whole or atlas.min() < 0 or atlas.max() < 1:
            text = f"previews an atlas of shape {atlas.shape} of {atlas.dtype}"
            raise Unfit(f"{text}, not regions from 1 on of {found.grid} voxels, 0 outside")
    return found, seen


def notes(values: NDArray[Any], kind: SampleKind) -> tuple[str, ...]:
    """Describe what is odd about samples (n, ...) that can be learned from all the same."""
    found = []
    known = values[~np.isnan(values)] if kind == "table" else values
    if kind != "image" and not NEAR_ONE[0] <= (spread := float(known.std())) <= NEAR_ONE[1]:
        found.append(f"values have a spread of {spread:.3g}, which models see as it is, not near 1")
    if kind == "roi" and not np.allclose(values, values.swapaxes(1, 2), atol=ASYMMETRY * spread):
        found.append("connectivity is not symmetric, as if it were of time and regions")
    return tuple(found)


def form(values: NDArray[Any], rows: Sequence[int] | NDArray[np.integer[Any]]) -> Form:
    """Return what samples are; raises Unfit for what is none of these.

    Args:
        values: the samples (n, ...).
        rows: the rows that were asked for (n,).

    """
    if len(values.shape) < 1 or len(values) != len(rows):
        raise Unfit(f"gives samples of shape {values.shape} for {len(rows)} rows")
    wild = np.isinf if values.ndim == TABLES else _not_finite
    if values.dtype.kind == "f" and wild(values).any():
        where = np.argwhere(wild(values))
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
        case ("float32", int(width)) if width:
            return Form("table", (width,), 1)
        case ("float32", int(first), int(second)) if first == second:
            return Form("roi", (first, second), 1)
        case ("float32", int(depth), int(height), int(width)):
            return Form("volume", (depth, height, width), 1)
        case ("float32", int(channels), int(depth), int(height), int(width)):
            return Form("volume", (depth, height, width), channels)
    raise Unfit(f"gives samples of shape {values.shape} of {values.dtype}. {WANTED}")


def _not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = ~np.isfinite(values)
    return found


def _named(columns: Sequence[str]) -> Sequence[str]:
    """Check the names of columns; raises Unfit."""
    for place, one in enumerate(columns):
        if not isinstance(one, str):
            raise Unfit(f"gives {one!r} as the name of a column, not a text")
        _check_name(one, place, "columns")
    return columns


def _as_image(first: int, second: int, third: int) -> bool:
    """Return whether a grid is that of an image with one or three channels, first or last."""
    return (first in {1, 3} and second == third) or (third in {1, 3} and first == second)


def _place(samples: Any) -> str:
    """Name where a function is written; empty if it is none."""
    code = getattr(samples, "__code__", None)
    if code is None:
        return type(samples).__name__ * callable(samples)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}, in {code.co_name}"


def _taker(samples: Any, size: int) -> Callable[[Rows], tuple[NDArray[Any], str]]:
    """Ask for samples, of which floats of another size become float32."""
    given = None if callable(samples) else np.asarray(samples)
    if given is not None and (given.ndim < 1 or len(given) != size):
        raise Unfit(f"gives samples of shape {given.shape} and {size} labels")

    def take(rows: Rows) -> tuple[NDArray[Any], str]:
        found = samples(rows) if given is None else given[rows]
        match found:
            case (values, str(remark)):
                found = values
            case _:
                remark = ""
        values = np.asarray(found)
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # too large is not finite, and said to be
                values = values.astype(np.float32, copy=False)
        return values, remark

    return take


def _besides(found: Cohort, classes: Sequence[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return what was found besides samples."""
    for reason, things in (found.besides or {}).items():
        for thing in things:
            match thing:
                case (str(), str(label)) if label in ("", *classes):
                    continue
            text = f"gives {thing!r} as {reason!r}, not a site and one of the classes"
            raise Unfit(f"{text} {', '.join(classes)}, or '' for either")
    return found.besides or {}


def _labels(found: Cohort) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the number of each sample's class (N,), and the classes."""
    given = np.asarray(found.labels)
    if given.ndim != 1 or not len(given):
        raise Unfit(f"gives labels of shape {given.shape}, not one for each sample")
    named = _column(found.labels, "labels", len(given))
    numbered = given.dtype.kind in "iu"
    classes = _classes(found, given, named)
    places = {name: place for place, name in enumerate(classes)}
    labels = given if numbered else np.array([places.get(name, -1) for name in named.tolist()])
    strange = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(strange):
        row = strange[0]
        raise Unfit(
            f"gives the label {str(given[row])!r} in row {row}, and the classes "
            f"{', '.join(classes)}",
            classes=bool(labels[row] >= 0),
        )
    nobody = np.flatnonzero(np.bincount(labels.astype(np.int64), minlength=len(classes)) == 0)
    if found.classes is None and len(nobody):
        raise Unfit(
            f"gives labels from {labels.min()} to {labels.max()}, none of them {nobody[0]}, and no "
            "classes",
            classes=True,
        )
    return labels.astype(np.int64), classes


def _several_labels(found: Cohort) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of each sample as a pattern (N,), and what these are called."""
    given = np.asarray(found.labels)
    size, count = given.shape
    if not size or not FEWEST_CLASSES <= count <= MOST_LABELS:
        text = f"gives labels of shape {given.shape}"
        raise Unfit(f"{text}: several labels are (N, L), with L from 2 to {MOST_LABELS}")
    whole = given.dtype.kind in "biu"
    strange = np.argwhere((given != 0) & (given != 1)) if whole else np.zeros((1, 2), int)
    if len(strange):
        row, place = strange[0]
        text = f"gives {given[row, place]!s} in row {row} of label {place}"
        raise Unfit(f"{text}: of several labels each is a whole number, 0 or 1")
    named = tuple(map(str, range(count))) if found.classes is None else found.classes
    if len(named) != count:
        raise Unfit(f"gives {len(named)} classes and {count} labels per sample", classes=True)
    _, classes = _labels(replace(found, labels=np.arange(count), classes=named))
    return pack(given == 1), classes


def _classes(found: Cohort, given: NDArray[Any], named: NDArray[np.str_]) -> tuple[str, ...]:
    """Return the names of the classes."""
    if given.dtype.kind in "iu":
        wild = np.flatnonzero((given < 0) | (given >= max(MOST_CLASSES, len(found.classes or ()))))
        if len(wild):
            text = f"gives the label {given[wild[0]]} in row {wild[0]}"
            raise Unfit(f"{text}; a class has a number from 0 to {MOST_CLASSES - 1}")
    if found.classes is not None:
        classes = tuple(found.classes)
        for row, name in enumerate(classes):
            _check_name(name, row, "classes")
        numbered = [(str(name), row) for row, name in enumerate(classes)]
        if wrong := splits.problem("class", numbered):
            raise Unfit(f"gives {wrong}", classes=True)
    elif given.dtype.kind in "iu":
        classes = tuple(map(str, range(int(given.max()) + 1)))
    else:
        classes = tuple(map(str, np.unique(named)))
    if not all(isinstance(name, str) for name in classes) or len(classes) < FEWEST_CLASSES:
        raise Unfit(f"gives the classes {classes!r}, not two names or more")
    return classes


def _column(given: Any, name: str, size: int) -> NDArray[np.str_]:
    """Return a field as texts (N,), none of which stands for an empty cell."""
    plain = hasattr(given, "__array__")  # numpy makes names of all that is in a list with names
    values = np.asarray(given) if plain else np.asarray(given, dtype=object)
    if values.shape != (size,):
        raise Unfit(f"gives {name} of shape {values.shape} and {size} labels")
    if values.dtype.kind in "iu":
        return values.astype(str)
    cells = [
        value.item() if hasattr(value, "item") and not isinstance(value, str) else value
        for value in values.tolist()
    ]
    first: dict[str, int] = {}
    for row, value in enumerate(cells):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise Unfit(f"gives {value!r} in row {row} of {name}, not a name or a whole number")
        first.setdefault(str(value), row)
    for text, row in first.items():
        _check_name(text, row, name)
    if name != "ids" and (wrong := splits.problem(name[:-1], first.items())):
        raise Unfit(f"gives {wrong}")
    return np.array(cells).astype(str)


def _check_name(value: object, row: int, name: str) -> None:
    """Refuse a name that no table may have, or that was none; ids may begin and end as files do."""
    if not isinstance(value, str):
        return
    if value in EMPTY:
        raise Unfit(f"gives {value!r} in row {row} of {name}, not a name or a whole number")
    shown = value.isprintable() and value == value.strip()
    if name == "ids":
        shown = value.isprintable() or all(unicodedata.category(sign) != "Cc" for sign in value)
    if not shown:
        raise Unfit(
            f"gives {value!r} in row {row} of {name}, which has blanks around it or signs that "
            "cannot be printed"
        )


def _strata(found: Cohort, subjects: NDArray[Any], size: int) -> NDArray[np.int64] | None:
    """Return the fold of each sample (N,), or the number of its split; None if it has neither."""
    if found.folds is not None and found.splits is not None:
        raise Unfit("gives both folds and splits")
    what, known = "folds", {str(fold): fold for fold in range(cut.FOLDS)}
    if found.splits is not None:
        numbers = (cut.TRAIN, cut.VALIDATION, cut.TEST, cut.NOWHERE)
        what, known = "splits", dict(zip((*SPLITS, NO_SPLIT), numbers, strict=True))
    if getattr(found, what) is None:
        return None
    given = _column(getattr(found, what), what, size)
    if len(strange := np.flatnonzero(~np.isin(given, [*known]))):
        text = f"gives {str(given[strange[0]])!r} in row {strange[0]} of {what}"
        raise Unfit(f"{text}, not {', '.join(known)}")
    strata = np.array([known[value] for value in given.tolist()])
    rows = np.flatnonzero(strata != cut.NOWHERE)
    _, first, member = np.unique(subjects[rows], return_index=True, return_inverse=True)
    before = rows[first[member.reshape(-1)]]
    for place in np.flatnonzero(strata[before] != strata[rows])[:1]:
        one, other = before[place], rows[place]
        raise Unfit(
            f"gives subject {str(subjects[one])!r} in two {what}: {given[one]} in row {one}, "
            f"{given[other]} in row {other}"
        )
    return strata
