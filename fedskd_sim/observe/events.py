"""The catalogue of what a member's log can say, each event with its fields; whoever writes or reads
a log does it through here. Those of the lives of a hospital stand in `fedskd_sim.observe.lives`.

A line of a log is a JSON object: ``time`` (UNIX seconds), ``event`` (the class's name, as
``warm_up`` for `WarmUp`), ``run``, in a hospital's log ``hospital``, and the event's fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from fedskd_sim.observe.lives import (
    AwaitsCustody,
    ControllerDied,
    Fault,
    Restarted,
    Starting,
    WentOn,
)
from fedskd_sim.records import Moment, Place, Whole


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

    round: Place
    hop: Place
    model: str
    kind: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A step is done and its record is safe; ``accuracy`` is None where it was not measured,
    ``device_bytes`` the most that the hospital's process has taken of a card's memory by then.
    """

    round: Place
    hop: Place
    model: str
    kind: str
    outcome: str
    accuracy: float | None
    device_bytes: Whole = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Something came that no member of the run should send; ``sender`` is who really sent it, as
    far as that is known.
    """

    sender: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
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
    stop: tuple[Place, Place] = (0, 0)


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
class Lost:
    """The ring goes on without these hospitals: the epoch, and by name the first round in which
    their model does not travel (0: it does to the end).
    """

    epoch: int
    hospitals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Back:
    """A hospital that was lost is one of the ring again from a round on; the epoch."""

    epoch: int
    hospital: str
    round: int


@dataclass(frozen=True, slots=True)
class Start:
    """The address book has left."""

    hospitals: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A hospital has told the controller of a step."""

    hospital: str
    model: str
    round: Place
    hop: Place
    accuracy: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A hospital has told the controller that it cannot go on."""

    hospital: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class End:
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
class Waiting:
    """The controller waits for something in the cluster."""

    reason: str


@dataclass(frozen=True, slots=True)
class Blind:
    """The controller no longer sees the pods."""

    reason: str


Event = (
    Starting | Restarted | WentOn | Listening | WarmUp | Arrived | Finished | Refused | Done | Left
    | Lingering | Holding | Error | Entry | Registered | Start | Progress | Failed | End | Pod
    | Resumed | Api | Created | Released | Waiting | Blind | AwaitsCustody | Fault | Lost | Back
    | ControllerDied
)  # fmt: skip


class Logged(NamedTuple):
    """A line of a log: when (UNIX seconds), whose it is ('' for the controller), or of whom the
    controller speaks, and what.
    """

    time: float
    hospital: str
    what: Event


def name_of(kind: type) -> str:
    """Give the name of an event in a log."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


@cache
def _forms() -> Mapping[str | None, TypeAdapter[Any]]:
    """Give the readers of all events by name, and under None that of what every line has."""
    kinds: dict[str | None, Any] = {name_of(kind): TypeAdapter(kind) for kind in Event.__args__}
    return kinds | {None: TypeAdapter(_Head)}


def fields_of(what: Event) -> dict[str, Any]:
    """Give an event's name and fields as they stand in a line."""
    return {"event": name_of(type(what)), **{one: getattr(what, one) for one in what.__slots__}}


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

    time: Moment
    event: str
    hospital: str = ""
