"""From `fedskd-sim launch` to the first hop that has arrived, quickstart, warm disk, with the parts on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import rows

SCENARIO = Path(__file__).parent.parent.parent / "scenarios" / "quickstart.yaml"
REPEATS = 4
STEPS = ("starting", "registered", "start", "warm_up", "arrived")


def once() -> dict[str, float]:
    """Launch, wait for the first arrival, interrupt, and read when each step first happened, in seconds after the launch."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        begun = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "fedskd_sim", "launch", str(SCENARIO), "--out", str(run)], stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not any('"arrived"' in path.read_text() for path in run.glob("logs/*.jsonl")):
            time.sleep(0.02)
        process.terminate()
        process.wait()
        events = [json.loads(line) for path in run.glob("logs/*.jsonl") for line in path.read_text().splitlines()]
    return {step: min(event["time"] for event in events if event["event"] == step) - begun for step in STEPS}


def main() -> list[str]:
    """Launch several times after one warm-up, and format when each step was first reached."""
    once()
    found = [once() for _ in range(REPEATS)]
    return rows("quickstart, seconds after launch", {step: [one[step] for one in found] for step in STEPS}, "s", "arrived")
