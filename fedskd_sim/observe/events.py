"""The catalogue of what a member's log can say, each event with its fields; whoever writes or reads
a log does it through here.

A line of a log is a JSON object: ``time`` (UNIX seconds), ``event`` (the name of the class, as
``warm_up`` for `WarmUp` and ``done`` for `DoneEvent`), ``run``, in a hospital's log ``hospital``,
and the event's fields. The launcher's live progress reads the same lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from threading import Event as Flag
from threading import Lock
from typing import Any, NamedTuple, TextIO

from pydantic import TypeAdapter, ValidationError

from fedskd_sim import clock
from fedskd_sim.records import Ordinal, UnixSeconds, Whole, at_once

UNWATCHED = "nobody can be declared lost any more: who dies now ends the run"
"""What the death of the controller means where the ring would go on without who is lost."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A hospital's process is up."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """A hospital that died is started again, for the time ``number`` in a row without a record
    in between; and how it died.
    """

    number: int
    cause: str


@dataclass(frozen=True, slots=True)
class ControllerDied:
    """The controller has died without a word after the start, and how: the models go on;
    ``watched``: it was to declare hospitals lost, and nobody is any more.
    """

    cause: str
    watched: bool = False


@dataclass(frozen=True, slots=True)
class AwaitsCustody:
    """A hospital waits for its custody to be brought into its pod ("in"), or out of it ("out")."""

    direction: str


@dataclass(frozen=True, slots=True)
class WentOn:
    """A hospital goes on from what it had in custody, with so many of its steps done."""

    steps: int
    of: int


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """Something goes wrong as the scenario wants it: before or, where it has a time, within a step
    of a round and hop (hop 0: one that is no stop, round 0: before the first round); ``lasts`` are
    the seconds for which it is to last, by the hospital's own clock, None where it has none.
    """

    what: str
    round: Ordinal = 0
    hop: Ordinal = 0
    lasts: float | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """A member can be reached; ``metrics`` is where a hospital's are served."""

    address: str
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The warm-up begins."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A model's turn has come."""

    round: Ordinal
    hop: Ordinal
    model: str
    kind: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A step is done and its record is safe; ``accuracy`` is None where it was not measured,
    ``device_bytes`` the most that the hospital's process has taken of a card's memory by then.
    """

    round: Ordinal
    hop: Ordinal
    model: str
    kind: str
    outcome: str
    accuracy: float | None
    device_bytes: Whole = 0


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """What a private hospital has spent so far: noised sums, their epsilon (None: it clips alone,
    and nothing bounds it), and the epsilon that it may spend (None: any).
    """

    queries: Whole
    epsilon: float | None
    budget: float | None

    @property
    def words(self) -> str:
        """Write epsilon, and of how much it is."""
        spent = "no bound" if self.epsilon is None else f"{self.epsilon:.3g}"
        return spent if self.budget is None else f"{spent} of {self.budget:g}"


@dataclass(frozen=True, slots=True)
class Refused:
    """Something came that no member of the run should send; ``sender`` is who really sent it, as
    far as that is known.
    """

    sender: str
    reason: str


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """A hospital's program is over, and what it sent is safe."""


