"""From a scenario and the chart's plan to the Jobs of hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import kubernetes
import pytest

from fedskd_sim.errors import InvalidValue
from fedskd_sim.kubernetes import client_models
from fedskd_sim.kubernetes.folder_pods import loader, reader
from fedskd_sim.kubernetes.jobs import FINAL_CODES, job
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.scenario import Scenario, load

RING = """
name: ring
data: {name: synthetic-skin}
hospitals:
  - {name: north, architecture: cnn-plain, resources: {gpu: 2, memory: 3Gi, cpu: 4}}
  - {name: south, architecture: vit-tiny}
algorithm: {name: fedskd}
"""
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}
GPU = {
    "resource": "nvidia.com/gpu",
    "pod": {"nodeSelector": {"gpu": "yes"}, "tolerations": [TAINT]},
}
DEFAULTS: dict[str, Any] = {
    "requests": {"cpu": "250m", "memory": ""}, "gpu": GPU,
    "limits": {"cpu": "", "ephemeral-storage": ""}, "sizeLimit": "20Gi", "pod": {}, "jobLabels": {},
    "jobAnnotations": {}, "podLabels": {}, "podAnnotations": {}, "data": {}, "custody": {},
}  # fmt: skip
PLAN: dict[str, Any] = {
    "release": "rel",
    "namespace": "ns",
    "run": "12345678",
    "owner": "rel-12345678",
    "controller": "rel-12345678-control",
    "subdomain": "rel-12345678-ring",
    "secret": "rel-run-key",
    "service_account": "rel-hospital",
    "images": {
        "hospital": {"image": "h:1", "pullPolicy": "Never"},
        "controller": {"image": "c:1", "pullPolicy": "Never"},
    },
    "pull_secrets": [],
    "labels": {"app.kubernetes.io/instance": "rel"},
    "common_labels": {},
    "startup_seconds": 60,
    "unschedulable_seconds": 10,
    "linger_seconds": 30,
    "hold_seconds": 5,
    "ttl_seconds": 60,
    "backoff_limit": 6,
    "grace_seconds": 30,
    "max_restarts": 0,
    "made": [],
    "custody_anyway": "",
    "custody_moves": "",
    "annotations": {},
    "user": 10001,
    "ipv6": False,
    "queue": "",
    "defaults": DEFAULTS,
    "overrides": {},
}


def read(folder: Path, text: str = RING, **changes: Any) -> tuple[Scenario, Plan]:
    """Read a scenario and a plan as the controller does."""
    (folder / "scenario.yaml").write_text(text, encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(PLAN | changes), encoding="utf-8")
    return load(folder / "scenario.yaml").scenario, Plan.read(folder / "plan.json")


def pod(folder: Path, name: str, text: str = RING, **changes: Any) -> dict[str, Any]:
    scenario, plan = read(folder, text, **changes)
    return dict(job(scenario, plan, name, "uid")["spec"]["template"]["spec"])


def test_a_gpu_hospital_asks_for_its_devices_and_may_go_where_they_are(tmp_path: Path) -> None:
    """Number from the scenario, name, selector and toleration from the chart; memory is request
    and limit.
    """
    found = pod(tmp_path, "north")
    box = found["containers"][0]
    assert box["resources"]["limits"] == {"memory": "3Gi", "nvidia.com/gpu": "2"}
    assert box["resources"]["requests"] == {"cpu": "250m", "memory": "3Gi"}
    assert found["nodeSelector"] == {"gpu": "yes"}
    assert TAINT in found["tolerations"]
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in box["env"]
    assert {"name": "CUBLAS_WORKSPACE_CONFIG", "value": ":4096:8"} in box["env"]
    assert "NVIDIA_VISIBLE_DEVICES" not in {entry["name"] for entry in box["env"]}


def test_a_cpu_hospital_sees_no_gpu(tmp_path: Path) -> None:
    """It asks for none, tolerates no GPU node, and hides the devices that a runtime may show it
    all the same.
    """
    found = pod(tmp_path, "south")
    assert found["containers"][0]["resources"]["limits"] == {"memory": "2Gi"}
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in found["containers"][0]["env"]
    assert "CUBLAS_WORKSPACE_CONFIG" not in {
        entry["name"] for entry in found["containers"][0]["env"]
    }
    assert "nodeSelector" not in found
    assert {toleration["key"] for toleration in found["tolerations"]} == {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
    }


def test_a_pod_that_reads_a_claim_is_a_hospitals_without_its_cards(tmp_path: Path) -> None:
    """It goes where the claim's pod may go and has its account, with the claim read-only; no cards,
    no data, no sidecar, no queue, and no name by which it were taken for a member.
    """
    release = "r" * 53
    beside = {"name": "beside", "image": "b:1"}
    custody = {"claim": "kept-{hospital}"}
    spare = {"hostPath": "/cohort"}
    defaults = {
        **DEFAULTS, "custody": custody, "data": spare, "pod": {"containers": [beside]},
        "podLabels": {"kueue.x-k8s.io/queue-name": "q"},
    }  # fmt: skip
    scenario, plan = read(tmp_path, release=release, queue="q", defaults=defaults)
    pod = reader(scenario, plan, "north", "uid")
    assert client_models.problems_of("V1Pod", pod) == []
    spec = pod["spec"]
    (only,) = spec["containers"]
    assert (only["image"], spec["nodeSelector"]) == ("c:1", {"gpu": "yes"})
    assert "nvidia.com/gpu" not in json.dumps(only)
    (claim,) = [one for one in spec["volumes"] if one["name"] == "results"]
    assert claim["persistentVolumeClaim"] == {"claimName": "kept-north"}
    mounts = {one["name"]: one for one in only["volumeMounts"]}
    assert mounts.keys() == {one["name"] for one in spec["volumes"]}
    assert mounts["results"]["readOnly"]
    assert mounts["results"]["subPath"] == f"{plan.run}/north"
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsNonRoot"]
    assert len(pod["metadata"]["name"]) <= 63
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "fedskd-sim-reader"
    assert not {one for one in pod["metadata"]["labels"] if "hospital" in one or "kueue" in one}
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid"


@pytest.mark.parametrize("bound", [False, True])
def test_a_pod_that_takes_data_is_where_the_hospital_will_be(
    tmp_path: Path,
    bound: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A claim may bind to the node of the first pod that mounts it: until it is bound, the pod asks
    for the hospital's cards, too. It needs nothing of a release, and has its data alone.
    """
    data = {"claim": "d-{hospital}", "subPath": "x/{hospital}"}
    scenario, plan = read(tmp_path, defaults={**DEFAULTS, "data": data})
    pod = loader(scenario, plan, "north", "d-north", ("token", "uid"), bound=bound)
    assert client_models.problems_of("V1Pod", pod) == []
    spec = pod["spec"]
    (only,) = spec["containers"]
    assert (only["image"], spec["nodeSelector"]) == ("c:1", {"gpu": "yes"})
    assert only["resources"]["limits"].get("nvidia.com/gpu") == (None if bound else "2")
    assert only["args"][:3] == ["read-claim", "/data", "--takes-data"]
    mounts = {one["name"]: one for one in only["volumeMounts"]}
    assert mounts.keys() == {one["name"] for one in spec["volumes"]} == {"data", "key", "temporary"}
    assert mounts["data"] == {"name": "data", "mountPath": "/data", "subPath": "x/north"}
    assert "serviceAccountName" not in spec
    assert not spec["automountServiceAccountToken"]
    assert pod["metadata"]["ownerReferences"][0] == {
        "apiVersion": "v1", "kind": "Secret", "name": "token", "uid": "uid",
    }  # fmt: skip
    assert len(pod["metadata"]["name"]) <= 63


