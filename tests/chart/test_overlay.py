"""Patches of pods: the controller's Python, the chart's templates and kubectl lay them over a
spec in one and the same way.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_chart import CHART, RING, jobs_of, rendered

from fedskd_sim.errors import InvalidValue
from fedskd_sim.runtimes.kubernetes import preview
from fedskd_sim.runtimes.kubernetes.helm import Helm
from fedskd_sim.runtimes.kubernetes.overlay import KEYS, apply_patch
from fedskd_sim.scenario import load

SPEC: dict[str, Any] = {
    "nodeSelector": {"zone": "a", "disk": "ssd"},
    "securityContext": {
        "runAsUser": 10001,
        "supplementalGroups": [1, 2],
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
    "schedulingGates": [{"name": "a"}],
    "resourceClaims": [{"name": "gpu", "resourceClaimName": "first"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "initContainers": [{"name": "fetch", "image": "f:1"}],
    "volumes": [
        {"name": "run", "configMap": {"name": "r"}},
        {"name": "temporary", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
    "containers": [
        {
            "name": "controller",
            "image": "c:1",
            "args": ["conduct"],
            "env": [{"name": "HOME", "value": "/tmp"}],
            "ports": [{"name": "ring", "containerPort": 5555}],
            "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [
                {"name": "run", "mountPath": "/run"},
                {"name": "temporary", "mountPath": "/tmp"},
            ],
            "volumeDevices": [{"name": "raw", "devicePath": "/dev/raw"}],
        }
    ],
}


def container(**given: Any) -> dict[str, Any]:
    return {"containers": [{"name": "controller", **given}]}


PATCHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "scheduler": {"schedulerName": "volcano", "priorityClassName": "research"},
    "selector": {"nodeSelector": {"zone": None, "gpu": "yes"}},
    "selector replaced": {"nodeSelector": {"$patch": "replace", "gpu": "yes"}},
    "affinity": {
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]
            }
        }
    },
    "ids left to the platform": {"securityContext": {"runAsUser": None, "supplementalGroups": [3]}},
    "an atomic list": {"dnsConfig": {"options": [{"name": "ndots", "value": "5"}]}},
    "imagePullSecrets": {"imagePullSecrets": [{"name": "two"}, {"name": "three"}]},
    "hostAliases": {
        "hostAliases": [
            {"ip": "10.0.0.1", "hostnames": ["b"]},
            {"ip": "10.0.0.2", "hostnames": ["c"]},
        ]
    },
    "schedulingGates": {"schedulingGates": [{"name": "a"}, {"name": "b"}]},
    "resourceClaims": {
        "resourceClaims": [
            {"name": "gpu", "resourceClaimName": "second"},
            {"name": "x", "resourceClaimName": "y"},
        ]
    },
    "topologySpreadConstraints": {
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2}]
    },
    "initContainers": {
        "initContainers": [
            {"name": "fetch", "image": "f:2"},
            {"name": "mesh", "restartPolicy": "Always"},
        ]
    },
    "an init container less": {"initContainers": [{"name": "fetch", "$patch": "delete"}]},
    "volumes": {
        "volumes": [
            {"name": "temporary", "emptyDir": {"medium": "Memory"}},
            {"name": "more", "emptyDir": {}},
        ]
    },
    "a volume of another kind": {
        "volumes": [{"name": "temporary", "emptyDir": None, "hostPath": {"path": "/x"}}]
    },
    "a sidecar": {
        "containers": [{"name": "proxy", "image": "p:1", "env": [{"name": "A", "value": "1"}]}]
    },
    "env": container(env=[{"name": "HOME", "value": "/home"}, {"name": "B", "value": "1"}]),
    "ports": container(ports=[{"containerPort": 5555, "protocol": "TCP"}, {"containerPort": 9100}]),
    "volumeMounts": container(
        volumeMounts=[
            {"mountPath": "/tmp", "readOnly": True},
            {"mountPath": "/more", "name": "more"},
        ]
    ),
    "volumeDevices": container(volumeDevices=[{"devicePath": "/dev/raw", "name": "other"}]),
    "args, which no key has": container(args=["x", "y"]),
    "resources": container(
        resources={"limits": {"cpu": "1", "memory": None}, "claims": [{"name": "gpu"}]}
    ),
}


def ordered(value: Any) -> Any:
    """Bring lists of objects into an order of their own: kubectl puts what is new first, which
    means nothing.
    """
    if isinstance(value, dict):
        return {key: ordered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted(
            (ordered(inner) for inner in value), key=lambda one: json.dumps(one, sort_keys=True)
        )
    return value


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on the PATH")
@pytest.mark.parametrize("name", PATCHES)
def test_kubectl_lays_a_patch_over_a_pod_in_the_same_way(name: str, tmp_path: Path) -> None:
    """Of one spec and one patch kubectl's strategic merge makes what ours does."""
    body, patch = tmp_path / "pod.json", json.dumps({"spec": PATCHES[name]})
    body.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": SPEC}),
        encoding="utf-8",
    )
    command = [
        "kubectl",
        "patch",
        "--local",
        "--type",
        "strategic",
        "-f",
        str(body),
        "-p",
        patch,
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ordered(json.loads(done.stdout)["spec"]) == ordered(apply_patch(SPEC, PATCHES[name]))


Pods = dict[str, dict[str, Any]]


def of_controller(folder: Path, values: dict[str, Any]) -> Pods:
    """Render the chart; gives the specs of the controller's pod and of that of helm test."""
    (folder / "scenario.yaml").write_text(RING, encoding="utf-8")
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    text = rendered(folder / "scenario.yaml", "--values", folder / "values.json")
    bodies = {body["kind"]: body for body in yaml.safe_load_all(text) if body}
    run = bodies["Job"]["metadata"]["labels"]["fedskd.io/run"]
    specs = {"controller": bodies["Job"]["spec"]["template"]["spec"], "test": bodies["Pod"]["spec"]}
    return dict(json.loads(json.dumps(specs).replace(run, "RUN")))


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "scenario.yaml").write_text(RING, encoding="utf-8")
    return tmp_path / "scenario.yaml"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pods:
    return of_controller(tmp_path_factory.mktemp("plain"), {})


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")
@pytest.mark.parametrize("name", PATCHES)
def test_the_chart_lays_a_patch_over_its_pods_in_the_same_way(
    name: str, plain: Pods, tmp_path: Path
) -> None:
    """Of the controller's pod, and of that of helm test, the chart makes what the controller
    makes of hospitals' pods.
    """
    found = of_controller(tmp_path, {"controller": {"pod": PATCHES[name]}})
    assert found == {pod: apply_patch(spec, PATCHES[name]) for pod, spec in plain.items()}


