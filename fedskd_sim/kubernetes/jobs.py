"""The Job of a hospital and its pod, from the scenario and the chart's plan: container, volumes,
data, security settings, and what lets Kueue take a ring's pods for one group; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedskd_sim.errors import InvalidValue
from fedskd_sim.exits import final_codes
from fedskd_sim.kubernetes.client_models import problems_of
from fedskd_sim.kubernetes.overlay import Locate, Patch, anywhere, apply_patch, check, refusal
from fedskd_sim.kubernetes.plan import FOLDER_PORT, METRICS_PORT, PORT, Plan
from fedskd_sim.learning.workspace import FIXED, WORKSPACE
from fedskd_sim.scenario import Hospital, Scenario

KUEUE = "kueue.x-k8s.io"
FINISHING = (f"{KUEUE}/retriable-in-group", "false")
"""The annotation of pods whose group ends with them, and gives its room in the queue back."""


def marks(scenario: Scenario, plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and annotations by which Kueue takes the ring's pods for one group: all are
    admitted, or none.

    A group with a pod that is marked as not retriable ends with its last pod and frees its quota,
    whatever became of it. A ring on claims is not marked: it waits in the queue again after it was
    preempted.
    """
    if not plan.queue:
        return {}, {}
    labels = {f"{KUEUE}/queue-name": plan.queue, f"{KUEUE}/pod-group-name": plan.owner}
    notes = {f"{KUEUE}/pod-group-total-count": str(len(scenario.names))}
    keeps = scenario.custody.enabled and all(map(plan.custody, scenario.names))
    if not keeps or plan.custody_moves == "out":
        notes |= [FINISHING]
    return labels, notes


CONFIG, KEY, RUN, DATA, TEMPORARY = (
    "/etc/fedskd/run",
    "/etc/fedskd/key",
    "/run/fedskd",
    "/data",
    "/tmp",  # noqa: S108 - in a pod
)
RUN_KEY = "run-key"
"""The secret's key, and the file in which a pod finds it."""
FETCHING = {"cpu": "50m", "memory": "64Mi"}


def pod_of(scenario: Scenario, plan: Plan, hospital: Hospital) -> dict[str, Any]:
    """Write the spec of a hospital's pod, before what the chart's values patch in it."""
    settings = plan.settings(hospital.name)
    volumes, data_mount, init = _data(settings, hospital.name, plan)
    pod: dict[str, Any] = {
        "hostname": hospital.name,
        "subdomain": plan.subdomain,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "serviceAccountName": plan.service_account,
        "terminationGracePeriodSeconds": plan.grace_seconds,
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "securityContext": _pod_security(plan.user),
        "imagePullSecrets": list(plan.pull_secrets),
        "tolerations": _node_loss(),
        "initContainers": init,
        "containers": [_container(scenario, plan, hospital, data_mount)],
        "volumes": [*_volumes(plan, hospital.name), *volumes],
    }
    return {key: value for key, value in pod.items() if value not in ([], {})}


