"""The pods of a run, as the controller sees them, and what it must conclude; no calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import HospitalCrashed, PodCannotStart
from fedskd_sim.exits import meaning, rebuilt
from fedskd_sim.kubernetes.cluster import seconds
from fedskd_sim.kubernetes.jobs import FINAL_CODES, HOSPITAL
from fedskd_sim.kubernetes.pods import FETCH, UID, Finding, finding, refusal
from fedskd_sim.messages import Done, Failed
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.ring.topology import FIRST_EPOCH

OWN_WORD_S = 3.0
MOST_DEATHS = 3
"""So many pods of a hospital may fail by themselves before the start; another would, too."""


@dataclass
class TrackedPod:
    """The newest pod of a hospital, and since when it is as it is."""

    uid: str
    finding: Finding
    since: float
    created: float
    gone: bool = False


@dataclass
class PodTracker:
    """Keeps one entry per hospital; fed by one thread, asked by another."""

    names: tuple[str, ...]
    log: EventLog
    unschedulable_seconds: float
    stuck_seconds: float = 0.0
    """How long what the cluster tries again may fail."""
    survivors: Mapping[str, float] = field(default_factory=dict)
    """Hospitals that outlive their pods, on claims, and the seconds within which their next pod
    must run."""
    took_part: Mapping[str, str] | None = None
    """The beginning of the identity of every hospital's pod at the start, once there was one."""
    _pods: dict[str, TrackedPod] = field(default_factory=dict)
    _deaths: dict[str, dict[str, float]] = field(default_factory=dict)
    """When the pods of each hospital that failed by themselves before the start were seen so."""
    _done: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def saw(self, kind: str, pod: Any) -> None:
        """Take in a change of a pod."""
        name = (pod.metadata.labels or {}).get(HOSPITAL)
        if name not in self.names:
            return
        found, created = finding(pod), seconds(pod.metadata.creation_timestamp)
        with self._lock:
            entry = self._pods.get(name)
            if found.by_itself and self.took_part is None:
                self._deaths.setdefault(name, {}).setdefault(pod.metadata.uid, clock.now())
            if entry and entry.uid != pod.metadata.uid and created < entry.created:
                return
            gone = kind == "DELETED"
            same = (
                entry
                and entry.uid == pod.metadata.uid
                and entry.finding.standing == found.standing
                and entry.gone == gone
            )
            since = entry.since if entry and same else clock.now()
            self._pods[name] = TrackedPod(pod.metadata.uid, found, since, created, gone)
        if not same or (entry and entry.finding.text != found.text):
            standing = "gone" if gone else found.standing
            self.log.event(events.Pod(name, standing, found.text, pod.spec.node_name or ""))

    def note_refusals(self, complaints: Mapping[str, str]) -> None:
        """Take in why hospitals have no pod at all, by hospital."""
        with self._lock:
            new = {
                name: refusal(text) for name, text in complaints.items() if name not in self._pods
            }
            self._pods |= {
                name: TrackedPod("", found, clock.now(), 0.0) for name, found in new.items()
            }
        for name, found in new.items():
            self.log.event(events.Pod(name, found.standing, found.text, ""))

    def without_pod(self) -> Iterable[str]:
        """Name the hospitals that have no pod."""
        with self._lock:
            return [name for name in self.names if name not in self._pods]

    def conclusion(self) -> Failed | Done | None:
        """Say what follows from the pods: an end that a hospital could not tell itself, once."""
        with self._lock:
            for name, entry in self._pods.items():
                if name in self._done:
                    continue
                found = self._conclude(name, entry)
                if found:
                    self._done.add(name)
                    return found
        return None

    def is_back(self, name: str) -> None:
        """Conclude again from what becomes of a hospital's pod, once it was lost and is back."""
        with self._lock:
            if name in self._pods and self._pods[name].finding.standing == "running":
                self._done.discard(name)

    def queued(self) -> bool:
        """Return whether a queue holds any pod back: that is no time of the run."""
        with self._lock:
            return any(
                entry.finding.standing == "queued" and not entry.gone
                for entry in self._pods.values()
            )

    def at_work(self) -> set[str]:
        """Name the hospitals whose pod still runs."""
        with self._lock:
            return {
                name
                for name, entry in self._pods.items()
                if entry.finding.standing in ("running", "leaving") and not entry.gone
            }

    def holding(self) -> set[str]:
        """Name those of them that have taken part, and may hold what they have recorded: a pod that
        came later, and goes on from nothing, has none of it.
        """
        first, at_work = self.took_part or {}, self.at_work()
        with self._lock:
            return {
                name
                for name in at_work & {*first}
                if name in self.survivors or self._pods[name].uid[:UID] == first[name]
            }

    def summary(self) -> str:
        """Tell of every pod that does not run."""
        with self._lock:
            waiting = {
                name: entry.finding
                for name, entry in self._pods.items()
                if entry.finding.standing != "running"
            }
            missing = [name for name in self.names if name not in self._pods]
        told = [f"{name}: {found.text or found.standing}" for name, found in waiting.items()]
        return "; ".join(told + [f"{name}: no pod" for name in missing])

    def _conclude(self, name: str, entry: TrackedPod) -> Failed | Done | None:
        found, waited = entry.finding, clock.now() - entry.since
        if found.standing == "succeeded":
            return Done(FIRST_EPOCH, name)
        patience = {
            "hopeless": 0.0,
            "stuck": self.stuck_seconds,
            "unschedulable": self.unschedulable_seconds,
        }
        if found.standing in patience and waited >= patience[found.standing]:
            return Failed(FIRST_EPOCH, name, PodCannotStart.exit_code, found.text)
        final, started = found.code in FINAL_CODES, self.took_part is not None
        kept = self.survivors.get(name, 0.0) if started else 0.0
        wait = OWN_WORD_S if final else kept  # a crash has no word of its own
        if found.standing == "failed" and waited >= wait:
            ended = started or final
            return _failure(name, found) if ended else self._hopeless(name, found)
        if started and entry.gone and waited > self.survivors.get(name, OWN_WORD_S):
            text = found.text.replace("is being deleted", "was deleted") or "its pod was deleted"
            return Failed(FIRST_EPOCH, name, HospitalCrashed.exit_code, text)
        first = (self.took_part or {}).get(name)
        if (
            first is not None
            and entry.uid
            and entry.uid[:UID] != first
            and name not in self.survivors
        ):
            return Failed(
                FIRST_EPOCH,
                name,
                HospitalCrashed.exit_code,
                "its pod was replaced in mid-run, and what it had learned is lost",
            )
        return None

    def _hopeless(self, name: str, found: Finding) -> Failed | None:
        """Say that a hospital's pods fail each time; what is to be fetched may yet come."""
        deaths = self._deaths.get(name, {})
        patience = self.stuck_seconds if found.by_itself == FETCH else 0.0
        if not found.by_itself or len(deaths) < MOST_DEATHS:
            return None
        if clock.now() - min(deaths.values()) < patience:
            return None
        text = f"{len(deaths)} of its pods have failed before the start, the last because "
        return Failed(FIRST_EPOCH, name, HospitalCrashed.exit_code, text + found.text)


def _failure(name: str, found: Finding) -> Failed:
    if found.code not in FINAL_CODES:
        return Failed(FIRST_EPOCH, name, HospitalCrashed.exit_code, found.text)
    words = meaning(type(rebuilt(found.code or 0, "")))
    return Failed(FIRST_EPOCH, name, found.code or 0, f"{found.text}: {words}")
