"""Who judges the controller: what the launcher concludes from its Job and pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client import CoreV1Event, V1Job, V1Pod, V1PodCondition

from fedskd_sim.errors import PodCannotStart, ReaderFailed
from fedskd_sim.kubernetes import inspection as controller_watches
from fedskd_sim.kubernetes.inspection import MOST_DEATHS, PATIENCE_S, STARTING_S, ControllerWatch
from fedskd_sim.kubernetes.job_annotations import STARTED
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.pods import exit_code

CONTROLLER = {"app.kubernetes.io/component": "controller", "fedskd.io/run": "r"}
QUOTA = 'pods "c" is forbidden: exceeded quota: must specify limits.cpu'
LIMITS = 'pods "c" is forbidden: maximum memory usage per Container is 100Mi, but limit is 512Mi'


def job(**status: Any) -> V1Job:
    body = {
        "metadata": {"name": "c", "labels": {}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": status,
    }
    template = {
        "metadata": {},
        "spec": {"containers": [{"name": "controller"}], "restartPolicy": "Never"},
    }
    return V1Job.model_validate({**body, "spec": {"template": template}})


def pod(
    number: int, phase: str, labels: dict[str, str] = CONTROLLER, **states: dict[str, Any]
) -> V1Pod:
    """Make a pod with the states of its containers by name."""
    metadata = {
        "name": f"p{number}",
        "uid": str(number),
        "labels": labels,
        "creationTimestamp": f"2026-01-01T00:00:0{number}Z",
    }
    containers = [
        {
            "name": name,
            "image": "i",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        for name, state in states.items()
    ]
    spec = {"containers": [{"name": "controller"}]}
    return V1Pod.model_validate(
        {
            "metadata": metadata,
            "spec": spec,
            "status": {"phase": phase, "containerStatuses": containers},
        }
    )


def ended(number: int, code: int, **others: int) -> V1Pod:
    states = {
        name: {"terminated": {"exitCode": one}}
        for name, one in {"controller": code, **others}.items()
    }
    return pod(number, "Failed", **states)


class Reach:
    """The cluster's complaints about the controller's Job."""

    namespace = "n"

    def __init__(self, words: str = "") -> None:
        self.words = words
        self.stand: list[dict[str, Any]] = []
        self.told: list[Any] = []

    def events(self, _pod: V1Pod) -> list[Any]:
        return self.told

    def workloads(self) -> list[dict[str, Any]]:
        return self.stand

    def complaint(self, name: str) -> str:
        assert name == "c"
        return self.words


@pytest.fixture
def after(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[ControllerWatch, float, list[V1Pod]], list[str]]:
    """Let a controller watch look some seconds later; gives what it says."""

    class Clock:
        time = 0.0

        def now(self) -> float:
            return self.time

        unix = now

    clock = Clock()
    monkeypatch.setattr(controller_watches, "clock", clock)

    def look(
        seer: ControllerWatch, seconds: float, pods: list[V1Pod], *, started: bool = False
    ) -> list[str]:
        clock.time += seconds
        found = job()
        found.metadata.annotations = {STARTED: "1"} if started else None
        return [logged.what.reason for logged in seer.look(pods, [found])]

    return look


def seer(words: str = "") -> ControllerWatch:
    return ControllerWatch(Reach(words), "two")  # type: ignore[arg-type]


WAITS = pod(
    1, "Pending", controller={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
)


def test_what_may_heal_is_told_once_and_ends_a_run_after_long(after: Callable) -> None:
    """A quota, a registry: the user reads the cluster's words at once, and not again every
    second.
    """
    for controller_watch, pods, words in (
        (seer(QUOTA), [], "limits.cpu"),
        (seer(), [WAITS], "no such image"),
    ):
        (told,) = after(controller_watch, 1, pods)
        assert words in told
        controller_watch.reach.words = controller_watch.reach.words.replace('"c"', '"c-next-try"')
        assert after(controller_watch, 1, pods) == []
        with pytest.raises(PodCannotStart, match=words):
            after(controller_watch, PATIENCE_S + 1, pods)


def test_what_cannot_heal_ends_a_run_at_once(after: Callable) -> None:
    """A limit of the namespace that the controller is over is over it every time; so is a
    controller that dies again and again.
    """
    deaths = [ended(number, 1) for number in range(MOST_DEATHS)]
    for controller_watch, pods, words in (
        (seer(LIMITS), [], "maximum memory"),
        (seer(), deaths, "exit code 1"),
    ):
        with pytest.raises(PodCannotStart, match=words):
            after(controller_watch, 1, pods)


def test_the_runs_own_end_is_no_news_of_its_controller(after: Callable) -> None:
    """A controller that ends with an error's exit code has ended the run, which is told as such."""
    assert after(seer(), 1, [ended(1, ReaderFailed.exit_code)]) == []


