"""Hop records: the only result of a run; every table and picture is computed from them.

A run folder holds, for every hospital NAME:

=======================  ==============================================================================================
records/NAME.jsonl       one record per stop; the same bytes for the same scenario, wherever it ran
samples/NAME.jsonl       what was read of the hospital's source, used and left out, by class
timings/NAME.jsonl       when each session, evaluation and transfer began and ended; differs from run to run
weights/NAME.safetensors the home model at the end of the run
predictions/NAME.npz     what the models that were tested there said of every patient; see `fedskd_sim.report.predictions`
logs/NAME.jsonl          one line per event
=======================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeVar

from fedskd_sim.errors import RunUnreadable, Where

SCHEMA = 1
Kind = Literal["warm_up", "alone", "visit", "homecoming", "reduce", "gather", "evaluation", "council"]
"""What a stop was; ``alone``: the host's own model trained without a visitor, ``council``: all finished models asked together."""
Outcome = Literal["trained", "rolled_back", "passed", "evaluated"]


class Measure(NamedTuple):
    """A measurement that adds up: a sum and the weight it was summed over, never an average of averages."""

    sum: float
    weight: float

    def plus(self, other: Measure) -> Measure:
        """Pool two measurements of the same kind."""
        return Measure(self.sum + other.sum, self.weight + other.weight)

    @property
    def mean(self) -> float:
        """The pooled value; NaN over nothing."""
        return self.sum / self.weight if self.weight else float("nan")


@dataclass(frozen=True, slots=True)
class Record:
    """One stop of one model.

    ``measures`` has, where they apply: ``accuracy``, ``balanced_accuracy``, ``auc`` of the visiting model (on the host's
    validation data after a session, on its test data in the evaluation round), the same with ``resident_`` in front,
    ``loss``/``resident_loss`` (cross-entropy per sample), ``similarity_batch``, ``_pixel``, ``_region`` (unweighted distances
    per step), and ``drift`` (relative Euclidean parameter change of the session). A homecoming also has ``returned_`` measures
    (the traveller as it came home, before its session). ``forwards`` counts samples that a model only taught on. With
    ``instruments.changes``: ``representation_drift``, ``churn`` and, at a homecoming, ``net_drift`` (of the whole round); with
    ``instruments.probe``: ``probe/NAME``, balanced accuracy on the validation data of hospital NAME. Test measures may have
    ``balanced_accuracy_offset``; a council has ``models`` and ``kept_bytes``.
    """

    scenario: str
    seed: int
    kind: Kind
    round: int
    hop: int
    host: str
    model: str
    architecture: str
    outcome: Outcome
    reason: str = ""
    samples: int = 0
    steps: int = 0
    bytes: int = 0
    digest_in: str = ""
    digest_out: str = ""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Timing:
    """When something of a stop happened, in UNIX seconds; ``peak_bytes`` is the process's largest resident memory so far."""

    what: Literal["start", "warm_up", "session", "evaluation", "transfer"]
    host: str
    model: str
    round: int
    hop: int
    start: float
    end: float
    bytes: int = 0
    to: str = ""
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """What a hospital found in its source, how much of it each split uses, and what it leaves out for which reason; all by class.

    A class without a name is that of samples without a label. ``found`` is the sum of all others.
    """

    host: str
    source: str
    found: Mapping[str, int]
    used: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, Mapping[str, int]]


Line = TypeVar("Line", Record, Timing, SampleCounts)


def to_line(entry: Record | Timing | SampleCounts) -> str:
    """Write an entry as one line of JSON without the newline; floats round-trip exactly."""
    return json.dumps(asdict(entry), separators=(",", ":"))


def read_records(run: Path) -> list[Record]:
    """Read all records of a run folder, hospital by hospital.

    Raises:
        RunUnreadable: not a run folder, a damaged line (named by file and line), or two records of one stop (both are named).

    """
    return list(_read(run / "records", Record))


def read_timings(run: Path) -> list[Timing]:
    """Read all timings of a run folder; raises RunUnreadable as `read_records` does.

    A stop may be timed more than once (its traveller is sent again, two measurements of it are made), but never at the same times.
    """
    return list(_read(run / "timings", Timing))


