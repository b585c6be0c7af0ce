"""The data of one hospital, from whatever is not made up: a reader, found by its name among the
entry points ``fedskd_sim.readers``, is called with the data folder and its options and gives a
`Cohort`, which is checked and of which the hospital's site or part is cut. Built-in data sets and
data of a user's own go the same way.

Every hospital's process calls its reader by itself and keeps its own rows. It is called several
times before a run and once by every hospital, so one whose files are slow to read gives a function
as ``samples``, and a ``preview``.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import (
    DataCorrupt,
    DataMissing,
    FedskdError,
    InvalidValue,
    Key,
    ReaderFailed,
)
from fedskd_sim.learning.installed import (
    READER,
    STRANGE,
    fetch,
    fill_in,
    let_signals,
    names,
    options_of,
    wrong_options,
)
from fedskd_sim.learning.ondisk import Take, in_memory
from fedskd_sim.learning.readers import cut, doubts, parts, places, splits, tables
from fedskd_sim.learning.readers.cohort import (
    Checked,
    Cohort,
    Form,
    Preview,
    Unfit,
    check,
    form,
    notes,
    previewed,
)
from fedskd_sim.learning.samples import Arrays, Facts, Geometry, Given, Images
from fedskd_sim.records import SampleCounts
from fedskd_sim.scenario import BUILT_IN_READERS, OwnData, nearest, offered_here, reader_of
from fedskd_sim.wholefiles import unwritable

NAMED: tuple[Key, ...] = ("data", "reader")


def facts(dataset: Any, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Call the reader, and tell what its preview, and of one's own a few samples, say.

    Args:
        dataset: a part of the scenario, built-in data from files or `OwnData`.
        folder: where data files are; None looks at the environment.
        scenario_seed: decides, with ``name``, the hospital's, what a limit leaves.
        name: see scenario_seed.

    Raises:
        UnknownReader: no installed package offers it.
        InvalidValue: it cannot be imported; an option, site, fold, part or class does not fit.
        DataMissing: no folder, or no file.
        DataCorrupt: built-in data are damaged, or lie elsewhere than in the scenario's space.
        ReaderFailed: a reader of one's own raises another exception, or gives what is no cohort.
        NoTrainingSamples: nothing trains.
    """
    with _told(dataset):
        found = _read_for(dataset, folder, scenario_seed, name)
        chosen = _choose(dataset, found, scenario_seed, name)
        values, given = _doubted(dataset, found, chosen)
        told, seen = _seen(found, chosen.rows, values)
        (kind, grid, channels), columns, filled = _as_learned(found, chosen, told)
        return Facts(
            found.classes,
            min(grid),
            channels,
            found.columns.labels[chosen.train],
            _counts(dataset, found, chosen, name),
            kind,
            grid if kind == "volume" else (),
            seen.atlas,
            seen.space,
            (*(() if values is None else notes(values, kind)), *filled),
            given,
            columns,
            len({chosen.subjects[one] for one in chosen.places[0]}) if chosen.subjects else None,
            found.multi_label,
        )


def _doubted(
    dataset: Any, found: Checked, chosen: splits.Splits
) -> tuple[NDArray[Any] | None, Given | None]:
    """Look at a few samples of a reader of one's own, and note what it gave; of others nothing."""
    if not isinstance(dataset, OwnData):
        return None, None
    everybodys = dataset.partition and not found.columns.own
    values = doubts.look(found, None if everybodys else chosen.rows)
    return values, doubts.given_of(dataset, found, chosen, values)


def _as_learned(
    found: Checked, chosen: splits.Splits, told: Form
) -> tuple[Form, tuple[str, ...], tuple[str, ...]]:
    """Return what networks get; of a table also its columns, and what is filled in them."""
    if told.kind != "table":
        return told, (), ()
    laid = tables.layout(found.of_numbers, told.grid[0])
    filled = tables.fill(found.take(chosen.rows)[0], laid, chosen.places[0])[1]
    columns = laid.columns
    return Form("table", (len(columns),), laid.features), columns, (filled,) if filled else ()


