"""What a run waits for before its hospitals are made, and what `helm test` waits for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes.client import V1Job, V1Pod
from test_kubernetes_jobs import PLAN

from fedskd_sim.errors import FedskdError, PodCannotStart
from fedskd_sim.kubernetes import inspection, run_controller
from fedskd_sim.kubernetes.job_annotations import (
    LOST,
    STARTED,
    TOOK_PART,
    VERDICT,
    WELL,
    verdict_note,
)
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.pods import exit_code
from fedskd_sim.kubernetes.run_controller import RunController
from fedskd_sim.observe.events import Error
from fedskd_sim.runtimes.supervisor import Rules

OWNER = "uid-of-this-runs-map"
PLACE = Plan(**PLAN)
TEMPLATE = {
    "metadata": {},
    "spec": {"containers": [{"name": "hospital"}], "restartPolicy": "Never"},
}


def metadata(name: str, owner: str, uid: str, *, leaving: bool = False) -> dict[str, Any]:
    reference = {"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {}
    labels = {} if name == PLACE.controller else {"fedskd.io/hospital": name[-5:]}
    return {"name": name, "uid": uid, "ownerReferences": [reference], "labels": labels, **gone}


def job(hospital: str, owner: str = OWNER, *, leaving: bool = False, **status: Any) -> V1Job:
    name = PLACE.job(hospital) if hospital else PLACE.controller
    body = {"metadata": metadata(name, owner, f"job-{owner}-{hospital}", leaving=leaving)}
    return V1Job.model_validate({**body, "status": status, "spec": {"template": TEMPLATE}})


def pod(hospital: str, owner: str = OWNER, *, gated: bool = False) -> V1Pod:
    waits = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    return V1Pod.model_validate(
        {
            "metadata": metadata(f"p-{hospital}", f"job-{owner}-{hospital}", "p"),
            "spec": TEMPLATE["spec"],
            "status": {
                "phase": "Pending" if gated else "Running",
                "conditions": [waits] if gated else [],
            },
        }
    )


@dataclass
class Cluster:
    """A cluster that changes while somebody waits; its last state stays."""

    states: list[tuple[list[V1Job], list[V1Pod]]]
    selector: str = "run"
    time: float = 0.0
    told: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.states = self.states[1:] or self.states

    def jobs(self) -> list[V1Job]:
        return self.states[0][0]

    def pods_of(self, _selector: str) -> list[V1Pod]:
        return self.states[0][1]

    def event(self, event: Any) -> None:
        self.told.append(event.reason)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a cluster whose states follow each other with every look."""

    def made(*states: tuple[list[V1Job], list[V1Pod]]) -> Cluster:
        cluster = Cluster([*states])
        for module in (run_controller, inspection):
            monkeypatch.setattr(module, "clock", cluster)
        return cluster

    return made


def wait(cluster: Cluster) -> None:
    run_controller.await_gone(cluster, PLACE, OWNER, cluster)  # type: ignore[arg-type]


def test_a_run_that_goes_on_waits_for_jobs_of_its_own_names(during: Any) -> None:
    """Jobs of the same names that the run's last installation left, and those that are being
    deleted, are waited for; then their pods are.
    """
    left, leaving = job("north", "old"), job("south", "old", leaving=True)
    cluster = during(
        ([job(""), left, leaving], [pod("north", "old")]),
        ([job(""), leaving], [pod("north", "old")]),
        ([job("")], [pod("north", "old")]),
        ([job("")], []),
    )
    wait(cluster)
    assert cluster.time == 3 * run_controller.EARLIER_LOOK_S
    assert cluster.told == [
        f"1 pods and {count} Jobs of an earlier run have not gone yet" for count in (2, 1, 0)
    ]


def test_what_this_controller_made_before_its_restart_is_its_own(during: Any) -> None:
    """Neither its Jobs nor their pods are waited for."""
    cluster = during(([job(""), job("north"), job("south")], [pod("north"), pod("south")]))
    wait(cluster)
    assert cluster.told == []


def test_jobs_that_do_not_go_are_named(during: Any) -> None:
    """After the time until all must be up the run ends with their names; pods alone are left."""
    with pytest.raises(PodCannotStart, match="rel-12345678-north, rel-12345678-south") as caught:
        wait(during(([job("south", "old", leaving=True), job("north", "old")], [])))
    assert "kubectl delete job -n ns rel-12345678-north rel-12345678-south" in str(caught.value)
    cluster = during(([], [pod("north", "old")]))
    wait(cluster)
    assert cluster.time == pytest.approx(
        PLACE.startup_seconds, abs=2 * run_controller.EARLIER_LOOK_S
    )


def test_jobs_of_somebody_else_are_not_taken_for_own_ones(during: Any) -> None:
    """A name that is taken by a Job without the run's labels is told of."""
    cluster = during(([job("north")], []))
    run_controller.check_own(cluster, PLACE, ("north",), OWNER)
    with pytest.raises(PodCannotStart, match="rel-12345678-south"):
        run_controller.check_own(cluster, PLACE, ("north", "south"), OWNER)