@dataclass(frozen=True, slots=True)
class Left:
    """A hospital has gone, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lingering:
    """A hospital stays up for a last scrape."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unpushed:
    """A hospital's last metrics did not reach the Pushgateway, and why."""

    gateway: str
    reason: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A hospital stays up until its results have been fetched."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Error:
    """A member cannot go on; ``own``: by its own fault, ``stop``: the round and hop that never
    came, ``key``: in the scenario.
    """

    code: int
    own: bool
    message: str
    fix: str = ""
    key: tuple[str | int, ...] = ()
    stop: tuple[Ordinal, Ordinal] = (0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of records or timings, where a cluster keeps them only in the log."""

    kind: str
    line: str


@dataclass(frozen=True, slots=True)
class Registered:
    """The controller knows a hospital."""

    hospital: str
    address: str
    metrics: str


@dataclass(frozen=True, slots=True)
class LostEvent:
    """The ring goes on without these hospitals: the epoch, and by name the first round in which
    their model does not travel (0: it does to the end).
    """

    epoch: int
    hospitals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BackEvent:
    """A hospital that was lost is one of the ring again from a round on; the epoch."""

    epoch: int
    hospital: str
    round: int


@dataclass(frozen=True, slots=True)
class StartEvent:
    """The address book has left."""

    hospitals: int


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """A hospital has told the controller of a step."""

    hospital: str
    model: str
    round: Ordinal
    hop: Ordinal
    accuracy: float


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """A hospital has told the controller that it cannot go on."""

    hospital: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The controller has ended the run."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A hospital's pod has changed."""

    hospital: str
    standing: str
    text: str
    node: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A controller has taken over a run that was started at a UNIX time."""

    since: float


@dataclass(frozen=True, slots=True)
class Api:
    """How often the controller has called the cluster, by what it called."""

    calls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Created:
    """The hospitals' Jobs are there, suspended."""

    jobs: int


@dataclass(frozen=True, slots=True)
class Released:
    """The hospitals' Jobs may make their pods."""

    jobs: int


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """The controller waits for something in the cluster."""

    reason: str


@dataclass(frozen=True, slots=True)
class Blind:
    """The controller no longer sees the pods."""

    reason: str


LogEvent = (
    Starting | Restarted | WentOn | Listening | WarmUp | Arrived | Finished | PrivacySpent | Refused
    | DoneEvent
    | Left | Lingering | Holding | Error | Entry | Registered | StartEvent | ProgressEvent
    | FailedEvent | EndEvent | Pod | Resumed | Api | Created | Released | WaitingEvent | Blind
    | Unpushed | AwaitsCustody | FaultEvent | LostEvent | BackEvent | ControllerDied
)  # fmt: skip


class Logged(NamedTuple):
    """A line of a log: when (UNIX seconds), whose it is ('' for the controller), or of whom the
    controller speaks, and what.
    """

    time: float
    hospital: str
    what: LogEvent


@cache
def name_of(kind: type) -> str:
    """Return the name of an event in a log."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Event")).lower()


@cache
def _forms() -> Mapping[str | None, TypeAdapter[Any]]:
    """Return the readers of all events by name, and under None that of what every line has."""
    kinds: dict[str | None, Any] = {name_of(kind): TypeAdapter(kind) for kind in LogEvent.__args__}
    return kinds | {None: TypeAdapter(_Head)}


def fields_of(what: LogEvent) -> dict[str, Any]:
    """Return an event's name and fields as they stand in a line."""
    kind: Any = type(what)
    return {"event": name_of(kind), **{one: getattr(what, one) for one in what.__slots__}}


def read(line: str | bytes) -> Logged | None:
    """Read a line of a log; None for what is no line of one, is not in the catalogue, or is not
    as it should be there.
    """
    try:
        head: _Head = _forms()[None].validate_json(line, strict=True)
        form = _forms().get(head.event)
        what = form.validate_json(line, strict=True) if form else None
    except ValidationError:
        return None
    return None if what is None else Logged(head.time, head.hospital, what)


@dataclass(frozen=True, slots=True)
class _Head:
    """What every line has, or may have."""

    time: UnixSeconds
    event: str
    hospital: str = ""


@dataclass(frozen=True)
class EventLog:
    """Write events as JSON lines to a text stream, each with UNIX time in seconds and the bound
    fields; threads may share it.
    """

    stream: TextIO
    bound: Mapping[str, Any] = field(default_factory=dict)
    copy: TextIO | None = field(default=None, kw_only=True)
    """Gets the same, but for entries, which have files of their own."""
    lock: Lock = field(default_factory=Lock, repr=False, compare=False, kw_only=True)
    over: Flag = field(default_factory=Flag, repr=False, compare=False, kw_only=True)
    flush: Callable[[TextIO], None] = field(default=at_once, kw_only=True)
    """Lets readers see what a line has added to a stream, at once or soon."""

    def event(self, what: LogEvent) -> None:
        """Write one line, and let a reader see it."""
        given = {"time": round(clock.unix(), 6), **self.bound, **fields_of(what)}
        line = json.dumps(
            {
                name: value if not isinstance(value, str) or value.isascii() else _text(value)
                for name, value in given.items()
            }
        )
        with self.lock:
            if self.over.is_set():
                return
            for stream in (self.stream, None if isinstance(what, Entry) else self.copy):
                if stream:
                    stream.write(line + "\n")
                    self.flush(stream)

    def close(self) -> None:
        """Write nothing more: threads may outlive the log, and none is in it when this returns."""
        with self.lock:
            self.over.set()


def _text(value: str) -> str:
    """Write a name of a file that is no text as one that is, so that whoever reads the line is
    not refused it.
    """
    return value.encode("utf-8", "replace").decode()


DONE = "after its last stop"
PLACES: Mapping[type[LogEvent], str] = {
    Starting: "while it started",
    Listening: "before the start",
    WarmUp: "in its warm-up",
    DoneEvent: DONE,
}


def place(event: LogEvent) -> str:
    """Return where in the run a member is after an event of its log; empty if the event tells
    nothing of it.
    """
    match event:
        case Finished(kind="warm_up"):
            return "after its warm-up"
        case Arrived(round_, hop, model, kind) | Finished(round_, hop, model, kind):
            when = "in" if isinstance(event, Arrived) else "after"
            return f"{when} round {round_}, hop {hop} ({kind} of {model!r})"
    return PLACES.get(type(event), "")
