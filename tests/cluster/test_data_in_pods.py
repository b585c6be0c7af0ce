"""Data in pods: each hospital sees its own, and cannot write it; and the way there of a folder of
the launching machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bed import IMAGES, Bed, Run, call, cli, placebo, until

LOOK = (
    "import os, pathlib; print(sorted(os.listdir('/data'))); print(os.access('/data', os.W_OK)); "
    "pathlib.Path('/data/x').touch()"
)
SHOW = "import pathlib; [print(one.read_bytes()) for one in pathlib.Path('/data').rglob('*.json')]"
FILL = "from pathlib import Path; Path('/data/{hospital}.npz').touch()"


def claim(name: str) -> dict[str, Any]:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": wanted,
    }


def holding(run: Run, name: str) -> str:
    """Wait until a hospital holds, that is, has finished and still runs."""
    run.heard("end", code=0)
    return str(run.pod(name)["metadata"]["name"])


def seen(run: Run, name: str) -> tuple[str, str]:
    """Say what a hospital's pod sees under /data, and what happens when it writes there."""
    done = call(
        "kubectl", "-n", run.bed.namespace, "exec", holding(run, name), "--", "python", "-c", LOOK
    )
    return done.stdout, done.stderr


def test_a_hospital_sees_only_its_own_data_and_cannot_write_it(bed: Bed) -> None:
    """Data that an init container fetches, or a claim holds, is mounted read-only and only at
    its own hospital.
    """
    claims = {"apiVersion": "v1", "kind": "List", "items": [claim("data-h2"), claim("data-h3")]}
    bed.kubectl("create", "-f", "-", given=json.dumps(claims))
    fetched = {"data": {"fetch": {"command": ["python", "-c", FILL]}}}
    held = {"data": {"claim": "data-{hospital}"}}
    have = {"h0": fetched, "h1": fetched, "h2": held, "h3": held}
    run = bed.install(placebo(4), overrides=have, holdSeconds=300)
    for name, data in have.items():
        there, refused = seen(run, name)
        assert there.splitlines()[0] == (str([f"{name}.npz"]) if data is fetched else "[]")
        assert "Read-only file system" in refused
    assert run.code() == 0


def test_data_that_does_not_come_ends_the_run(bed: Bed) -> None:
    """An init container that fails is told with its exit code; the run ends with an error
    instead of waiting for ever: at its third failed pod, or at the deadline if that is first.
    """
    data = {"fetch": {"command": ["python", "-c", "raise SystemExit(21)"]}}
    run = bed.install(placebo(2), overrides={"h1": {"data": data}}, startupSeconds=60)
    until("the failed pod in the log", lambda: run.events("pod", hospital="h1", standing="failed"))
    assert run.code() in (41, 44)
    assert "h1" in run.said()


PATIENTS = """\
name: patients
data: {name: table, file: patients.csv, numbers: {age: [50, 10], dose: [1, 1]}}
hospitals:
- {name: north, architecture: tab-mlp, data: {site: n}}
- {name: south, architecture: tab-mlp, data: {site: s}}
algorithm: {name: circulation, rounds: 1}
training: {warmup_epochs: 1}
"""
KINDS = ("records", "samples", "weights", "predictions")


