"""The Job of a hospital, from the scenario and the chart's plan; pure."""

from __future__ import annotations

from typing import Any

from kubernetes.client import V1Job

from fedskd_sim.errors import InvalidValue
from fedskd_sim.exits import final_codes
from fedskd_sim.runtimes.kubernetes.plan import METRICS_PORT, PORT, Plan
from fedskd_sim.scenario import Hospital, Scenario

CONFIG, KEY, RUN, DATA, TEMPORARY = (
    "/etc/fedskd/run",
    "/etc/fedskd/key",
    "/run/fedskd",
    "/data",
    "/tmp",  # noqa: S108 - in a pod
)
HOSPITAL = "fedskd.io/hospital"
FINAL_CODES = final_codes()
USER = 10001
SCRAPING = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(METRICS_PORT),
    "prometheus.io/path": "/metrics",
}


def job(scenario: Scenario, plan: Plan, name: str, owner_uid: str) -> dict[str, Any]:
    """Write the suspended Job of one hospital, owned by the run's ConfigMap.

    Raises:
        InvalidValue: the chart's settings make no valid Job.

    """
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": plan.owner, "uid": owner_uid}
    labels, settings = _labels(scenario, plan, name), plan.settings(name)
    metadata = {
        "labels": labels | settings["podLabels"],
        "annotations": SCRAPING | settings["podAnnotations"],
    }
    body: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": plan.job(name),
            "namespace": plan.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "suspend": True,
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": plan.backoff_limit,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": plan.ttl_seconds,
            "podFailurePolicy": _failures(),
            "template": {
                "metadata": metadata,
                "spec": _pod(scenario, plan, scenario.hospital(name)),
            },
        },
    }
    try:
        V1Job.model_validate(body)
    except ValueError as error:  # pydantic's, which this module need not know
        raise InvalidValue(
            f"the settings of {name!r} make no valid Job: {error}",
            fix="see hospitals in the chart's values",
        ) from None
    return body


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
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [disrupted]},
            {"action": "FailJob", "onExitCodes": exits},
        ]
    }


def _pod(scenario: Scenario, plan: Plan, hospital: Hospital) -> dict[str, Any]:
    settings = plan.settings(hospital.name)
    tolerations = [*settings["tolerations"], *_node_loss()]
    if hospital.resources.gpu:
        tolerations += settings["gpu"]["tolerations"]
    volumes, data_mount, init = _data(settings["data"], hospital.name, plan)
    pod: dict[str, Any] = {
        "hostname": hospital.name,
        "subdomain": plan.subdomain,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "serviceAccountName": plan.service_account,
        "terminationGracePeriodSeconds": plan.grace_seconds,
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "securityContext": pod_security(),
        "imagePullSecrets": list(plan.pull_secrets),
        "nodeSelector": settings["nodeSelector"]
        | (settings["gpu"]["nodeSelector"] if hospital.resources.gpu else {}),
        "tolerations": tolerations,
        "initContainers": init,
        "containers": [_container(scenario, plan, hospital, data_mount)],
        "volumes": [*_volumes(plan, hospital.name), *volumes],
    }
    optional = {
        key: settings[key]
        for key in (
            "affinity",
            "topologySpreadConstraints",
            "runtimeClassName",
            "priorityClassName",
        )
    }
    return {
        key: value for key, value in (pod | optional).items() if value not in ("", None, [], {})
    }