def test_every_list_with_a_key_is_tried() -> None:
    """Each list that is merged by a key has a patch above, and the chart's file has the same
    keys.
    """
    text = json.dumps(list(PATCHES.values()))
    assert [key for key in KEYS if key != "tolerations" and f'"{key}": [' not in text] == []
    kept = json.loads((CHART / "files" / "merge-keys.json").read_text(encoding="utf-8"))
    assert kept == dict(KEYS), (
        f"write {json.dumps(dict(KEYS))} into the chart's files/merge-keys.json"
    )


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")
def test_patches_reach_the_pods_they_are_for(scenario: Path) -> None:
    """The default's patch is in every hospital, that of GPUs in those that have some, a
    hospital's own last; tolerations add up.
    """
    values = scenario.parent / "values.yaml"
    values.write_text(
        "hospitals:\n"
        "  defaults:\n"
        "    pod: {schedulerName: volcano, tolerations: [{key: a, operator: Exists}]}\n"
        "    gpu:\n"
        "      pod:\n"
        "        runtimeClassName: nvidia\n"
        "        containers: [{name: hospital, resources: {limits: {nvidia.com/gpumem: '4'}}}]\n"
        "    jobLabels: {queue: a}\n"
        "    jobAnnotations: {note: b}\n"
        "  overrides:\n"
        "    south: {pod: {schedulerName: null, serviceAccountName: south, tolerations: [{key: b, "
        "operator: Exists}]}}\n",
        encoding="utf-8",
    )
    north, _, south = jobs_of(rendered(scenario, "--values", values), scenario.parent)
    pods = [body["spec"]["template"]["spec"] for body in (north, south)]
    assert [pod.get("schedulerName") for pod in pods] == ["volcano", None]
    assert [pod.get("runtimeClassName") for pod in pods] == ["nvidia", None]
    limits = pods[0]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "3Gi", "nvidia.com/gpu": "1", "nvidia.com/gpumem": "4"}
    assert pods[1]["serviceAccountName"] == "south"
    assert [toleration["key"] for toleration in pods[1]["tolerations"]][-2:] == ["a", "b"]
    assert north["metadata"]["labels"]["queue"] == "a"
    assert north["metadata"]["annotations"] == {"note": "b"}


