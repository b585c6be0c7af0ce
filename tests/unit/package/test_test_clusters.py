"""What leads to a test cluster, and to a release: kind's configuration, the workflows, the fake
GPUs, and the switch that keeps real clusters safe.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
TARGETS = set(
    re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yaml"))}
PINNED = r"\s*(- )?uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+"
CLUSTER_KEYS = {"kind", "apiVersion", "name", "networking", "nodes"}
NODE_KEYS = {"role", "labels"}
LABEL = r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
RECORDER = '#!/bin/sh\necho "$@" >> "$CALLS"\n'


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def test_the_kind_cluster_has_gpu_and_cpu_workers() -> None:
    """The file has only keys kind knows, listens on loopback, fixes no version, and labels
    workers of both pools.
    """
    config = read(ROOT / "kind-config.yaml")
    assert config.keys() <= CLUSTER_KEYS
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert config["networking"] == {"apiServerAddress": "127.0.0.1"}
    assert all(node.keys() <= NODE_KEYS for node in config["nodes"])
    assert [node["role"] for node in config["nodes"]].count("control-plane") == 1
    workers = [node["labels"] for node in config["nodes"] if node["role"] == "worker"]
    assert [labels["fedskd.io/pool"] for labels in workers].count("gpu") == 2
    assert [labels["fedskd.io/pool"] for labels in workers].count("cpu") == 1
    assert all(
        "nvidia.com/gpu.product" in labels
        for labels in workers
        if labels["fedskd.io/pool"] == "gpu"
    )
    for labels in workers:
        assert all(
            re.fullmatch(LABEL, key) and re.fullmatch(LABEL, value) for key, value in labels.items()
        )


def steps_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """Give the steps of each job of a workflow."""
    return {job: told["steps"] for job, told in read(WORKFLOWS[name])["jobs"].items()}


def commands(steps: list[dict[str, Any]]) -> str:
    return "\n".join(step.get("run", "") for step in steps)


def test_the_workflow_uses_the_verbs_of_the_makefile() -> None:
    """Both jobs call make verbs in their order, and kind has a version and is looked at by its
    digest.
    """
    verbs = {
        job: re.findall(r"\bmake ([a-z-]+)", commands(steps))
        for job, steps in steps_of("ci").items()
    }
    assert verbs["test"] == ["test"]
    assert verbs["cluster"] == ["image", "kind-up", "test-cluster", "kind-down"]
    jobs = read(WORKFLOWS["ci"])["jobs"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", jobs["cluster"]["env"]["KIND_VERSION"])
    assert "sha256sum --check" in commands(steps_of("ci")["cluster"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_name_what_is_there_and_pin_what_they_use(name: str) -> None:
    """Every action is pinned by its commit, with its version beside it, tests, make verbs and
    switches exist, no secret is used, and nothing may be written that a job has not asked for.
    """
    text, told = WORKFLOWS[name].read_text(encoding="utf-8"), read(WORKFLOWS[name])
    used = [line for line in text.splitlines() if "uses:" in line]
    assert used
    assert not [line for line in used if not re.fullmatch(PINNED, line)]
    assert told["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    done = "\n".join(commands(steps) for steps in steps_of(name).values())
    assert {*re.findall(r"\bmake ([a-z-]+)", done)} <= TARGETS
    for path in re.findall(r"\btests/[\w/.]+", done):
        assert (ROOT / path).exists(), path
    read_by_tests = "".join(
        test.read_text(encoding="utf-8")
        for depth in ("*.py", "*/*.py")
        for test in (ROOT / "tests").glob(depth)
    )
    for switch in re.findall(r"\bFEDSKD_\w+", text):
        assert f'"{switch}"' in read_by_tests, switch


def test_an_action_has_one_version_in_all_workflows() -> None:
    """No workflow is left behind where an action was renewed in another."""
    used = {
        match
        for path in WORKFLOWS.values()
        for match in re.findall(
            r"uses: ([\w./-]+)@(\w+)  # (\S+)", path.read_text(encoding="utf-8")
        )
    }
    assert len({action for action, _, _ in used}) == len(used)


def test_nights_repeat_what_a_push_has_prepared() -> None:
    """Night and push have the same kind and cluster, and a night's drawn seeds are replayed by
    every kind of weather that `tests.world` knows.
    """
    push, night = (read(WORKFLOWS[name])["jobs"] for name in ("ci", "nightly"))
    assert night["cluster"]["env"] == push["cluster"]["env"]
    for step in ("Install kind", "Collect logs"):
        (one,), (other,) = (
            [told for told in jobs["cluster"]["steps"] if told.get("name") == step]
            for jobs in (push, night)
        )
        assert one == other
    world = (ROOT / "tests" / "world" / "__main__.py").read_text(encoding="utf-8")
    known = {*re.findall(r'"(\w+)": \w+', world.partition("replays = {")[2]), "storm"}
    assert {*night["world"]["strategy"]["matrix"]["what"]} == known


def test_a_release_publishes_last() -> None:
    """Nothing is published before packages, images and chart are built, the index is told by the
    workflow's own identity, and only the job that pushes may write packages.
    """
    jobs = read(WORKFLOWS["release"])["jobs"]
    rights = {name: job.get("permissions", {}) for name, job in jobs.items()}
    assert rights["publish"] == {"id-token": "write"}
    assert [name for name, given in rights.items() if "packages" in given] == ["images"]
    assert {*jobs["publish"]["needs"]} == {*jobs} - {"publish"}
    assert jobs["images"]["needs"] == "packages"


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Give an environment whose kubectl and helm only note how they were called."""
    calls = tmp_path / "calls"
    calls.touch()
    for name in ("kubectl", "helm"):
        (tmp_path / name).write_text(RECORDER, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key != "FEDSKD_TEST_CLUSTER"}
    return kept | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "KUBECONFIG": str(tmp_path / "config"),
    }, calls


@pytest.mark.slow
def test_no_cluster_is_touched_unasked(recorded: tuple[dict[str, str], Path]) -> None:
    """Without the switch every cluster test is skipped and says how to run it, and neither
    kubectl nor helm is called.
    """
    environment, calls = recorded
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    command += ["tests/cluster"]
    plain = {**environment, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ skipped", done.stdout.splitlines()[-1]), done.stdout
    assert "make test-cluster" in done.stdout
    assert calls.read_text() == ""


@pytest.mark.parametrize("arguments", [[], ["node"], ["node", "many"], ["node", "-1"]])
def test_fake_gpus_refuse_what_makes_no_sense(
    arguments: list[str], recorded: tuple[dict[str, str], Path]
) -> None:
    """Missing or senseless arguments end the script with exit code 2 before it calls anything."""
    environment, calls = recorded
    done = subprocess.run(
        [ROOT / "k8s" / "fake-gpus.sh", *arguments],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert calls.read_text() == ""
