"""One hospital's part of a data set, as a folder that holds nothing of any other hospital: its
samples in one array, and with them what its reader decided from the whole: classes, folds, names of
samples, regions, row numbers, and how many of each class the others have.

A run that finds a part where it looks for data takes it in place of the reader, and computes the
same to the byte. Folds and limits are chosen afterwards, so one part serves all seeds of a
comparison; only where a limit is set, the part is that of its seed and folds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataCorrupt, InvalidValue, Key
from fedskd_sim.learning.readers import cut, splits
from fedskd_sim.learning.readers.cohort import Checked, Preview, Rows
from fedskd_sim.learning.readers.places import ATLAS, PART, PART_FILES, SAMPLES
from fedskd_sim.learning.samples import Geometry
from fedskd_sim.learning.task import count_labels
from fedskd_sim.wholefiles import PRIVATE, PRIVATE_FOLDER, opened

FORM = "fedskd-sim part 1"
LATER = ("test_fold", "test_folds", "validation_fold", "limit", "cache")
"""Keys of data that choose among a hospital's samples, or change nothing about them."""
AGAIN = "make the part again: fedskd-sim data split, or data push for a cluster"
NAMED: tuple[Key, ...] = ("data",)
DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What comes of reading files that are not what they were."""


class Whole(NamedTuple):
    """What a part is made from: a checked cohort, a hospital's rows and splits of it, what its
    samples look like, and digests of what a reader of one's own gave.
    """

    found: Checked
    mine: NDArray[np.bool_]
    chosen: splits.Splits
    seen: Preview | None
    given: Mapping[str, str] | None


def identity(dataset: Any, seed: int) -> dict[str, Any]:
    """Return what decides which samples are in a part, by the keys of ``data``; the scenario's
    ``seed`` is among it where a limit draws.
    """
    given = dataset.model_dump(mode="json")
    if given.get("limit") is None:
        return {key: value for key, value in given.items() if key not in LATER}
    return {**given, "seed": seed}


def write(target: Path, name: str, dataset: Any, seed: int, whole: Whole) -> int:
    """Write a part into a folder of its owner's alone.

    Args:
        target: the folder; what it has of an earlier part is written over.
        name: the hospital's.
        dataset: its part of the scenario.
        seed: the scenario's.
        whole: what the part is made from.

    Returns:
        How many bytes it has.

    Raises:
        Unfit: samples cannot be learned from.
        OSError: the folder cannot be written to.

    """
    rows = np.flatnonzero(whole.mine)
    used = rows[np.asarray(whole.found.columns.strata)[rows] != cut.NOWHERE]
    held = used if dataset.limit is None else np.sort(whole.chosen.rows)
    values, remark = whole.found.take(held)
    target.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    (target / PART).unlink(missing_ok=True)
    _save(target / SAMPLES, values)
    if whole.seen and whole.seen.atlas is not None:
        _save(target / ATLAS, np.asarray(whole.seen.atlas))
    told = {
        "form": FORM,
        "hospital": name,
        "data": identity(dataset, seed),
        **_known(whole, rows),
        "held": np.searchsorted(rows, held).tolist(),
        "besides": _besides(dataset, whole),
        "remark": remark,
        "sha256": {one.name: _digest(one) for one in _arrays(target)},
    }
    with opened(target / PART) as stream:
        stream.write(json.dumps(told).encode())
    return sum(one.stat().st_size for one in (*_arrays(target), target / PART))


def _known(whole: Whole, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return what is known of the hospital's rows, and of all that it learns with."""
    found, seen = whole.found, whole.seen
    labels, groups, strata = (np.asarray(column)[rows] for column in found.columns[:3])
    several = {"multi_label": True} if found.multi_label else {}
    return several | {
        "classes": found.classes,
        "by_split": found.by_split,
        "named": found.named,
        "asks": found.asks,
        "columns": found.of_numbers,
        "rows": rows.tolist(),
        "labels": labels.tolist(),
        "groups": groups.tolist(),
        "strata": strata.tolist(),
        "ids": cut.distinct(found.ids, rows),
        "seen": None if seen is None else _shown(seen),
        "given": whole.given,
    }


def _arrays(target: Path) -> list[Path]:
    return [target / name for name in PART_FILES[:-1] if (target / name).is_file()]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _save(file: Path, values: NDArray[Any]) -> None:
    with opened(file, PRIVATE) as stream:
        np.save(stream, values)


