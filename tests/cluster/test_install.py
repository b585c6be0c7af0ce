"""A plain installation: it ends well, tells no secret, uses no right too many, and leaves
nothing behind.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
from bed import CHART, SCENARIOS, TAG, Bed, Run, at_once, call, kubectl, placebo, until

from fedskd_sim.transport.zeromq import Keys


@pytest.fixture(scope="module")
def finished(shared_bed: Bed) -> Run:
    """A run of placebo-ok that has ended well."""
    run = shared_bed.install(SCENARIOS / "placebo-ok.yaml")
    assert run.code() == 0
    return run


def test_a_run_ends_well_and_helm_test_passes(finished: Run) -> None:
    """The controller's Job completes, every hospital's Job with it, and helm test agrees."""
    assert finished.events("end", code=0)
    done = finished.bed.helm("test", finished.release)
    assert done.returncode == 0, done.stderr
    until(
        "completion of every Job",
        lambda: all(job["status"].get("succeeded") for job in finished.jobs()),
    )
    assert len(finished.jobs()) == 1 + 3


def test_the_namespace_is_restricted(finished: Run) -> None:
    """The namespace in which the run has just ended refuses a pod that is not restricted."""
    text = ("run", "open", "--image=any", "--dry-run=server")
    done = call("kubectl", "-n", finished.bed.namespace, *text)
    assert done.returncode
    assert 'violates PodSecurity "restricted' in done.stderr


def test_no_key_is_told(finished: Run) -> None:
    """Neither the run secret nor a key derived from it stands in a Job, pod, ConfigMap, event or
    log.
    """
    names = ("controller", "north", "east", "south")
    secret = finished.run_key()
    keys = [Keys.derive(secret.encode(), finished.run, name, names).secret for name in names]
    texts = finished.bed.kubectl("get", "jobs,pods,configmaps,services,events", "-o", "yaml")
    pods = [*finished.pods(), *finished.controllers()]
    texts += "".join(finished.bed.kubectl("logs", pod["metadata"]["name"]) for pod in pods)
    assert len(secret) == 64
    assert finished.secret in texts
    assert '"event": "registered"' in texts
    for key in (secret, *keys):
        assert key not in texts
    for pod in pods:
        entries = [
            entry for container in pod["spec"]["containers"] for entry in container.get("env", ())
        ]
        assert all("valueFrom" not in entry for entry in entries)


def test_only_the_controller_has_a_token(finished: Run) -> None:
    """No hospital's pod mounts a service account token, and the hospitals' account may do
    nothing at all.
    """
    for pod in finished.pods():
        assert not [volume for volume in pod["spec"]["volumes"] if "projected" in volume]
    account = f"system:serviceaccount:{finished.bed.namespace}:{finished.release}-hospital"
    for verb, kind in (
        ("create", "jobs"),
        ("list", "pods"),
        ("get", "secrets"),
        ("get", "configmaps"),
    ):
        assert (
            call(
                "kubectl",
                "auth",
                "can-i",
                verb,
                kind,
                "-n",
                finished.bed.namespace,
                "--as",
                account,
            ).stdout.strip()
            == "no"
        )


def test_the_role_has_exactly_the_verbs_that_are_used(finished: Run, bed: Bed) -> None:
    """The calls of a run that ends well and of one whose pods are refused are together what the
    Role allows.
    """
    refused = bed.install(placebo(2), {"data": {"hostPath": "/tmp"}})
    assert refused.code() == 38
    assert "hostPath" in refused.said()
    used = set(finished.calls()) | set(refused.calls())
    rules = json.loads(bed.kubectl("get", "role", f"{refused.release}-controller", "-o", "json"))[
        "rules"
    ]
    allowed = {
        f"{verb} {kind}" for rule in rules for kind in rule["resources"] for verb in rule["verbs"]
    }
    assert used == allowed


def test_kubectl_shows_how_a_run_stands(finished: Run) -> None:
    """Its controller's Job has outcome, round and hops as labels, the verdict besides as an
    annotation, and Events that `kubectl describe` shows.
    """
    bed = finished.bed
    (job,) = bed.items("jobs", f"{finished.selector},app.kubernetes.io/component=controller")
    worn, notes = job["metadata"]["labels"], job["metadata"]["annotations"]
    done, _, total = worn["fedskd.io/hops"].partition("-of-")
    assert (worn["fedskd.io/outcome"], done) == ("ended", total)
    assert notes["fedskd.io/hops"] == f"{done}/{total}"
    table = bed.kubectl("get", "jobs", "-L", "fedskd.io/outcome,fedskd.io/round,fedskd.io/hops")
    assert f"{done}-of-{total}" in table
    told = bed.kubectl("describe", "job", job["metadata"]["name"])
    assert "a ring of" in told
    assert "the run has ended" in told


def test_calls_grow_linearly(bed: Bed) -> None:
    """Per hospital the controller creates one Job and patches it once, and all its other calls
    are few however large the ring, but for a look now and then while a pod is missing, and a word
    now and then of how far the run is.
    """
    runs = {size: bed.install(placebo(size)) for size in (3, 9)}
    for size, run in runs.items():
        assert run.code() == 0
        made = run.calls()
        assert made.pop("create jobs") == size
        assert size + 2 <= made.pop("patch jobs") <= size + 8
        assert made.pop("create events") <= 8
        made.pop("list events", None)
        assert made.total() <= 8, made


def test_uninstall_in_mid_run_leaves_nothing(bed: Bed) -> None:
    """After helm uninstall no object of any kind has the instance's label, though its hospitals
    were at work.
    """
    run = bed.install(placebo(3, rounds=50, session_seconds=1), terminationGracePeriodSeconds=5)
    run.heard("progress", round=1)
    kinds = ",".join(kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split())
    present = bed.kubectl("get", kinds, "-l", run.selector, "-o", "name").split()
    assert {entry.partition("/")[0] for entry in present} >= {
        "pod",
        "job.batch",
        "configmap",
        "secret",
        "service",
    }
    done = bed.helm("uninstall", run.release)
    assert done.returncode == 0, done.stderr
    until(
        "empty namespace",
        lambda: not bed.kubectl("get", kinds, "-l", run.selector, "-o", "name"),
    )
    assert not bed.items("secrets", f"name={run.release}")


def test_a_run_can_be_repeated_in_its_release(bed: Bed) -> None:
    """An upgrade with another attempt runs the scenario again under the same secret, and removes
    the first run's objects.
    """
    run = bed.install(placebo(2))
    assert run.code() == 0
    secret, first = run.run_key(), run.run
    done = bed.helm("upgrade", run.release, CHART, "--reuse-values", "--set", "attempt=2")
    assert done.returncode == 0, done.stderr
    until(
        "end of the first run",
        lambda: not bed.items("jobs,pods,configmaps", f"fedskd.io/run={first}"),
    )
    assert run.code() == 0
    assert run.run != first
    assert run.run_key() == secret


def test_values_for_chart_testing_are_installed_as_they_are(bed: Bed) -> None:
    """Each file under ci/ can be installed and tested, as `ct lint-and-install` does."""
    files = {file.stem.removesuffix("-values"): file for file in CHART.glob("ci/*-values.yaml")}
    built = ("--set", f"images.controller.tag={TAG}", "--wait")
    commands = {
        name: partial(bed.helm, "install", name, CHART, "--values", file, *built)
        for name, file in files.items()
    }
    tests = {name: partial(bed.helm, "test", name) for name in files}
    for work in (commands, tests):
        for name, done in at_once(work).items():
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert {name: Run(bed, name).code() for name in files} == dict.fromkeys(files, 0)
    assert files