def read_counts(run: Path) -> list[SampleCounts]:
    """Read what the hospitals of a run have read of their sources; none where nothing was. Raises as `read_records` does."""
    return list(_read(run / "samples", SampleCounts)) if any(run.glob("samples/*.jsonl")) else []


def _read(folder: Path, kind: type[Line]) -> Iterator[Line]:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        message = f"{folder.parent} has no {folder.name}"
        raise RunUnreadable(message, fix="give the folder that 'fedskd-sim launch' named at its end")
    seen: dict[Hashable, Where] = {}
    for file in files:
        with file.open(encoding="utf-8") as stream:
            for number, entry in enumerate(_parsed(stream, kind, file), 1):
                where = Where(str(file), number)
                first = seen.setdefault(_identity(entry), where)
                if first is not where:
                    fix = "remove the line that is not of this run, or run the scenario again"
                    raise RunUnreadable(f"{_named(entry)} stands twice, first in {first}", fix=fix, where=where)
                yield entry


def _parsed(lines: Iterable[str], kind: type[Line], file: Path) -> Iterator[Line]:
    for number, line in enumerate(lines, 1):
        try:
            yield _made(json.loads(line), kind)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            where = Where(str(file), number)
            raise RunUnreadable(f"damaged line: {error}", fix="run the scenario again", where=where) from error


def parse_record(line: str | bytes) -> Record:
    """Read one line of a hospital's records; raises ValueError for what is none."""
    try:
        return _made(json.loads(line), Record)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _made(values: dict[str, Any], kind: type[Line]) -> Line:
    if kind is Record:
        values["measures"] = {name: Measure(*pair) for name, pair in values["measures"].items()}
    return _checked(kind(**values))


def _checked(entry: Line) -> Line:
    """Refuse a record of another schema, what names no stop that could be told from others, counts that are none.

    Raises:
        ValueError, TypeError: it is such a one.

    """
    if isinstance(entry, SampleCounts):
        parts = (entry.found, *entry.used.values(), *entry.left_out.values())
        if {*entry.used} != {"train", "validation", "test"} or {type(number) for part in parts for number in part.values()} - {int}:
            raise ValueError("not counts of samples")
    if isinstance(entry, Record) and (entry.schema != SCHEMA or {type(entry.round), type(entry.hop)} != {int}):
        raise ValueError(f"not a record of schema {SCHEMA}")
    hash(_identity(entry))
    return entry


def _identity(entry: Record | Timing | SampleCounts) -> Hashable:
    """Give what no two entries of a run share."""
    if isinstance(entry, Timing):
        return entry
    if isinstance(entry, SampleCounts):
        return entry.host, entry.source
    return entry.kind, entry.host, entry.model, entry.round, entry.hop


def _named(entry: Record | Timing | SampleCounts) -> str:
    if isinstance(entry, SampleCounts):
        return f"what {entry.host!r} has read of {entry.source}"
    what = f"the record ({entry.kind})" if isinstance(entry, Record) else f"the same timing ({entry.what})"
    return f"{what} of the model of {entry.model!r} at {entry.host!r}, round {entry.round}, hop {entry.hop},"


FOLDERS: Mapping[type[Record | Timing | SampleCounts], str] = {Record: "records", Timing: "timings", SampleCounts: "samples"}


class Ledger:
    """Appends one hospital's records, timings and counts to its run folder; safe to use from two threads."""

    def __init__(self, run: Path, host: str, copy: Callable[[str, str], None] = lambda *_: None) -> None:
        """Create the files, which must not exist yet; ``copy`` gets the folder's name and the line of every entry too."""
        self._lock, self._copy = Lock(), copy
        self._files = {}
        for kind, folder in FOLDERS.items():
            (run / folder).mkdir(exist_ok=True)
            self._files[kind] = (run / folder / f"{host}.jsonl").open("x", encoding="utf-8")

    def add(self, entry: Record | Timing | SampleCounts) -> None:
        """Append an entry and flush it, so that it survives whatever happens next."""
        with self._lock:
            file = self._files[type(entry)]
            if not file.closed:
                line = to_line(entry)
                file.write(line + "\n")
                file.flush()
                self._copy(FOLDERS[type(entry)], line)

    def close(self) -> None:
        """Close the files; entries that come later are dropped."""
        with self._lock:
            for file in self._files.values():
                file.close()
