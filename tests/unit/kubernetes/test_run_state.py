"""What kubectl shows of a run: labels, annotations and Events of its controller's Job."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client import CoreV1Event

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.job_annotations import VERDICT, WELL
from fedskd_sim.kubernetes.run_state import (
    AT_ONCE,
    ENDED_WELL,
    EVENT_S,
    FAILED,
    HOPS,
    OTHERS,
    OUTCOME,
    OWN,
    REASON,
    ROUND,
    ROUND_S,
    NotedLog,
    RunState,
    StateInApi,
)
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

RING = Topology(("a", "b", "c"), 3)
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def steps(name: str, ring: Topology = RING) -> list[events.ProgressEvent]:
    """List all that a hospital tells the controller of, in its order."""
    program = Program(ring, name)
    told = [events.ProgressEvent(name, name, 0, 0, 0.5)]
    for step in map(program.at, range(1, len(program))):
        assert step
        if step.stop:
            told.append(
                events.ProgressEvent(name, step.stop.model, step.round, step.stop.hop, 0.25)
            )
        elif step.action == "home":
            told.append(events.ProgressEvent(name, name, step.round, 0, 0.75))
    return told


@dataclass
class Api:
    """A cluster that notes what is written to it, and may refuse."""

    refuses: bool = False
    notes: list[dict[str, str]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    told: list[tuple[str, str, bool]] = field(default_factory=list)

    def note(self, job: str, notes: dict[str, str], labels: dict[str, str]) -> None:
        assert job == "c"
        self._answer()
        self.notes.append(notes)
        self.labels |= labels

    def tell(self, _job: str, uid: str, reason: str, message: str, *, warning: bool) -> None:
        assert uid == "u"
        self._answer()
        self.told.append((reason, message, warning))

    def _answer(self) -> None:
        if self.refuses:
            raise ClusterUnavailable("no")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until a test moves it."""
    time = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    return time


def state_of(api: Api, *, measured: bool = True) -> StateInApi:
    return StateInApi(api, "c", RunState(RING, measured), "u")  # type: ignore[arg-type]


def test_all_hops_of_a_run_are_counted_and_none_twice(now: list[float]) -> None:
    """Of a ring that was taken over all is known again with the next word of each hospital; one
    that is lost has no more to do, until it is back.
    """
    assert now
    whole, later = RunState(RING, measured=True), RunState(RING, measured=True)
    for name in RING.names:
        told = steps(name)
        for step in [*told, told[0]]:
            whole.take(step)
        later.take(told[-2])
    everything = sum(Program(RING, name).recorded for name in RING.names)
    assert (whole.done, whole.total) == (everything, everything)
    assert later.done == everything - len(RING.names)
    assert whole.notes("/")[HOPS] == f"{everything}/{everything}"
    half = RunState(RING, measured=True)
    half.take(steps("a")[3])
    half.take(events.LostEvent(1, {"b": 0}))
    assert half.total == everything - Program(RING, "b").recorded
    half.take(events.BackEvent(1, "b", 2))
    assert half.total == everything


def test_the_job_shows_round_hops_accuracies_and_outcome(now: list[float]) -> None:
    """Labels are such as a cluster takes, annotations have the same for people; nothing is written
    that is written already.
    """
    api = Api()
    state = state_of(api)
    state.write()
    assert api.notes == [{OUTCOME: "forming"}]
    state.take(events.StartEvent(3))
    for name in RING.names:
        for step in [one for one in steps(name) if one.round <= 2]:
            state.take(step)
    state.write()
    state.write()
    assert len(api.notes) == 2
    seen = api.notes[-1]
    assert (seen[OUTCOME], seen[ROUND], seen[OWN], seen[OTHERS]) == (
        "running", "2/3", "0.250", "0.250",
    )  # fmt: skip
    assert api.labels[ROUND] == "2-of-3"
    assert all(LABEL.fullmatch(value) for value in api.labels.values())
    now[0] += 1
    for name in RING.names:
        for step in steps(name):
            state.take(step)
    state.end(ENDED_WELL, "", WELL)
    assert api.notes[-1][OWN] == "0.750"
    assert (api.notes[-1][OUTCOME], VERDICT in api.notes[-1]) == ("ended", True)
    assert [reason for reason, *_ in api.told] == ["Started", "Round", "Ended"]