def load(
    dataset: Any,
    folder: Path | None,
    scenario_seed: int,
    name: str,
    hold: Callable[[Take, NDArray[Any]], NDArray[Any]] = in_memory,
) -> Images | Arrays:
    """Read the hospital's samples, and ``hold`` them in memory or elsewhere; other arguments and
    errors as those of `facts`, and DataCorrupt for a sample that cannot be read.
    """
    with _told(dataset):
        found = _read_for(dataset, folder, scenario_seed, name, whole=True)
        chosen = _choose(dataset, found, scenario_seed, name)
        rows, forms = chosen.rows, dict[str, Form]()
        values = hold(_taker(found, forms), rows)
        (kind, grid, channels), remark = next(iter(forms.values())), "; ".join(filter(None, forms))
        if isinstance(dataset, OwnData):
            doubts.look_again(found, rows, values)
            few = values[: doubts.AT_A_TIME] if isinstance(values, np.memmap) else values
            remark = "; ".join(filter(None, (remark, *notes(few, kind))))
        rest = found.columns.labels[rows], chosen.places, found.classes
        mine = cut.owned(dataset, found.columns, by_split=found.by_split)
        numbers = tuple(map(int, (np.cumsum(mine) - 1)[rows]))
        names_of = cut.distinct(found.ids, rows), chosen.subjects
        if kind == "image":
            pixels = values.reshape(len(rows), *grid, channels)
            return Images(pixels, *rest, *names_of, remark, numbers)
        if kind == "table":
            laid = tables.layout(found.of_numbers, grid[0])
            rest_of_rows, filled = tables.fill(values, laid, chosen.places[0])
            told = "; ".join(filter(None, (remark, filled)))
            return Arrays(rest_of_rows, *rest, *names_of, told, numbers)
        shape = (channels, *grid) if kind == "volume" else grid
        return Arrays(values.reshape(len(rows), *shape), *rest, *names_of, remark, numbers)


def _taker(found: Checked, forms: dict[str, Form]) -> Take:
    """Return what takes samples of one form, and notes it under every remark."""

    def take(rows: NDArray[Any]) -> NDArray[Any]:
        values, remark = found.take(rows)
        forms[remark] = form(values, rows)
        if len({*forms.values()}) > 1:
            raise Unfit(f"gives samples that are {' and '.join(map(_words, forms.values()))}")
        return values

    return take


def split(dataset: Any, folder: Path | None, scenario_seed: int, name: str, target: Path) -> int:
    """Write the hospital's part of the data into a folder of its own (`parts.write`), from which
    `facts` and `load` find what they find in the whole.

    Args:
        dataset: as for `facts`, like folder, scenario_seed and name; errors, too.
        folder: see dataset.
        scenario_seed: see dataset.
        name: see dataset.
        target: the folder for the part.

    Returns:
        How many bytes the part has.

    Raises:
        OutputNotWritable: the target cannot be written to.

    """
    here = facts(dataset, folder, scenario_seed, name)
    with _told(dataset):
        found = _read_for(dataset, folder, scenario_seed, name)
        chosen = _choose(dataset, found, scenario_seed, name)
        seen = _seen(found, chosen.rows, None)[1] if found.preview else None
        mine = cut.owned(dataset, found.columns, by_split=found.by_split)
        given = here.given.columns if here.given else None
        whole = parts.Whole(found, mine, chosen, seen, given)
        try:
            return parts.write(target, name, dataset, scenario_seed, whole)
        except OSError as error:
            raise unwritable(target, error) from error


def digest(dataset: Any, folder: Path | None) -> str:
    """Return the digest of all that the reader gives, every sample included; raises as `facts`."""
    with _told(dataset):
        found = _read(dataset, folder)
        whole = sha256(repr((found.classes, found.ids, found.by_split)).encode("utf-8", "replace"))
        for column in found.columns[:4]:
            whole.update(repr(np.asarray(column).tolist()).encode("utf-8", "replace"))
        rows = np.arange(len(found.columns.labels))
        for some in np.split(rows, rows[doubts.AT_A_TIME :: doubts.AT_A_TIME]):
            values, _ = found.take(some)
            whole.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
        return whole.hexdigest()[:16]


def _read_for(
    dataset: Any, folder: Path | None, scenario_seed: int, name: str, *, whole: bool = False
) -> Checked:
    """Take a hospital's part where there is one, and else call the reader."""
    if place := places.part_of(folder, name):
        return parts.read(place, name, dataset, scenario_seed, whole=whole)
    return _read(dataset, folder)


def _read(dataset: Any, folder: Path | None) -> Checked:
    """Call the reader as the scenario says."""
    name, options = reader_of(dataset)
    if not isinstance(dataset, OwnData):
        return _read_built_in(dataset, name, options, folder)
    there = [one for one in names(READER.group) if one not in BUILT_IN_READERS]
    if name in BUILT_IN_READERS:
        text = f"{name!r} is a built-in data set"
        fix = f"write 'data: {{name: {name}}}', or give a reader of yours another name"
        raise InvalidValue(text, key=NAMED, fix=fix)
    if name not in there:
        fix = f"{nearest(name, there, '')} " + (
            f"there are {', '.join(there)}; " if there else "nobody offers one; "
        )
        fix += "a reader comes with a file under code, or with a package that is installed here"
        raise READER.unknown(f"there is no reader {name!r}", key=NAMED, fix=fix.lstrip())
    read = fetch(READER, name)
    wrong = [*wrong_options(name, options_of(read), options, ("data",))]
    if wrong:
        raise wrong[0]
    needs = next(iter(signature(read).parameters.values())).default is Parameter.empty
    where = places.folder_of(name, folder) if needs or folder else None
    return check(read(where, **fill_in(options_of(read), options)))


