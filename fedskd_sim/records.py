"""Hop records: the only result of a run; every table and picture is computed from them.

A run folder holds, for every hospital NAME:

=======================  ======================================================================
records/NAME.jsonl       one record per stop; the same bytes for the same scenario, wherever it ran
samples/NAME.jsonl       what was read of the hospital's source, used and left out, by class
timings/NAME.jsonl       when each session, evaluation and transfer began and ended
weights/NAME.safetensors the home model at the end of the run
metrics/NAME.prom        the last exposition of its Prometheus metrics
predictions/NAME.npz     what the models tested there said of every patient
logs/NAME.jsonl          one line per event
=======================  ======================================================================

Timings differ from run to run; `fedskd_sim.report.predictions` reads predictions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedskd_sim.errors import RunUnreadable, Where

SCHEMA: Literal[1] = 1
Whole = Annotated[int, Field(ge=0, lt=1 << 62)]
Place = Annotated[int, Field(ge=0, lt=1 << 31)]
"""A round or a hop."""
Moment = Annotated[float, Field(ge=0, lt=1e11)]
"""UNIX seconds."""
AGAIN = "run the scenario again"
SHARES = ("accuracy", "auc", "accuracy_adjusted")
"""How the names of measures end that are shares of 1."""
EXACT = 1e-9
NO_OTHER_KEYS = ConfigDict(extra="forbid")
Kind = Literal[
    "warm_up", "alone", "visit", "homecoming", "reduce", "gather", "evaluation", "ensemble"
]
"""What a stop was; ``alone``: the host's own model trained without a visitor, ``ensemble``: all
finished models asked together."""
StepOutcome = Literal["trained", "rolled_back", "passed", "evaluated"]


class Measure(NamedTuple):
    """A measurement that adds up: a sum and the weight it was summed over, never an average of
    averages.
    """

    sum: float
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def plus(self, other: Measure) -> Measure:
        """Pool two measurements of the same kind."""
        return Measure(self.sum + other.sum, self.weight + other.weight)

    @property
    def mean(self) -> float:
        """The pooled value; NaN over nothing."""
        return self.sum / self.weight if self.weight else float("nan")


NOTHING = Measure(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Record:
    """One stop of one model.

    ``measures`` has, where they apply: ``accuracy``, ``balanced_accuracy``, ``auc`` of the visiting
    model (on the host's validation data after a session, on its test data in the evaluation round),
    the same with ``resident_`` in front, ``loss``/``resident_loss`` (cross-entropy per sample),
    ``similarity_batch``, ``_pixel``, ``_region`` (unweighted distances per step), and ``drift``
    (relative Euclidean parameter change of the session). A homecoming also has ``returned_``
    measures (the traveller as it came home, before its session). ``forwards`` counts samples that a
    model only taught on. With ``instruments.changes``: ``representation_drift``, ``churn`` and, at
    a homecoming, ``net_drift`` (of the whole round); with ``instruments.probe``: ``probe/NAME``,
    balanced accuracy on the validation data of hospital NAME. Test measures may have
    ``balanced_accuracy_adjusted``; an ensemble has ``models`` and ``kept_bytes``.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    scenario: str
    seed: int
    kind: Kind
    round: Place
    hop: Place
    host: str
    model: str
    architecture: str
    outcome: StepOutcome
    reason: str = ""
    samples: Whole = 0
    steps: Whole = 0
    bytes: Whole = 0
    digest_in: str = ""
    digest_out: str = ""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    schema: Literal[1] = SCHEMA
    without: Mapping[str, Place] = field(default_factory=dict)
    """Hospitals left out by then, with the round in which their model retires (0: never)."""
    back: Mapping[str, Place] = field(default_factory=dict)
    """Of those left out for a while, the round from which on they are back."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When something of a stop happened, in UNIX seconds; ``peak_bytes`` is the process's
    largest resident memory so far, ``attempts`` how often a model was sent; 0: not known.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    what: Literal["start", "resumed", "warm_up", "session", "evaluation", "transfer"]
    host: str
    model: str
    round: Place
    hop: Place
    start: Moment
    end: Moment
    bytes: Whole = 0
    to: str = ""
    peak_bytes: Whole = 0
    attempts: Whole = 0


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """What a hospital found in its source, how much of it each split uses, and what it leaves out
    for which reason; all by class.

    A class without a name is that of samples without a label. ``found`` is the sum of all others.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    host: str
    source: str
    found: Mapping[str, Whole]
    used: Mapping[str, Mapping[str, Whole]]
    left_out: Mapping[str, Mapping[str, Whole]]


_ALL = attrgetter(*Timing.__slots__)
Line = TypeVar("Line", Record, Timing, SampleCounts)


def to_line(entry: Record | Timing | SampleCounts) -> str:
    """Write an entry as one line of JSON without the newline; floats round-trip exactly."""
    values = asdict(entry).items()
    told = {name: value for name, value in values if value or name not in ("without", "back")}
    return json.dumps(told, separators=(",", ":"))


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
    """Tell whether a file ends in the middle of a line: a death, a full disk or a reader in
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
    """Give the readers of all kinds of lines: types and ranges as they are declared, and no
    other keys.
    """
    return {kind: TypeAdapter(kind) for kind in FOLDERS}


def _first(error: ValueError) -> str:
    """Say what is wrong with a line, and where in it."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)


def parse_record(line: str | bytes) -> Record:
    """Read one line of a hospital's records; raises ValueError for what is none."""
    record: Record = _forms()[Record].validate_json(line, strict=True)
    return _check(record)


def _check(entry: Line) -> Line:
    """Refuse shares that are none, and counts without all splits; raises ValueError."""
    if isinstance(entry, Timing):
        return entry
    if isinstance(entry, SampleCounts) and {*entry.used} != {"train", "validation", "test"}:
        raise ValueError("not counts of samples")
    if isinstance(entry, Record):
        for name, (total, weight) in entry.measures.items():
            if not -EXACT <= total <= weight * (1 + EXACT) and (
                name.endswith(SHARES) or name.startswith("probe/")
            ):
                raise ValueError(f"{name} is {total:g} of {weight:g}")
    return entry


def _identity(entry: Record | Timing | SampleCounts) -> Hashable:
    """Give what no two entries of a run share, as simple as it can be: a long run has millions."""
    if isinstance(entry, Timing):
        return _ALL(entry)
    if isinstance(entry, SampleCounts):
        return entry.host, entry.source
    return entry.kind, entry.host, entry.model, entry.round, entry.hop


def _what(entry: Record | Timing | SampleCounts) -> str:
    if isinstance(entry, SampleCounts):
        return f"what {entry.host!r} has read of {entry.source}"
    if isinstance(entry, Record):
        what = f"the record ({entry.kind})"
    else:
        what = f"the same timing ({entry.what})"
    return (
        f"{what} of the model of {entry.model!r} at {entry.host!r}, round {entry.round}, hop "
        f"{entry.hop},"
    )


FOLDERS: Mapping[type[Record | Timing | SampleCounts], str] = {
    Record: "records", Timing: "timings", SampleCounts: "samples"
}  # fmt: skip
