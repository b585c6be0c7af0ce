"""Patches of pods: the controller's Python, the chart's templates and kubectl lay them over a
spec in one and the same way.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_chart import CHART, RING, jobs_of, refused, rendered, run

from fedskd_sim.errors import InvalidValue
from fedskd_sim.kubernetes import runtime
from fedskd_sim.kubernetes.helm import Helm
from fedskd_sim.kubernetes.overlay import KEYS, Patch, anywhere, apply_patch, check
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
    "selector emptied": {"nodeSelector": {"$patch": "delete"}},
    "what is not there emptied": {"affinity": {"$patch": "delete"}},
    "a list replaced": {"volumes": [{"name": "run", "emptyDir": {}}, {"$patch": "replace"}]},
    "a list that is not there": {"ephemeralContainers": [{"name": "a"}, {"name": "a"}]},
    "one name twice": {"volumes": [{"name": "a"}, {"name": "run"}, {"name": "a", "emptyDir": {}}]},
    "order": {"volumes": [{"name": "temporary"}, {"name": "new"}, {"name": "run"}]},
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


def by_kubectl(spec: dict[str, Any], patch: dict[str, Any], folder: Path) -> Any:
    """Let kubectl lay a patch over a spec, without a cluster; nulls in it mean nothing."""
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    (folder / "pod.json").write_text(json.dumps(body), encoding="utf-8")
    (folder / "patch.json").write_text(json.dumps({"spec": patch}), encoding="utf-8")
    what = ("-f", folder / "pod.json", "--patch-file", folder / "patch.json", "-o", "json")
    done = run("kubectl", "patch", "--local", "--type", "strategic", *what)
    assert done.returncode == 0, done.stderr
    return without_nulls(json.loads(done.stdout)["spec"])


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def by_the_chart(cases: list[tuple[dict[str, Any], dict[str, Any]]], folder: Path) -> list[Any]:
    """Let the chart's templates lay patches over specs, all in one render."""
    (folder / "templates").mkdir()
    (folder / "files").mkdir()
    shutil.copy(CHART / "templates" / "_overlay.tpl", folder / "templates")
    shutil.copy(CHART / "files" / "merge-keys.json", folder / "files")
    (folder / "Chart.yaml").write_text("{apiVersion: v2, name: c, version: 1.0.0}")
    each = '(dict "base" .base "patch" .patch "keys" $keys)'
    (folder / "templates" / "cases.yaml").write_text(
        '{{- $keys := .Files.Get "files/merge-keys.json" | fromJson }}\n'
        "cases:\n{{- range .Values.cases }}\n"
        f'- {{{{ include "fedskd-sim.patched" {each} }}}}\n'
        "{{- end }}\n"
    )
    bodies = [{"base": spec, "patch": patch} for spec, patch in cases]
    (folder / "values.yaml").write_text(json.dumps({"cases": bodies}), encoding="utf-8")
    done = run("helm", "template", "r", folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load(done.stdout)["cases"])


needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not there")
needs_helm = pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")


@needs_kubectl
@pytest.mark.parametrize("name", PATCHES)
def test_kubectl_lays_a_patch_over_a_pod_in_the_same_way(name: str, tmp_path: Path) -> None:
    """Of one spec and one patch kubectl's strategic merge makes what ours does, in its order."""
    assert by_kubectl(SPEC, PATCHES[name], tmp_path) == apply_patch(SPEC, PATCHES[name])