def test_a_start_that_takes_its_time_is_told_of_late(after: Callable) -> None:
    """That containers are being made is no news at once, and some later."""
    controller_watch, starting = seer(), pod(1, "Pending")
    assert after(controller_watch, 1, [starting]) == []
    assert len(after(controller_watch, STARTING_S + 1, [starting])) == 1


def test_a_node_that_still_asks_for_a_secret_is_no_news(after: Callable) -> None:
    """On a busy cluster a node mounts before its own watch has the secret, and tries again."""
    controller_watch, starting = seer(), pod(1, "Pending")
    starting.spec.node_name = "cpu"
    about = {"kind": "Pod", "name": "p1", "uid": "1"}
    said = "MountVolume.SetUp failed: failed to sync secret cache: timed out waiting"
    controller_watch.reach.told = [  # type: ignore[attr-defined]
        CoreV1Event.model_validate(
            {"metadata": {"name": "e"}, "involvedObject": about, "reason": "FailedMount"}
            | {"message": said, "reportingComponent": "", "reportingInstance": ""}
        )
    ]
    assert after(controller_watch, 1, [starting]) == []
    (told,) = after(controller_watch, STARTING_S + 1, [starting])
    assert said in told


def test_a_controller_at_work_is_left_alone(after: Callable) -> None:
    """Nothing is said of one that runs, and patience begins anew with every one that did."""
    controller_watch = seer()
    at_work = pod(1, "Running", controller={"running": {}})
    assert after(controller_watch, PATIENCE_S * 2, [at_work]) == []
    assert len(after(controller_watch, PATIENCE_S - 1, [WAITS])) == 1
    assert after(controller_watch, PATIENCE_S - 1, [at_work]) == []
    assert len(after(controller_watch, PATIENCE_S - 1, [WAITS])) == 1


@pytest.mark.parametrize("what", ["a pod that waits", "no pod", "pods that die"])
def test_a_ring_at_work_is_not_ended_for_its_lost_controller(after: Callable, what: str) -> None:
    """Once the run has started, that its controller does not run is told, and no more, as long as
    a hospital is at work; when none is, patience begins.
    """
    deaths = [ended(number, 1) for number in range(MOST_DEATHS)]
    lost = {"a pod that waits": [WAITS], "no pod": [], "pods that die": deaths}[what]
    hospital = pod(2, "Running", {HOSPITAL: "north"}, hospital={"running": {}})
    controller_watch = seer(QUOTA)
    (told,) = after(controller_watch, 1, [*lost, hospital], started=True)
    assert told.endswith("; the hospitals go on without it")
    assert after(controller_watch, PATIENCE_S * 9, [*lost, hospital], started=True) == []
    with pytest.raises(PodCannotStart):
        after(controller_watch, PATIENCE_S + 1, lost, started=True)
    before, never = seer(QUOTA), [*deaths, hospital]
    with pytest.raises(PodCannotStart):
        after(before, 1, never)


def test_an_exit_code_is_that_of_the_controllers_own_container() -> None:
    """Neither a container beside it nor the pod of `helm test`, which belongs to no run, says
    how a run has ended.
    """
    test = pod(
        5,
        "Failed",
        {"app.kubernetes.io/component": "controller"},
        test={"terminated": {"exitCode": 38}},
    )
    failed = job(conditions=[{"type": "Failed", "status": "True"}])
    assert exit_code([ended(1, 41, proxy=0), test], [failed]) == 41


def workload(
    name: str, minute: int, priority: int = 0, queue: str = "research", **status: str
) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": told, "message": "1 more needed"} for kind, told in status.items()
    ]
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z"}
    return {
        "metadata": metadata,
        "spec": {"queueName": queue, "priority": priority},
        "status": {"conditions": conditions},
    }


def test_a_ring_in_a_queue_is_told_of_with_its_place(after: Callable) -> None:
    """The place counts those that wait in the same queue, by priority and age; it is told when
    it changes, with the reason.
    """
    labels = {
        "fedskd.io/hospital": "north",
        "kueue.x-k8s.io/queue-name": "research",
        "kueue.x-k8s.io/pod-group-name": "ring",
    }
    gated = pod(2, "Pending", labels)
    gated.status.conditions = [
        V1PodCondition(type="PodScheduled", status="False", reason="SchedulingGated")
    ]
    controller_watch = seer()
    controller_watch.reach.stand = [
        workload("ring", 5, QuotaReserved="False"),
        workload("older", 1),
        workload("urgent", 9, priority=1),
        workload("younger", 7),
        workload("in", 0, QuotaReserved="True"),
        workload("elsewhere", 0, queue="other"),
    ]
    at_work = pod(1, "Running", controller={"running": {}})
    assert after(controller_watch, 1, [at_work, gated]) == [
        "the ring is number 3 of 4 in queue 'research': 1 more needed"
    ]
    assert after(controller_watch, 1, [at_work, gated]) == []
    controller_watch.reach.stand = []  # it may not be read
    assert after(controller_watch, 1, [at_work, gated]) == ["the ring waits in queue 'research'"]
    assert after(controller_watch, 1, [at_work]) == []
