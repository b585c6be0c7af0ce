"""What `helm test` asks: whether every member of a run is up or done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import PodCannotStart
from fedskd_sim.runtimes.kubernetes.cluster import Cluster
from fedskd_sim.runtimes.kubernetes.jobs import HOSPITAL
from fedskd_sim.runtimes.kubernetes.marks import losses_in
from fedskd_sim.runtimes.kubernetes.plan import Plan
from fedskd_sim.runtimes.kubernetes.pods import finding

LOOK_S = 1.0
QUEUED_S = 24 * 3600.0
"""Helm leaves the test's pod behind when its own time is over; a day in a queue ends that, too."""


def check(folder: Path) -> str:
    """Say in one line how the run's Jobs are, once all are up or done; waiting in a queue counts
    as no time, for a day at most.

    Args:
        folder: the ConfigMap as mounted.

    Raises:
        PodCannotStart: hospitals are missing or have failed.

    """
    plan = Plan.read(folder / "plan.json")
    selector = f"app.kubernetes.io/instance={plan.release},fedskd.io/run={plan.run}"
    return wait_until_up(Cluster(plan.namespace, selector), plan)


def wait_until_up(cluster: Cluster, plan: Plan) -> str:
    """Wait for all Jobs of a run; returns and raises as `check` does."""
    left, begun = plan.startup_seconds, clock.now()
    looked = begun
    while True:
        jobs = cluster.jobs()
        lost = losses_in(jobs).away
        found = {item.metadata.labels.get(HOSPITAL, ""): item.status for item in jobs}
        found = {name: status for name, status in found.items() if name not in lost}
        failed = [
            name
            for name, status in found.items()
            if status.failed and not (status.succeeded or status.ready)
        ]
        if failed:
            raise PodCannotStart(
                f"failed: {_list(failed)}",
                fix=f"kubectl logs -n {plan.namespace} -l {HOSPITAL}={min(failed)}",
            )
        waiting = [name for name, status in found.items() if not (status.ready or status.succeeded)]
        if len(found) > 1 and not waiting:
            left_out = f", without {_list([*lost])}" if lost else ""
            return f"{len(found) - 1} hospitals and the controller are up or done{left_out}"
        now = clock.now()
        left -= 0.0 if _queued(cluster) else now - looked
        looked = now
        if left < 0 or now - begun > QUEUED_S:
            raise PodCannotStart(
                f"not up: {_list(waiting)}", fix=f"kubectl get pods -n {plan.namespace}"
            )
        clock.sleep(LOOK_S)


def _queued(cluster: Cluster) -> bool:
    pods: list[Any] = cluster.pods_of(cluster.selector)
    return any(finding(pod).standing == "queued" for pod in pods)


def _list(names: list[str]) -> str:
    return ", ".join(sorted(name or "controller" for name in names))
