"""A file of values that was written for the chart of version 0.1.0, in which every key of it
stands: this chart takes it as it is.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from manifests import defects

from fedskd_sim.kubernetes import runtime
from fedskd_sim.kubernetes.helm import Helm
from fedskd_sim.kubernetes.jobs import job
from fedskd_sim.scenario import load

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "fedskd-sim"
KEPT = ROOT / "tests" / "kept" / "0.1.0" / "values.yaml"
KEYS = (
    "attempt backoffLimit commonLabels controller extraObjects holdSeconds hospitals "
    "imagePullSecrets images ipv6 kueue lingerSeconds metrics networkPolicy protection rbac resume "
    "runAsUser runSecret serviceAccount startupSeconds terminationGracePeriodSeconds "
    "ttlSecondsAfterFinished unschedulableSeconds"
)
SCENARIO = """
name: ring
hospitals:
  - {name: north, architecture: buffer, resources: {gpu: 1, memory: 3Gi}}
  - {name: east, architecture: buffer}
  - {name: south, architecture: buffer}
algorithm: {name: placebo}
"""
needs_helm = pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")


@pytest.fixture
def values() -> dict[str, Any]:
    """The values of 0.1.0."""
    return dict(yaml.safe_load(KEPT.read_text(encoding="utf-8")))


def complaints(values: dict[str, Any]) -> list[str]:
    """List the places of values that the chart's schema refuses."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(values)]


def test_all_keys_of_an_earlier_version_are_tried(values: dict[str, Any]) -> None:
    """All but the scenario, which is a file of its own."""
    assert sorted(values) == KEYS.split()


def test_the_schema_takes_values_of_an_earlier_version(values: dict[str, Any]) -> None:
    """None of their keys is unknown, and none of their values refused; a key that was never there
    would be.
    """
    assert complaints(values) == []
    values["hospitals"]["defaults"]["gpu"]["resources"] = values.pop("kueue")
    assert complaints(values) == ["$.hospitals.defaults.gpu"]


@needs_helm
def test_a_launch_takes_values_of_an_earlier_version(tmp_path: Path) -> None:
    """What `launch` checks before it installs finds nothing, every pod is sound, and what was set
    is where it belongs.
    """
    file = tmp_path / "scenario.yaml"
    file.write_text(SCENARIO, encoding="utf-8")
    read = load(file).scenario
    plan = runtime.check(read, partial(Helm("ns").render, "r", file, (KEPT,)), (KEPT,))
    jobs = {name: job(read, plan, name, "uid") for name in read.names}
    assert [defect for body in jobs.values() for defect in defects(body)] == [
        "volume 'data' is a path of the node"  # as the values ask for it
    ]
    north = jobs["north"]["spec"]["template"]["spec"]
    container = next(one for one in north["containers"] if one["name"] == "hospital")
    assert north["nodeSelector"] == {"topology.kubernetes.io/zone": "b"}
    assert (north["priorityClassName"], north["runtimeClassName"]) == ("research", "nvidia")
    assert container["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    assert jobs["east"]["metadata"]["annotations"]["example.org/note"] == "a job"
