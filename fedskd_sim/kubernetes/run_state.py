"""The state of a run in the API, for whoever has no more than kubectl: labels and annotations of
the controller's Job, and Kubernetes Events of it, both limited in their rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.job_annotations import verdict_note
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog, LogEvent
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

OUTCOME, REASON = "fedskd.io/outcome", "fedskd.io/reason"
ROUND, HOPS = "fedskd.io/round", "fedskd.io/hops"
OWN, OTHERS = "fedskd.io/accuracy-own", "fedskd.io/accuracy-others"
FORMING, RUNNING, ENDED_WELL, FAILED = "forming", "running", "ended", "failed"
SUSPENDED = "suspended"
LAST_WORDS: Mapping[str, str] = MappingProxyType(
    {
        ENDED_WELL: "the run has ended well",
        RUNNING: "its Job was suspended; the hospitals go on, for they would lose all they have",
        SUSPENDED: "the hospitals' Jobs are suspended too, and continue when this Job is resumed",
    }
)
"""What an Event says of an outcome where no reason is given."""
NOTE_S = 10.0
"""So often at most the Job is patched."""
ROUND_S = 60.0
"""So often at most a round has an Event."""
AT_ONCE, EVENT_S = 20, 20.0
"""So many Events may come at once, and another every so many seconds."""
WORDS = 1000
"""An Event's message may have 1024 bytes."""
UNRECORDED = ("depart", "ensemble")
BAD = ("stuck", "hopeless", "unschedulable", "failed")
"""How pods stand that somebody has to look at."""


class Notice(NamedTuple):
    """A Kubernetes Event of a run."""

    reason: str
    message: str
    warning: bool = False


@dataclass
class Progressed:
    """How many steps of one hospital are done, which are known by their index."""

    program: Program
    index: int = -1
    done: int = 0

    def reach(self, index: int) -> None:
        """Count the steps up to one that leave a record."""
        for number in range(self.index + 1, index + 1):
            step = self.program.at(number)
            self.done += step is not None and step.action not in UNRECORDED
        self.index = max(self.index, index)


@dataclass
class RunState:
    """What the controller knows of a run's progress, from the events of its log; no calls."""

    topology: Topology
    measured: bool
    """Accuracies are: a placebo has none."""
    outcome: str = FORMING
    round: int = 0
    away: frozenset[str] = frozenset()
    _hospitals: dict[str, Progressed] = field(init=False)
    _accuracy: dict[bool, dict[str, float]] = field(default_factory=lambda: {True: {}, False: {}})
    """The last one of every model, at home and elsewhere."""
    _round_told: float | None = None

    def __post_init__(self) -> None:
        """Know nothing yet."""
        names = self.topology.names
        self._hospitals = {name: Progressed(Program(self.topology, name)) for name in names}

    def take(self, what: LogEvent) -> Notice | None:
        """Take in an event of the log; returns what of it is worth an Event."""
        match what:
            case events.ProgressEvent():
                return self._advance(what)
            case events.StartEvent() | events.Resumed():
                self.outcome = RUNNING
            case events.LostEvent(_, hospitals):
                self.away = frozenset(hospitals)
            case events.BackEvent(_, hospital):
                self.away -= {hospital}
        return news(what)

    def _advance(self, step: events.ProgressEvent) -> Notice | None:
        known = self._hospitals[step.hospital]
        index = known.program.index_of_record(step.model, step.round, step.hop)
        known.reach(known.index if index is None else index)
        self._accuracy[step.hospital == step.model][step.model] = step.accuracy
        now, news = clock.now(), step.round > self.round
        self.round = max(self.round, step.round)
        if not news or (self._round_told is not None and now < self._round_told + ROUND_S):
            return None
        self._round_told = now
        return Notice("Round", ", ".join(self._words()))

    def _words(self) -> Iterator[str]:
        last = self.topology.rounds
        yield "evaluation" if self.round > last else f"round {self.round} of {last}"
        yield f"{self.done} of {self.total} hops"
        for which, key in (("own", OWN), ("others'", OTHERS)):
            if key in self.measures:
                yield f"accuracy of the {which} models {self.measures[key]}"

    @property
    def done(self) -> int:
        """The number of steps that are done."""
        return sum(one.done for one in self._hospitals.values())

    @property
    def total(self) -> int:
        """The number of steps in all; of those that are away what they have done."""
        return sum(
            one.done if name in self.away else one.program.recorded
            for name, one in self._hospitals.items()
        )

    @property
    def measures(self) -> dict[str, str]:
        """The mean accuracies of all models, at home and elsewhere, as far as there are any."""
        found = {}
        for key, at_home in ((OWN, True), (OTHERS, False)):
            values = self._accuracy[at_home].values() if self.measured else ()
            if values:
                found[key] = f"{sum(values) / len(values):.3f}"
        return found

    def notes(self, between: str) -> dict[str, str]:
        """Write the state in short words; numbers of how many stand with ``between``: a label has
        no slash.
        """
        counts = {}
        if self.done:
            counts[ROUND] = (
                f"{min(self.round, self.topology.rounds)}{between}{self.topology.rounds}"
            )
            counts[HOPS] = f"{self.done}{between}{self.total}"
        return {OUTCOME: self.outcome, **counts, **self.measures}


