"""A million bent custodies, opened and read: what the worst of them costs. One that does harm is
named and ends the run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import quantiles

from tests.benchmarks.fuzz import resident
from tests.benchmarks.table import Table
from tests.unit.bending import SECRET, Bender, judge, kept, restored

BENT = 1_000_000
SEED = 2
WARM = 1_000
MEMORY_MIB = 64


def main() -> list[Table]:
    """Judge them all; raises what opening and reading should not have raised, and RuntimeError
    for one that cost too much.
    """
    accepted, before, times = 0, 0.0, []
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        custody = Path(folder) / "custody" / "a"
        whole = kept(custody)
        (Path(folder) / SECRET).write_bytes(b"secret")
        for number in range(BENT):
            restored(custody, Bender(SEED, number).bent(whole))
            begun = time.thread_time()
            try:
                accepted += judge(custody) > 0
            except Exception as error:
                error.add_note(f"Bender({SEED}, {number})")
                raise
            times.append(time.thread_time() - begun)
            before = before if number > WARM else resident()
            if resident() - before > MEMORY_MIB:
                raise RuntimeError(
                    f"Bender({SEED}, {number}): memory has grown by {resident() - before:.0f} MiB"
                )
    percent = [1e6 * cut for cut in quantiles(times, n=100)]
    rows = {"median": [percent[49]], "99 of 100": [percent[98]], "the worst": [1e6 * max(times)]}
    counts = {"a commit was used": [accepted], "growth of memory, MiB": [resident() - before]}
    return [
        Table(f"judging one of {BENT:,} custodies", "us of CPU time", rows),
        Table("all of them", "count", counts),
    ]
