"""Cluster tests run only when they are asked for, each in a namespace of its own that enforces
the restricted standard.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bed import Bed, call
from turns import Turns

SWITCH = "FEDSKD_TEST_CLUSTER"
FAILED = pytest.StashKey[bool]()
TURNS = Turns()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test of the cluster, with what it is prepared by, wait for one that must be alone."""
    if not item.get_closest_marker("cluster") or os.environ.get(SWITCH) != "1":
        return (yield)
    TURNS.enter(alone="alone" in getattr(item, "fixturenames", ()))
    try:
        return (yield)
    finally:
        TURNS.leave()


@pytest.fixture
def alone() -> Callable[[], None]:
    """Have the cluster alone, without tests of other processes, until this is called or the test
    is over.
    """
    return TURNS.share


@pytest.fixture(scope="session")
def cluster() -> None:
    """Use the cluster that KUBECONFIG names, and only if somebody has said that it is there for
    tests.
    """
    if os.environ.get(SWITCH) != "1":
        pytest.skip(
            f"no cluster for tests; 'make test-cluster' (or {SWITCH}=1) uses the one that "
            "KUBECONFIG names"
        )
    for program in ("kubectl", "helm"):
        assert shutil.which(program), f"{SWITCH} is set, and {program} is not on the PATH"
    done = call("kubectl", "get", "nodes")
    assert done.returncode == 0, f"{SWITCH} is set, and the cluster does not answer: {done.stderr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test has failed, for the namespace's last words."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or bool(report and report.failed)
    return report


@pytest.fixture
def bed(cluster: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bed]:  # noqa: ARG001 - it decides whether
    """Give a test its namespace; what happened in it is told if the test fails."""
    made = Bed.made(tmp_path)
    yield made
    if request.node.stash.get(FAILED, False):
        print(made.tell())
    made.remove()


@pytest.fixture(scope="module")
def shared_bed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:  # noqa: ARG001 - it decides whether
    """Give the tests of one file a namespace together, for a run that they only look at."""
    made = Bed.made(tmp_path_factory.mktemp("bed"))
    yield made
    made.remove()


@pytest.fixture
def claims(bed: Bed) -> Iterator[None]:
    """Make a claim for what each of three hospitals keeps."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    for number in range(3):
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"kept-h{number}"},
            "spec": spec,
        }
        bed.kubectl("create", "-f", "-", given=json.dumps(body))
    yield
    bed.kubectl("delete", "pvc", "--all", "--wait=false")
