"""What an earlier run of a release has left, for which the next one waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import PodCannotStart
from fedskd_sim.observe import events
from fedskd_sim.observe.log import EventLog
from fedskd_sim.runtimes.kubernetes.cluster import Cluster
from fedskd_sim.runtimes.kubernetes.jobs import HOSPITAL
from fedskd_sim.runtimes.kubernetes.plan import Plan

LOOK_S = 2.0


def await_gone(cluster: Cluster, plan: Plan, owner: str, log: EventLog) -> None:
    """Wait until pods of hospitals of earlier runs have gone, which hold their GPUs until then, and
    Jobs of this run's names, which a run that goes on right after it was stopped meets.

    Pods that are still there when all hospitals should be up are left alone.

    Args:
        cluster: the API, for objects of this run.
        plan: the place of the run.
        owner: the identity of the run's ConfigMap; Jobs that it owns were made by this controller
            before it was restarted.
        log: is told what is waited for.

    Raises:
        PodCannotStart: Jobs of these names are still there by then.

    """
    hospitals = f"app.kubernetes.io/instance={plan.release},{HOSPITAL}"
    deadline, told = clock.now() + plan.startup_seconds, ""
    while True:
        jobs = [job for job in cluster.jobs() if job.metadata.name != plan.controller]
        earlier = sorted(job.metadata.name for job in jobs if not is_own(job, owner))
        own = {job.metadata.uid for job in jobs if is_own(job, owner)}
        pods = [pod for pod in cluster.pods_of(hospitals) if not own & {*_owners(pod)}]
        late = clock.now() > deadline
        if late and earlier:
            raise _in_the_way(plan, earlier)
        if late or not (earlier or pods):
            return
        words = f"{len(pods)} pods and {len(earlier)} Jobs of an earlier run have not gone yet"
        if words != told:
            log.event(events.Waiting(words))
        told = words
        clock.sleep(LOOK_S)


def check_own(cluster: Cluster, plan: Plan, names: tuple[str, ...], owner: str) -> None:
    """Refuse to go on with Jobs that somebody else has made; raises PodCannotStart."""
    own = {job.metadata.name for job in cluster.jobs() if is_own(job, owner)}
    strange = sorted({plan.job(name) for name in names} - own)
    if strange:
        raise _in_the_way(plan, strange)


def is_own(job: Any, owner: str) -> bool:
    """Tell whether a Job (V1Job) was made for the ConfigMap of this identity, and stays."""
    return owner in _owners(job) and job.metadata.deletion_timestamp is None


def _owners(found: Any) -> Iterator[str]:
    return (reference.uid for reference in found.metadata.owner_references or ())


def _in_the_way(plan: Plan, jobs: list[str]) -> PodCannotStart:
    return PodCannotStart(
        f"Jobs of other runs have the names of this run's: {', '.join(jobs)}",
        fix=f"kubectl delete job -n {plan.namespace} {' '.join(jobs)}, and see what keeps them: "
        "metadata.finalizers",
    )
