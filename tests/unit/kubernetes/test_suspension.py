"""A run that is suspended by its controller's Job, and resumed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes.client import V1Job
from test_earlier_runs import PLACE, job, pod

from fedskd_sim import clock
from fedskd_sim.kubernetes.job_annotations import STARTED
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.run_controller import RunController
from fedskd_sim.kubernetes.run_state import RUNNING, SUSPENDED
from fedskd_sim.kubernetes.suspension import go_on, pause
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.supervisor import Rules

ENDED = [{"type": "Complete", "status": "True"}]


@dataclass
class Api:
    """A cluster whose Jobs are suspended and released, and how that is noted."""

    all: list[V1Job]
    outcomes: list[str] = field(default_factory=list)

    def jobs(self) -> list[V1Job]:
        return self.all

    def suspend(self, name: str) -> None:
        self._named(name).spec.suspend = True

    def release(self, name: str) -> None:
        self._named(name).spec.suspend = False

    def end(self, outcome: str, _reason: str) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None:
        """Watch nothing more: nothing was watched."""

    def _named(self, name: str) -> Any:
        return next(one for one in self.all if one.metadata.name == name)

    def stopped(self) -> set[str]:
        return {one.metadata.name for one in self.all[1:] if one.spec.suspend}


def cluster(*, suspended: bool, started: bool = True) -> Api:
    """Make the Jobs of a controller and its hospitals, of which the last has ended."""
    jobs = [job(""), job("north"), job("south"), job("other", conditions=ENDED)]
    jobs[0].metadata.annotations = {STARTED: "1.0"} if started else {}
    jobs[0].spec.suspend = suspended
    for one, name in zip(jobs[1:], ("north", "south", "other"), strict=True):
        one.metadata.labels = {"fedskd.io/hospital": name}
    return Api(jobs)


def paused(api: Api, *mortal: str) -> Api:
    pause(api, PLACE, api, mortal)  # type: ignore[arg-type]
    return api


BOTH = {PLACE.job("north"), PLACE.job("south")}


def test_hospitals_are_suspended_with_their_controller() -> None:
    """But not where its pod is only replaced, nor where they would lose what they have learned; one
    that has ended is left alone.
    """
    api = paused(cluster(suspended=True))
    assert (api.stopped(), api.outcomes) == (BOTH, [SUSPENDED])
    api = paused(cluster(suspended=False))
    assert (api.stopped(), api.outcomes) == (set(), [])
    api = paused(cluster(suspended=True), "north")
    assert (api.stopped(), api.outcomes) == (set(), [RUNNING])
    api = paused(cluster(suspended=True, started=False), "north")
    assert (api.stopped(), api.outcomes) == (BOTH, [SUSPENDED])


@pytest.mark.parametrize(("kept", "outcome"), [(("north", "south"), SUSPENDED), ((), RUNNING)])
def test_a_controller_that_is_told_to_go_looks_why(
    kept: tuple[str, ...], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It suspends hospitals that outlive their pods, and goes."""

    def gone(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(RunController, "_lead", gone)
    api: Any = cluster(suspended=True)
    api.calls, api.uid = {}, ""
    silent = EventLog(io.StringIO())
    track = PodTracker(Rules(("north", "south"), survivors=dict.fromkeys(kept, 60.0)), silent)
    with pytest.raises(SystemExit, match="143"):
        RunController(PLACE, api, silent, api, track, api).control(api)
    assert api.outcomes == [outcome]
    assert api.stopped() == (BOTH if kept else set())


def test_what_was_suspended_is_released_and_nobody_else() -> None:
    """Whom the ring has left behind stays where it is."""
    api = paused(cluster(suspended=True))
    assert go_on(api, PLACE, {"south"}) == {"north"}  # type: ignore[arg-type]
    assert api.stopped() == {PLACE.job("south")}
    assert go_on(api, PLACE, ()) == {"south"}  # type: ignore[arg-type]
    assert go_on(api, PLACE, ()) == set()  # type: ignore[arg-type]


def test_no_time_passes_until_all_are_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is lost for the start of its next pod, until all must be up."""
    now = [100.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    track = PodTracker(Rules(("north", "south")), EventLog(io.StringIO()))
    assert not track.queued()
    track.resuming({"north"}, 160.0)
    assert track.queued()
    one = pod("north")
    one.metadata.labels = {"fedskd.io/hospital": "north"}
    track.saw("ADDED", one)
    assert not track.queued()
    track.resuming({"south"}, 160.0)
    assert track.queued()
    now[0] = 161.0
    assert not track.queued()
