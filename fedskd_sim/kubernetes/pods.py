"""What a pod's state means for the run: it comes, it may come, it will never come, it works, it
has ended; pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes.job_annotations import verdict_in
from fedskd_sim.kubernetes.jobs import FINAL_CODES, HOSPITAL, TAKEN
from fedskd_sim.kubernetes.reasons import (
    NO_NODE,
    QUEUED,
    STARTING,
    UNMADE,
    answer,
    last_event,
    reason,
)
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes.supervisor import Finding

ENDED = ("Succeeded", "Failed")
FETCH = "fetch"
OWN = ("hospital", CONTROLLER, FETCH)
"""Containers whose end is that of the member; a sidecar's says nothing."""
UNBOUND = "unbound immediate PersistentVolumeClaims"
WORDS = 300
"""So many characters of what a container has said last are told."""


def finding(pod: Any, events: Collection[Any] = ()) -> Finding:
    """Judge one pod (V1Pod), and where it does not start, by events (CoreV1Event) too."""
    status = pod.status
    for name, state in _states(pod):
        if state.terminated and status.phase == "Failed" and name in OWN:
            return _failed(pod, name, state.terminated)
        row = reason("container", state.waiting.reason or "") if state.waiting else None
        if row and state.waiting:
            text = f"{row.told}: {state.waiting.message or state.waiting.reason}"
            return Finding(row.standing, text)
    if status.phase in ENDED:
        well = status.phase == "Succeeded"
        text = _taken(pod) or "its pod failed"
        return Finding("succeeded", code=0) if well else Finding("failed", text)
    if pod.metadata.deletion_timestamp:
        taken = _disruption(status)
        return Finding("leaving", "its pod is being deleted" + (f": {taken}" if taken else ""))
    if status.phase == "Running":
        return Finding("running")
    return _waiting(pod, events)


def refusal(text: str) -> Finding:
    """Judge why a pod could not even be made, in the cluster's words."""
    return Finding(answer("job", text).standing, f"{UNMADE}: {text}")


def finished(job: Any) -> bool:
    """Return whether a Job (V1Job) has ended, well or not; other conditions say nothing of that."""
    return any(
        one.type in ("Complete", "Failed") and one.status == "True"
        for one in job.status.conditions or ()
    )


def of_controller(pods: Iterable[Any]) -> list[Any]:
    """Choose the pods (V1Pod) of a run's controller; that of `helm test`, which has no run, is
    none.
    """
    labels = ((pod, pod.metadata.labels or {}) for pod in pods)
    return [
        pod
        for pod, worn in labels
        if worn.get("app.kubernetes.io/component") == CONTROLLER and "fedskd.io/run" in worn
    ]


def exit_code(pods: list[Any], jobs: list[Any]) -> int | None:
    """Read a run's exit code from its controller; None while it goes on; raises
    ClusterUnavailable if it is there no more.
    """
    controllers = [job for job in jobs if HOSPITAL not in job.metadata.labels]
    if jobs and not controllers:
        return None
    if not jobs:
        raise ClusterUnavailable("the run has been removed from the cluster", fix="launch it again")
    last = max(controllers, key=lambda job: job.metadata.creation_timestamp)
    if verdict := verdict_in([last]):  # its pod may stay a while, until hospitals have left
        return verdict.code
    if last.status.succeeded:
        return 0
    if not any(
        one.type == "Failed" and one.status == "True" for one in last.status.conditions or ()
    ):
        return None
    codes = [
        status.state.terminated.exit_code
        for pod in sorted(of_controller(pods), key=lambda pod: pod.metadata.creation_timestamp)
        for status in pod.status.container_statuses or ()
        if status.name == CONTROLLER and status.state.terminated
    ]
    return codes[-1] if codes else 1


def newest(pods: Iterable[Any]) -> dict[str, Any]:
    """Return the pod (V1Pod) that stands for each hospital now, by name: the last one made, of two
    of one second one at work.
    """
    of_hospitals = [pod for pod in pods if HOSPITAL in (pod.metadata.labels or {})]
    of_hospitals.sort(
        key=lambda pod: (pod.metadata.creation_timestamp, pod.status.phase not in ENDED)
    )
    return {pod.metadata.labels[HOSPITAL]: pod for pod in of_hospitals}


def _waiting(pod: Any, events: Collection[Any]) -> Finding:
    """Judge a pod that was not started: the scheduler's word, and what events add to it."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.reason == "SchedulingGated":
            return Finding("queued", QUEUED)
        if condition.type == "PodScheduled" and condition.status == "False":
            said = condition.message or condition.reason or ""
            told = last_event(pod, events, "PersistentVolumeClaim") if UNBOUND in said else None
            if told:
                return Finding(told.reason.standing, f"{NO_NODE}: {told.text}")
            standing = answer("scheduler", said).standing
            if standing == "unschedulable" and not nowhere(said):
                standing = "pending"
            return Finding(standing, f"{NO_NODE}: {said}")
    told = last_event(pod, events, "Pod", "Node")
    return Finding(told.reason.standing, told.text) if told else Finding("pending", STARTING)


def nowhere(message: str) -> bool:
    """Read from the scheduler's message whether every node is ruled out for good, not only full.

    The scheduler also says for how many nodes making room would not help; with "preemption: 0/2
    nodes are available: 2 Preemption is not helpful for scheduling." these are all of them.
    """
    nodes = re.search(r"preemption: 0/(\d+) nodes are available", message)
    beyond = re.search(r"(\d+) Preemption is not helpful for scheduling", message)
    return bool(nodes and beyond and nodes.group(1) == beyond.group(1))


def _states(pod: Any) -> Iterator[tuple[str, Any]]:
    for status in [
        *(pod.status.init_container_statuses or ()),
        *(pod.status.container_statuses or ()),
    ]:
        if status.state and not (
            status.state.terminated and status.state.terminated.exit_code == 0
        ):
            yield status.name, status.state


def _failed(pod: Any, name: str, state: Any) -> Finding:
    """Describe a container's end, with what it has said last where that is no word of ours."""
    which = f"container {name!r}" if name == FETCH else "container"
    how = f" ({state.reason})" if state.reason and state.reason != "Error" else ""
    taken, said = _taken(pod), ""
    if name == FETCH or state.exit_code not in FINAL_CODES:
        said = last_words(state.message or "")
    text = f"its {which} ended with exit code {state.exit_code}{how}{said}"
    alone = "" if taken else name
    text += f": {taken}" if taken else ""
    code = None if name == FETCH else state.exit_code
    return Finding("failed", text, code, alone, code in FINAL_CODES, name == FETCH)


def last_words(log: str) -> str:
    """Return the last line of the end of a container's log that is for people, behind a colon."""
    lines = [line.strip() for line in log.splitlines() if not line.startswith("{")]
    told = next((line for line in reversed(lines) if line), "")
    return f": {told[:WORDS]}" if told else ""


def _taken(pod: Any) -> str:
    """Return why a pod ended that did not by itself, in the cluster's words; '' where it did."""
    status = pod.status
    said = _disruption(status) or (status.message or "").strip() or status.reason or ""
    if not said:
        return "its pod was deleted" if pod.metadata.deletion_timestamp else ""
    row = reason("end", f"{status.reason}: {said}")
    return f"{row.told}: {said}" if row and row.told else said


def _disruption(status: Any) -> str:
    for condition in status.conditions or ():
        if condition.type in TAKEN and condition.status == "True":
            return str(condition.message or condition.reason)
    return ""
