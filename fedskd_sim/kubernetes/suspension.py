"""A run that is suspended by its controller's Job (``spec.suspend``), as Jobs are: the hospitals'
Jobs are suspended with it, and released when it is resumed.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim.errors import FedskdError
from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.job_annotations import earlier_start
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pods import finished
from fedskd_sim.kubernetes.run_state import RUNNING, SUSPENDED, StateInApi


def pause(cluster: KubernetesApi, plan: Plan, notes: StateInApi, mortal: Collection[str]) -> None:
    """Suspend the hospitals' Jobs where the controller's own was suspended.

    Called when somebody takes the controller's pod away. A ring that has begun goes on where that
    would lose what hospitals have learned.

    Args:
        cluster: the API.
        plan: the place of the run.
        notes: is told what has become of the run.
        mortal: the hospitals that keep nothing which outlives their pods.

    """
    with suppress(FedskdError, ApiException):
        jobs = cluster.jobs()
        own = [job for job in jobs if job.metadata.name == plan.controller]
        if not (own and own[-1].spec.suspend):
            return
        if mortal and earlier_start(jobs, plan.controller):
            notes.end(RUNNING, "")
            return
        for job in jobs:
            if HOSPITAL in job.metadata.labels and not finished(job):
                cluster.suspend(job.metadata.name)
        notes.end(SUSPENDED, "")


def go_on(cluster: KubernetesApi, plan: Plan, away: Collection[str]) -> set[str]:
    """Release the hospitals' Jobs that were suspended with an earlier controller, but those of whom
    the ring has left behind (``away``); returns whose they are.
    """
    stopped = {name for job in cluster.jobs() if (name := _suspended(job))} - {*away}
    for name in stopped:
        cluster.release(plan.job(name))
    return stopped


def _suspended(job: Any) -> str:
    name = job.metadata.labels.get(HOSPITAL, "")
    return str(name) if job.spec.suspend and not finished(job) else ""
