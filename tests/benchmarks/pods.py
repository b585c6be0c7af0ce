"""A ring of many placebo hospitals as pods: from `helm install` to the first hop, through many
rounds, with the controller's memory and its calls to the API server.

Needs a test cluster as tests/cluster does (KUBECONFIG, helm, kubectl, the controller's image on its
nodes). ``PODS_SHAPE``: hospitals x minutes; not part of the default list.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from secrets import token_hex

from tests.benchmarks.cluster import LITTLE, ROOT, Event, call, logged, moments
from tests.benchmarks.table import Table

SIZE, MINUTES = map(int, os.environ.get("PODS_SHAPE", "40x30").split("x"))
SESSION_S = 1.0
LOOK_S = 5.0
PATIENCE_S = 900.0
MIB = 1 << 20


def ring() -> str:
    """Write a scenario whose rounds take the minutes, each hop of a round a second at least."""
    hospitals = [
        {"name": f"h{index}", "architecture": "buffer", "resources": {"memory": "128Mi"}}
        for index in range(SIZE)
    ]
    rounds = max(1, round(MINUTES * 60 / (SIZE * SESSION_S)))
    algorithm = {"name": "placebo", "rounds": rounds, "session_seconds": SESSION_S}
    timeouts = {"hop": 120, "register": 600}
    return json.dumps(
        {"name": "ring", "hospitals": hospitals, "algorithm": algorithm, "timeouts": timeouts}
    )


def memory(namespace: str) -> float:
    """Ask the nodes what memory the controller's pod works with, in MiB; 0 where none says so."""
    nodes = json.loads(call("kubectl", "get", "nodes", "-o", "json"))["items"]
    for node in nodes:
        path = f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary"
        for pod in json.loads(call("kubectl", "get", "--raw", path))["pods"]:
            about = pod["podRef"]
            if about["namespace"] == namespace and "-control-" in about["name"]:
                return float(pod.get("memory", {}).get("workingSetBytes", 0)) / MIB
    return 0.0


def watched(namespace: str, begun: float) -> tuple[list[float], list[Event]]:
    """Wait for the end of a run, and give the controller's memory meanwhile and what all members
    had logged when the first models had moved: of a long run a node keeps the end of a log only.
    """
    seen, early = list[float](), list[Event]()
    while True:
        control = logged(namespace, "controller")
        if not early and moments(control, "progress", round=1):
            early = [*control, *logged(namespace, "hospital")]
        if any(event["event"] in ("end", "error") for event in control):
            return [one for one in seen if one], early
        if time.time() - begun > PATIENCE_S + 3 * 60 * MINUTES:
            raise TimeoutError("the run did not end")
        seen.append(memory(namespace))
        time.sleep(LOOK_S)


def once() -> tuple[float, list[Event], list[Event], list[float]]:
    """Install a run, wait for its end, remove it; when it was installed, what all members had
    logged at first and the controller at last, and the controller's memory.
    """
    namespace = f"fedskd-bench-{token_hex(3)}"
    call("kubectl", "create", "namespace", namespace)
    try:
        with tempfile.TemporaryDirectory() as place:
            file, values = Path(place) / "scenario.yaml", Path(place) / "values.json"
            file.write_text(ring(), encoding="utf-8")
            values.write_text(json.dumps(LITTLE | {"holdSeconds": 20}), encoding="utf-8")
            begun = time.time()
            given = ("--set-file", f"scenario={file}", "-f", values)
            call("helm", "install", "bench", ROOT / "helm/fedskd-sim", "-n", namespace, *given)
        seen, early = watched(namespace, begun)
        return begun, early, logged(namespace, "controller"), seen
    finally:
        call("kubectl", "delete", "namespace", namespace, "--wait=true")


def main() -> list[Table]:
    """Run the ring once."""
    begun, early, control, seen = once()
    hops = moments(early, "finished", kind="visit")
    end = max(moments(control, "end"))
    times = {
        "Jobs made and released": [max(moments(early, "released")) - begun],
        "Start": [min(moments(early, "start")) - begun],
        "first hop is finished": [min(hops) - begun],
        "end": [end - begun],
    }
    (api,) = (one["calls"] for one in control if one["event"] == "api")
    calls = {verb: [count / (end - begun)] for verb, count in sorted(api.items())}
    title = f"{SIZE} hospitals, {MINUTES} minutes of rounds"
    return [
        Table(f"{title}, after helm install", "s", times),
        Table("memory of the controller", "MiB", {"controller": seen}),
        Table("calls to the API server", "per second", {**calls, "all": [
            sum(api.values()) / (end - begun)
        ]}),
    ]  # fmt: skip