def _container(
    scenario: Scenario, plan: Plan, hospital: Hospital, data_mount: list[dict[str, Any]]
) -> dict[str, Any]:
    settings = plan.settings(hospital.name)
    learns = scenario.algorithm.name != "placebo"
    image = plan.images["hospital" if learns else "controller"]
    environment = {"HOME": TEMPORARY, "OMP_NUM_THREADS": str(hospital.resources.cpu)}
    if not hospital.resources.gpu:
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    extra = [entry for entry in settings["env"] if entry["name"] not in environment]
    mounts = [
        ("run", CONFIG, True),
        ("key", KEY, True),
        ("results", RUN, False),
        ("temporary", TEMPORARY, False),
    ]
    return {
        "name": "hospital",
        "image": image["image"],
        "imagePullPolicy": image["pullPolicy"],
        "args": _arguments(plan, hospital.name, with_data=bool(data_mount)),
        "env": [*({"name": key, "value": value} for key, value in environment.items()), *extra],
        "ports": [
            {"name": "ring", "containerPort": PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": _resources(hospital, settings),
        "securityContext": container_security(),
        "livenessProbe": {
            "tcpSocket": {"port": "metrics"},
            "initialDelaySeconds": 60,
            "periodSeconds": 20,
            "failureThreshold": 6,
        },
        "volumeMounts": [_mount(plan, hospital.name, *mount) for mount in mounts] + data_mount,
    }


def _mount(plan: Plan, name: str, volume: str, path: str, only: bool) -> dict[str, Any]:  # noqa: FBT001 - a row of the table
    """Mount a volume; on a claim every run, and every hospital of it, has a folder of its own."""
    apart = {"subPath": f"{plan.run}/{name}"} if volume == "results" and plan.custody(name) else {}
    return {"name": volume, "mountPath": path, "readOnly": only, **apart}


def _arguments(plan: Plan, name: str, *, with_data: bool) -> list[str]:
    flags = {
        "--name": name, "--run": plan.run, "--out": RUN, "--bind": plan.bind,
        "--advertise": plan.address(name), "--controller": plan.hub, "--secret": f"{KEY}/run-key",
        "--metrics": f"0.0.0.0:{METRICS_PORT}", "--patience": f"{plan.startup_seconds:g}",
        "--hold": f"{plan.hold_seconds:g}", "--linger": f"{plan.linger_seconds:g}",
    }  # fmt: skip
    if with_data:
        flags["--data"] = DATA
    return [
        "hospital",
        f"{CONFIG}/scenario.yaml",
        "--to-stdout",
        *(part for flag in flags.items() for part in flag),
    ]


def _resources(hospital: Hospital, settings: dict[str, Any]) -> dict[str, Any]:
    """Ask for memory and whole GPUs as the scenario says; for CPU what the chart says, since
    threads are no need of their own.
    """
    memory = hospital.resources.memory
    limits: dict[str, str] = {"memory": memory}
    requests = {
        "cpu": str(settings["requests"].get("cpu") or hospital.resources.cpu),
        "memory": settings["requests"].get("memory") or memory,
    }
    if hospital.resources.gpu:
        limits[settings["gpu"]["resource"]] = str(hospital.resources.gpu)
    return {"requests": requests, "limits": limits}


def _volumes(plan: Plan, name: str) -> list[dict[str, Any]]:
    claim = plan.custody(name)
    kept: dict[str, Any] = (
        {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    )
    return [
        {"name": "run", "configMap": {"name": plan.owner}},
        {"name": "key", "secret": {"secretName": plan.secret, "defaultMode": 0o440}},
        {"name": "results", **kept},
        {"name": "temporary", "emptyDir": {}},
    ]


def _data(
    data: dict[str, Any], name: str, plan: Plan
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the volume, its mount and the init container of a hospital's data; ``{hospital}`` in
    texts is its name.
    """
    mount: dict[str, Any] = {"name": "data", "mountPath": DATA, "readOnly": True}
    if data.get("claim"):
        claim = {"claimName": data["claim"].replace("{hospital}", name), "readOnly": True}
        if data.get("subPath"):
            mount["subPath"] = data["subPath"].replace("{hospital}", name)
        return [{"name": "data", "persistentVolumeClaim": claim}], [mount], []
    if data.get("hostPath"):
        path = {"path": data["hostPath"].replace("{hospital}", name), "type": "Directory"}
        return [{"name": "data", "hostPath": path}], [mount], []
    if data.get("fetch"):
        fetch = data["fetch"]
        image = plan.images["controller"]
        init = {
            "name": "fetch",
            "image": fetch.get("image") or image["image"],
            "imagePullPolicy": image["pullPolicy"],
            "command": [part.replace("{hospital}", name) for part in fetch["command"]],
            "env": fetch.get("env", []),
            "envFrom": fetch.get("envFrom", []),
            "resources": {
                "requests": {"cpu": "50m", "memory": "64Mi"},
                "limits": {"memory": "512Mi"},
            },
            "securityContext": container_security(),
            "volumeMounts": [
                {"name": "data", "mountPath": DATA},
                {"name": "temporary", "mountPath": TEMPORARY},
            ],
        }
        return [{"name": "data", "emptyDir": {}}], [mount], [init]
    return [], [], []


def _node_loss() -> list[dict[str, Any]]:
    """Leave a lost node after a minute instead of five."""
    reasons = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
        for key in reasons
    ]


def pod_security() -> dict[str, Any]:
    """Give the pod-level settings of the restricted standard."""
    return {
        "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip


def container_security() -> dict[str, Any]:
    """Give the container-level settings of the restricted standard."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
