"""What follows a run's end: another try of the whole ring, or that its release goes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bed import CHART, COMMAND_S, IMAGES, INSTANCE, Bed, cli, command, kubectl, placebo, until

RING = placebo(3, session_seconds=1.0, rounds=4)


def test_a_ring_that_has_lost_a_hospital_begins_anew(bed: Bed, tmp_path: Path) -> None:
    """Its pod is deleted in mid-run, it has no claim, and the run may begin anew: the second try
    ends well, and what the launcher brings home is what one undisturbed run leaves.
    """
    scenario, values = tmp_path / "ring.yaml", tmp_path / "values.json"
    scenario.write_text(RING, "utf-8")
    little = {"requests": {"cpu": "10m", "memory": "20Mi"}}
    given = {"maxRestarts": 1, "images": IMAGES, "lingerSeconds": 0}
    short = {"terminationGracePeriodSeconds": 5, "hospitals": {"defaults": little}}
    values.write_text(json.dumps(given | short), "utf-8")
    there, here = tmp_path / "there", tmp_path / "here"
    line = ("launch", scenario, "--on", "kubernetes", "-n", bed.namespace, "--values", values)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    launch = command(*line, "--name", "anew", "--out", there)
    with subprocess.Popen(launch, text=True, **streams) as process:

        def began() -> bool:
            records = there / "records" / "h1.jsonl"
            return records.is_file() and len(records.read_bytes().splitlines()) > 1

        until("records of the first try", began)
        (pod,) = bed.items("pods", f"{INSTANCE}=anew,fedskd.io/hospital=h1")
        bed.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        said, errors = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 0, said + errors
    assert "the run begins anew, restart 1 of 1: 'h1' failed" in said
    assert "verified: whole" in said
    done = cli("launch", scenario, "--on", "memory", "--out", here)
    assert done.returncode == 0, done.stderr
    for name in ("h0", "h1", "h2"):
        kept = (there / "records" / f"{name}.jsonl").read_bytes()
        assert kept == (here / "records" / f"{name}.jsonl").read_bytes()


def test_a_release_removes_itself(bed: Bed) -> None:
    """Some time after its end nothing of it is left, Helm's own object included; until then it
    cannot be upgraded.
    """
    run = bed.install(placebo(2), removeAfterSeconds=10)
    assert run.heard("end", code=0)
    done = bed.helm("upgrade", run.release, CHART, "--reuse-values", "--set", "attempt=2")
    assert "removeAfterSeconds" in done.stderr
    kinds = ",".join(kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split())

    def left() -> str:
        own = bed.kubectl("get", kinds, "-l", run.selector, "-o", "name", "--ignore-not-found")
        return own + bed.kubectl("get", "secrets", "-l", f"name={run.release}", "-o", "name")

    until("empty namespace", lambda: not left())
    assert "not found" in bed.helm("status", run.release).stderr
