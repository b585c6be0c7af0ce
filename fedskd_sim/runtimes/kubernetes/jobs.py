"""The Job of a hospital, from the scenario and the chart's plan; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedskd_sim.errors import InvalidValue
from fedskd_sim.exits import final_codes
from fedskd_sim.runtimes.kubernetes import pod_group
from fedskd_sim.runtimes.kubernetes.client_models import problems_of
from fedskd_sim.runtimes.kubernetes.overlay import (
    Locate,
    Patch,
    anywhere,
    apply_patch,
    check,
    refusal,
)
from fedskd_sim.runtimes.kubernetes.plan import METRICS_PORT, Plan
from fedskd_sim.runtimes.kubernetes.podspec import pod_of
from fedskd_sim.scenario import Scenario

HOSPITAL = "fedskd.io/hospital"
FINAL_CODES = final_codes()
Objects = list[dict[str, Any]]
TAKEN = ("DisruptionTarget", "TerminationTarget")
"""Conditions of a pod that the cluster, or a queue, takes away."""
SCRAPING = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": "/metrics",
}


def job(
    scenario: Scenario, plan: Plan, name: str, owner_uid: str, locate: Locate = anywhere
) -> dict[str, Any]:
    """Write the suspended Job of one hospital, owned by the run's ConfigMap; ``locate`` finds a key
    of the chart's values.

    Raises:
        InvalidValue: the chart's settings make no valid Job.

    """
    body: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _job_metadata(scenario, plan, name, owner_uid),
        "spec": {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": plan.backoff_limit,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": plan.ttl_seconds,
            "podFailurePolicy": _failures(),
            "template": {
                "metadata": _pod_metadata(scenario, plan, name),
                "spec": _patch_pod(scenario, plan, name, locate),
            },
        },
    }
    if wrong := problems_of("V1Job", body):
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong)
        raise InvalidValue(
            f"the settings of {name!r} make no valid Job: {said}",
            fix="see hospitals in the chart's values",
        )
    return body


def _job_metadata(scenario: Scenario, plan: Plan, name: str, owner_uid: str) -> dict[str, Any]:
    settings = plan.settings(name)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": plan.owner, "uid": owner_uid}
    return {
        "name": plan.job(name),
        "namespace": plan.namespace,
        "labels": plan.common_labels | settings["jobLabels"] | _labels(scenario, plan, name),
        "annotations": settings["jobAnnotations"],
        "ownerReferences": [owner],
    }


def _pod_metadata(scenario: Scenario, plan: Plan, name: str) -> dict[str, Any]:
    """Write labels and annotations of a hospital's pod: its own settings win over what all have in
    common, and the labels by which it is known over both.
    """
    settings, (queued, notes) = plan.settings(name), pod_group.marks(scenario, plan)
    return {
        "labels": plan.common_labels
        | queued
        | settings["podLabels"]
        | _labels(scenario, plan, name),
        "annotations": {**SCRAPING, **plan.annotations, **notes, **settings["podAnnotations"]},
    }


def _patch_pod(scenario: Scenario, plan: Plan, name: str, locate: Locate) -> dict[str, Any]:
    hospital = scenario.hospital(name)
    pod = pod_of(scenario, plan, hospital)
    patches = plan.patches(name, gpu=bool(hospital.resources.gpu))
    for patch in patches:
        check(patch, locate)
        pod = apply_patch(pod, patch.body)
    check_pod(name, pod, patches, locate)
    return pod


def check_pod(
    member: str, pod: dict[str, Any], patches: Sequence[Patch], locate: Locate = anywhere
) -> None:
    """Refuse a pod's spec that the client's models do not know; raises InvalidValue with the
    place in the values.
    """
    if wrong := problems_of("V1PodSpec", pod):
        raise refusal(member, wrong, pod, patches, locate)


def _labels(scenario: Scenario, plan: Plan, name: str) -> dict[str, str]:
    architecture = scenario.hospital(name).architecture.name
    own = {
        "app.kubernetes.io/component": "hospital",
        HOSPITAL: name,
        "fedskd.io/run": plan.run,
        "fedskd.io/architecture": architecture,
    }
    return {**plan.labels, **own}


def _failures() -> dict[str, Any]:
    """Try again after a disruption without counting it; do not try again what another try would
    not change.
    """
    exits = {"containerName": "hospital", "operator": "In", "values": list(FINAL_CODES)}
    disrupted = [{"type": kind, "status": "True"} for kind in TAKEN]
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": disrupted},
            {"action": "FailJob", "onExitCodes": exits},
        ]
    }
