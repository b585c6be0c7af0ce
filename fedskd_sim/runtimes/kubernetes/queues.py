"""Where a ring stands in a queue of Kueue, for people: which place, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedskd_sim.runtimes.kubernetes.pod_group import KUEUE
from fedskd_sim.runtimes.kubernetes.pods import finding

VERSIONS = ("v1beta2", "v1beta1")
QUEUE, GROUP = f"{KUEUE}/queue-name", f"{KUEUE}/pod-group-name"


def group_of(pods: Iterable[Any]) -> tuple[str, str] | None:
    """Name the queue and the group of pods (V1Pod) that wait in one; None where none does."""
    for pod in pods:
        worn = pod.metadata.labels or {}
        if GROUP in worn and finding(pod).standing == "queued":
            return worn[QUEUE], worn[GROUP]
    return None


def place(queue: str, group: str, workloads: Iterable[dict[str, Any]]) -> str:
    """Say at which place of its queue a group is, and why it is not admitted, from the namespace's
    Workloads; none: not known.

    A queue goes by priority, then by age; queues of other namespaces may share its quota, so being
    first is no promise.
    """
    waiting = [
        one
        for one in workloads
        if one["spec"].get("queueName") == queue and not _is(one, "QuotaReserved", "Finished")
    ]
    waiting.sort(
        key=lambda one: (-one["spec"].get("priority", 0), one["metadata"]["creationTimestamp"])
    )
    for number, one in enumerate(waiting, 1):
        if one["metadata"]["name"] == group:
            reasons = [
                condition["message"]
                for condition in _conditions(one)
                if condition["type"] == "QuotaReserved"
            ]
            return f"the ring is number {number} of {len(waiting)} in queue {queue!r}" + "".join(
                f": {text}" for text in reasons
            )
    return f"the ring waits in queue {queue!r}"


def _conditions(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return list(workload.get("status", {}).get("conditions", ()))


def _is(workload: dict[str, Any], *types: str) -> bool:
    return any(one["type"] in types and one["status"] == "True" for one in _conditions(workload))