BAD = {
    "an unknown key": (
        {"defaults": {"pod": {"affinity": {"nodes": 1}}}},
        ("defaults", "pod", "affinity", "nodes"),
    ),
    "a wrong type": (
        {
            "overrides": {
                "north": {
                    "pod": {
                        "containers": [
                            {"name": "x", "image": "i"},
                            {"name": "hospital", "tty": "on"},
                        ]
                    }
                }
            }
        },
        ("overrides", "north", "pod", "containers", 1, "tty"),
    ),
    "GPUs only": (
        {"defaults": {"gpu": {"pod": {"tolerations": [{"keys": "a"}]}}}},
        ("defaults", "gpu", "pod", "tolerations", 0, "keys"),
    ),
    "a sidecar without a name": (
        {"defaults": {"pod": {"containers": [{"image": "i"}]}}},
        ("defaults", "pod", "containers", 0),
    ),
}


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")
@pytest.mark.parametrize("name", BAD)
def test_a_patch_that_makes_no_pod_is_refused_by_its_key(name: str, scenario: Path) -> None:
    """What the API's models do not know is told by the key of the values where it stands."""
    settings, place = BAD[name]
    values = scenario.parent / "values.json"
    values.write_text(json.dumps({"hospitals": settings}), encoding="utf-8")
    text = rendered(scenario, "--values", values)
    with pytest.raises(InvalidValue, match="no valid pod") as caught:
        jobs_of(text, scenario.parent)
    assert str(caught.value).startswith(
        f"the chart's values: {'.'.join(map(str, ('hospitals', *place)))}: north is"
    )


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")
@pytest.mark.parametrize("member", ["controller", "hospitals"])
def test_a_launcher_tells_file_and_line_before_it_installs(member: str, scenario: Path) -> None:
    """Of several files of values the one that has the wrong key is named with its line, for
    hospitals and for the controller.
    """
    good, bad, last = (scenario.parent / name for name in ("good.yaml", "bad.yaml", "last.yaml"))
    layers = {
        "controller": "controller:\n  pod:\n",
        "hospitals": "hospitals:\n  defaults:\n    pod:\n",
    }
    good.write_text(layers[member] + "      {priorityClassName: a}\n", encoding="utf-8")
    bad.write_text(
        layers[member] + "      priorityClassName: b\n      hostPID: maybe\n", encoding="utf-8"
    )
    last.write_text("attempt: 2\n", encoding="utf-8")
    files, read = (good, bad, last), load(scenario).scenario
    with pytest.raises(InvalidValue) as caught:
        preview.check(read, Helm("ns").render("r", scenario, files), files)
    line = 1 + bad.read_text(encoding="utf-8").splitlines().index("      hostPID: maybe")
    assert str(caught.value).startswith(f"{bad}:{line}: {member}")
    preview.check(read, Helm("ns").render("r", scenario, (good, last)), (good, last))