def test_only_what_learns_needs_the_image_with_pytorch(tmp_path: Path) -> None:
    """The placebo's hospitals run in the controller's image."""
    placebo = (
        "name: p\nhospitals: [{name: a, architecture: buffer}, {name: b, architecture: "
        "buffer}]\nalgorithm: {name: placebo}\n"
    )
    assert pod(tmp_path, "north")["containers"][0]["image"] == "h:1"
    assert pod(tmp_path, "a", placebo)["containers"][0]["image"] == "c:1"


def test_settings_of_one_hospital_replace_the_defaults(tmp_path: Path) -> None:
    """Key by key; of the GPU only what is given, and patches are laid over; other hospitals keep
    the defaults.
    """
    patch = {
        "runtimeClassName": "nvidia",
        "containers": [{"name": "hospital", "env": [{"name": "A", "value": "1"}]}],
    }
    own = {"north": {"gpu": {"resource": "nvidia.com/mig-1g.10gb"}, "pod": patch}}
    found = pod(tmp_path, "north", overrides=own)
    assert found["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "2"
    assert found["nodeSelector"] == {"gpu": "yes"}
    assert found["runtimeClassName"] == "nvidia"
    assert {"name": "A", "value": "1"} in found["containers"][0]["env"]
    assert "runtimeClassName" not in pod(tmp_path, "south", overrides=own)
    scenario, plan = read(tmp_path, overrides={"west": {}})
    with pytest.raises(InvalidValue, match="'west', which is no hospital"):
        plan.check_names(scenario.names)


@pytest.mark.parametrize(
    ("data", "volume"),
    [
        (
            {"claim": "data-{hospital}", "subPath": "{hospital}/x"},
            {"persistentVolumeClaim": {"claimName": "data-north", "readOnly": True}},
        ),
        (
            {"hostPath": "/data/{hospital}"},
            {"hostPath": {"path": "/data/north", "type": "Directory"}},
        ),
        ({"fetch": {"command": ["get", "{hospital}"]}}, {"emptyDir": {"sizeLimit": "20Gi"}}),
        (
            {"volume": {"csi": {"driver": "s3", "volumeAttributes": {"bucket": "c-{hospital}"}}}},
            {"csi": {"driver": "s3", "volumeAttributes": {"bucket": "c-north"}}},
        ),
    ],
)
def test_data_is_mounted_read_only_and_named_to_the_hospital(
    data: dict[str, Any], volume: dict[str, Any], tmp_path: Path
) -> None:
    """Each kind of volume carries the hospital's name, and the hospital is told where its data
    is.
    """
    found = pod(tmp_path, "north", overrides={"north": {"data": data}})
    assert {"name": "data"} | volume in found["volumes"]
    mount = next(
        mount for mount in found["containers"][0]["volumeMounts"] if mount["name"] == "data"
    )
    assert mount["readOnly"]
    assert mount.get("subPath") == ("north/x" if "subPath" in data else None)
    assert found["containers"][0]["args"][-2:] == ["--data", "/data"]
    if "fetch" in data:
        assert found["initContainers"][0]["command"] == ["get", "north"]
    assert (
        "--data"
        not in pod(tmp_path, "south", overrides={"north": {"data": data}})["containers"][0]["args"]
    )


def test_a_job_tries_again_what_another_try_may_change(tmp_path: Path) -> None:
    """Our own exit codes fail the Job at once, disruptions do not count, and code 1, a signal or
    143 are tried again.
    """
    scenario, plan = read(tmp_path)
    body = job(scenario, plan, "south", "uid")
    ignored, final = body["spec"]["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert [condition["type"] for condition in ignored["onPodConditions"]] == [
        "DisruptionTarget",
        "TerminationTarget",
    ]
    assert final["onExitCodes"]["values"] == list(FINAL_CODES)
    assert {2, 12, 21, 43, 51} <= set(FINAL_CODES)
    assert {0, 1, 130, 137, 143}.isdisjoint(FINAL_CODES)
    assert body["spec"]["suspend"] is True
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "rel-12345678", "uid": "uid"}
    ]