def test_a_placebo_has_no_accuracy(now: list[float]) -> None:
    """Where nothing is measured no 0 is shown."""
    assert now
    state = state_of(Api(), measured=False)
    state.take(steps("a")[1])
    assert {OWN, OTHERS}.isdisjoint(state.state.notes("/"))


def test_events_are_few_however_much_happens(now: list[float]) -> None:
    """So many at once, then one now and then, never the same twice, rounds once a minute; the end
    is always told, with its reason.
    """
    api = Api()
    state = state_of(api)
    for _ in range(3):
        state.take(events.WaitingEvent("a node"))
    assert len(state._waiting) == 1
    for number in range(100):
        state.take(events.Pod("a", "stuck", f"its image {number}", ""))
    state.write()
    assert len(api.told) == AT_ONCE
    now[0] += EVENT_S * 2.5
    for number in range(100):
        state.take(events.Pod("b", "failed", f"its end {number}", ""))
    state.write()
    assert len(api.told) == AT_ONCE + 2
    assert api.told[-1] == ("HospitalPod", "b: its end 1", True)
    now[0] += EVENT_S * AT_ONCE
    for step in [one for one in steps("a") if one.hop == 1]:
        state.take(step)
        now[0] += ROUND_S / 2 - 1
    state.write()
    assert [told for told in api.told if told[0] == "Round"] == [
        ("Round", "round 1 of 3, 2 of 39 hops, accuracy of the others' models 0.250", False),
        ("Round", api.told[-1][1], False),
    ]
    state.end(FAILED, "exit code 41: 'b' failed", events.Error(41, own=True, message="no"))
    assert api.told[-1] == ("Failed", "exit code 41: 'b' failed", True)
    assert api.notes[-1][REASON] == "exit code 41: 'b' failed"


def test_nothing_is_written_behind_the_end(now: list[float]) -> None:
    """What was waiting comes first; the outcome stays what it is."""
    assert now
    api = Api()
    state = state_of(api)
    state.take(events.StartEvent(3))
    state.end(FAILED, "no", None)
    before = list(api.notes)
    state.take(steps("a")[1])
    state.write()
    state.keep_written()
    assert api.notes == before
    assert [reason for reason, *_ in api.told] == ["Started", "Failed"]


def test_a_cluster_that_refuses_costs_nothing_but_the_view(now: list[float]) -> None:
    """A role of an older chart may make no Events: the run goes on, and its end is noted if
    anything can be. The state comes once it is taken.
    """
    assert now
    api = Api(refuses=True)
    state = state_of(api)
    state.take(events.StartEvent(3))
    state.write()
    api.refuses = False
    state.write()
    assert api.notes == [{OUTCOME: "running"}]


def test_the_log_has_every_event_and_hands_it_on() -> None:
    """Threads share it as before, and nothing is written to one that is closed."""
    stream, heard = io.StringIO(), list[Any]()
    log = EventLog(stream, {"run": "r"})
    noted = NotedLog.of(log, heard.append)
    noted.event(events.StartEvent(3))
    assert heard == [events.StartEvent(3)]
    assert events.read(stream.getvalue()) is not None
    log.close()
    noted.event(events.StartEvent(4))
    assert stream.getvalue().count("\n") == 1


def test_an_event_is_one_that_describe_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the Job with kind, name and identity; the client knows all of its fields."""
    made = list[Any]()
    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    api = KubernetesApi("n", "a=b")
    monkeypatch.setattr(
        api._core, "create_namespaced_event", lambda space, body: made.append((space, body))
    )
    api.tell("c", "u", "Failed", "why", warning=True)
    ((space, body),) = made
    event = CoreV1Event.model_validate(body)
    known = client.ApiClient().sanitize_for_serialization(event)
    assert {key: set(known[key]) for key in known if isinstance(known[key], dict)} == {
        key: set(body[key]) for key in body if isinstance(body[key], dict)
    }
    assert known.keys() == body.keys()
    about = event.involved_object
    assert (space, about.kind, about.name, about.uid, event.type) == (
        "n", "Job", "c", "u", "Warning",
    )  # fmt: skip
    assert api.calls == {"create events": 1}
