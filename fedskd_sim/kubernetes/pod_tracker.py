"""The pods of a run, as the controller sees them, for its supervisor; no calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from fedskd_sim import clock
from fedskd_sim.kubernetes.cluster import seconds
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.pods import finding, refusal
from fedskd_sim.messages import Done, Failed
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.ring.topology import FIRST_EPOCH
from fedskd_sim.runtimes.supervisor import (
    UID,
    Began,
    Fact,
    HospitalDone,
    Incarnation,
    Lost,
    Pass,
    PodSaw,
    Returned,
    Rules,
    Spoke,
    Supervised,
    SupervisorOrder,
    Tick,
    step,
)


@dataclass
class PodTracker:
    """Hands in to the supervisor what becomes of pods; fed by one thread, asked by another."""

    rules: Rules
    log: EventLog
    _state: Supervised = field(default_factory=Supervised)
    _lock: Lock = field(default_factory=Lock)
    _looking: Lock = field(default_factory=Lock)
    """Is held while a pod is judged: events and pods come from two threads."""
    _events: list[Any] = field(default_factory=list)
    """What the namespace has told of late (CoreV1Event)."""
    _idle: dict[str, Any] = field(default_factory=dict)
    """The pods that were not started yet, by hospital."""
    _resuming: set[str] = field(default_factory=set)
    _until: float = 0.0

    def saw(self, kind: str, pod: Any) -> None:
        """Take in a change of a pod."""
        name = (pod.metadata.labels or {}).get(HOSPITAL)
        if name in self.rules.names:
            with self._looking:
                self._look(name, pod, gone=kind == "DELETED")

    def told(self, events: list[Any], by_job: Mapping[str, str]) -> None:
        """Take in what the namespace has told of late (CoreV1Event): why a hospital has no pod at
        all, by its Job, and why a pod that is there does not start.
        """
        refusals = {
            by_job[event.involved_object.name]: event.message
            for event in events
            if event.reason == "FailedCreate" and event.involved_object.name in by_job
        }
        self.note_refusals(refusals)
        with self._looking:
            self._events = events
            for name, pod in [*self._idle.items()]:
                self._look(name, pod)

    def _look(self, name: str, pod: Any, *, gone: bool = False) -> None:
        found = finding(pod, self._events)
        idle = found.standing in ("pending", "stuck", "unschedulable") and not gone
        if idle:
            self._idle[name] = pod
        elif self._idle.get(name, pod).metadata.uid == pod.metadata.uid:
            self._idle.pop(name, None)
        created = seconds(pod.metadata.creation_timestamp)
        self._note(PodSaw(name, found, pod.metadata.uid, created, gone), pod.spec.node_name or "")

    def note_refusals(self, complaints: Mapping[str, str]) -> None:
        """Take in why hospitals have no pod at all, by hospital."""
        for name, text in complaints.items():
            if name not in self._state.seen:
                self._note(PodSaw(name, refusal(text)), "")

    def began(self, pods: Mapping[str, str]) -> None:
        """Note that the run has begun, with these pods (hospital: beginning of the identity)."""
        self._hand_in(Began(pods))

    def is_back(self, name: str) -> None:
        """Conclude again from what becomes of a hospital's pod, once it was lost and is back."""
        self._hand_in(Returned(name))

    def waited_in_vain(self, word: Failed) -> None:
        """Take a hospital's word, which is a conclusion later unless a pod's end is its cause."""
        self._hand_in(Spoke(word))

    def conclusion(self) -> Failed | Done | None:
        """Return what follows: an end that a hospital could not tell itself, once, or a word that
        was taken.
        """
        for order in self._hand_in(Tick()):
            match order:
                case Lost(name, code, why):
                    return Failed(FIRST_EPOCH, name, code, why)
                case HospitalDone(name):
                    return Done(FIRST_EPOCH, name)
                case Pass(word):
                    return word
        return None

    def without_pod(self) -> Iterable[str]:
        """Name the hospitals that have no pod."""
        return [name for name in self.rules.names if name not in self._state.seen]

    def complains(self) -> bool:
        """Return whether any hospital has no pod, or one that does not start."""
        return bool(
            any(self.without_pod())
            or self._state.stands("pending", "stuck", "unschedulable", "hopeless")
        )

    def resuming(self, names: Iterable[str], until: float) -> None:
        """Note that hospitals were suspended, and are to be up again by a time at the latest
        (monotonic seconds).
        """
        self._resuming, self._until = {*names}, until

    def queued(self) -> bool:
        """Return whether a queue holds any pod back, or one that was suspended is not up again:
        that is no time of the run.
        """
        self._resuming -= self._state.stands("running")
        late = clock.now() > self._until
        return bool(self._state.stands("queued") or (self._resuming and not late))

    def at_work(self) -> set[str]:
        """Name the hospitals whose pod still runs."""
        return self._state.stands("running", "leaving")

    def holding(self) -> set[str]:
        """Name those of them that have taken part, and may hold what they have recorded: a pod that
        came later, and goes on from nothing, has none of it.
        """
        state = self._state
        return {
            name
            for name in state.stands("running", "leaving") & {*state.first}
            if name in self.rules.survivors or state.seen[name].uid[:UID] == state.first[name]
        }

    def took_part(self, name: str) -> str:
        """Return the beginning of the identity of a hospital's pod at the start; '' without one."""
        return self._state.first.get(name, "")

    def summary(self) -> str:
        """Describe every pod that does not run."""
        told = [
            f"{name}: {one.finding.text or one.finding.standing}"
            for name, one in self._state.seen.items()
            if one.finding.standing != "running"
        ]
        return "; ".join(told + [f"{name}: no pod" for name in self.without_pod()])

    def _hand_in(self, fact: Fact) -> list[SupervisorOrder]:
        with self._lock:
            self._state, orders = step(self.rules, self._state, fact, clock.now())
        return orders

    def _note(self, found: PodSaw, node: str) -> None:
        """Hand in how a pod is, and log it where that is news."""
        with self._lock:
            before = self._state.seen.get(found.member)
            self._state, _ = step(self.rules, self._state, found, clock.now())
            now = self._state.seen[found.member]
        if before is None or _shown(before) != _shown(now):
            self.log.event(events.Pod(found.member, *_shown(now)[1:], node))


def _shown(one: Incarnation) -> tuple[str, str, str]:
    """Return of a pod its identity, and what a log tells of it."""
    return one.uid, "gone" if one.gone else one.finding.standing, one.finding.text