def _container(
    scenario: Scenario, plan: Plan, hospital: Hospital, data_mount: list[dict[str, Any]]
) -> dict[str, Any]:
    settings = plan.settings(hospital.name)
    learns = scenario.learns
    image = plan.images["hospital" if learns else "controller"]
    own = {WORKSPACE: FIXED} if hospital.resources.gpu else {"NVIDIA_VISIBLE_DEVICES": "void"}
    environment = {"HOME": TEMPORARY, "OMP_NUM_THREADS": str(hospital.resources.cpu)} | own
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
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "ports": [
            {"name": "ring", "containerPort": PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "resources": _resources(hospital, settings),
        "securityContext": _container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
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
        "--advertise": plan.address(name), "--controller": plan.hub, "--secret": f"{KEY}/{RUN_KEY}",
        "--metrics": plan.metrics, "--patience": f"{plan.startup_seconds:g}",
        "--hold": f"{plan.hold_seconds:g}", "--linger": f"{plan.linger_seconds:g}",
        "--serve": str(FOLDER_PORT),
    }  # fmt: skip
    if with_data:
        flags["--data"] = DATA
    if plan.custody_moves:
        flags["--custody"] = plan.custody_moves
    return [
        "hospital",
        f"{CONFIG}/scenario.yaml",
        "--to-stdout",
        *(part for flag in flags.items() for part in flag),
        *(["--anyway"] if plan.custody_anyway else []),
    ]


def _resources(hospital: Hospital, settings: dict[str, Any]) -> dict[str, Any]:
    """Ask for memory and whole GPUs as the scenario says; for CPU what the chart says, since
    threads are no need of their own.
    """
    memory = hospital.resources.memory
    requests = {"cpu": str(hospital.resources.cpu), "memory": memory} | _clean(settings["requests"])
    devices = settings["gpu"]["resource"] if hospital.resources.gpu else ""
    # without a name they come by claims in the pod's patch
    gpus = {devices: str(hospital.resources.gpu)} if devices else {}
    return {"requests": requests, "limits": {"memory": memory} | gpus | _clean(settings["limits"])}


def _clean(given: dict[str, Any]) -> dict[str, str]:
    """Leave out the quantities that are empty."""
    return {name: str(quantity) for name, quantity in given.items() if quantity not in ("", None)}


def _volumes(plan: Plan, name: str) -> list[dict[str, Any]]:
    claim, folder = plan.custody(name), scratch(plan.settings(name))
    kept: dict[str, Any] = {"persistentVolumeClaim": {"claimName": claim}} if claim else folder
    return [
        {"name": "run", "configMap": {"name": plan.owner}},
        {"name": "key", "secret": {"secretName": plan.secret, "defaultMode": 0o440}},
        {"name": "results", **kept},
        {"name": "temporary", **folder},
    ]


def scratch(settings: dict[str, Any]) -> dict[str, Any]:
    """Make a folder that lives as long as the pod, and is bounded: a pod over it is evicted
    before its node is full.
    """
    size = settings["sizeLimit"]
    return {"emptyDir": {"sizeLimit": str(size)} if size else {}}


def _data(
    settings: dict[str, Any], name: str, plan: Plan
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the volume, its mount and the init container of a hospital's data; ``{hospital}`` in
    texts is its name.
    """
    data = settings["data"]
    if data.get("volume"):
        volume = _named(data["volume"], name)
        return (
            [{"name": "data", **volume}],
            [{"name": "data", "mountPath": DATA, "readOnly": True}],
            [],
        )
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
        return [{"name": "data", **scratch(settings)}], [mount], [_fetch(settings, name, plan)]
    return [], [], []


def _named(given: Any, name: str) -> Any:
    """Put a hospital's name for ``{hospital}`` in all texts of a value."""
    match given:
        case str():
            return given.replace("{hospital}", name)
        case list():
            return [_named(one, name) for one in given]
        case dict():
            return {key: _named(one, name) for key, one in given.items()}
    return given


def _fetch(settings: dict[str, Any], name: str, plan: Plan) -> dict[str, Any]:
    fetch, image = settings["data"]["fetch"], plan.images["controller"]
    return {
        "name": "fetch",
        "image": fetch.get("image") or image["image"],
        "imagePullPolicy": image["pullPolicy"],
        "command": [part.replace("{hospital}", name) for part in fetch["command"]],
        "env": fetch.get("env", []),
        "envFrom": fetch.get("envFrom", []),
        "resources": {
            "requests": FETCHING,
            "limits": {"memory": "512Mi"} | _clean(settings["limits"]),
        },
        "securityContext": _container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "temporary", "mountPath": TEMPORARY},
        ],
    }


def _node_loss() -> list[dict[str, Any]]:
    """Leave a lost node after a minute instead of five."""
    reasons = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
        for key in reasons
    ]


def _pod_security(user: int | str) -> dict[str, Any]:
    """Return the pod-level settings of the restricted standard; without a user the platform has to
    assign one.
    """
    ids = {"runAsUser": user, "runAsGroup": user, "fsGroup": user} if user else {}
    return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}


def _container_security() -> dict[str, Any]:
    """Return the container-level settings of the restricted standard."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


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
                "spec": patched_pod(scenario, plan, name, locate),
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


def owner_of(plan: Plan, uid: str) -> dict[str, str]:
    """Write whose an object is: the run's ConfigMap's."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": plan.owner, "uid": uid}


def _job_metadata(scenario: Scenario, plan: Plan, name: str, owner_uid: str) -> dict[str, Any]:
    settings = plan.settings(name)
    return {
        "name": plan.job(name),
        "namespace": plan.namespace,
        "labels": plan.common_labels | settings["jobLabels"] | _labels(scenario, plan, name),
        "annotations": settings["jobAnnotations"],
        "ownerReferences": [owner_of(plan, owner_uid)],
    }


def _pod_metadata(scenario: Scenario, plan: Plan, name: str) -> dict[str, Any]:
    """Write labels and annotations of a hospital's pod: its own settings win over what all have in
    common, and the labels by which it is known over both.
    """
    settings, (queued, notes) = plan.settings(name), marks(scenario, plan)
    return {
        "labels": plan.common_labels
        | queued
        | settings["podLabels"]
        | _labels(scenario, plan, name),
        "annotations": {**SCRAPING, **plan.annotations, **notes, **settings["podAnnotations"]},
    }


def patched_pod(scenario: Scenario, plan: Plan, name: str, locate: Locate) -> dict[str, Any]:
    """Write the spec of a hospital's pod with what the chart's values patch in it; raises
    InvalidValue.
    """
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
    # of a class in a package the end of its name, which is what a label may have
    architecture = scenario.hospital(name).architecture.name.replace(":", ".")[-63:].lstrip("._-")
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
