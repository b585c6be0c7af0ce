"""From `helm install` to the first finished hop of quickstart, with its parts, and how long 100
hospitals take to form a ring.

Needs a test cluster as tests/cluster does (KUBECONFIG, helm, kubectl, both images on its nodes);
not part of the default list.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from secrets import token_hex
from typing import Any

from tests.benchmarks.table import Table

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = ROOT / "scenarios" / "quickstart.yaml"
REPEATS = 3
CROWD = 100
LOOK_S = 2
PATIENCE_S = 400
LITTLE = {
    "hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}},
    "holdSeconds": 0,
}
Event = dict[str, Any]


def call(*command: object, given: str = "") -> str:
    """Run a program and return what it prints."""
    return subprocess.run(
        [*map(str, command)], input=given, capture_output=True, text=True, check=True
    ).stdout


def crowd() -> str:
    """Write a scenario of many hospitals that learn nothing."""
    hospitals = [
        {"name": f"h{index}", "architecture": "buffer", "resources": {"memory": "128Mi"}}
        for index in range(CROWD)
    ]
    return json.dumps(
        {
            "name": "crowd",
            "hospitals": hospitals,
            "algorithm": {"name": "placebo", "rounds": 1},
            "timeouts": {"hop": 60},
        }
    )


def logged(namespace: str, component: str) -> list[Event]:
    """Read the events of all pods of a component."""
    selector = f"app.kubernetes.io/component={component}"
    command = (
        "kubectl",
        "logs",
        "-n",
        namespace,
        "-l",
        selector,
        "--tail=-1",
        "--max-log-requests=200",
        "--ignore-errors",
    )
    text = subprocess.run(
        command, capture_output=True, text=True, check=False
    ).stdout  # a container that starts has no log yet
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]


def once(scenario: str) -> tuple[float, list[Event], list[Event]]:
    """Install a run, wait for its end, remove it; the time of installation and what controller
    and hospitals have logged.
    """
    namespace = f"fedskd-bench-{token_hex(3)}"
    call("kubectl", "create", "namespace", namespace)
    try:
        with tempfile.TemporaryDirectory() as place:
            file, values = Path(place) / "scenario.yaml", Path(place) / "values.json"
            file.write_text(scenario, encoding="utf-8")
            values.write_text(json.dumps(LITTLE), encoding="utf-8")
            begun = time.time()
            call(
                "helm",
                "install",
                "bench",
                ROOT / "helm/fedskd-sim",
                "-n",
                namespace,
                "--set-file",
                f"scenario={file}",
                "-f",
                values,
            )
        while not any(
            event["event"] in ("end", "error") for event in logged(namespace, "controller")
        ):
            if time.time() - begun > PATIENCE_S:
                raise TimeoutError(f"the run did not end within {PATIENCE_S} s")
            time.sleep(LOOK_S)
        return begun, logged(namespace, "controller"), logged(namespace, "hospital")
    finally:
        call("kubectl", "delete", "namespace", namespace, "--wait=true")


def moments(events: list[Event], name: str, **wanted: object) -> list[float]:
    """Give the times of an event."""
    return [
        event["time"]
        for event in events
        if event["event"] == name and wanted.items() <= event.items()
    ]


def main() -> list[Table]:
    """Run quickstart several times, and the crowd once."""
    parts: dict[str, list[float]] = defaultdict(list)
    for _ in range(REPEATS):
        begun, control, work = once(QUICKSTART.read_text(encoding="utf-8"))
        visits = [
            event["time"]
            for event in work
            if event["event"] == "finished" and event["kind"] == "visit"
        ]
        steps = {
            "controller listens": min(moments(control, "listening")),
            "Jobs made and released": max(moments(control, "released")),
            "all containers run (schedule, image on the node)": max(
                moments(control, "pod", standing="running")
            ),
            "all registered (import)": max(moments(control, "registered")),
            "first warm-up is over": min(moments(work, "finished", kind="warm_up")),
            "first hop is finished": min(visits),
        }
        for step, moment in steps.items():
            parts[step].append(moment - begun)
    _, control, _ = once(crowd())
    released = max(moments(control, "released"))
    ring = {
        "all containers run": [max(moments(control, "pod", standing="running")) - released],
        "Start": [min(moments(control, "start")) - released],
        "a round and the evaluation round are over": [max(moments(control, "end")) - released],
    }
    return [
        Table("quickstart in a cluster, after helm install", "s", parts),
        Table(f"{CROWD} hospitals, after their release", "s", ring),
    ]