def test_names_fit_whatever_the_release_is_called(tmp_path: Path) -> None:
    """A long release gives way; run and hospital stay whole, so that names stay different."""
    _, plan = read(tmp_path, release="r" * 40)
    hospital = "h" * 40
    assert plan.job("north") == "r" * 40 + "-12345678-north"
    assert plan.job(hospital) == "r" * 7 + f"-12345678-{hospital}"
    assert len(plan.job(hospital)) == 57


def test_what_is_no_plan_or_no_job_is_refused(tmp_path: Path) -> None:
    """A plan with an unknown key, and settings that make no Job, are errors of ours."""
    with pytest.raises(InvalidValue, match="is no plan"):
        pod(tmp_path, "north", surprise=1)
    with pytest.raises(InvalidValue, match="north is no valid pod") as caught:
        pod(tmp_path, "north", overrides={"north": {"pod": {"affinity": {"nodes": 1}}}})
    assert str(caught.value).startswith(
        "the chart's values: hospitals.overrides.north.pod.affinity.nodes: "
    )
    with pytest.raises(InvalidValue, match="make no valid Job"):
        pod(tmp_path, "north", overrides={"north": {"jobLabels": {"a": 1}}})


LACKING = ["podLabels", "jobLabels", "limits", "sizeLimit", "pod", "data", "custody"]


