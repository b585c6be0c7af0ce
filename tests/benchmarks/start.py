"""From `fedskd-sim launch` to the first hop that has arrived: quickstart, warm disk, with the parts
on the way.

The target is the time to the first transfer. A hospital sets out when its warm-up training is over,
which is part of the run and not of the start; the last rows say how long it took and when the first
visitor's session had been recorded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Table

SCENARIO = Path(__file__).parent.parent.parent / "scenarios" / "quickstart.yaml"
REPEATS = 5
LIMIT_S = 120
MEMORY = "peak memory of the launcher"


def lines(run: Path, folder: str) -> list[dict[str, Any]]:
    """Read all complete lines that the members of a run have written."""
    texts = [path.read_text(encoding="utf-8") for path in run.glob(f"{folder}/*.jsonl")]
    return [
        json.loads(line)
        for text in texts
        for line in text.splitlines(keepends=True)
        if line.endswith("\n")
    ]


def spent(pid: int) -> tuple[float, float]:
    """Tell the seconds of CPU that a process has taken, and its largest resident memory in MB."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def once() -> dict[str, float]:
    """Launch, wait for the first visitor's record, interrupt; seconds from the launch to when
    each step first happened.
    """
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        begun = time.time()
        command = [sys.executable, "-m", "fedskd_sim", "launch", str(SCENARIO), "--out", str(run)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        visited: list[float] = []
        while process.poll() is None and not visited and time.time() - begun < LIMIT_S:
            time.sleep(0.05)
            visited = [
                entry["end"] for entry in lines(run, "timings") if entry["what"] == "session"
            ]
        cpu, memory = spent(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        events, timings = lines(run, "logs"), lines(run, "timings")
        checked = (run / "environment.json").stat().st_mtime
    first = {
        step: min(event["time"] for event in events if event["event"] == step)
        for step in ("listening", "starting", "warm_up")
    }
    hospitals = min(
        event["time"] for event in events if event["event"] == "starting" and "hospital" in event
    )
    warm = [entry["end"] - entry["start"] for entry in timings if entry["what"] == "warm_up"]
    moments = {
        "scenario checked, run folder made": checked,
        "controller listens (fork server is up)": first["listening"],
        "first hospital process runs": hospitals,
        "all registered, warm-up begins": first["warm_up"],
        "first transfer begins": min(
            entry["start"] for entry in timings if entry["what"] == "transfer"
        ),
        "first transfer confirmed": min(
            entry["end"] for entry in timings if entry["what"] == "transfer"
        ),
        "first visitor's session is over": min(visited),
    }
    rest = {
        "of this: shortest warm-up training": min(warm),
        "CPU of the launcher": cpu,
        MEMORY: memory,
    }
    return {step: moment - begun for step, moment in moments.items()} | rest


def main() -> list[Table]:
    """Launch several times after one that warms the disk."""
    once()
    found = [once() for _ in range(REPEATS)]
    seconds = {step: [one[step] for one in found] for step in found[0] if step != MEMORY}
    return [
        Table("quickstart, after launch", "s", seconds),
        Table("quickstart", "MB", {MEMORY: [one[MEMORY] for one in found]}),
    ]
