"""The report of large runs: seconds, peak memory and bytes of the page, from made-up records of
a whole circulation.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedskd_sim.records import Measure, Record, Timing, to_line
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology
from tests.benchmarks.table import Table

SHAPES = ((17, 20), (17, 200), (100, 50))
"""Hospitals and rounds."""
MEASURED = (
    "accuracy", "balanced_accuracy", "auc", "resident_accuracy", "loss", "resident_loss",
    "similarity_batch", "similarity_pixel", "similarity_region", "drift",
)  # fmt: skip
SECONDS = 2.0
SCENARIO = (
    "name: large\nhospitals: [{}]\nalgorithm: {{name: fedskd, rounds: {}}}\ndata: {{name: "
    "synthetic-skin}}\n"
)
PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from fedskd_sim.results.report import write
from fedskd_sim.scenario import load
run = Path(sys.argv[1])
scenario = load(run / "scenario.yaml").scenario
write(run, scenario.members)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.process_time(), peak, (run / "report.html").stat().st_size / 1e6]))
"""


def lines(ring: Topology, host: str) -> Iterator[Record | Timing]:
    """Make up all records and timings of a hospital."""
    draw = random.Random(host)
    base = Record(
        "large",
        1,
        "warm_up",
        0,
        0,
        host,
        host,
        "cnn-plain",
        "trained",
        samples=240,
        steps=8,
        bytes=100_000,
    )
    stops = [(stop.kind, stop.round, stop.hop, stop.model) for stop in Program(ring, host).stops()]
    for number, (kind, round_, hop, model) in enumerate(
        [("warm_up", 0, 0, host), *stops, ("evaluation", ring.rounds + 1, 0, host)]
    ):
        outcome = "evaluated" if kind == "evaluation" else "trained"
        measures = {name: Measure(40 + 40 * draw.random(), 80.0) for name in MEASURED}
        yield replace(
            base, kind=kind, round=round_, hop=hop, model=model, outcome=outcome, measures=measures
        )
        start = 1.7e9 + SECONDS * number
        place = (host, model, round_, hop)
        for at, what in enumerate(
            ("session", "evaluation", "transfer") if kind != "evaluation" else ("evaluation",)
        ):
            yield Timing(
                what,
                *place,
                start + 0.5 * at,
                start + 0.5 * at + 0.4 * draw.random(),
                peak_bytes=1 << 29,
            )


def make(run: Path, hospitals: int, rounds: int) -> Path:
    """Write the folder of a run that never was."""
    names = tuple(f"hospital-{number:03}" for number in range(1, hospitals + 1))
    ring = Topology(names, rounds)
    for folder in ("records", "timings"):
        (run / folder).mkdir(parents=True)
    for name in names:
        with (
            (run / "records" / f"{name}.jsonl").open("w") as records,
            (run / "timings" / f"{name}.jsonl").open("w") as timings,
        ):
            for entry in lines(ring, name):
                (records if isinstance(entry, Record) else timings).write(to_line(entry) + "\n")
    listed = ", ".join(f"{{name: {name}, architecture: cnn-plain}}" for name in names)
    (run / "scenario.yaml").write_text(SCENARIO.format(listed, rounds), encoding="utf-8")
    (run / "environment.json").write_text("{}\n", encoding="utf-8")
    return run


def measured(run: Path) -> list[float]:
    """Report a run in a process of its own: seconds of CPU with imports, MB at the peak, MB of
    the page.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run)], check=True, capture_output=True, text=True
    )
    return [float(value) for value in json.loads(done.stdout)]


def main() -> list[Table]:
    """Report runs of all shapes."""
    rows: dict[str, list[float]] = {}
    for hospitals, rounds in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            rows[f"{hospitals} hospitals x {rounds} rounds"] = measured(
                make(Path(folder) / "run", hospitals, rounds)
            )
    units = ("seconds of CPU with imports", "MB at the peak", "MB of the page")
    return [
        Table(
            f"a report of a large run, {unit}",
            unit,
            {name: [found[place]] for name, found in rows.items()},
        )
        for place, unit in enumerate(units)
    ]
