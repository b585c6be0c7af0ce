"""Data that a function of a user's own package reads, offered through the entry point group
``fedskd_sim.readers``: called with the data folder and its options, it gives a `Cohort`.

Every hospital's process calls it by itself and keeps its own rows; sites and parts are cut as those
of other data. It is called several times before a run and once by every hospital, so one whose
files are slow to read gives a function as ``samples``, which is asked for single rows before the
run.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataMissing, FedskdError, InvalidValue, Key, ReaderFailed
from fedskd_sim.learning.installed import (
    READER,
    STRANGE,
    fetch,
    let_signals,
    names,
    options_of,
    wrong_options,
)
from fedskd_sim.learning.readers import cut, npz, splits
from fedskd_sim.learning.readers.cohort import SPLITS, Checked, Unfit, check, form, notes
from fedskd_sim.learning.samples import Arrays, Facts, Given, Images
from fedskd_sim.scenario import OwnData, nearest
from fedskd_sim.seeds import seed

NAMED: tuple[Key, ...] = ("data", "reader")
AT_A_TIME = 64
"""Samples that are held at once to find whether any has changed."""
SAMPLED = 16
"""Samples that a function is asked for to find whether another hospital has them too."""


def facts(dataset: OwnData, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Call the reader, and look at a few samples.

    Raises:
        UnknownReader: no installed package offers it.
        InvalidValue: it cannot be imported, lacks an option, there is no such site, or validation
            and test are the same fold; or too small a part.
        DataMissing: no folder given, or the reader does not find a file.
        ReaderFailed: it raises another exception, or gives what is no cohort.
        NoTrainingSamples: nothing of the part trains.

    """
    with _told(dataset):
        found = _read(dataset, folder)
        chosen = _choose(dataset, found, scenario_seed, name)
        source = splits.Source(dataset.file, found.classes, found.columns.labels)
        everything = np.arange(len(found.columns.labels))
        rows, values = _look(found, everything if dataset.partition else chosen.rows)
        kind, grid, channels = form(values, rows)
        return Facts(
            found.classes,
            min(grid),
            channels,
            found.columns.labels[chosen.train],
            splits.counts(name, source, chosen),
            kind,
            grid if kind == "volume" else (),
            notes=notes(values, kind),
            given=_given(dataset, found, chosen, values),
        )


def load(dataset: OwnData, folder: Path | None, scenario_seed: int, name: str) -> Images | Arrays:
    """Read the hospital's samples; raises as `facts`."""
    with _told(dataset):
        found = _read(dataset, folder)
        chosen = _choose(dataset, found, scenario_seed, name)
        chosen = chosen._replace(of=np.asarray(found.columns.groups))
        rows = chosen.rows
        values = _take(found, rows)
        kind, grid, channels = form(values, rows)
        some = _ends(len(rows) * bool(found.asks))
        _compare(found, rows[some], values[some])
        rest = found.columns.labels[rows], chosen.places, found.classes
        names_of = cut.distinct(found.ids, rows), chosen.subjects
        if kind == "image":
            return Images(values.reshape(len(rows), *grid, channels), *rest, *names_of)
        shape = (channels, *grid) if kind == "volume" else grid
        remark = "; ".join(notes(values, kind))
        return Arrays(values.reshape(len(rows), *shape), *rest, *names_of, remark)


def digest(dataset: OwnData, folder: Path | None) -> str:
    """Return the digest of all that the reader gives, every sample included; raises as `facts`."""
    with _told(dataset):
        found = _read(dataset, folder)
        whole = sha256(repr((found.classes, found.ids, found.by_split)).encode("utf-8", "replace"))
        for column in found.columns[:4]:
            whole.update(repr(np.asarray(column).tolist()).encode("utf-8", "replace"))
        rows = np.arange(len(found.columns.labels))
        for some in np.split(rows, rows[AT_A_TIME::AT_A_TIME]):
            values = _take(found, some)
            whole.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
        return whole.hexdigest()[:16]


