"""All that is ever sent to a cluster, Helm's objects and the controller's Jobs, through every
check that can be had offline.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import containers, defects, pod_of

from fedskd_sim.exits import final_codes
from fedskd_sim.kubernetes.jobs import job
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.scenario import load

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "fedskd-sim"
CI = {path.stem: path for path in sorted(CHART.glob("ci/*-values.yaml"))}
VALUES = (
    {"default": None} | CI | {path.stem: path for path in sorted(CHART.glob("examples/*.yaml"))}
)
CUSTOM = ("PodMonitor", "PrometheusRule")
RING = """
name: ring
hospitals:
  - {name: north, architecture: buffer, resources: {gpu: 1, memory: 3Gi}}
  - {name: a-hospital-with-a-name-of-39-characters, architecture: buffer}
  - {name: south, architecture: buffer}
algorithm: {name: placebo}
"""
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chart") / "scenario.yaml"
    file.write_text(RING, encoding="utf-8")
    return file


def rendered(scenario: Path, *arguments: object, release: str = "a-release-of-some-length") -> str:
    done = run(
        "helm",
        "template",
        release,
        CHART,
        "-n",
        "ns",
        "--set-file",
        f"scenario={scenario}",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(scenario: Path, *arguments: object, release: str = "r") -> str:
    done = run(
        "helm",
        "template",
        release,
        CHART,
        "-n",
        "ns",
        "--set-file",
        f"scenario={scenario}",
        *arguments,
    )
    assert done.returncode, "it was rendered"
    return done.stderr


def of_schema(told: str) -> str:
    """Give what helm says of values that the schema refuses; helm 4 writes places with slashes,
    helm 3 with dots.
    """
    assert "meet the specifications of the schema" in told
    return told.replace("/", ".")


def jobs_of(text: str, folder: Path) -> list[dict[str, Any]]:
    """Build the Jobs that the controller would make from what the chart has rendered."""
    run_map = next(
        body
        for body in yaml.safe_load_all(text)
        if body and body["kind"] == "ConfigMap" and "plan.json" in body["data"]
    )
    for name, content in run_map["data"].items():
        (folder / name).write_text(content, encoding="utf-8")
    read, plan = load(folder / "scenario.yaml").scenario, Plan.read(folder / "plan.json")
    return [job(read, plan.check_names(read.names), name, "uid") for name in read.names]


@pytest.fixture(params=VALUES, scope="module")
def manifests(
    request: pytest.FixtureRequest, scenario: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a file with all objects of a run: the chart's and the controller's."""
    values, folder = VALUES[request.param], tmp_path_factory.mktemp(request.param)
    text = rendered(scenario, *(["--values", values] if values else []))
    jobs = "".join("---\n" + yaml.safe_dump(body) for body in jobs_of(text, folder))
    file = folder / "all.yaml"
    file.write_text(text + jobs, encoding="utf-8")
    return file


def bodies(file: Path) -> Iterator[dict[str, Any]]:
    yield from (body for body in yaml.safe_load_all(file.read_text(encoding="utf-8")) if body)


@pytest.mark.parametrize("name", VALUES)
def test_helm_lint_has_nothing_to_say(name: str, scenario: Path) -> None:
    """`helm lint --strict` passes for the oldest supported version."""
    values = ["--values", VALUES[name]] if VALUES[name] else []
    done = run(
        "helm",
        "lint",
        CHART,
        "--strict",
        "--kube-version",
        "1.31.0",
        "--set-file",
        f"scenario={scenario}",
        *values,
    )
    assert done.returncode == 0, done.stdout


def test_no_key_stands_twice(manifests: Path) -> None:
    """Yamllint finds no duplicate key in what is rendered."""
    rules = "{rules: {key-duplicates: {level: error}}}"
    done = run(BIN / "yamllint", "-d", rules, manifests)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_every_object_fits_its_schema(version: str, manifests: Path) -> None:
    """kubernetes-validate knows every kind but the operator's, and every field of them, in the
    oldest and a new version.
    """
    done = run(BIN / "kubernetes-validate", "--strict", "-k", version, manifests)
    assert done.returncode == 0, done.stdout + done.stderr
    warned = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "WARN" in line and not any(kind in line for kind in CUSTOM)
    ]
    assert not warned


