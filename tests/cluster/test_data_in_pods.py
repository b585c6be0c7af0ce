"""Data in pods: each hospital sees its own, and cannot write it."""

from __future__ import annotations

import json
from typing import Any

from bed import Bed, Run, call, placebo, until

LOOK = (
    "import os, pathlib; print(sorted(os.listdir('/data'))); print(os.access('/data', os.W_OK)); "
    "pathlib.Path('/data/x').touch()"
)
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
    instead of waiting for ever.
    """
    data = {"fetch": {"command": ["python", "-c", "raise SystemExit(21)"]}}
    run = bed.install(placebo(2), overrides={"h1": {"data": data}}, startupSeconds=20)
    until("the failed pod in the log", lambda: run.events("pod", hospital="h1", standing="failed"))
    assert run.code() == 44
    assert "h1" in run.said()