def test_helm_test_does_not_count_the_waiting_in_a_queue(during: Any) -> None:
    """A ring in a queue may wait for longer than it may take to start; then its time begins."""
    plan = replace(PLACE, startup_seconds=10)
    queued = ([job("", ready=1), job("north")], [pod("north", gated=True)])
    up = ([job("", ready=1), job("north", ready=1)], [pod("north")])
    slow = ([job("", ready=1), job("north")], [pod("north")])
    cluster = during(*[queued] * 50, up)
    assert inspection.wait_until_up(cluster, plan) == (
        "1 hospitals and the controller are up or done"
    )
    assert cluster.time == 50
    cluster = during(*[queued] * 50, slow)
    with pytest.raises(PodCannotStart, match="not up: north"):
        inspection.wait_until_up(cluster, plan)
    assert cluster.time == pytest.approx(60, abs=2 * inspection.LOOK_S)


def test_helm_test_does_not_wait_for_days(during: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day in a queue its pod, which nobody may wait for any more, ends."""
    monkeypatch.setattr(inspection, "QUEUED_S", 100.0)
    cluster = during(([job("", ready=1), job("north")], [pod("north", gated=True)]))
    with pytest.raises(PodCannotStart, match="not up: north"):
        inspection.wait_until_up(cluster, PLACE)
    assert cluster.time == pytest.approx(100, abs=2 * inspection.LOOK_S)


def test_helm_test_names_who_has_failed(during: Any) -> None:
    """A failed controller is called so, a failed hospital by its name."""
    cluster = during(([job("", failed=1), job("north", failed=2), job("south", ready=1)], []))
    with pytest.raises(PodCannotStart, match="failed: controller, north"):
        inspection.wait_until_up(cluster, PLACE)


def test_helm_test_does_not_miss_who_is_lost(during: Any) -> None:
    """A hospital without which the ring goes on has neither failed nor to come up, and is told."""
    jobs = [job("", ready=1), job("north", ready=1), job("south", failed=2), job("other")]
    jobs[0].metadata.annotations = {LOST: '{"south": 0, "other": 3}'}
    said = inspection.wait_until_up(during((jobs, [])), PLACE)
    assert said == "1 hospitals and the controller are up or done, without other, south"


@dataclass
class Ended(Cluster):
    """A cluster whose controller has noted how the run ended, and has died since."""

    calls: Counter[str] = field(default_factory=Counter)
    suspended: list[str] = field(default_factory=list)
    noted: list[Error] = field(default_factory=list)

    def pods(self) -> Iterator[Any]:
        return iter(())

    def suspend(self, job: str) -> None:
        self.suspended.append(job)

    def close(self) -> None:
        """Watch nothing more: there was nothing to watch."""

    def end(self, _outcome: str, _reason: str, verdict: Error) -> None:
        self.noted.append(verdict)


def end_again(verdict: Error, monkeypatch: pytest.MonkeyPatch) -> tuple[Ended, list[Any]]:
    """Be the next controller of a run of north and south that has ended so; both still have a pod,
    of which that of south came after the start.
    """
    notes = {STARTED: "1.0", TOOK_PART: json.dumps({"north": "pod-of-n", "south": "another"})}
    jobs = [job(name) for name in ("", "north", "south")]
    jobs[0].metadata.annotations = {**notes, **verdict_note(verdict)}
    pods = [pod("north"), pod("south")]
    for one, name in zip(pods, ("north", "south"), strict=True):
        one.metadata.uid, one.metadata.labels = f"pod-of-{name}", {"fedskd.io/hospital": name}
        one.metadata.creation_timestamp = datetime(2026, 1, 1, tzinfo=UTC)
    cluster, said = Ended([(jobs, pods)]), list[Any]()
    monkeypatch.setattr(run_controller, "clock", cluster)
    loaded = cast("Any", SimpleNamespace(place_error=lambda error: error))
    loaded.scenario = SimpleNamespace(timeouts=SimpleNamespace(goodbye=5.0))
    log = cast("Any", SimpleNamespace(event=said.append))
    tracker = PodTracker(Rules(("north", "south")), log)
    place = replace(PLACE, hold_seconds=60)
    controller = RunController(
        place, loaded, log, cast("Any", cluster), tracker, cast("Any", cluster)
    )
    if verdict.code:
        with pytest.raises(FedskdError, match="no node"):
            controller.control(cast("Any", None))
    else:
        controller.control(cast("Any", None))
    return cluster, [one for one in said if isinstance(one, Error)]


def test_a_controller_that_finds_a_verdict_concludes_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It makes and releases no Job: a failed run is not begun anew, and one that has ended well
    stays so. A hospital that took part may hold what it has for its time, any other is stopped.
    """
    verdict = Error(PodCannotStart.exit_code, own=True, message="no node", fix="ask for less")
    cluster, (said,) = end_again(verdict, monkeypatch)
    assert (said, cluster.noted) == (verdict, [verdict])
    assert cluster.suspended == [PLACE.job("south"), PLACE.job("north"), PLACE.job("south")]
    assert cluster.time >= 60
    cluster, errors = end_again(WELL, monkeypatch)
    assert (errors, cluster.noted, cluster.suspended, cluster.time) == ([], [], [], 0)


@pytest.mark.parametrize(("verdict", "code"), [(WELL, 0), (Error(38, own=True, message="no"), 38)])
def test_a_run_is_over_with_its_verdict(verdict: Error, code: int) -> None:
    """Whoever waits need not wait for the controller's pod, and its exit code may be another."""
    going = job("", failed=1)
    assert exit_code([], [going]) is None
    going.metadata.annotations = verdict_note(verdict)
    assert exit_code([], [going]) == code
    going.metadata.annotations = {VERDICT: "of another version"}
    assert exit_code([], [going]) is None
