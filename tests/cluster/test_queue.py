"""A ring in a queue of Kueue. Skipped where the cluster has none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from bed import IMAGES, KEPT, Bed, Run, call, cli, kubectl, placebo, read, until

NAME = "fedskd-test"
START_S = 60


@pytest.fixture
def queue(bed: Bed) -> Iterator[Bed]:
    """Make a queue with room for less than a ring of three; what is not in the test's namespace is
    called as that, since it may outlast the test.
    """
    if call("kubectl", "get", "crd", "clusterqueues.kueue.x-k8s.io").returncode:
        pytest.skip("Kueue is not installed")
    # where Kueue is for the tests alone, it looks at these namespaces only
    kubectl("label", "namespace", bed.namespace, "fedskd.io/queues=yes")
    version = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    room = [{"name": "cpu", "nominalQuota": "1"}, {"name": "memory", "nominalQuota": "8Gi"}]
    groups = [
        {
            "coveredResources": ["cpu", "memory"],
            "flavors": [{"name": bed.namespace, "resources": room}],
        }
    ]
    spec = {"namespaceSelector": {}, "resourceGroups": groups}
    bodies = [
        {**version, "kind": "ResourceFlavor", "metadata": {"name": bed.namespace}},
        {
            **version,
            "kind": "ClusterQueue",
            "metadata": {"name": bed.namespace},
            "spec": spec,
        },
        {
            **version,
            "kind": "LocalQueue",
            "metadata": {"name": NAME, "namespace": bed.namespace},
            "spec": {"clusterQueue": bed.namespace},
        },
    ]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
    until(  # Kueue's own pod may be on its way to another node
        "word of Kueue", lambda: not call("kubectl", "apply", "-f", "-", given=given).returncode
    )
    yield bed
    kubectl("delete", "localqueue", NAME, "-n", bed.namespace)
    kubectl("delete", "clusterqueue", bed.namespace, "--wait=false")
    kubectl("delete", "resourceflavor", bed.namespace, "--wait=false")


def gated(run: Run) -> list[bool]:
    return [bool(pod["spec"].get("schedulingGates")) for pod in run.pods()]


def test_a_ring_is_admitted_as_a_whole_and_waiting_is_no_start_up(queue: Bed) -> None:
    """Of a ring that the quota holds in part no pod runs, longer than it may take to start; with
    room for one, two run in turn.
    """
    asks = {"requests": {"cpu": "400m", "memory": "20Mi"}}
    run = queue.install(placebo(3), asks, kueue={"queue": NAME}, startupSeconds=START_S)
    until("three pods that wait", lambda: gated(run) == [True] * 3)
    began = run.heard("pod", standing="queued")["time"]
    later = queue.install(placebo(3), asks, kueue={"queue": NAME})
    until("another ring that waits", lambda: gated(later) == [True] * 3)
    path = "/spec/resourceGroups/0/flavors/0/resources/0/nominalQuota"
    until(
        "more time than there is to start",
        lambda: later.events("pod", standing="queued") and _age(queue, run) > START_S + 10,
    )
    assert gated(run) == [True] * 3
    kubectl(
        "patch",
        "clusterqueue",
        queue.namespace,
        "--type",
        "json",
        "-p",
        json.dumps([{"op": "replace", "path": path, "value": "2"}]),
    )
    assert run.code() == 0
    assert run.heard("start")["time"] - began > START_S
    assert later.code() == 0


def _age(bed: Bed, run: Run) -> float:
    """Measure by the cluster's clock how long ago a run's controller was made."""
    now = bed.kubectl(
        "create",
        "configmap",
        "now",
        "--dry-run=server",
        "-o",
        "jsonpath={.metadata.creationTimestamp}",
    )
    made = run.controllers()[0]["metadata"]["creationTimestamp"]
    return (datetime.fromisoformat(now) - datetime.fromisoformat(made)).total_seconds()


LITTLE = {"requests": {"cpu": "100m", "memory": "20Mi"}, **KEPT}


def skipping(after: float, **more: object) -> str:
    """Write a scenario that goes on without whoever is not heard of for so long."""
    scenario = json.loads(placebo(3, hop=200, session_seconds=1, **more))
    return json.dumps(scenario | {"on_loss": {"name": "skip", "after": after}})


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize(("what", "code"), [("abort", 42), ("full_disk", 0)])
def test_a_ring_on_claims_that_has_ended_gives_its_room_back(
    what: str, code: int, queue: Bed
) -> None:
    """What may wait in the queue again after it was preempted holds nothing there once it has
    failed, nor once it has ended well without one of its hospitals.
    """
    ends = [{"hospital": "h1", "what": what, "round": 1, "hop": 1}]
    run = queue.install(skipping(60, faults=ends, rounds=3), LITTLE, kueue={"queue": NAME})

    def reserving() -> str:
        count = "jsonpath={.status.reservingWorkloads}"
        return queue.kubectl("get", "localqueue", NAME, "-o", count)

    until("a ring with room in the queue", lambda: reserving() == "1")
    assert run.code() == code
    until("an empty queue", lambda: reserving() == "0")


PAIR = """\
name: pair
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo, rounds: 1}
variants:
  small: {algorithm: {name: placebo, buffer_bytes: 8}}
  large: {algorithm: {name: placebo, buffer_bytes: 16}}
