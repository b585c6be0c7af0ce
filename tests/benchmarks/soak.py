"""Three hundred rounds of three hospitals with averaged weights and an ensemble: what grows by
round, in memory and on the disk.
"""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

from fedskd_sim import launch, load
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.operate.canary import size_of
from tests.benchmarks.table import Table
from tests.ring.fates import scenario

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "300"))
WARM = 20
"""Rounds after which everything that is kept has been there once."""
MB = 1e6


def main() -> list[Table]:
    """Run it; memory is each hospital's largest so far, custody the files of each when it has
    welcomed its own model home.
    """
    held: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "scenario.yaml", Path(folder) / "out"
        path.write_text(scenario("ensemble and averaged weights"), encoding="utf-8")

        def look(logged: Logged) -> None:
            what = logged.what
            if isinstance(what, events.Finished) and what.kind == "homecoming":
                held.setdefault(logged.hospital, {})[what.round] = (
                    size_of(out / "custody" / logged.hospital) / 1e3
                )

        run = launch(load(path, f"algorithm.rounds={ROUNDS}"), out=out, watch=look)
        peaks: dict[str, dict[int, float]] = {}
        for row in run.timings:
            if row["what"] == "session":
                of = peaks.setdefault(str(row["host"]), {})
                of[int(row["round"])] = max(
                    of.get(int(row["round"]), 0.0), float(row["peak_bytes"]) / MB
                )
    return [
        Table(
            f"growth of a hospital's largest memory, rounds {WARM} to {ROUNDS}",
            "kB per round",
            grown(peaks),
        ),
        Table(
            "its largest memory at the end",
            "MB",
            {name: [of[ROUNDS]] for name, of in sorted(peaks.items())},
        ),
        Table(
            "its custody on the disk, all rounds",
            "kB",
            {name: list(of.values()) for name, of in sorted(held.items())},
        ),
    ]


def grown(peaks: dict[str, dict[int, float]]) -> dict[str, list[float]]:
    """Give the growth by round, in four parts of the run and as a whole."""
    cuts = [WARM + (ROUNDS - WARM) * part // 4 for part in range(5)]
    rows = {}
    for name, of in sorted(peaks.items()):
        rows[name] = [
            1e3 * (of[late] - of[early]) / (late - early)
            for early, late in [*pairwise(cuts), (WARM, ROUNDS)]
        ]
    return rows
