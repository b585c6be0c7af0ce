"""What follows a run's end: another try of the whole ring, or that its release goes.

Where hospitals keep nothing that outlives their pods, one that is lost ends the run, and another
try may end well. The controller notes the try on its Job, removes the hospitals' Jobs and ends with
an exit code that is no verdict. Its Job makes the next controller, which waits until their pods
have gone.

A release that removes itself goes with the controller's Job, which Kubernetes removes a while after
its end: the Job becomes the owner of all that the chart has made. Not before the end, since Helm
writes its own object anew when an installation is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim.errors import (
    AcknowledgementTimeout,
    FedskdError,
    HopTimeout,
    HospitalCrashed,
    HospitalLost,
)
from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.job_annotations import BACK, LOST, STARTED, TOOK_PART
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.plan import Plan

AGAIN = 75
"""The exit code of a controller whose run begins anew: the one by which programs say that a later
try may succeed (``EX_TEMPFAIL``)."""
RESTARTS = "fedskd.io/restarts"
"""How often a run has begun anew, on its controller's Job."""
OF_A_LOSS = (HopTimeout, HospitalCrashed, AcknowledgementTimeout, HospitalLost)
"""How a ring ends of which somebody is lost; whatever else ends one would only come again."""


def begins_anew(cluster: KubernetesApi, plan: Plan, error: FedskdError) -> str:
    """Remove the hospitals' Jobs of a run that was ended by a loss, if it may begin anew.

    Args:
        cluster: the API.
        plan: the place of the run; says how often it may.
        error: what ended it.

    Returns:
        In words which try comes next; empty where none does.

    """
    if not plan.max_restarts or not isinstance(error, OF_A_LOSS):
        return ""
    with suppress(FedskdError, ApiException):  # then it has failed, as it would have without this
        jobs = cluster.jobs()
        done = _restarts(job for job in jobs if job.metadata.name == plan.controller)
        if done >= plan.max_restarts:
            return ""
        gone = dict.fromkeys((STARTED, TOOK_PART, LOST, BACK))
        cluster.note(plan.controller, {**gone, RESTARTS: str(done + 1)}, {})
        for job in jobs:
            if HOSPITAL in job.metadata.labels:
                cluster.remove(job.metadata.name)
        return f"the run begins anew, restart {done + 1} of {plan.max_restarts}: {error.message}"
    return ""


def release_goes(cluster: KubernetesApi, plan: Plan, job: str) -> str:
    """Let all that the chart has made go with the controller's Job, of this identity, where the
    release removes itself; returns in words what will stay.
    """
    left = []
    for kind, name in plan.made if job else ():
        try:
            cluster.own(kind, name, plan.controller, job)
        except (FedskdError, ApiException) as error:
            left.append(f"{kind} {name} ({error})")
    return f"will not go with the release: {', '.join(left)}" if left else ""


def _restarts(own: Iterable[Any]) -> int:
    notes = [job.metadata.annotations or {} for job in own]
    return max((int(one.get(RESTARTS, 0)) for one in notes), default=0)