def _read_built_in(
    dataset: Any, name: str, options: dict[str, Any], folder: Path | None
) -> Checked:
    """Call the reader of a public data set, which is found as a stranger's is."""
    if "file" in type(dataset).model_fields:
        places.find(dataset.file, folder)
    if space := options.get("space"):
        affine = np.array([*space.affine, (0, 0, 0, 1)], np.float64)
        options = {**options, "space": Geometry("data.space", space.grid, affine)}
    found = _public(name)(places.given(folder), **options)
    if isinstance(found, Cohort) and (named := getattr(dataset, "classes", None)):
        found = replace(found, classes=named)
    return check(found)


def _public(name: str) -> Callable[..., Any]:
    """Find the reader of a public data set among the entry points of this program: whatever others
    offer under its name is not looked at. Raises UnknownReader.
    """
    if offer := offered_here(READER.group, name):
        read: Callable[..., Any] = offer.load()
        return read
    text, fix = f"there is no reader {name!r}", "its entry points are older than its code"
    raise READER.unknown(text, key=("data", "name"), fix=f"install this program anew: {fix}")


def _choose(dataset: Any, found: Checked, scenario_seed: int, name: str) -> splits.Splits:
    return cut.choose(dataset, found.columns, scenario_seed, name, by_split=found.by_split)


def _seen(
    found: Checked, rows: NDArray[np.int64], values: NDArray[Any] | None
) -> tuple[Form, Preview]:
    """Find what samples of some rows will be: from the preview, which has to agree with what was
    seen of them, if anything was.
    """
    if found.preview is None:
        few = found.take(rows[:1])[0] if values is None else values
        return previewed(Preview(few[:0]))
    told, seen = previewed(found.preview(rows))
    if values is not None and (shown := form(values, values)) != told:
        raise Unfit(f"previews samples that are {_words(told)}, and gives {_words(shown)}")
    return told, seen


def _words(found: Form) -> str:
    return f"{found.kind} of {' x '.join(map(str, found.grid))} with {found.channels} channels"


def _counts(dataset: Any, found: Checked, chosen: splits.Splits, name: str) -> SampleCounts:
    """Count samples, and what was found and is none: of the hospital's site, or of no site, by
    reason.
    """
    site = getattr(dataset, "site", "")
    counted: dict[str, Counter[str]] = {}
    for reason, things in found.besides.items():
        for where, label in things:
            own = getattr(dataset, "partition", None) or where in ("", site)
            why = reason if own else splits.others_of(dataset)
            counted.setdefault(why, Counter())[label] += 1
    known = found.classes, found.columns.labels, counted, found.multi_label
    source = splits.Source(dataset.file, *known)
    return splits.counts(name, source, chosen)


@contextmanager
def _told(dataset: Any) -> Iterator[None]:
    """Turn what is wrong into words that name its source: the file of a built-in data set, or the
    reader and the line of its code.
    """
    own = isinstance(dataset, OwnData)
    try:
        yield
    except FedskdError as error:
        error.key = error.key or _source(dataset)
        raise
    except Unfit as error:
        raise _unfit(dataset, error) from error
    except FileNotFoundError as error:
        if not own:
            raise
        text = f"reader {dataset.reader!r} does not find {error.filename or error}{_line(error)}"
        fix = "give the folder that holds it with --data DIR or FEDSKD_DATA, or mend the reader"
        raise DataMissing(text, fix=fix, key=NAMED) from error
    except STRANGE as error:
        let_signals(error)
        if not own:
            raise
        text = f"reader {dataset.reader!r} failed: {type(error).__name__}: {error}{_line(error)}"
        fix = "mend it in its package, or the data that it stumbles over"
        raise ReaderFailed(text, fix=fix, key=NAMED) from error


def _unfit(dataset: Any, error: Unfit) -> FedskdError:
    """Return the error of whoever is at fault: a reader's, the scenario's, which names classes, or
    the file's.
    """
    if isinstance(dataset, OwnData):
        fix = "mend it in its package (see docs/own-code.md)"
        return ReaderFailed(f"reader {dataset.reader!r} {error}", fix=fix, key=NAMED)
    text = f"{dataset.file} {error}{' (rows count from 0)' * (' row ' in str(error))}"
    if error.classes and "classes" in type(dataset).model_fields:
        fix = "number classes from 0 without gaps, or name all of them here, each once"
        return InvalidValue(text, fix=fix, key=("data", "classes"))
    return DataCorrupt(
        text, fix="mend the file, or fetch it again (see docs/data.md)", key=_source(dataset)
    )


def _source(dataset: Any) -> tuple[Key, ...]:
    """Return the key that names where a data set is read from."""
    known = [("data", name) for name in ("file", "images") if name in type(dataset).model_fields]
    return NAMED if isinstance(dataset, OwnData) else next(iter(known), ("data", "name"))


def _line(error: BaseException) -> str:
    """Name the line of the reader in which an exception was raised: the first behind this
    program's.
    """
    here = Path(__file__).parent.parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if here not in Path(frame.filename).parents
    ]
    return "".join(
        f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})" for frame in frames[:1]
    )