def news(what: LogEvent) -> Notice | None:
    """Write what of a log is worth an Event as one; None for anything else."""
    told = None
    match what:
        case events.StartEvent(hospitals):
            told = Notice("Started", f"a ring of {hospitals} hospitals has begun")
        case events.Resumed():
            told = Notice("TakenOver", "another pod of the controller has taken the run over")
        case events.LostEvent(_, hospitals):
            names = ", ".join(hospitals)
            told = Notice("HospitalLost", f"the ring goes on without {names}", warning=True)
        case events.BackEvent(_, hospital, round_):
            told = Notice("HospitalBack", f"{hospital} is back from round {round_} on")
        case events.Pod(hospital, standing, text) if standing in BAD:
            told = Notice("HospitalPod", f"{hospital}: {text}", warning=True)
        case events.WaitingEvent(reason):
            told = Notice("Waiting", reason)
    return told


@dataclass
class StateInApi:
    """Writes a run's state to the controller's Job, now and then, in a thread of its own."""

    cluster: KubernetesApi
    job: str
    """The controller's."""
    state: RunState
    uid: str = ""
    """Of that Job; until it is known there are no Events."""
    _over: Flag = field(default_factory=Flag)
    _lock: Lock = field(default_factory=Lock)
    _writing: Lock = field(default_factory=Lock)
    """Is held while the API is called: the end is written last."""
    _waiting: list[Notice] = field(default_factory=list)
    _told: set[Notice] = field(default_factory=set)
    _written: Mapping[str, str] = field(default_factory=dict)
    _allowed: float = AT_ONCE
    _counted: float | None = None

    def take(self, what: LogEvent) -> None:
        """Take in an event of the controller's log, to be written later."""
        with self._lock:
            told = self.state.take(what)
            if told and told not in self._told and self._may_tell():
                self._told.add(told)
                self._waiting.append(told)

    def _may_tell(self) -> bool:
        now = clock.now()
        since = now - (now if self._counted is None else self._counted)
        self._counted = now
        self._allowed = min(AT_ONCE, self._allowed + since / EVENT_S)
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def keep_written(self) -> None:
        """Write what is new, again and again, until the run has ended."""
        while not self._over.wait(NOTE_S):
            self.write()

    def write(self) -> None:
        """Write what is new; what the API refuses is left, the log has it."""
        with self._writing, suppress(FedskdError, ApiException):
            with self._lock:
                notes, labels = self.state.notes("/"), self.state.notes("-of-")
                waiting, self._waiting = self._waiting, []
            if self._over.is_set():
                return
            if notes != self._written:
                self.cluster.note(self.job, notes, labels)
                self._written = notes
            self._tell(waiting)

    def _tell(self, waiting: list[Notice]) -> None:
        with suppress(FedskdError, ApiException):
            for told in waiting if self.uid else ():
                self.cluster.tell(self.job, self.uid, told.reason, told.message[:WORDS],
                                  warning=told.warning)  # fmt: skip

    def close(self) -> None:
        """Let `keep_written` come to its end."""
        self._over.set()

    def end(self, outcome: str, reason: str, verdict: events.Error | None = None) -> None:
        """Write how the run stands at last, for a controller that may come after this one and for
        whoever waits for the end; raises FedskdError, ApiException.
        """
        self._over.set()
        with self._writing:
            with self._lock:
                self.state.outcome = outcome
                notes = {**self.state.notes("/"), REASON: reason[:WORDS]}
                labels, waiting = self.state.notes("-of-"), self._waiting
            self.cluster.note(self.job, notes | (verdict_note(verdict) if verdict else {}), labels)
            told = reason or LAST_WORDS.get(outcome, "")
            last = Notice(outcome.capitalize(), told, outcome in (FAILED, RUNNING))
            self._tell([*waiting, last])


@dataclass(frozen=True)
class NotedLog(EventLog):
    """A log of which every event is also handed on."""

    noted: Callable[[LogEvent], None] = field(default=lambda _: None)

    def event(self, what: LogEvent) -> None:
        """Write one line, and hand the event on."""
        super().event(what)
        self.noted(what)

    @classmethod
    def of(cls, log: EventLog, noted: Callable[[LogEvent], Any]) -> NotedLog:
        """Hand on what is written to a log from now on."""
        return cls(log.stream, log.bound, noted, lock=log.lock, over=log.over)
