"""A federation of very many hospitals with networks for connectivity, that learn in one process:
each model trains with `VISITS` others and is tested everywhere.

``MANY="50 200"`` chooses how many hospitals; 200 take several minutes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import load
from tests.benchmarks.table import Table

SIZES = tuple(map(int, os.environ.get("MANY", "200").split()))
VISITS = 4
TEXT = """
name: many
data: {{name: synthetic-roi, samples: 40, regions: 40}}
hospitals: [{hospitals}]
algorithm: {{name: fedskd, rounds: 1, schedule: {{visits: {visits}}}}}
training: {{batch_size: 16}}
"""
NETWORKS = ("roi-mlp", "roi-brainnet", "roi-gcn", "roi-transformer")
PROGRAM = """
import resource, sys
from fedskd_sim.__main__ import run
sys.argv[0] = "fedskd-sim"
try:
    run()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(size: int) -> tuple[int, float, float]:
    """Carry a run out; gives its steps with a record, CPU seconds and the largest memory in MiB."""
    networks = islice(cycle(NETWORKS), size)
    entries = [f"{{name: h{at}, architecture: {name}}}" for at, name in enumerate(networks)]
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "many.yaml", Path(folder) / "run"
        file.write_text(TEXT.format(hospitals=", ".join(entries), visits=VISITS), encoding="utf-8")
        ring = Topology.of(load(file).scenario)
        command = ("launch", str(file), "--on", "memory", "--no-page", "--out", str(out))
        begun = spent()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    peak = int(done.stderr.split()[-1]) / 1024
    return sum(Program(ring, name).recorded for name in ring.names), spent() - begun, peak


def main(sizes: tuple[int, ...] = SIZES) -> list[Table]:
    whole: dict[str, list[float]] = {}
    each: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for size in sizes:
        row = f"{size} hospitals"
        steps, seconds, peak = run(size)
        whole[row], each[row], peaks[row] = [seconds], [1e3 * seconds / steps], [peak]
    return [
        Table(f"Networks for connectivity in memory, one round of {VISITS} visits", "CPU s", whole),
        Table("A step of the same, training or test", "CPU ms", each),
        Table("Largest resident memory", "MiB", peaks),
    ]