"""


def test_the_queue_admits_the_rings_of_a_comparison(queue: Bed, tmp_path: Path) -> None:
    """Each is one workload. With room for one of them, one is admitted at a time while others
    wait, and all end.
    """
    scenario, values = tmp_path / "pair.yaml", tmp_path / "values.json"
    scenario.write_text(PAIR, "utf-8")
    little = {"requests": {"cpu": "400m", "memory": "20Mi"}}
    given = {"hospitals": {"defaults": little}, "kueue": {"queue": NAME}, "images": IMAGES}
    values.write_text(
        json.dumps(given | {"lingerSeconds": 0, "terminationGracePeriodSeconds": 5}), "utf-8"
    )
    admitted, most, waited, over = set[str](), 0, 0, Event()

    def look() -> None:
        nonlocal most, waited
        path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{queue.namespace}/workloads"
        while not over.wait(0.5):
            found: list[Any] = json.loads(read(path) or "{}").get("items") or []
            room = [one["metadata"]["name"] for one in found if _has_room(one)]
            admitted.update(room)
            most, waited = max(most, len(room)), max(waited, len(found) - len(room))

    looking = Thread(target=look)
    looking.start()
    try:
        asked = ("compare", scenario, "--algorithms", "small,large", "--seeds", 2)
        place = ("--on", "kubernetes", "-n", queue.namespace, "--values", values)
        done = cli(*asked, *place, "--out", tmp_path / "out")
    finally:
        over.set()
        looking.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": done") == 4
    assert len(admitted) == 4
    assert most == 1
    assert waited >= 1


def _has_room(workload: dict[str, Any]) -> bool:
    """Return whether a workload holds a part of the queue's quota."""
    said = {one["type"]: one["status"] for one in workload.get("status", {}).get("conditions", ())}
    return said.get("QuotaReserved") == "True" and said.get("Finished") != "True"


@pytest.mark.skipif(not os.environ.get("FEDSKD_TEST_LONG"), reason="FEDSKD_TEST_LONG is not set")
@pytest.mark.usefixtures("claims")
def test_time_in_a_queue_is_no_silence(queue: Bed) -> None:
    """A ring that the queue takes its room from for longer than any silence may last loses nobody,
    and ends well.
    """
    run = queue.install(skipping(60, rounds=12), LITTLE, kueue={"queue": NAME})
    run.heard("progress", round=2)

    def stop(policy: str) -> None:
        body = json.dumps({"spec": {"stopPolicy": policy}})
        queue.kubectl("patch", "localqueue", NAME, "--type", "merge", "-p", body)

    stop("HoldAndDrain")
    until("three pods that wait", lambda: gated(run) == [True] * 3)
    since = max(event["time"] for event in run.events("pod", standing="queued"))
    until("more time than a silence may last", lambda: time.time() - since > 65)
    stop("None")
    assert run.code() == 0
    assert not run.events("lost")