def _ends(size: int) -> NDArray[np.int64]:
    """Choose a few of so many places: the last, the middle, the first."""
    return np.unique(np.array([0, size // 2, size - 1])[: 3 * size])[::-1]


def _look(found: Checked, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Ask for a few samples alone and, in falling order, together: give their rows and values.

    Raises:
        Unfit: they are none, or not the same.

    """
    few = rows[_ends(len(rows))] if len(rows) else np.zeros(1, np.int64)
    form(_take(found, few[-1:]), few[-1:])
    values = _take(found, few)
    form(values, few)
    _compare(found, few, values)
    return few, values


def _compare(found: Checked, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Refuse samples that are other ones when they are asked for alone; raises Unfit."""
    for row, value in zip(rows.tolist(), values, strict=True):
        alone = _take(found, np.array([row]))
        form(alone, [row])
        if alone[0].tobytes() == value.tobytes():
            continue
        again = _take(found, np.array([row]))
        if alone.tobytes() != again.tobytes():
            text, fix = "each time it is asked for", "leave chance, as in augmentation, to training"
        else:
            text, fix = "alone than with others", "give samples in the order of the rows asked for"
        place = f" ({found.asks})" * bool(found.asks)
        raise Unfit(f"gives another sample for row {row} {text}{place}: {fix}")


def _given(dataset: OwnData, found: Checked, chosen: splits.Splits, values: NDArray[Any]) -> Given:
    """Note what was given in this call; ``values`` are the same few samples in each."""
    columns = found.columns
    held = {
        "labels": [found.classes, columns.labels.tolist()],
        "sites": columns.sites if columns.sites is None else columns.sites.tolist(),
        "subjects": None if {*columns.groups} == {*found.ids} else columns.groups.tolist(),
        "folds or splits": columns.strata.tolist(),
        "ids": found.ids,
    }
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
        values = _take(found, rows[some]) if len(some) else ()
        for place, value in zip(some, values, strict=True):
            if value.min() != value.max():
                mark = sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).digest()
                pictures[mark] = names_of[place] * found.named, SPLITS[split[place]]
    return pictures


def _mark(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def _take(found: Checked, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Ask for samples; floats of another size become float32."""
    values = found.take(rows)
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):  # too large is not finite, and said to be
        return values.astype(np.float32)


def _read(dataset: OwnData, folder: Path | None) -> Checked:
    """Call the reader as the scenario says."""
    if dataset.reader not in names(READER.group):
        there = names(READER.group)
        fix = f"{nearest(dataset.reader, there, '')} " + (
            f"there are {', '.join(there)}; " if there else "nobody offers one; "
        )
        fix += "a reader comes with a file under code, or with a package that is installed here"
        raise READER.unknown(f"there is no reader {dataset.reader!r}", key=NAMED, fix=fix.lstrip())
    read = fetch(READER, dataset.reader)
    wrong = [*wrong_options(dataset.reader, options_of(read), dataset.options, ("data",))]
    if wrong:
        raise wrong[0]
    needs = next(iter(signature(read).parameters.values())).default is Parameter.empty
    where = npz.folder_of(dataset.reader, folder) if needs or folder else None
    return check(read(where, **dataset.options))


def _choose(dataset: OwnData, found: Checked, scenario_seed: int, name: str) -> splits.Splits:
    """Cut the hospital's site, or part, by folds or by the reader's own splits."""
    columns = found.columns
    everything = np.ones(len(columns.labels), bool)
    if dataset.partition:
        held_back = (
            [cut.VALIDATION, cut.TEST]
            if found.by_split
            else [dataset.test_fold, dataset.validation_fold]
        )
        mine = cut.own_part(dataset.partition, *columns[:3], ~np.isin(columns.strata, held_back))
    elif columns.sites is not None:
        mine = columns.sites == columns.known[npz.find_site(dataset.site, columns.known, "site")]
    elif dataset.site:
        text = f"there is no site {dataset.site!r}: {dataset.reader} names none"
        fix = "leave it out and cut the data by 'partition', or let the reader give 'sites'"
        raise InvalidValue(text, fix=fix, key=("data", "site"))
    else:
        mine = everything
    if not found.by_split:
        return splits.by_fold(dataset, mine, columns.strata, scenario_seed, name)
    train, validation, test = (
        mine & (columns.strata == split) for split in (cut.TRAIN, cut.VALIDATION, cut.TEST)
    )
    left_out = {splits.others_of(dataset): np.flatnonzero(~mine)}
    draw = seed(scenario_seed, "limit", name)
    return splits.make_splits((train, validation, test), left_out, dataset.limit, draw)


@contextmanager
def _told(dataset: OwnData) -> Iterator[None]:
    """Turn whatever a stranger's reader raises into words that name it and the line of its code."""
    try:
        yield
    except FedskdError as error:
        error.key = error.key or NAMED
        raise
    except FileNotFoundError as error:
        text = f"reader {dataset.reader!r} does not find {error.filename or error}{_line(error)}"
        fix = "give the folder that holds it with --data DIR or FEDSKD_DATA, or mend the reader"
        raise DataMissing(text, fix=fix, key=NAMED) from error
    except Unfit as error:
        text = f"reader {dataset.reader!r} {error}"
        fix = "mend it in its package (see docs/own-code.md)"
        raise ReaderFailed(text, fix=fix, key=NAMED) from error
    except STRANGE as error:
        let_signals(error)
        text = f"reader {dataset.reader!r} failed: {type(error).__name__}: {error}{_line(error)}"
        fix = "mend it in its package, or the data that it stumbles over"
        raise ReaderFailed(text, fix=fix, key=NAMED) from error


def _line(error: BaseException) -> str:
    """Say in which line of the reader an exception was raised: the first behind this program's."""
    here = Path(__file__).parent.parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if here not in Path(frame.filename).parents
    ]
    return "".join(
        f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})" for frame in frames[:1]
    )
