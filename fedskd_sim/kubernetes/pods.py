"""What a pod's state means for the run: it comes, it may come, it will never come, it works, it
has ended; pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes.job_annotations import verdict_in
from fedskd_sim.kubernetes.jobs import FINAL_CODES, HOSPITAL, TAKEN
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes.supervisor import Finding, Standing

ENDED = ("Succeeded", "Failed")
STARTING = "its containers are being made"
HOPELESS = {
    "ErrImageNeverPull": "its image is not on the node and may not be pulled",
    "InvalidImageName": "its image has no valid name",
}
"""Why a container waits that no further try would let run."""
STUCK = {
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "CreateContainerConfigError": "something it mounts or reads does not exist",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
"""Why one waits that the cluster tries to run again: a registry may be slow, an object may still be
made."""
FORBIDDEN = (
    "violates PodSecurity",
    "security context constraint",
    "is invalid",
    "forbidden: maximum",
    "forbidden: minimum",
)
"""What a refusal to make a pod says that will be said again every time."""
FETCH = "fetch"
OWN = ("hospital", CONTROLLER, FETCH)
"""Containers whose end is that of the member; a sidecar's says nothing."""
FIXES = {
    "(OOMKilled)": "give it more memory: resources.memory of that hospital in the scenario",
    f"container {FETCH!r}": "see hospitals.defaults.data.fetch of the chart's values, or of that "
    "hospital's own",
    "its image": "correct images.hospital of the chart's values, or bring the image to where the "
    "nodes find it",
    "does not exist": "make it, or correct its name in the chart's values",
    "persistentvolumeclaim": "make the claim, or correct its name in the chart's values",
    "no node can take it": "ask for less, or correct where the pod may go: resources of the "
    "scenario, hospitals.defaults of the chart's values",
    "cannot be created": "change what the cluster refuses: resources of the scenario, "
    "hospitals.defaults of the chart's values",
}
"""What to do, by what the words for an end have in them; the first that fits."""
NO_CLAIM = re.compile(r'persistentvolumeclaim "[^"]*" not found')
"""What a scheduler says where a claim is not there; it may still be made."""
WORDS = 300
"""So many characters of what a container has said last are told."""
FOR_A_WHILE = ("were unschedulable", "untolerated taint {node.kubernetes.io/")
"""What a scheduler says of nodes that are cordoned, lost or short of something: they may come
back."""


def finding(pod: Any) -> Finding:
    """Judge one pod (V1Pod)."""
    status = pod.status
    for name, state in _states(pod):
        if state.terminated and status.phase == "Failed" and name in OWN:
            return _failed(pod, name, state.terminated)
        if state.waiting and state.waiting.reason in HOPELESS | STUCK:
            standing: Standing = "hopeless" if state.waiting.reason in HOPELESS else "stuck"
            text = (HOPELESS | STUCK)[state.waiting.reason]
            return Finding(standing, f"{text}: {state.waiting.message or state.waiting.reason}")
    if status.phase in ("Succeeded", "Failed"):
        text = status.message or status.reason or "its pod failed"
        return (
            Finding("succeeded", code=0) if status.phase == "Succeeded" else Finding("failed", text)
        )
    if pod.metadata.deletion_timestamp:
        return Finding("leaving", "its pod is being deleted" + _disruption(status))
    if status.phase == "Running":
        return Finding("running")
    return _waiting(status)


def refusal(text: str) -> Finding:
    """Judge why a pod could not even be made, in the cluster's words: a quota may become free, a
    webhook may come back.
    """
    told = f"its pod cannot be created: {text}"
    if any(words in text for words in FORBIDDEN):
        return Finding("hopeless", told)
    return Finding("pending" if "exceeded quota" in text else "stuck", told)


def fix_of(reason: str) -> str:
    """Return what to do about a hospital's end, from the words for it."""
    for words, fix in FIXES.items():
        if words in reason:
            return fix
    return "see the log of that hospital"


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


def _waiting(status: Any) -> Finding:
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.reason == "SchedulingGated":
            return Finding("queued", "waits in a queue of the cluster")
        if condition.type == "PodScheduled" and condition.status == "False":
            text = f"no node can take it: {condition.message or condition.reason}"
            if NO_CLAIM.search(text):
                return Finding("stuck", text)
            return Finding("unschedulable" if nowhere(condition.message or "") else "pending", text)
    return Finding("pending", STARTING)


def nowhere(message: str) -> bool:
    """Read from the scheduler's message whether every node is ruled out for good, not only full.

    The scheduler also says for how many nodes making room would not help; with "preemption: 0/2
    nodes are available: 2 Preemption is not helpful for scheduling." these are all of them.
    """
    nodes = re.search(r"preemption: 0/(\d+) nodes are available", message)
    beyond = re.search(r"(\d+) Preemption is not helpful for scheduling", message)
    lasting = not any(words in message for words in FOR_A_WHILE)
    return bool(lasting and nodes and beyond and nodes.group(1) == beyond.group(1))


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
    reason = f" ({state.reason})" if state.reason and state.reason != "Error" else ""
    taken, said = _disruption(pod.status), ""
    if name == FETCH or state.exit_code not in FINAL_CODES:
        said = last_words(state.message or "")
    text = f"its {which} ended with exit code {state.exit_code}{reason}{said}{taken}"
    alone = name if not (taken or pod.metadata.deletion_timestamp) else ""
    code = None if name == FETCH else state.exit_code
    return Finding("failed", text, code, alone, code in FINAL_CODES, name == FETCH)


def last_words(log: str) -> str:
    """Return the last line of the end of a container's log that is for people, behind a colon."""
    lines = [line.strip() for line in log.splitlines() if not line.startswith("{")]
    told = next((line for line in reversed(lines) if line), "")
    return f": {told[:WORDS]}" if told else ""


def _disruption(status: Any) -> str:
    for condition in status.conditions or ():
        if condition.type in TAKEN and condition.status == "True":
            return f": {condition.message or condition.reason}"
    return ""