def arbitrary(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a pod of many containers, and a patch that meets, adds, deletes and repeats entries of
    all their lists.
    """
    draw = random.Random(seed)
    names = [f"c{number}" for number in range(20)]
    chosen = draw.sample(names, 12)
    spec = {"containers": [{"name": name, "image": "i", **lists(draw)} for name in chosen]}
    patches: list[dict[str, Any]] = []
    for name in draw.choices(names, k=15):
        if name not in chosen:
            patches.append({"name": name, **lists(draw)})
        elif draw.random() < 0.1:
            patches.append({"name": name, "$patch": "delete"})
        else:
            met = next(one for one in spec["containers"] if one["name"] == name)
            patches.append({"name": name, "tty": True, **patches_of(met, draw)})
    deleted = {one["name"] for one in patches if "$patch" in one}
    return spec, {
        "containers": [one for one in patches if "$patch" in one or one["name"] not in deleted]
    }


def lists(draw: random.Random) -> dict[str, Any]:
    """Draw lists whose entries may have one key twice, as ports of two protocols have."""
    drawn = [
        {"containerPort": draw.randrange(4), "protocol": draw.choice(["TCP", "UDP"])}
        for _ in range(draw.randrange(6))
    ]
    env = [{"name": name, "value": name} for name in draw.sample("abcdef", draw.randrange(6))]
    found = {"ports": drawn, "env": env, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    return {key: found[key] for key in draw.sample(sorted(found), 2)}


def patches_of(container: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    found = lists(draw)
    for name, entries in found.items():
        key = {"ports": "containerPort", "env": "name"}.get(name)
        if key and name in container and draw.random() < 0.4:
            # of a list that is replaced kubectl brings doubles together: no use to do so
            entries[:] = {one[key]: one for one in entries}.values()
            entries.insert(draw.randrange(len(entries) + 1), {"$patch": "replace"})
        elif key and name in container and container[name] and draw.random() < 0.6:
            gone = draw.choice(container[name])[key]
            entries.insert(draw.randrange(len(entries) + 1), {key: gone, "$patch": "delete"})
    if "resources" in found and "resources" in container:
        found["resources"]["limits"] = draw.choice(
            [{"cpu": None}, {"$patch": "replace", "cpu": "2"}, {"$patch": "delete"}, {"x/y": "1"}]
        )
    return found


@needs_kubectl
@needs_helm
def test_kubectl_chart_and_controller_agree_on_any_patch(tmp_path: Path) -> None:
    """Whatever lists hold, doubles among it, the three make the same of it, in the same order."""
    cases = [arbitrary(seed) for seed in range(12)]
    for (spec, patch), by_chart in zip(cases, by_the_chart(cases, tmp_path), strict=True):
        assert by_chart == apply_patch(spec, patch)
        assert by_chart == by_kubectl(spec, patch, tmp_path)


@needs_kubectl
@needs_helm
def test_what_kubectl_would_lose_is_kept(tmp_path: Path) -> None:
    """A mapping that replaces one that is not there is as it was given; tolerations are added,
    and replaced only where that was said.
    """
    new = {"affinity": {"$patch": "replace", "nodeAffinity": {"x": 1}}}
    more = {"tolerations": [{"key": "b"}]}
    other = {"tolerations": [{"$patch": "replace"}, {"key": "b"}]}
    found = by_the_chart([(SPEC, one) for one in (new, more, other)], tmp_path)
    assert found == [apply_patch(SPEC, one) for one in (new, more, other)]
    assert found[0]["affinity"] == {"nodeAffinity": {"x": 1}}
    assert "affinity" not in by_kubectl(SPEC, new, tmp_path)
    assert [one["key"] for one in found[1]["tolerations"]] == ["a", "b"]
    assert found[2]["tolerations"] == more["tolerations"]


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a misspelt directive": (
        {"nodeSelector": {"$ptach": "delete"}},
        "nodeSelector.$ptach",
        "is no directive: there is only $patch",
    ),
    "one of kubectl apply": (
        {"$setElementOrder/containers": [{"name": "a"}]},
        "$setElementOrder/containers",
        "is no directive: there is only $patch",
    ),
    "an unknown value of it": (
        {"containers": [{"name": "a", "$patch": "remove"}]},
        "containers.0.$patch",
        "and may be replace or delete",
    ),
    "an entry that cannot be found": (
        {"containers": [{"name": "a", "env": [{"name": "b"}, {"value": "c"}]}]},
        "containers.0.env.1",
        "by which it is found",
    ),
    "no entry at all": ({"volumes": ["a"]}, "volumes.0", "is no mapping"),
    "a list replaced by an entry that says more": (
        {"containers": [{"name": "a", "$patch": "replace"}]},
        "containers.0",
        "may have no other key than $patch",
    ),
    "a toleration less": (
        {"tolerations": [{"key": "a", "$patch": "delete"}]},
        "tolerations.0",
        "cannot be deleted",
    ),
    "an entry less of a list that is replaced": (
        {"dnsConfig": {"options": [{"name": "ndots", "$patch": "delete"}]}},
        "dnsConfig.options.0",
        "replaced as a whole",
    ),
}


@needs_helm
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistaken_patch_is_refused_by_its_place(name: str, scenario: Path) -> None:
    """What kubectl ignores or refuses is refused by the chart, for every member, and by the
    controller; the launcher adds file and line.
    """
    patch, place, words = MISTAKES[name]
    for start in ("controller", "hospitals.defaults", "hospitals.overrides.north.gpu"):
        values: dict[str, Any] = {"pod": patch}
        for key in reversed(start.split(".")):
            values = {key: values}
        file = scenario.parent / "values.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        told = refused(scenario, "--values", file)
        assert f"{start}.pod.{place} " in told
        assert words in told
        with pytest.raises(InvalidValue, match=re.escape(words)) as caught:
            runtime.check(load(scenario).scenario, list, [file])
        assert str(caught.value).startswith(f"{file}:1: {start}.pod.{place}: ")


def test_every_mistake_of_a_patch_is_told() -> None:
    """The controller, which knows no file, names all of them at once."""
    patch = Patch(("hospitals", "defaults", "pod"), {"$a": 1, "env": [{}], "x": {"$b": 2}})
    with pytest.raises(InvalidValue) as caught:
        check(patch, anywhere)
    assert [str(one).split(": ")[1].split()[0] for one in (caught.value, *caught.value.others)] == [
        f"hospitals.defaults.pod.{place}" for place in ("$a", "env.0", "x.$b")
    ]


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


@needs_helm
def test_the_chart_lays_a_patch_over_a_pod_in_the_same_way(tmp_path: Path) -> None:
    """Its templates make the same of every patch of the table."""
    found = by_the_chart([(SPEC, patch) for patch in PATCHES.values()], tmp_path)
    wanted = {name: apply_patch(SPEC, patch) for name, patch in PATCHES.items()}
    assert dict(zip(PATCHES, found, strict=True)) == wanted


@needs_helm
@pytest.mark.parametrize("name", ["ids left to the platform", "env", "a list replaced"])
def test_a_patch_of_the_controller_is_laid_over_its_pods(name: str, tmp_path: Path) -> None:
    """Both pods of the controller, its own and that of helm test, are patched: nulls and
    directives come through the values.
    """
    pods = of_controller(tmp_path, {})
    found = of_controller(tmp_path, {"controller": {"pod": PATCHES[name]}})
    assert found == {pod: apply_patch(spec, PATCHES[name]) for pod, spec in pods.items()}


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


@needs_helm
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
    "a sidecar's missing mount path": (
        {"defaults": {"pod": {"initContainers": [{"name": "x", "resizePolicy": [{}]}]}}},
        ("defaults", "pod", "initContainers", 0, "resizePolicy", 0),
    ),
}


@needs_helm
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


@needs_helm
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
        runtime.check(read, partial(Helm("ns").render, "r", scenario, files), files)
    line = 1 + bad.read_text(encoding="utf-8").splitlines().index("      hostPID: maybe")
    assert str(caught.value).startswith(f"{bad}:{line}: {member}")
    runtime.check(read, partial(Helm("ns").render, "r", scenario, (good, last)), (good, last))