def _besides(dataset: Any, whole: Whole) -> dict[str, dict[str, int]]:
    """Count by reason and class what is no sample of the hospital: of others no more is told."""
    found, others = whole.found, splits.others_of(dataset)
    theirs = found.columns.labels[~whole.mine]
    counted = {others: Counter(count_labels(theirs, found.classes, multi_label=found.multi_label))}
    everybodys = getattr(dataset, "partition", None) is not None
    for reason, things in found.besides.items():
        for where, label in things:
            own = everybodys or where in ("", getattr(dataset, "site", ""))
            counted.setdefault(reason if own else others, Counter())[label] += 1
    return {reason: dict(numbers) for reason, numbers in counted.items() if numbers}


def _shown(seen: Preview) -> dict[str, Any]:
    like, space = np.asarray(seen.like), seen.space
    placed = space and [space.source, list(space.grid), np.asarray(space.affine).tolist()]
    return {"shape": like.shape[1:], "dtype": like.dtype.name, "space": placed}


def read(place: Path, name: str, dataset: Any, seed: int, *, whole: bool) -> Checked:
    """Read a part as if its reader had found no more.

    Args:
        place: the folder that `places.part_of` has found.
        name: the hospital's.
        dataset: its part of the scenario.
        seed: the scenario's.
        whole: samples will be learned from, and are compared with their digest first.

    Raises:
        InvalidValue: it is the part of another hospital, or was made for other data.
        DataCorrupt: it is damaged.

    """
    try:
        told = json.loads((place / PART).read_text("utf-8"))
        _check(place, told, name, identity(dataset, seed))
        for file, digest in told["sha256"].items() if whole else ():
            if _digest(place / file) != digest:
                raise ValueError(f"{file} is not what was written")
        return _checked(place, told)
    except DAMAGE as error:
        text = f"{place / PART} is damaged: {type(error).__name__}: {error}"
        raise DataCorrupt(text, fix=AGAIN, key=NAMED) from error


def _checked(place: Path, told: Mapping[str, Any]) -> Checked:
    labels, groups, strata = (np.array(told[key]) for key in ("labels", "groups", "strata"))
    besides = {
        reason: [("", label) for label, number in numbers.items() for _ in range(number)]
        for reason, numbers in told["besides"].items()
    }
    return Checked(
        _taker(np.load(place / SAMPLES, mmap_mode="r"), told),
        cut.Columns(labels, groups, strata, own=True),
        tuple(told["classes"]),
        tuple(told["ids"]),
        bool(told["by_split"]),
        besides,
        None if told["seen"] is None else _previewer(place, told["seen"]),
        bool(told["named"]),
        str(told["asks"]),
        tuple(told["columns"]),
        bool(told.get("multi_label")),
        told["given"],
    )


def _check(place: Path, told: Mapping[str, Any], name: str, here: Mapping[str, Any]) -> None:
    """Refuse a part that is not the hospital's, or not of its data; raises InvalidValue."""
    if told["form"] != FORM:
        text = f"{place / PART} is no part that this version reads: {told['form']!r}"
        raise InvalidValue(text, fix=AGAIN, key=NAMED)
    if told["hospital"] != name:
        text = f"{place} holds the part of {told['hospital']!r}, not of {name!r}"
        fix = "let the data folder be that of this hospital, such as data-{hospital}"
        raise InvalidValue(text, fix=fix, key=NAMED)
    made = told["data"]
    for key in {"limit": 0, **made, **here}:
        if made.get(key) != here.get(key):
            text = (
                f"the part in {place} was made for {key} {made.get(key)!r}, and here it is "
                f"{here.get(key)!r}"
            )
            raise InvalidValue(text, fix=AGAIN, key=(*NAMED, key) if key != "seed" else (key,))


def _taker(
    samples: NDArray[Any], told: Mapping[str, Any]
) -> Callable[[Rows], tuple[NDArray[Any], str]]:
    """Return a function that takes samples of a part by row."""
    held, remark = np.array(told["held"], np.int64), str(told["remark"])
    if len(samples) != len(held):
        raise ValueError(f"{SAMPLES} has {len(samples)} samples, not {len(held)}")

    def take(rows: Rows) -> tuple[NDArray[Any], str]:
        return np.array(samples[np.searchsorted(held, rows)]), remark

    return take


def _previewer(place: Path, seen: Mapping[str, Any]) -> Callable[[Rows], Preview]:
    atlas = np.load(place / ATLAS) if (place / ATLAS).is_file() else None
    like = np.empty((0, *seen["shape"]), seen["dtype"])
    space = None
    if seen["space"]:
        source, grid, affine = seen["space"]
        space = Geometry(source, tuple(grid), np.array(affine, np.float64))
    return lambda _: Preview(like, atlas, space)
