"""Many schedules of faults from seeds: in simulated time with bad weather, the laws looked at after
every event, and as real processes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.benchmarks.table import Table
from tests.ring.fates import called

sys.path.insert(0, str(Path(__file__).parent.parent / "world"))

from chaos import drawn, survived, text_of
from invariants import Broken

SEEDS = range(*map(int, os.environ.get("CHAOS_SEEDS", "0 10000").split()))
PROCESSES = int(os.environ.get("CHAOS_PROCESSES", "10"))


def main() -> list[Table]:
    """Let it happen, and count; every law that was broken is printed with its seed."""
    return [*simulated(), *(real() if PROCESSES else [])]


def simulated() -> list[Table]:
    counts: Counter[str] = Counter(dict.fromkeys(("laws broken", "ended undisturbed"), 0))
    begun = time.process_time()
    for seed in SEEDS:
        chaos, undisturbed = drawn(seed)
        counts["faults drawn"] += len(chaos.scenario.faults)
        try:
            run, watcher = survived(chaos, undisturbed)
        except Broken as broken:
            print(broken, flush=True)
            counts["laws broken"] += 1
            continue
        counts["ended undisturbed"] += 1
        counts["events looked at"] += watcher.events
        counts["deaths"] += sum(node.life for node in run.world.nodes.values())
        counts["messages"] += chaos.storm.messages
        counts["messages lost"] += chaos.storm.gone
        if seed % 500 == 0:
            print(seed, dict(counts), f"{time.process_time() - begun:.0f} s", flush=True)
    spent = [time.process_time() - begun]
    return [
        Table("Chaos in simulated time", "count", {row: [one] for row, one in counts.items()}),
        Table("All of it", "CPU s", {f"{len(SEEDS)} seeds": spent}),
    ]


def real() -> list[Table]:
    counts: Counter[str] = Counter(dict.fromkeys(("others, or an error", "the same records"), 0))
    took = []
    for seed in range(PROCESSES):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scenario.yaml"
            path.write_text(text_of(seed), encoding="utf-8")
            wanted, found = Path(folder) / "memory", Path(folder) / "processes"
            for runtime in (wanted, found):
                begun = time.monotonic()
                done = called(
                    dict(os.environ), "launch", path, "--on", runtime.name, "--out", runtime
                )
                if done.returncode:
                    print(seed, runtime.name, done.stderr, flush=True)
            took.append(time.monotonic() - begun)
            alike = records(wanted) == records(found) != {}
            counts["the same records" if alike else "others, or an error"] += 1
            counts["faults that struck"] += struck(found)
            print(f"{seed}: {'alike' if alike else 'OTHERWISE'}, {took[-1]:.0f} s", flush=True)
    rows = {row: [float(one)] for row, one in counts.items()}
    return [
        Table("The same schedule in simulated time and as processes", "runs", rows),
        Table("Such a run as processes", "s", {"launch to end": took}),
    ]


def records(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "records").glob("*"))}


def struck(folder: Path) -> int:
    """Count the faults that have happened."""
    lines = (line for log in folder.glob("logs/h*.jsonl") for line in log.read_text().splitlines())
    return sum(json.loads(line)["event"] == "fault" for line in lines)
