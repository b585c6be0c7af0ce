"""Pods that serve one folder of a hospital to the launcher: what a claim has of a run, or a claim
that its data are brought to; pure. Each may be where the hospital's own pod may be, without its
cards, its data and what runs beside it.
"""

from __future__ import annotations

from typing import Any

from fedskd_sim.kubernetes.jobs import (
    DATA,
    FETCHING,
    KEY,
    RUN,
    RUN_KEY,
    TEMPORARY,
    owner_of,
    patched_pod,
    scratch,
)
from fedskd_sim.kubernetes.overlay import anywhere
from fedskd_sim.kubernetes.plan import FOLDER_PORT, Plan
from fedskd_sim.scenario import Scenario

LONGEST_S = 3600
"""A pod that serves a folder ends after so long, whatever became of who made it."""
READ = ("results", "key", "temporary")
"""The volumes that a pod which reads a claim needs."""


def reader(scenario: Scenario, plan: Plan, name: str, owner_uid: str) -> dict[str, Any]:
    """Write a pod that serves what a hospital has left on its claim: where the hospital's own pod
    may be, with its claim and the run's secret, without its cards, its data and what runs beside
    it.
    """
    spec = patched_pod(scenario, plan, name, anywhere)
    volumes = [one for one in spec["volumes"] if one["name"] in READ]
    mounts = [one for one in _hospital_of(spec)["volumeMounts"] if one["name"] in READ]
    only = [{**one, "readOnly": one["name"] != "temporary"} for one in mounts]
    body = _serving(plan, name, spec, ["read-claim", RUN], (volumes, only))
    body["metadata"] |= {
        "name": f"{plan.job(name)}-read",
        "ownerReferences": [owner_of(plan, owner_uid)],
    }
    return body


def loader(
    scenario: Scenario, plan: Plan, name: str, claim: str, secret: tuple[str, str], *, bound: bool
) -> dict[str, Any]:
    """Write a pod that takes a hospital's data onto a claim: where the hospital's own pod may be,
    since a claim may bind it to a node.

    Args:
        scenario: of the hospitals.
        plan: the place of a run in the cluster.
        name: the hospital's.
        claim: the claim's.
        secret: name and identity of the secret with the token, which owns the pod.
        bound: the claim has its volume; else the pod asks for the hospital's cards, too, so that
            the volume comes where they are.

    """
    spec = patched_pod(scenario, plan, name, anywhere)
    data = plan.settings(name)["data"]
    mount: dict[str, Any] = {"name": "data", "mountPath": DATA}
    if data.get("claim") and data.get("subPath"):
        mount["subPath"] = data["subPath"].replace("{hospital}", name)
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "key", "secret": {"secretName": secret[0], "defaultMode": 0o440}},
        {"name": "temporary", **scratch(plan.settings(name))},
    ]
    mounts = [
        mount,
        {"name": "key", "mountPath": KEY, "readOnly": True},
        {"name": "temporary", "mountPath": TEMPORARY},
    ]
    body = _serving(plan, name, spec, ["read-claim", DATA, "--takes-data"], (volumes, mounts))
    del body["spec"]["serviceAccountName"]  # the release's, which is not there yet
    cards = scenario.hospital(name).resources.gpu
    device = plan.settings(name)["gpu"]["resource"]
    if cards and device and not bound:
        body["spec"]["containers"][0]["resources"]["limits"][device] = str(cards)
    own = {"apiVersion": "v1", "kind": "Secret", "name": secret[0], "uid": secret[1]}
    body["metadata"] |= {"name": f"{plan.job(name)}-load", "ownerReferences": [own]}
    return body


def _hospital_of(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in spec["containers"] if one["name"] == "hospital")
    return found


def _serving(
    plan: Plan,
    name: str,
    spec: dict[str, Any],
    arguments: list[str],
    mounted: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Write a pod that serves a folder of a hospital, given the spec of the hospital's own pod and
    the volumes and mounts that it needs.
    """
    volumes, mounts = mounted
    image = plan.images["controller"]
    container = {
        "name": "hospital",
        "image": image["image"],
        "imagePullPolicy": image["pullPolicy"],
        "args": [
            *arguments, "--name", name, "--run", plan.run, "--serve", str(FOLDER_PORT),
            "--secret", f"{KEY}/{RUN_KEY}",
        ],
        "env": [{"name": "HOME", "value": TEMPORARY}],
        "resources": {"requests": FETCHING, "limits": {"memory": "512Mi"}},
        "securityContext": _hospital_of(spec)["securityContext"],
        "volumeMounts": mounts,
    }  # fmt: skip
    own = {"activeDeadlineSeconds": LONGEST_S, "containers": [container], "volumes": volumes}
    without = ("hostname", "subdomain", "initContainers", "resourceClaims", "schedulingGates")
    labels = {**plan.common_labels, **plan.labels, "app.kubernetes.io/name": "fedskd-sim-reader"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": plan.namespace, "labels": labels},
        "spec": {key: value for key, value in spec.items() if key not in without} | own,
    }
