"""A user's own architecture, reader and data in pods: the manual's package in the hospitals' pods
alone, and what is wrong with it told to whoever launched.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bed import ROOT, TAG, Bed, Object, Run, cli

PAGE = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
CNN, CLINIC = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
OFFERS = (
    "[fedskd_sim.architectures]\nmy-cnn = my_cnn:build\n"
    "[fedskd_sim.readers]\nmy-clinic = my_clinic:read\n"
)
FILES = {
    "my_cnn.py": CNN,
    "my_clinic.py": CLINIC,
    "own-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n",
    "own-1.0.dist-info/entry_points.txt": OFFERS,
}
"""What pip installs of such a package."""
CASES = """
import csv
from pathlib import Path
import numpy as np
from PIL import Image
draw = np.random.default_rng(list("{hospital}".encode()))
with open("/data/cases.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(("image", "diagnosis", "patient", "clinic"))
    for row in range(40):
        pixels = draw.normal(100 + 60 * (row % 2), 30, (20, 20)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(f"/data/{row}.png")
        clinic = "{hospital}".capitalize()
        table.writerow((f"{row}.png", ("naevus", "melanoma")[row % 2], f"P{row // 2}", clinic))
"""
SCENARIO = """
name: own
data: {name: own, reader: my-clinic, options: {size: 16}}
hospitals:
  - {name: aachen, architecture: my-cnn, data: {site: Aachen}, resources: {memory: 1Gi}}
  - {name: bonn, architecture: my-cnn, data: {site: Bonn}, resources: {memory: 1Gi}}
algorithm: {name: fedskd, rounds: 1, similarity: {batch: 0.1, pixel: 0.1, region: 0.1}}
training: {epochs: 1, warmup_epochs: 1, batch_size: 16}
"""


LITTLE = (
    '{"hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}}, '
    '"terminationGracePeriodSeconds": 5}'
)


def provide(bed: Bed, name: str, **changes: str) -> None:
    """Put a version of the package where pods can mount it."""
    files = FILES | {f"{module}.py": text for module, text in changes.items()}
    data = {path.replace("/", "_"): text for path, text in files.items()}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    bed.kubectl("create", "-f", "-", given=json.dumps(body))


def volume(name: str) -> Object:
    items = [{"key": path.replace("/", "_"), "path": path} for path in FILES]
    return {"name": "own", "configMap": {"name": name, "items": items}}


def install(bed: Bed, **bonn: Any) -> Run:
    """Install a run of which every hospital has the package and fetches data of its own."""
    provide(bed, "own")
    box = {
        "name": "hospital",
        "env": [{"name": "PYTHONPATH", "value": "/own"}],
        "volumeMounts": [{"name": "own", "mountPath": "/own", "readOnly": True}],
    }
    image = f"localhost/fedskd-hospital:{TAG}"
    defaults = {
        "data": {"fetch": {"image": image, "command": ["python", "-c", CASES]}},
        "pod": {"volumes": [volume("own")], "containers": [box]},
    }
    images = {"controller": {"tag": TAG}, "hospital": {"tag": TAG}}
    return bed.install(SCENARIO, defaults, {"bonn": bonn} if bonn else {}, images=images)


@pytest.fixture(scope="module", autouse=True)
def crashing(shared_bed: Bed) -> Run:
    """Begin a run of which a hospital crashes each time; the cluster takes its time to make the
    next pods.
    """
    dies = "import os, sys\nprint('no libGL', file=sys.stderr, flush=True)\nos._exit(1)\n"
    provide(shared_bed, "other", my_clinic=dies)
    return install(shared_bed, pod={"volumes": [volume("other")]})


def test_only_hospitals_need_the_package(bed: Bed) -> None:
    """A ring of own networks on own data ends well under a controller that knows neither."""
    assert install(bed).code() == 0


def test_two_versions_of_a_reader_do_not_begin(bed: Bed) -> None:
    """A hospital with another version is found as it registers, and named with what differs."""
    provide(bed, "other", my_clinic=CLINIC.replace('convert("RGB")', 'convert("RGB").rotate(90)'))
    run = install(bed, pod={"volumes": [volume("other")]})
    assert run.code() == 63
    assert "the reader my-clinic of '" in run.said()


def test_a_hospital_that_crashes_each_time_ends_the_run(crashing: Run) -> None:
    """Its third pod is the last, long before the patience is over; the last words of its
    container come with it.
    """
    assert crashing.code() == 41
    assert "3 of its pods have failed before the start" in crashing.said()
    assert "exit code 1: no libGL" in crashing.said()


def test_code_beside_the_scenario_needs_no_image(bed: Bed, tmp_path: Path) -> None:
    """Network, reader, loss and method of the shipped example travel in the release: pods leave
    the bytes that a run in memory leaves, and the run folder is resumed and read as any other.
    """
    values = tmp_path / "values.yaml"
    values.write_text(LITTLE, encoding="utf-8")
    place = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    here, there = tmp_path / "here", tmp_path / "there"
    for way in ((*place, "--out", there), ("--on", "memory", "--out", here)):
        done = cli("launch", "own", *way)
        assert done.returncode == 0, done.stderr
    for name in ("records", "weights", "predictions"):
        files = sorted(file.name for file in (here / name).iterdir())
        assert files == sorted(file.name for file in (there / name).iterdir())
        for file in files:
            assert (here / name / file).read_bytes() == (there / name / file).read_bytes(), file
    assert f"{there} is whole" in cli("verify", there).stdout
