"""Who is taken in again in a cluster, and what is noted of it for who comes later."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes import run_controller
from fedskd_sim.kubernetes.job_annotations import LOST, Losses, earlier_start, losses_in
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.run_controller import Returners, same_pod
from fedskd_sim.observe.events import EventLog
from fedskd_sim.ring.routes import Back
from fedskd_sim.runtimes.supervisor import Rules

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIRST, NEXT = "11111111-a", "22222222-b"


def pod(uid: str, phase: str = "Running", *, going: bool = False) -> V1Pod:
    metadata: dict[str, Any] = {
        "name": uid,
        "uid": uid,
        "labels": {"fedskd.io/hospital": "east"},
        "creationTimestamp": NOW + timedelta(0),
    }
    if going:
        metadata["deletionTimestamp"] = NOW
    return V1Pod.model_validate(
        {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}}
    )


@pytest.mark.parametrize(
    ("pods", "verdict"),
    [
        ([pod(FIRST)], True),
        ([pod(FIRST), pod("0", "Failed")], True),
        ([pod(FIRST, going=True)], None),
        ([pod(FIRST), pod(NEXT)], None),
        ([pod(FIRST, "Failed"), pod(NEXT)], False),
        ([pod(NEXT)], False),
        ([pod(FIRST, "Failed")], False),
        ([], False),
    ],
)
def test_only_the_pod_that_took_part_has_what_its_hospital_had(
    pods: list[V1Pod],
    verdict: bool | None,  # noqa: FBT001
) -> None:
    """Alone and to stay: that is who speaks. Another one, or none, means a stranger."""
    assert same_pod(pods, FIRST[:8]) is verdict


def test_without_a_pod_at_the_start_nobody_can_be_the_same() -> None:
    """Whichever pod comes then is a stranger."""
    assert same_pod([pod(FIRST)], "") is False


class Server:
    """An API server that is away for so many questions, then tells of a hospital's pods."""

    def __init__(self, *pods: V1Pod, away: int = 0) -> None:
        self.pods, self.away, self.asked = list(pods), away, 0

    def pods_now(self, name: str) -> list[V1Pod]:
        assert name == "east"
        self.asked += 1
        if self.asked <= self.away:
            raise ClusterUnavailable("away", fix="wait")
        return self.pods


def tracker(**survivors: float) -> PodTracker:
    made = PodTracker(Rules(("east",), survivors=survivors), EventLog(io.StringIO()))
    made.began({"east": FIRST[:8]})
    return made


def test_on_a_claim_every_pod_goes_on() -> None:
    """The cluster is not asked."""
    server = Server()
    assert Returners(server, tracker(east=60.0)).may_return("east")  # type: ignore[arg-type]
    assert not server.asked


def test_a_server_that_is_away_is_not_asked_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for each answer: so nobody is admitted or sent away meanwhile."""
    time, server = [0.0], Server(pod(FIRST), away=1)
    monkeypatch.setattr(run_controller, "clock", SimpleNamespace(now=lambda: time[0]))
    asked = Returners(server, tracker())  # type: ignore[arg-type]
    assert [asked.may_return("east") for _ in range(3)] == [None] * 3
    assert server.asked == 1
    time[0] += run_controller.AGAIN_S
    assert asked.may_return("east")


def test_what_becomes_of_a_returners_pod_counts_again() -> None:
    """Its death is concluded a second time, and not from what was known before its return."""
    found = tracker()
    found.saw("ADDED", pod(FIRST, "Failed"))
    assert found.conclusion()
    found.is_back("east")
    assert found.conclusion() is None  # that is the old death
    found.saw("MODIFIED", pod(FIRST))
    found.is_back("east")
    found.saw("MODIFIED", pod(FIRST, "Succeeded"))
    assert found.conclusion()


def test_what_is_noted_can_be_read_again() -> None:
    """With who is back and who was, for the next controller as for the launcher; one that has
    not noted returns knew of none.
    """
    losses = Losses({"east": 0, "south": 3, "west": 0}, {"east": Back(4), "west": Back(5, True)})
    notes = {"fedskd.io/started": "7.5", **losses.notes()}
    jobs = [V1Job.model_validate({"metadata": {"name": "c", "annotations": notes}})]
    assert losses_in(jobs) == losses
    started = earlier_start(jobs, "c")
    assert started is not None
    assert started.losses == losses
    assert losses.away == {"south": 3, "west": 0}
    older = V1Job.model_validate({"metadata": {"name": "c", "annotations": {LOST: '{"east": 2}'}}})
    assert losses_in([older]) == Losses({"east": 2})


def test_of_two_views_the_newer_one_counts() -> None:
    """The log of a controller, from which another has taken over, and the notes on its Job."""
    once = Losses().losing({"east": 0})
    assert once.away == {"east": 0}
    back = once.returning("east", 3)
    assert back.away == {}
    assert once.merged(back).away == {}
    again = back.losing({"east": 0})
    assert again.away == {"east": 0}
    assert back.merged(again) == again
    assert again.returning("east", 5).away == {}
