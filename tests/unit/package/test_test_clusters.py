"""What leads to a test cluster: kind's configuration, the workflow, the fake GPUs, and the
switch that keeps real clusters safe.
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
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yaml"
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


def test_the_workflow_uses_the_verbs_of_the_makefile() -> None:
    """Every job calls make verbs that exist, actions and programs have versions, and no secret
    is used.
    """
    text, jobs = WORKFLOW.read_text(encoding="utf-8"), read(WORKFLOW)["jobs"]
    steps = {name: job["steps"] for name, job in jobs.items()}
    verbs = {
        name: re.findall(
            r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps[name])
        )
        for name in steps
    }
    assert verbs["test"] == ["test"]
    assert verbs["cluster"] == ["image", "kind-up", "test-cluster", "kind-down"]
    assert {verb for called in verbs.values() for verb in called} <= TARGETS
    assert all(
        re.fullmatch(r"[\w./-]+@v\d+", step["uses"])
        for called in steps.values()
        for step in called
        if "uses" in step
    )
    assert re.fullmatch(r"v\d+\.\d+\.\d+", jobs["cluster"]["env"]["KIND_VERSION"])
    assert "secrets." not in text
    assert "sha256sum --check" in text


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
        command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=300, check=False
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