def test_every_object_makes_sense(manifests: Path) -> None:
    """The rules across fields hold for every object."""
    for body in bodies(manifests):
        assert defects(body) == [], body["metadata"]["name"]


def test_all_jobs_give_up_on_the_same_exit_codes(manifests: Path) -> None:
    """The controller's Job and the hospitals' end at every code of the table of errors, and at
    no other.
    """
    policies = [
        body["spec"]["podFailurePolicy"]["rules"]
        for body in bodies(manifests)
        if body["kind"] == "Job"
    ]
    lists = [
        rule["onExitCodes"]["values"]
        for rules in policies
        for rule in rules
        if "onExitCodes" in rule
    ]
    assert lists == [list(final_codes())] * 4


def checkov(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("checkov") or str(BIN.parent / "checkov" / "bin" / "checkov")
    if not Path(program).exists():
        pytest.skip("checkov is not installed; `make test` does it")
    return run(program, "--config-file", Path(__file__).parent / "checkov.yaml", "-f", file)


@pytest.mark.slow
def test_checkov_has_nothing_to_say(manifests: Path) -> None:
    """Checkov passes; what is skipped has its reason in checkov.yaml. Where the platform assigns
    ids (OpenShift: high ones), none are given, and nothing else is said.
    """
    done = checkov(manifests)
    ids_given = "runAsUser" in manifests.read_text(encoding="utf-8")
    found = set(re.findall(r"^Check: (\w+)", done.stdout, re.MULTILINE))
    assert found == (set() if ids_given else {"CKV_K8S_40"}), done.stdout
    assert (done.returncode == 0) == ids_given


def test_checkov_would_say_it(scenario: Path, tmp_path: Path) -> None:
    """With the same settings a privileged container is found."""
    body = jobs_of(rendered(scenario), tmp_path)[0]
    body["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(body), encoding="utf-8")
    assert "CKV_K8S_16" in checkov(file).stdout


ACCEPTED = {
    "CPU limit is not set": "it slows training down without protecting anybody; a value has it",
    "Ephemeral Storage limit is not set": "a queue would have to cover it; folders have a size",
    "Ephemeral Storage request is not set": "as its limit; a value has both",
    "ImagePullPolicy is not set to Always": "images of test clusters are loaded, not pulled",
}
ASSIGNED = {
    "The container is running with a low user ID": "the platform assigns a high one",
    "The container running with a low group ID": "the platform assigns a high one",
}


@pytest.mark.skipif(not shutil.which("kube-score"), reason="kube-score is not on the PATH")
def test_kube_score_finds_nothing_critical_without_a_reason(manifests: Path) -> None:
    """What it finds is in the table above, or comes of ids that the platform assigns."""
    told = run("kube-score", "score", manifests, "--output-format", "ci").stdout
    found = set(re.findall(r"^\[CRITICAL\].*\) (.*)$", told, re.MULTILINE))
    assert "[OK]" in told
    ids_given = "runAsUser" in manifests.read_text(encoding="utf-8")
    assert found <= {*ACCEPTED} | (set() if ids_given else {*ASSIGNED})


def test_dockerfiles_and_plain_manifests_are_clean() -> None:
    """Hadolint has nothing to say about the images, yamllint nothing about what is applied
    without Helm.
    """
    done = run(BIN / "hadolint", *sorted(ROOT.glob("images/*/Dockerfile")))
    assert done.returncode == 0, done.stdout
    plain = [
        ROOT / "kind-config.yaml",
        *sorted(ROOT.glob("k8s/**/*.yaml")),
        *sorted(ROOT.glob("scenarios/*.yaml")),
    ]
    done = run(
        BIN / "yamllint",
        "-d",
        "{rules: {key-duplicates: {level: error}, trailing-spaces: {level: error}}}",
        *plain,
    )
    assert done.returncode == 0, done.stdout


def test_every_pod_passes_the_restricted_standard(manifests: Path) -> None:
    """Pods run as nobody in particular, without privileges, on a read-only file system, and only
    the controller has a token.
    """
    for body in bodies(manifests):
        pod = pod_of(body)
        if pod is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (
            body["metadata"]["labels"]["app.kubernetes.io/component"] == "controller"
        )
        for container in containers(pod):
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def changed(path: tuple[str | int, ...], value: object) -> Callable[[dict[str, Any]], None]:
    """Make a change that puts a value at a path."""

    def change(body: dict[str, Any]) -> None:
        place: Any = body
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


POD = ("spec", "template", "spec")
BOX = (*POD, "containers", 0)
RULE = ("spec", "podFailurePolicy", "rules", 1)
SEEDED = {
    "half a GPU": changed((*BOX, "resources", "limits", "nvidia.com/gpu"), "0.5"),
    "GPU request and limit": changed((*BOX, "resources", "requests", "nvidia.com/gpu"), "2"),
    "memory 2GB": changed((*BOX, "resources", "limits", "memory"), "2GB"),
    "no memory limit": changed((*BOX, "resources", "limits"), {"nvidia.com/gpu": "1"}),
    "host name": changed((*POD, "hostname"), "Hosp_0"),
    "long label": changed(("metadata", "labels", "x"), "a" * 64),
    "long name": changed(("metadata", "name"), "a" * 58),
    "restart policy": changed((*POD, "restartPolicy"), "OnFailure"),
    "restart always": changed((*POD, "restartPolicy"), "Always"),
    "unknown container": changed((*RULE, "onExitCodes", "containerName"), "main"),
    "two matchers": changed((*RULE, "onPodConditions"), []),
    "zero is failure": changed((*RULE, "onExitCodes", "values"), [0]),
    "replacement": changed(("spec", "podReplacementPolicy"), "TerminatingOrFailed"),
    "pull policy": changed((*BOX, "imagePullPolicy"), "Sometimes"),
    "latest": changed((*BOX, "image"), "registry:5000/hospital"),
    "port name": changed((*BOX, "ports", 0, "name"), "a-name-of-16-chr"),
    "mount": changed((*BOX, "volumeMounts", 0, "name"), "nothing"),
    "duplicate variable": changed(
        (*BOX, "env"), [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    ),
    "host path": changed((*POD, "volumes", 0), {"name": "run", "hostPath": {"path": "/"}}),
    "host network": changed((*POD, "hostNetwork"), value=True),
}


@pytest.mark.parametrize("defect", SEEDED)
def test_the_checks_across_fields_find_what_they_are_for(
    defect: str, scenario: Path, tmp_path: Path
) -> None:
    """Each seeded defect is found in a Job that was good before."""
    body = jobs_of(rendered(scenario), tmp_path)[0]
    assert defects(body) == []
    spoilt = copy.deepcopy(body)
    SEEDED[defect](spoilt)
    assert defects(spoilt)


def test_bad_values_have_words_of_their_own(scenario: Path, tmp_path: Path) -> None:
    """What cannot work is refused when it is installed, with the value and the fix."""
    large, named = tmp_path / "large.yaml", tmp_path / "named.yaml"
    large.write_text(RING + "# " + "x" * 300_000, encoding="utf-8")
    named.write_text(RING.replace("north", "North_1"), encoding="utf-8")
    assert "--set-file scenario=FILE" in run("helm", "template", "r", CHART).stderr
    assert "262144" in refused(large)
    named_no = tmp_path / "no.yaml"
    named_no.write_text(RING.replace("north", "no"), encoding="utf-8")
    assert "write its name in quotes" in refused(named_no)
    for release in ("3t-mri", "v1.2"):
        assert f'the release name "{release}"' in refused(scenario, release=release)
    assert "North_1" in refused(named)
    assert "which is no hospital of the scenario; it has north" in refused(
        scenario, "--set", "hospitals.overrides.west.sizeLimit=1Gi"
    )
    for setting, place in {
        "gpus=1": "gpus",
        "requests.cpu=lots": "hospitals.defaults.requests.cpu",
        "data.claim=a,hospitals.defaults.data.hostPath=/a": "hospitals.defaults.data",
        "pod.hostname=other": "hospitals.defaults.pod.hostname",
    }.items():
        assert place in of_schema(refused(scenario, "--set", f"hospitals.defaults.{setting}"))
    assert "41 characters" in refused(scenario, release="r" * 41)


def names_of(scenario: Path, *arguments: object) -> set[str]:
    return {
        body["metadata"]["name"]
        for body in yaml.safe_load_all(rendered(scenario, *arguments))
        if body and body["kind"] == "Job"
    }


def test_only_what_changes_the_run_makes_another_one(scenario: Path, tmp_path: Path) -> None:
    """Metrics settings leave a run alone; another scenario, image or attempt is another run with
    objects of its own.
    """
    other = tmp_path / "other.yaml"
    other.write_text(RING + "seed: 2\n", encoding="utf-8")
    first = names_of(scenario)
    assert names_of(scenario) == first
    assert names_of(scenario, "--set", "metrics.podMonitor.enabled=true") == first
    assert names_of(other) != first
    assert names_of(scenario, "--set", "attempt=2") != first
    assert names_of(scenario, "--set", "images.hospital.tag=next") != first


def bodies_of(text: str, kind: str) -> list[dict[str, Any]]:
    return [body for body in yaml.safe_load_all(text) if body and body["kind"] == kind]


def test_a_budget_keeps_the_whole_ring_from_eviction(scenario: Path, tmp_path: Path) -> None:
    """The budget wants all hospitals and the controller, selects every pod of the run, and can
    be taken back in mid-run.
    """
    text = rendered(scenario)
    (budget,), (controller,) = bodies_of(text, "PodDisruptionBudget"), bodies_of(text, "Job")
    members = [controller, *jobs_of(text, tmp_path)]
    assert budget["spec"]["minAvailable"] == len(members)
    for member in members:
        metadata = member["spec"]["template"]["metadata"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
        assert metadata["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert metadata["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    notes = ("cluster-autoscaler\\.kubernetes\\.io/safe-to-evict", "karpenter\\.sh/do-not-disrupt")
    gone = ",".join(f"protection.annotations.{note}=null" for note in notes)
    off = ("--set", "protection.disruptionBudget=false", "--set", gone)
    assert not bodies_of(rendered(scenario, *off), "PodDisruptionBudget")
    assert (
        "annotations"
        not in bodies_of(rendered(scenario, *off), "Job")[0]["spec"]["template"]["metadata"]
    )
    assert names_of(scenario, *off[:2]) == names_of(scenario)


def test_every_container_has_limits_and_every_folder_a_size_where_they_are_asked_for(
    scenario: Path, tmp_path: Path
) -> None:
    """With the values for hardened platforms no container lacks a limit of CPU, memory and disk,
    and no pod has ids of its own.
    """
    text = rendered(scenario, "--values", CHART / "examples" / "openshift.yaml")
    pods = [
        pod
        for body in [*yaml.safe_load_all(text), *jobs_of(text, tmp_path)]
        if body and (pod := pod_of(body))
    ]
    assert len(pods) == 5
    for pod in pods:
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
        assert all(
            {"cpu", "memory", "ephemeral-storage"} <= set(one["resources"]["limits"])
            for one in containers(pod)
        )
        assert all(
            "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}) for volume in pod["volumes"]
        )


def test_every_folder_has_a_size_by_default(manifests: Path) -> None:
    """No emptyDir of any pod may fill its node."""
    for body in bodies(manifests):
        for volume in (pod_of(body) or {}).get("volumes", ()):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), body["metadata"][
                "name"
            ]


def test_policies_let_out_what_the_values_say(scenario: Path) -> None:
    """DNS on other ports is for every member, an egress of the controller's for it alone."""
    text = rendered(scenario, "--values", CHART / "examples" / "openshift.yaml")
    members, controller = (body["spec"]["egress"] for body in bodies_of(text, "NetworkPolicy"))
    assert [port["port"] for port in members[1]["ports"]] == [53, 53, 5353, 5353]
    assert controller[1]["ports"] == [{"port": 3128, "protocol": "TCP"}]


@pytest.mark.parametrize("secret", ["runSecret.existingSecret=mine", f"runSecret.value={'k' * 32}"])
def test_two_renders_are_the_same_bytes_where_the_secret_is_given(
    secret: str, scenario: Path
) -> None:
    """Nothing is drawn at random or read from a clock, so tools that compare renders see a
    change only where there is one.
    """
    assert rendered(scenario, "--set", secret) == rendered(scenario, "--set", secret)
    assert "runSecret" in refused(scenario, "--set", "runSecret.value=short")


def test_a_chart_without_values_can_be_linted() -> None:
    """Lint renders without a scenario, and has nothing to say but that there is no icon."""
    done = run("helm", "lint", CHART)
    assert done.returncode == 0, done.stdout


def test_the_list_of_images_is_what_is_installed(scenario: Path, tmp_path: Path) -> None:
    """Who mirrors images for a closed network finds in Chart.yaml those that the default values
    run.
    """
    listed = yaml.safe_load(
        yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["annotations"][
            "artifacthub.io/images"
        ]
    )
    text = rendered(scenario)
    jobs_of(text, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert {one["name"]: one["image"] for one in listed} == {
        name: one["image"] for name, one in plan["images"].items()
    }


def test_a_queue_is_named_for_hospitals_only(scenario: Path, tmp_path: Path) -> None:
    """The controller stands in no queue; a label that would put it into one is refused."""
    text = rendered(scenario, "--set", "kueue.queue=research")
    worn = [
        body["spec"]["template"]["metadata"]["labels"]
        for body in [*bodies_of(text, "Job"), *jobs_of(text, tmp_path)]
    ]
    assert ["kueue.x-k8s.io/queue-name" in labels for labels in worn] == [False, True, True, True]
    label = "commonLabels.kueue\\.x-k8s\\.io/queue-name=research"
    assert "name the queue in kueue.queue" in refused(scenario, "--set", label)


def keys_of(values: object, place: str = "") -> set[str]:
    if not isinstance(values, dict):
        return set()
    return {f"{place}{key}" for key in values} | {
        found for key, value in values.items() for found in keys_of(value, f"{place}{key}.")
    }


def known_to(schema: dict[str, Any], part: dict[str, Any], place: str = "") -> set[str]:
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    found = set()
    for key, inner in part.get("properties", {}).items():
        if inner is False:  # forbidden on purpose
            continue
        found |= {f"{place}{key}"} | known_to(schema, inner, f"{place}{key}.")
    return found


def test_schema_and_values_are_in_step() -> None:
    """Every value stands in the schema, and every key of the schema that has a default stands in
    values.yaml.
    """
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = keys_of(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))
    known = known_to(schema, schema)
    free = (
        "metrics.dashboard.labels.",
        "controller.resources.",
        "hospitals.defaults.gpu.pod.",
        "protection.annotations.",
    )
    assert {key for key in values if not key.startswith(free)} <= known
    without_default = (
        "global",
        "hospitals.defaults.data.",
        "controller.resources.limits.cpu",
        "controller.resources.limits.ephemeral-storage",
        "controller.resources.requests.ephemeral-storage",
    )
    assert {key for key in known if not key.startswith(without_default)} <= values
