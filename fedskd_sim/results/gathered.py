"""What a report needs of the records, taken from a stream of them: of a long run's visits only what
tables and pictures show, and of a model's sessions, in the order of its way, a few bytes each,
since a long run has millions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import RunUnreadable
from fedskd_sim.records import NOTHING, PROBES, Record
from fedskd_sim.ring.routes import LostHospitals, Returns, ToldLosses, as_told
from fedskd_sim.scenario import Fault


class GatheredStep(NamedTuple):
    """A session of one model, in the order of its way: where it was and what came of it.

    ``stop`` numbers the model's stops through all rounds, K a round, the last of a round at home; 0
    is the warm-up. ``accuracy`` is a share of the host's validation data, ``resident`` that of the
    host's own model after it, ``drift`` the relative parameter change of the session, ``loss`` the
    mean cross-entropy; ``batch``, ``pixel`` and ``region`` are the mean distances of the visitor's
    similarity from the resident's. NaN if unknown.
    """

    stop: int
    round: int
    hop: int
    host: str
    home: bool
    rolled_back: bool
    accuracy: float
    drift: float
    loss: float = math.nan
    resident: float = math.nan
    batch: float = math.nan
    pixel: float = math.nan
    region: float = math.nan


_ROW = np.dtype(
    [
        ("stop", "i8"), ("round", "i4"), ("hop", "i4"), ("host", "i4"), ("home", "?"),
        ("rolled_back", "?"), ("accuracy", "f8"), ("drift", "f8"), ("loss", "f4"),
        ("resident", "f4"), ("batch", "f4"), ("pixel", "f4"), ("region", "f4"),
    ]
)  # fmt: skip
LEVELS = ("batch", "pixel", "region")
GROWTH = 1024
"""Rows for which room is made at a time, and then half as many again as there are."""


class Way(Sequence[GatheredStep]):
    """A model's sessions as a table with a row for each."""

    def __init__(self, steps: Iterable[GatheredStep] = ()) -> None:
        """Take the steps that there are."""
        self._table, self._count = np.empty(0, _ROW), 0
        self._hosts: dict[str, int] = {}
        self._names: list[str] = []
        for step in steps:
            self.append(step)

    def append(self, step: GatheredStep) -> None:
        """Add a session."""
        if self._count == len(self._table):
            room = np.empty(self._count // 2 + GROWTH, _ROW)
            self._table = np.concatenate([self._table, room])
        if step.host not in self._hosts:
            self._hosts[step.host] = len(self._names)
            self._names.append(step.host)
        self._table[self._count] = tuple(step._replace(host=self._hosts[step.host]))  # type: ignore[arg-type]
        self._count += 1

    def sort(self) -> None:
        """Bring the sessions into the order of their stops, and need no more room than they do."""
        rows = self._table[: self._count]
        self._table = rows[np.argsort(rows["stop"], kind="stable")]

    def column(self, name: str) -> NDArray[Any]:
        """Return one of the fields, but ``host``, of all steps."""
        found: NDArray[Any] = self._table[: self._count][name]
        return found

    def places(self, order: Mapping[str, int]) -> NDArray[np.int64]:
        """Return the places of all steps' hosts in an order; -1 for one that it does not have."""
        known = np.array([order.get(name, -1) for name in self._names], dtype=np.int64)
        found: NDArray[np.int64] = known[self.column("host")] if len(known) else np.empty(0, int)
        return found

    def __eq__(self, other: object) -> bool:
        """Return whether all steps are the same."""
        return isinstance(other, Way) and repr([*self]) == repr([*other])

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Count the sessions."""
        return self._count

    def __getitem__(self, place: Any) -> Any:
        """Return a session by its place, from 0."""
        if not -self._count <= place < self._count:
            raise IndexError(place)
        stop, round_, hop, host, *rest = self._table[: self._count][place].tolist()
        return GatheredStep(stop, round_, hop, self._names[host], *rest)


KEPT = ("warm_up", "homecoming", "evaluation", "ensemble")
SESSIONS = ("warm_up", "alone", "visit", "homecoming")


MOST_STEPS, LEAST_STEPS = 60_000, 100
"""Sessions that report.json lists, of all models together and at least of each."""


@dataclass(slots=True)
class Counts:
    """Totals of a run: arrivals of models, training sessions, those rolled back, payload bytes,
    samples trained on.
    """

    hops: int = 0
    sessions: int = 0
    rolled_back: int = 0
    bytes: int = 0
    samples: int = 0


@dataclass
class Gathered:
    """The records of a run, as far as a report needs them."""

    hospitals: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    first: Record | None = None
    last: tuple[int, int] | None = None
    """The farthest round and hop."""
    kept: list[Record] = field(default_factory=list)
    """All of the kinds in `KEPT`, and those with probes of other hospitals, in the order of the
    records."""
    architectures: dict[str, str] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    poisons: Sequence[Fault] = ()
    """The scenario's own, which make losses that are not finite."""
    poisoned: int = 0
    """Sessions rolled back after a model may have left with such a poison."""
    undone: Counter[str] = field(default_factory=Counter)
    """Why sessions were rolled back, in the words of their records."""
    left_out: dict[str, set[int]] = field(default_factory=dict)
    """Hospitals without which the ring went on, and in which rounds, as the others name them."""
    uncompared: dict[str, list[int]] = field(default_factory=dict)
    """By level of the similarity: sessions of which the mean distance is exactly 0, and all."""
    words: dict[str, ToldLosses] = field(default_factory=dict)
    """What the last record of each hospital tells of others."""
    _plain: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        hospitals: tuple[str, ...],
        held_out: tuple[str, ...] = (),
        faults: Sequence[Fault] = (),
    ) -> Gathered:
        """Take in all records of a run with these faults; raises RunUnreadable as `add` does."""
        poisons = [fault for fault in faults if fault.what == "poison"]
        found = cls(hospitals, held_out, ways={name: Way() for name in hospitals}, poisons=poisons)
        known = {*hospitals, *held_out}
        for record in records:
            found.add(record, known)
        for steps in found.ways.values():
            steps.sort()
        return found

    def add(self, record: Record, known: set[str]) -> None:
        """Take in a record.

        Raises:
            RunUnreadable: it names a hospital that is not among those that are known.

        """
        if record.host not in known or record.model not in known:
            name = record.model if record.host in known else record.host
            message = f"a record names the hospital {name!r}, which the scenario does not have"
            raise RunUnreadable(message, fix="report a run together with the scenario that it ran")
        self.words[record.host] = ToldLosses(record.round, record.without, record.back)
        for name in record.left_out:
            self.left_out.setdefault(name, set()).add(record.round)
        self.first = self.first or record
        self.last = max(self.last or (0, 0), (record.round, record.hop))
        self.architectures[record.model] = record.architecture
        session = record.kind in SESSIONS
        counts = self.counts
        counts.hops += record.hop > 0
        counts.sessions += session
        if record.outcome == "rolled_back":
            counts.rolled_back += 1
            self.undone[record.reason or "no reason on record"] += 1
            self.poisoned += any(_is_before(poison, record) for poison in self.poisons)
        counts.bytes += record.bytes
        counts.samples += record.samples
        if record.outcome == "trained":
            self._count_distances(record)
        if session and record.model in self.ways:
            self.ways[record.model].append(_step(record, len(self.hospitals)))
        if record.kind in KEPT or self._has_probes(record):
            self.kept.append(record)

    def _count_distances(self, record: Record) -> None:
        for level in LEVELS:
            if measure := record.measures.get(f"similarity_{level}"):
                both = self.uncompared.setdefault(level, [0, 0])
                both[0] += measure.mean == 0
                both[1] += 1

    @property
    def absences(self) -> tuple[LostHospitals, Returns]:
        """Who was left out, and from which round on who was back."""
        return as_told(self.words)

    def _has_probes(self, record: Record) -> bool:
        """Return whether a record has probes; names of other measures are remembered, for all
        records have the same.
        """
        if record.measures.keys() <= self._plain:
            return False
        self._plain |= {name for name in record.measures if not name.startswith(PROBES)}
        return not record.measures.keys() <= self._plain


def _is_before(fault: Fault, record: Record) -> bool:
    """Return whether a fault may have been before a session: one that is drawn, or comes after a
    time, may be anywhere in the rounds.
    """
    return (fault.round or 0, fault.hop or 0) < (record.round, record.hop)


def most_steps(models: int) -> int:
    """Return how many sessions of each model report.json lists, of a run of so many models."""
    return max(LEAST_STEPS, MOST_STEPS // max(1, models))


def _step(record: Record, size: int) -> GatheredStep:
    def mean(name: str) -> float:
        return record.measures.get(name, NOTHING).mean

    return GatheredStep(
        stop=size * (record.round - 1) + max(1, record.hop) if record.round else 0,
        round=record.round,
        hop=record.hop,
        host=record.host,
        home=record.host == record.model,
        rolled_back=record.outcome == "rolled_back",
        accuracy=mean("accuracy"),
        drift=mean("drift"),
        loss=mean("loss"),
        resident=mean("resident_accuracy"),
        **{level: mean(f"similarity_{level}") for level in LEVELS},
    )