def table(folder: Path, shift: int) -> None:
    """Write forty patients of two sites."""
    lines = ["age,dose,label,site,patient,fold"]
    for row in range(40):
        site, label = "ns"[row % 2], ("well", "ill")[row // 2 % 2]
        lines.append(f"{shift + row},{row % 3},{label},{site},{site}-{row},{row // 4 % 5}")
    (folder / "patients.csv").write_text("\n".join(lines) + "\n", "utf-8")


def well(*arguments: object) -> str:
    """Call the program; gives what it says, and asserts that it ends well."""
    done = cli(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def mounting(bed: Bed, name: str) -> Iterator[str]:
    """Let a suspended Job mount a claim meanwhile; gives its name."""
    container = {
        "name": "reader",
        "image": "none",
        "volumeMounts": [{"name": "a", "mountPath": "/a"}],
    }
    volumes = [{"name": "a", "persistentVolumeClaim": {"claimName": name}}]
    pod = {"containers": [container], "volumes": volumes, "restartPolicy": "Never"}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"reads-{name}"},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    bed.kubectl("create", "-f", "-", given=json.dumps(body))
    try:
        yield f"reads-{name}"
    finally:
        bed.kubectl("delete", "job", f"reads-{name}")


def test_a_claim_without_room_for_a_part_is_refused(bed: Bed, tmp_path: Path) -> None:
    """A claim is there, and smaller than the part: it is refused with both sizes before a pod is
    made.
    """
    table(tmp_path, 30)
    scenario, values = tmp_path / "patients.yaml", tmp_path / "data.yaml"
    scenario.write_text(PATIENTS, "utf-8")
    values.write_text(
        json.dumps({"hospitals": {"defaults": {"data": {"claim": "small-{hospital}"}}}}), "utf-8"
    )
    small = claim("small-north")
    small["spec"]["resources"]["requests"]["storage"] = "100"
    bed.kubectl("create", "-f", "-", given=json.dumps(small))
    push = ("data", "push", scenario, "--data", tmp_path, "-n", bed.namespace, "--values", values)
    done = cli(*push)
    assert done.returncode == 32, done.stdout + done.stderr
    assert "the claim 'small-north' has 100, and the part " in done.stderr


def test_a_folder_becomes_a_ring_of_pods_with_their_own_patients(bed: Bed, tmp_path: Path) -> None:
    """As docs/clusters.md has it: push, and launch. The run is that of the whole folder in memory
    to the byte; what is there already is not brought again, other data only when asked, and no
    hospital's claim has a word of another's patients.
    """
    table(tmp_path, 30)
    scenario, values = tmp_path / "patients.yaml", tmp_path / "data.yaml"
    scenario.write_text(PATIENTS, "utf-8")
    little = {"requests": {"cpu": "10m", "memory": "20Mi"}, "data": {"claim": "data-{hospital}"}}
    given = {"hospitals": {"defaults": little}, "images": IMAGES, "lingerSeconds": 0}
    values.write_text(json.dumps(given), "utf-8")
    place = ("-n", bed.namespace, "--values", values)
    push = ("data", "push", scenario, "--data", tmp_path, *place)
    assert [line.rpartition(", ")[2] for line in well(*push).splitlines()] == ["new", "new"]
    assert well(*push).count("there already") == 2
    there, here = tmp_path / "there", tmp_path / "here"
    well("launch", scenario, "--on", "kubernetes", *place, "--out", there)
    well("launch", scenario, "--on", "memory", "--data", tmp_path, "--out", here)
    files = [file.relative_to(here) for kind in KINDS for file in (here / kind).iterdir()]
    assert len(files) == 2 * len(KINDS)
    for file in files:
        assert (there / file).read_bytes() == (here / file).read_bytes(), file
    table(tmp_path, 40)
    assert well(*push).count("replaced") == 2
    other = tmp_path / "other.yaml"
    other.write_text(PATIENTS.replace("dose: [1, 1]", "dose: [2, 1]"), "utf-8")
    refused = ("data", "push", other, "--data", tmp_path, *place)
    done = cli(*refused)
    assert done.returncode == 32, done.stdout + done.stderr
    assert "--replace" in done.stderr
    with mounting(bed, "data-north") as reader:
        done = cli(*refused, "--replace")
        assert (done.returncode, "its Job is " + reader in done.stderr) == (32, True), done.stderr
    assert "on claim data-north, replaced" in well(*refused, "--replace")
    told = bed.probe(SHOW, claim="data-north")
    assert "n-0" in told
    assert "s-" not in told
    assert not bed.items("secrets,pods", "app.kubernetes.io/name=fedskd-sim-reader")
