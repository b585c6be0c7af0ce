"""What a pod's state means for the run: it comes, it may come, it will never come, it works, it has ended; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fedskd_sim.runtimes.kubernetes.jobs import HOSPITAL

Standing = Literal["pending", "hopeless", "unschedulable", "running", "succeeded", "failed", "leaving"]
ENDED = ("Succeeded", "Failed")
HOPELESS = {
    "ErrImageNeverPull": "its image is not on the node and may not be pulled",
    "InvalidImageName": "its image has no valid name",
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "CreateContainerConfigError": "something it mounts or reads does not exist",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A pod's standing, in words and with the exit code of its container where there is one.

    ``unschedulable`` is a pod that no node could hold even if it were empty; an autoscaler may still bring one.
    """

    standing: Standing
    text: str = ""
    code: int | None = None


def finding(pod: Any) -> Finding:
    """Judge one pod (V1Pod)."""
    status = pod.status
    for state in _states(pod):
        if state.terminated and status.phase == "Failed":
            return Finding("failed", _ending(state.terminated, status), state.terminated.exit_code)
        if state.waiting and state.waiting.reason in HOPELESS:
            return Finding("hopeless", f"{HOPELESS[state.waiting.reason]}: {state.waiting.message or state.waiting.reason}")
    if status.phase in ("Succeeded", "Failed"):
        text = status.message or status.reason or "its pod failed"
        return Finding("succeeded", code=0) if status.phase == "Succeeded" else Finding("failed", text)
    if pod.metadata.deletion_timestamp:
        return Finding("leaving", "its pod is being deleted" + _disruption(status))
    if status.phase == "Running":
        return Finding("running")
    return _waiting(status)


def newest(pods: Iterable[Any]) -> dict[str, Any]:
    """Give the pod (V1Pod) that stands for each hospital now, by name: the last one made, of two of one second one at work."""
    of_hospitals = [pod for pod in pods if HOSPITAL in (pod.metadata.labels or {})]
    of_hospitals.sort(key=lambda pod: (pod.metadata.creation_timestamp, pod.status.phase not in ENDED))
    return {pod.metadata.labels[HOSPITAL]: pod for pod in of_hospitals}


def _waiting(status: Any) -> Finding:
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            text = f"no node can take it: {condition.message or condition.reason}"
            return Finding("unschedulable" if nowhere(condition.message or "") else "pending", text)
    return Finding("pending", "its containers are being made")


def nowhere(message: str) -> bool:
    """Read from the scheduler's message whether every node is ruled out for good, not only full.

    The scheduler also says for how many nodes making room would not help; with "preemption: 0/2 nodes are available: 2 Preemption
    is not helpful for scheduling." these are all of them.
    """
    nodes = re.search(r"preemption: 0/(\d+) nodes are available", message)
    beyond = re.search(r"(\d+) Preemption is not helpful for scheduling", message)
    return bool(nodes and beyond and nodes.group(1) == beyond.group(1))


def _states(pod: Any) -> Iterator[Any]:
    for status in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
        if status.state and not (status.state.terminated and status.state.terminated.exit_code == 0):
            yield status.state


def _ending(state: Any, status: Any) -> str:
    reason = f" ({state.reason})" if state.reason and state.reason != "Error" else ""
    return f"its container ended with exit code {state.exit_code}{reason}" + _disruption(status)


def _disruption(status: Any) -> str:
    for condition in status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f": {condition.message or condition.reason}"
    return ""
