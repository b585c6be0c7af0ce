"""What can be seen of a run in a cluster from outside: whether it goes on, what its members log,
what holds it up, whether its controller still lives, and whether every member is up or done, as
``helm test`` asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable, PodCannotStart
from fedskd_sim.kubernetes.afterwards import AGAIN
from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.job_annotations import STARTED, losses_in
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pods import (
    exit_code,
    finding,
    finished,
    newest,
    of_controller,
    refusal,
)
from fedskd_sim.kubernetes.reach import (
    NO_LOG,
    Reach,
    Unreachable,
    group_of,
    place,
    translate_errors,
)
from fedskd_sim.kubernetes.reasons import STARTING, fix_of
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes.supervisor import MOST_DEATHS, Finding

PATIENCE_S = 300.0
"""How long the controller may be without a pod that runs, where the cluster tries again."""
STARTING_S = 20.0
"""A pod whose containers have been made for so long is told of."""
POD = r'pods "[^"]+"'
"""The name that the cluster gives every try."""


@dataclass
class ControllerWatch:
    """Tells why a run's controller does not run, and when there is no more hope that it will."""

    reach: Reach
    release: str
    _told: set[str] = field(default_factory=set)
    _place: str = ""
    _since: float | None = None
    _alone: float = 0.0
    """When hospitals were last seen at work without their controller."""

    def look(self, pods: list[Any], jobs: list[Any]) -> Iterator[Logged]:
        """Yield what has changed, for people.

        A ring that has been started goes on without its controller, whose next pod takes it over:
        while any hospital is at work, nothing ends the run from here.

        Raises:
            PodCannotStart: the controller will never run, or has not for long.

        """
        place = self.place(pods)
        if place != self._place and place:
            yield Logged(clock.unix(), "", events.WaitingEvent(place))
        self._place = place
        found = self.diagnose(pods, jobs)
        if found is None:
            self._told, self._since = set(), None
            return
        self._since = clock.now() if self._since is None else self._since
        alone = started(jobs) and at_work(pods)
        words = re.sub(POD, "pods", found.text)
        starting = found.text.startswith(STARTING) and clock.now() - self._since <= STARTING_S
        if words not in self._told and not starting:
            self._told.add(words)
            text = f"the controller does not run: {found.text}"
            text += "; the hospitals go on without it" if alone else ""
            yield Logged(clock.unix(), "", events.WaitingEvent(text))
        self._alone = clock.now() if alone else self._alone
        waited = clock.now() - max(self._since, self._alone)
        if not alone and (found.standing == "hopeless" or waited > PATIENCE_S):
            fix = (
                f"look at the chart's values, and at the events of namespace {self.reach.namespace}"
            )
            text = f"the controller cannot run: {found.text}"
            raise PodCannotStart(text, fix=fix_of(found.text, fix))

    def place(self, pods: list[Any]) -> str:
        """Return where the ring stands in a queue; empty where it stands in none."""
        group = group_of(pods)
        return place(*group, self.reach.workloads()) if group else ""

    def diagnose(self, pods: list[Any], jobs: list[Any]) -> Finding | None:
        """Return why the controller does not run; None if it does, or has ended."""
        own = [job for job in jobs if HOSPITAL not in (job.metadata.labels or {})]
        if not own or finished(own[-1]) or own[-1].spec.suspend:
            return None
        mine = sorted(of_controller(pods), key=lambda pod: pod.metadata.creation_timestamp)
        if not mine:
            complaint = self.reach.complaint(own[-1].metadata.name)
            return refusal(complaint) if complaint else None
        now = explained(self.reach, mine[-1])
        failed = [one for one in map(finding, mine) if one.standing == "failed"]
        dead = [one for one in failed if one.code != AGAIN]
        if now.standing in ("running", "succeeded", "leaving") or now.own:
            return None  # the last is the run's end, which its Job is about to have
        if dead and len(dead) >= MOST_DEATHS:
            return Finding(
                "hopeless", f"{len(dead)} of its pods have failed, the last because {dead[-1].text}"
            )
        return now if now.text and now.code != AGAIN else None


def explained(reach: Reach, pod: Any) -> Finding:
    """Judge a pod (V1Pod), with the namespace's events where it waits for something."""
    found = finding(pod)
    waits = found.standing in ("pending", "unschedulable")
    return finding(pod, reach.events(pod)) if waits else found


def started(jobs: list[Any]) -> bool:
    """Return whether a controller has noted on its Job (V1Job) that the run has started."""
    return any(STARTED in (job.metadata.annotations or {}) for job in jobs)


def at_work(pods: list[Any]) -> bool:
    """Return whether any hospital's pod (V1Pod) runs."""
    return any(finding(pod).standing == "running" for pod in newest(pods).values())


BACKOFF_S, LONGEST_BACKOFF_S = 10, 360


def goes_on(reach: Reach, release: str) -> bool:
    """Return whether the run is there, its controller at work; raises ClusterUnavailable."""
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
    yield from _of_pods(reach, pods)
    yield from _of_jobs(pods, [job for job in jobs if _member(job) not in lost])
    place = ControllerWatch(reach, release).place(pods)
    yield from [place] if place else []
    if lost:
        yield f"the ring goes on without {', '.join(lost)}, as on_loss of the scenario wants it"
    for name, back in losses.back.items():
        if not back.away:
            yield f"{name} was lost, and is one of the ring again from round {back.round} on"
    code = exit_code(pods, jobs) if jobs else None
    own = [job.spec for job in jobs if _member(job) == CONTROLLER]
    held = any(spec and spec.suspend for spec in own)
    going = "the run is suspended" if held else "the run goes on"
    yield {
        None: going if jobs else "there is no such run",
        0: "the run has ended well",
    }.get(code, f"the run has ended with exit code {code}")


def _of_pods(reach: Reach, pods: list[Any]) -> Iterator[str]:
    for pod in pods:
        with translate_errors():
            found = explained(reach, pod)
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


LOOK_S = 1.0
QUEUED_S = 24 * 3600.0
"""Helm leaves the test's pod behind when its own time is over; a day in a queue ends that, too."""


def check(folder: Path) -> str:
    """Return in one line how the run's Jobs are, once all are up or done; waiting in a queue counts
    as no time, for a day at most.

    Args:
        folder: the ConfigMap as mounted.

    Raises:
        PodCannotStart: hospitals are missing or have failed.

    """
    plan = Plan.read(folder / "plan.json")
    selector = f"app.kubernetes.io/instance={plan.release},fedskd.io/run={plan.run}"
    return wait_until_up(KubernetesApi(plan.namespace, selector), plan)


def wait_until_up(cluster: KubernetesApi, plan: Plan) -> str:
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


def _queued(cluster: KubernetesApi) -> bool:
    pods: list[Any] = cluster.pods_of(cluster.selector)
    return any(finding(pod).standing == "queued" for pod in pods)


def _list(names: list[str]) -> str:
    return ", ".join(sorted(name or "controller" for name in names))
