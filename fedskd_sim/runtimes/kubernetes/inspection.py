"""What can be seen of a run in a cluster from outside: whether it goes on, what its members log,
and what holds it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes.kubernetes.controller_watch import ControllerWatch
from fedskd_sim.runtimes.kubernetes.jobs import HOSPITAL
from fedskd_sim.runtimes.kubernetes.marks import losses_in
from fedskd_sim.runtimes.kubernetes.pods import exit_code, finding, finished
from fedskd_sim.runtimes.kubernetes.reach import NO_LOG, Reach, Unreachable, translate_errors

BACKOFF_S, LONGEST_BACKOFF_S = 10, 360


def goes_on(reach: Reach, release: str) -> bool:
    """Tell whether the run is there and its controller has not ended; raises ClusterUnavailable."""
    with translate_errors():
        jobs = reach.jobs(release)
        return bool(jobs) and exit_code(reach.pods(release), jobs) is None


def lines(reach: Reach, release: str, member: str, *, follow: bool = False) -> Iterator[str]:
    """Yield the lines of a member's pods, oldest first, of the newest also those that come;
    raises ClusterUnavailable.
    """
    try:
        pods = [pod for pod in reach.pods(release) if _member(pod) == member]
        begun = [
            pod
            for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
            if pod.status.phase != "Pending"
        ]
        for pod in begun:
            try:
                last = follow and pod is begun[-1]
                yield from reach.lines(pod.metadata.name, member, follow=last)
            except ApiException as error:
                if error.status != NO_LOG:
                    raise
    except (Unreachable, ApiException) as error:
        raise ClusterUnavailable(
            f"the API server does not answer: {error}", fix="try again"
        ) from None


def remarks(reach: Reach, release: str) -> Iterator[str]:
    """Yield lines for people on pods that do not run, on Jobs that wait before another try, and
    on the run as a whole.
    """
    with translate_errors():
        pods, jobs = reach.pods(release), reach.jobs(release)
    losses = losses_in(jobs)
    lost = losses.away
    yield from _of_pods(pods)
    yield from _of_jobs(pods, [job for job in jobs if _member(job) not in lost])
    place = ControllerWatch(reach, release).place(pods)
    yield from [place] if place else []
    if lost:
        yield f"the ring goes on without {', '.join(lost)}, as on_loss of the scenario wants it"
    for name, back in losses.back.items():
        if not back.away:
            yield f"{name} was lost, and is one of the ring again from round {back.round} on"
    code = exit_code(pods, jobs) if jobs else None
    yield {
        None: "the run goes on" if jobs else "there is no such run",
        0: "the run has ended well",
    }.get(code, f"the run has ended with exit code {code}")


def _of_pods(pods: list[Any]) -> Iterator[str]:
    for pod in pods:
        found = finding(pod)
        if found.standing != "running":
            yield f"{pod.metadata.name}: {found.standing}" + (
                f", {found.text}" if found.text else ""
            )


def _of_jobs(pods: list[Any], jobs: list[Any]) -> Iterator[str]:
    active = {_member(pod) for pod in pods if pod.status.phase in ("Pending", "Running")}
    for job in jobs:
        name = _member(job)
        if job.status.failed and name not in active and not finished(job):
            pause = min(BACKOFF_S * 2 ** (job.status.failed - 1), LONGEST_BACKOFF_S)
            yield (
                f"{name}: lost {job.status.failed} pods; the cluster makes the next {pause} s "
                "after the last was lost"
            )


def _member(thing: Any) -> str:
    """Name the member whose pod or Job (V1Pod, V1Job) it is."""
    return str(thing.metadata.labels.get(HOSPITAL, CONTROLLER))
