"""What no schema knows about manifests: rules across fields, each told as one line per defect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
LABEL = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
DNS = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


def defects(body: Object) -> list[str]:
    """List what is wrong with an object, empty for a good one."""
    found = list(_names(body))
    pod = pod_of(body)
    if pod:
        found += [*_labels(body), *_pod(pod), *_job(body, pod)]
        for container in containers(pod):
            found += [*_container(container), *_mounts(container, pod)]
    return found


def pod_of(body: Object) -> Object | None:
    """Give the pod's spec of a Job, Deployment or Pod; None for other kinds."""
    if body["kind"] == "Pod":
        return dict(body["spec"])
    template = body.get("spec", {}).get("template") if isinstance(body.get("spec"), dict) else None
    return dict(template["spec"]) if template else None


def containers(pod: Object) -> list[Object]:
    """List all containers."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def _names(body: Object) -> Iterator[str]:
    name = body["metadata"]["name"]
    limit = 57 if body["kind"] == "Job" else 63
    if len(name) > limit or not DNS.match(name):
        yield f"name {name!r} is no DNS label of at most {limit} characters"


def _labels(body: Object) -> Iterator[str]:
    template = body.get("spec", {}).get("template", {}).get("metadata", {})
    for labels in (body["metadata"].get("labels", {}), template.get("labels", {})):
        for key, value in labels.items():
            if not isinstance(value, str) or not LABEL.match(value):
                yield f"label {key} has the value {value!r}"


def _pod(pod: Object) -> Iterator[str]:
    for key in ("hostname", "subdomain"):
        if key in pod and not DNS.match(pod[key]):
            yield f"{key} {pod[key]!r} is no DNS label"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for volume in pod.get("volumes", ()):
        if "hostPath" in volume:
            yield f"volume {volume['name']!r} is a path of the node"


def _job(body: Object, pod: Object) -> Iterator[str]:
    if body["kind"] != "Job":
        return
    policy = body["spec"].get("podFailurePolicy")
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"a Job cannot have restartPolicy {pod.get('restartPolicy')!r}"
    if not policy:
        return
    if pod.get("restartPolicy") != "Never":
        yield "podFailurePolicy needs restartPolicy Never"
    if body["spec"].get("podReplacementPolicy", "Failed") != "Failed":
        yield "podFailurePolicy needs podReplacementPolicy Failed"
    names = {container["name"] for container in containers(pod)}
    for rule in policy["rules"]:
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            yield "a rule of podFailurePolicy needs exactly one of onExitCodes and onPodConditions"
        codes = rule.get("onExitCodes", {})
        if codes.get("containerName") and codes["containerName"] not in names:
            yield (
                f"podFailurePolicy names the container {codes['containerName']!r}, which is not "
                "there"
            )
        if codes.get("operator") == "In" and 0 in codes.get("values", ()):
            yield "podFailurePolicy counts exit code 0 as a failure"


def _container(container: Object) -> Iterator[str]:
    name = container["name"]
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for key, value in [*requests.items(), *limits.items()]:
        if not QUANTITY.match(str(value)):
            yield f"{name}: {key} is {value!r}"
        if "/" in key and (
            not str(value).isdigit() or requests.get(key, limits.get(key)) != limits.get(key)
        ):
            yield f"{name}: {key} must be a whole number and the same as request and limit"
    if "memory" not in limits or "memory" not in requests:
        yield f"{name}: no memory is asked for or allowed"
    for key, count in Counter(entry["name"] for entry in container.get("env", ())).items():
        if count > 1:
            yield f"{name}: the variable {key} is set {count} times"
    if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
        yield f"{name}: imagePullPolicy is {container.get('imagePullPolicy')!r}"
    if container["image"].endswith(":latest") or not re.search(
        r"[:@]", container["image"].rpartition("/")[2]
    ):
        yield f"{name}: the image {container['image']!r} is not pinned"
    for port in container.get("ports", ()):
        if len(port.get("name", "")) > 15:
            yield f"{name}: the port's name {port['name']!r} is too long"


def _mounts(container: Object, pod: Object) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        if mount["name"] not in volumes:
            yield (
                f"{container['name']}: nothing is mounted at {mount['mountPath']}, there is no "
                f"volume {mount['name']!r}"
            )
