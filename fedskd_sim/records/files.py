"""Read back what the ledger has written: records, timings and counts of a run folder.

A line counts once its newline is there: a death may tear the last one, and a reader may come while
it is written. Every whole line is checked as if a stranger had written it, since tables, pictures
and comparisons believe what they find here.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.records import FOLDERS, PROBES, Record, SampleCounts, Timing

AGAIN = "run the scenario again"
SHARES = ("accuracy", "auc", "accuracy_adjusted")
"""How the names of measures end that are shares of 1."""
EXACT = 1e-9
"""How far a share may be from its bounds, relative to its weight: sums of floats are rounded."""
COMPARISON = "compare.json"
"""What the folder of a comparison has, and no run folder."""
Line = TypeVar("Line", Record, Timing, SampleCounts)
_ALL = attrgetter(*Timing.__slots__)


def no_run(folder: Path) -> RunUnreadable:
    """Return the error for a folder that is no run folder."""
    if (folder / COMPARISON).is_file():
        fix = f"its numbers are in {COMPARISON}, its runs in runs/METHOD/seed-N"
        return RunUnreadable(f"{folder} is a comparison, not a run folder", fix=fix)
    fix = "give the folder that 'fedskd-sim launch' named"
    return RunUnreadable(f"{folder} is not a run folder", fix=fix)


def read_records(run: Path) -> list[Record]:
    """Read all records; raises RunUnreadable as `stream_records` does."""
    return list(stream_records(run))


def stream_records(run: Path) -> Iterator[Record]:
    """Yield all whole records of a run folder, hospital by hospital.

    Raises:
        RunUnreadable: not a run folder, a damaged line (named by file and line), or two records of
            one stop (both are named).

    """
    return _read(run / "records", Record)


def own_records(run: Path, host: str) -> list[Record]:
    """Read one hospital's records; raises RunUnreadable as `read_records` does."""
    file = run / FOLDERS[Record] / f"{host}.jsonl"
    with file.open("rb") as stream:
        return list(_parse(stream, Record, file))


def read_timings(run: Path) -> list[Timing]:
    """Read all timings; raises RunUnreadable as `stream_records` does."""
    return list(stream_timings(run))


def stream_timings(run: Path) -> Iterator[Timing]:
    """Yield all timings of a run folder; raises RunUnreadable as `stream_records` does.

    A stop may be timed more than once (its traveller is sent again, two measurements of it are
    made), but never at the same times.
    """
    return _read(run / "timings", Timing)


def read_counts(run: Path) -> list[SampleCounts]:
    """Read what the hospitals of a run have read of their sources; none where nothing was.
    Raises as `read_records` does.
    """
    return list(_read(run / "samples", SampleCounts)) if any(run.glob("samples/*.jsonl")) else []


def torn(run: Path) -> list[str]:
    """Name the files of a run folder whose last line has no newline."""
    folders = (*FOLDERS.values(), "logs")
    files = (file for one in folders for file in sorted(run.glob(f"{one}/*.jsonl")))
    return [f"{file.parent.name}/{file.name}" for file in files if ends_torn(file)]


def ends_torn(file: Path) -> bool:
    """Return whether a file ends in the middle of a line: a death, a full disk or a reader in
    haste has cut it.
    """
    with file.open("rb") as stream:
        return bool(
            stream.seek(0, os.SEEK_END)
            and stream.seek(-1, os.SEEK_END) >= 0
            and stream.read() != b"\n"
        )


def whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that have their newline; one without is not there (yet), as `torn` tells."""
    return takewhile(lambda line: line.endswith(b"\n"), stream)


def _read(folder: Path, kind: type[Line]) -> Iterator[Line]:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        message = f"{folder.parent} has no {folder.name}"
        fix = "give the folder that 'fedskd-sim launch' named at its end"
        raise RunUnreadable(message, fix=fix)
    apart = True
    for file in files:
        owner, seen = file.stem, dict[Hashable, int]()
        for number, entry in _entries(file, kind):
            if apart and entry.host != owner:  # then no file by itself tells what stands twice
                _check_apart(files, kind)
                apart = False
            first = seen.setdefault(_identity(entry), number) if apart else number
            if first != number:
                raise _twice(entry, Where(str(file), first), Where(str(file), number))
            yield entry


def _entries(file: Path, kind: type[Line]) -> Iterator[tuple[int, Line]]:
    """Yield a file's entries with the numbers of their lines."""
    try:
        with file.open("rb") as stream:
            yield from enumerate(_parse(stream, kind, file), 1)
    except OSError as error:
        raise RunUnreadable(
            f"cannot be read: {error.strerror}", fix=AGAIN, where=Where(str(file))
        ) from error


def _check_apart(files: list[Path], kind: type[Line]) -> None:
    """Compare the entries of all files; raises RunUnreadable for one that stands twice."""
    seen: dict[Hashable, Where] = {}
    for file in files:
        for number, entry in _entries(file, kind):
            where = Where(str(file), number)
            if (first := seen.setdefault(_identity(entry), where)) is not where:
                raise _twice(entry, first, where)


def _twice(entry: Record | Timing | SampleCounts, first: Where, second: Where) -> RunUnreadable:
    fix = f"remove the line that is not of this run, or {AGAIN}"
    return RunUnreadable(f"{_what(entry)} stands twice, first in {first}", fix=fix, where=second)


def _parse(stream: BinaryIO, kind: type[Line], file: Path) -> Iterator[Line]:
    form: TypeAdapter[Line] = _forms()[kind]
    for number, line in enumerate(whole_lines(stream), 1):
        try:
            yield _check(form.validate_json(line, strict=True))
        except ValueError as error:
            raise RunUnreadable(
                f"damaged line: {_first(error)}", fix=AGAIN, where=Where(str(file), number)
            ) from error


@cache
def _forms() -> Mapping[Any, TypeAdapter[Any]]:
    """Return the readers of all kinds of lines: types and ranges as they are declared, and no
    other keys.
    """
    return {kind: TypeAdapter(kind) for kind in FOLDERS}


def _first(error: ValueError) -> str:
    """Describe what is wrong with a line, and where in it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)


def parse_record(line: str | bytes) -> Record:
    """Read one line of a hospital's records; raises ValueError for what is none."""
    record: Record = _forms()[Record].validate_json(line, strict=True)
    return _check(record)


def parse_timing(line: str | bytes) -> Timing:
    """Read one line of a hospital's timings; raises ValueError for what is none."""
    timing: Timing = _forms()[Timing].validate_json(line, strict=True)
    return timing


def _check(entry: Line) -> Line:
    """Refuse shares that are none, and counts without all splits; raises ValueError."""
    if isinstance(entry, Timing):
        return entry
    if isinstance(entry, SampleCounts) and {*entry.used} != {"train", "validation", "test"}:
        raise ValueError("not counts of samples")
    if isinstance(entry, Record):
        for name, (total, weight) in entry.measures.items():
            if not -EXACT <= total <= weight * (1 + EXACT) and (
                name.endswith(SHARES) or name.startswith(PROBES)
            ):
                raise ValueError(f"{name} is {total:g} of {weight:g}")
    return entry


def _identity(entry: Record | Timing | SampleCounts) -> Hashable:
    """Return what no two entries of a run share, as simple as can be: a long run has millions."""
    if isinstance(entry, Timing):
        return _ALL(entry)
    if isinstance(entry, SampleCounts):
        return entry.host, entry.source
    return entry.kind, entry.host, entry.model, entry.round, entry.hop


def _what(entry: Record | Timing | SampleCounts) -> str:
    if isinstance(entry, SampleCounts):
        return f"what {entry.host!r} has read of {entry.source}"
    what = (
        f"the record ({entry.kind})"
        if isinstance(entry, Record)
        else f"the same timing ({entry.what})"
    )
    return (
        f"{what} of the model of {entry.model!r} at {entry.host!r}, round {entry.round}, hop "
        f"{entry.hop},"
    )