class Inner:
    """A model as clients before 37 have them."""

    openapi_types: ClassVar = {"node_name": "str", "priority": "int", "on": "bool"}
    attribute_map: ClassVar = {"node_name": "nodeName", "priority": "priority", "on": "on"}


class Outer:
    """Another, that has the first one in lists and by name."""

    openapi_types: ClassVar = {"many": "list[Inner]", "named": "dict(str, Inner)", "any": "object"}
    attribute_map: ClassVar = {"many": "many", "named": "named", "any": "any"}


def test_an_older_clients_models_refuse_what_a_server_would_drop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unknown fields and wrong types are told with their place, as the models of newer ones do."""
    monkeypatch.setattr(client_models, "models", SimpleNamespace(Inner=Inner, Outer=Outer))
    good = {"many": [{"nodeName": "a", "on": True}, {}], "named": {"x": {}}, "any": {"b": [1]}}
    assert client_models.problems_of("Outer", good) == []
    bad = {
        "many": [{}, {"node_name": "a", "priority": True, "on": 1}],
        "named": {"x": {"nodeName": 3}, "y": 4},
        "other": 1,
    }
    found = {one["loc"]: one["msg"] for one in client_models.problems_of("Outer", bad)}
    assert found.pop(("many", 1, "node_name")) == found.pop(("other",))
    assert found == {
        ("many", 1, "priority"): "Input should be a valid integer",
        ("many", 1, "on"): "Input should be a valid boolean",
        ("named", "x", "nodeName"): "Input should be a valid string",
        ("named", "y"): "Input should be a valid dictionary",
    }
    assert len(client_models.problems_of("Outer", {"many": {}, "named": []})) == 2


@pytest.mark.parametrize("lacking", LACKING)
def test_what_values_do_not_say_is_as_by_default(lacking: str, tmp_path: Path) -> None:
    """Values of an older release lack a key, somebody sets one to null: the pod is that of the
    empty default.
    """
    whole = pod(tmp_path, "north")
    assert pod(tmp_path, "north", defaults=DEFAULTS | {lacking: None}) == whole
    assert (
        pod(
            tmp_path,
            "north",
            defaults={key: value for key, value in DEFAULTS.items() if key != lacking},
        )
        == whole
    )


def test_requests_that_are_null_are_those_of_the_scenario(tmp_path: Path) -> None:
    """Without a word of the chart's a pod asks for the threads and the memory that its hospital
    has.
    """
    (container,) = pod(tmp_path, "north", defaults=DEFAULTS | {"requests": None})["containers"]
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "3Gi"}
    (container,) = pod(tmp_path, "north", defaults=DEFAULTS | {"gpu": None})["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_limits_reach_every_container_and_every_folder_is_bounded(tmp_path: Path) -> None:
    """A quota that asks for limits of CPU and of the node's disk gets them from the hospital and
    from what fetches its data.
    """
    own = {
        "limits": {"cpu": "2", "ephemeral-storage": "30Gi"},
        "data": {"fetch": {"command": ["get"]}},
        "sizeLimit": "5Gi",
    }
    found = pod(tmp_path, "south", defaults=DEFAULTS | own)
    for container in (*found["containers"], *found["initContainers"]):
        assert {"cpu": "2", "ephemeral-storage": "30Gi"}.items() <= container["resources"][
            "limits"
        ].items()
    folders = [volume["emptyDir"] for volume in found["volumes"] if "emptyDir" in volume]
    assert folders == [{"sizeLimit": "5Gi"}] * 3


@pytest.mark.skipif(
    int(kubernetes.__version__.partition(".")[0]) < 31, reason="the client does not know templates"
)
def test_gpus_without_a_name_come_by_claims(tmp_path: Path) -> None:
    """With an empty resource only the patch says what a GPU hospital gets, and its devices are
    not hidden.
    """
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}]}
    found = pod(tmp_path, "north", defaults=DEFAULTS | {"gpu": {"resource": "", "pod": claims}})
    assert found["containers"][0]["resources"]["limits"] == {"memory": "3Gi"}
    assert found["resourceClaims"] == claims["resourceClaims"]
    assert "NVIDIA_VISIBLE_DEVICES" not in {
        entry["name"] for entry in found["containers"][0]["env"]
    }


def test_ids_are_the_platforms_where_it_assigns_them(tmp_path: Path) -> None:
    """An empty user leaves user and groups out of every hospital's pod."""
    assert pod(tmp_path, "north")["securityContext"]["fsGroup"] == 10001
    assert pod(tmp_path, "north", user="")["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_members_listen_on_ipv6_where_they_have_it(tmp_path: Path) -> None:
    """Inbox and metrics are bound to any address of both kinds, written with brackets."""
    args = pod(tmp_path, "north", ipv6=True)["containers"][0]["args"]
    assert args[args.index("--bind") + 1] == "tcp://[::]:5555"
    assert args[args.index("--metrics") + 1] == "[::]:9100"


def test_autoscalers_are_told_to_leave_pods_alone(tmp_path: Path) -> None:
    """The plan's annotations are on every hospital's pod, and its own settings win over them."""
    scenario, plan = read(
        tmp_path,
        annotations={"a": "1", "b": "1"},
        defaults=DEFAULTS | {"podAnnotations": {"b": "2"}},
    )
    found = job(scenario, plan, "north", "uid")["spec"]["template"]["metadata"]["annotations"]
    assert {"a": "1", "b": "2"}.items() <= found.items()


def test_the_most_specific_label_wins(tmp_path: Path) -> None:
    """A hospital's own labels win over those of all objects, and the ones by which the run's
    objects are known over both.
    """
    known = "app.kubernetes.io/instance"
    scenario, plan = read(
        tmp_path,
        common_labels={"team": "all", "site": "all", known: "x", "fedskd.io/run": "x"},
        defaults=DEFAULTS
        | {"podLabels": {"team": "pod", known: "y"}, "jobLabels": {"team": "job"}},
    )
    body = job(scenario, plan, "north", "uid")
    for kind, metadata in (
        ("job", body["metadata"]),
        ("pod", body["spec"]["template"]["metadata"]),
    ):
        found = metadata["labels"]
        assert (found["team"], found["site"]) == (kind, "all")
        assert (found[known], found["fedskd.io/run"]) == ("rel", plan.run)


def test_a_queue_gets_the_ring_as_one_group(tmp_path: Path) -> None:
    """Every hospital's pod names the queue and one group of the ring's size; its Job, which
    Kueue would queue alone, names none.
    """
    scenario, plan = read(tmp_path, queue="research")
    for name in scenario.names:
        body = job(scenario, plan, name, "uid")
        metadata = body["spec"]["template"]["metadata"]
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        assert metadata["labels"]["kueue.x-k8s.io/pod-group-name"] == plan.owner
        assert metadata["annotations"]["kueue.x-k8s.io/pod-group-total-count"] == "2"
        assert not [key for key in body["metadata"]["labels"] if "kueue" in key]


def test_a_plan_without_a_number_is_refused(tmp_path: Path) -> None:
    """A null where the controller needs a number ends it at once, with the value's name."""
    with pytest.raises(InvalidValue, match="startup_seconds"):
        read(tmp_path, startup_seconds=None)
