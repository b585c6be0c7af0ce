"""A million bent messages through the decoder: what the worst of them costs. An input that does
harm is named and ends the run.
"""

from __future__ import annotations

import resource
import time
from array import array
from statistics import quantiles

from tests.benchmarks.table import Table
from tests.unit.fuzzer import Fuzzer, judge

INPUTS = 1_000_000
SEED = 2
WARM = 10_000
SECONDS, MEMORY_MIB = 1.0, 64


def resident() -> float:
    """Read the most memory that this process has ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> list[Table]:
    """Judge them all; raises what the decoder should not have raised, and RuntimeError for an
    input that cost too much.
    """
    accepted, before, times = 0, 0.0, array("d", bytes(8 * INPUTS))
    for number in range(INPUTS):
        messages = Fuzzer(SEED, number).messages
        begun = time.thread_time()
        try:
            accepted += judge(messages)
        except Exception as error:
            error.add_note(f"Fuzzer({SEED}, {number})")
            raise
        times[number] = time.thread_time() - begun
        before = before if number > WARM else resident()
        if times[number] > SECONDS or resident() - before > MEMORY_MIB:
            text = (
                f"Fuzzer({SEED}, {number}) took {times[number]:.1f} s, memory has grown by "
                f"{resident() - before:.0f} MiB"
            )
            raise RuntimeError(text)
    percent = [1e6 * cut for cut in quantiles(times, n=100)]
    rows = {"median": [percent[49]], "99 of 100": [percent[98]], "the worst": [1e6 * max(times)]}
    counts = {"messages accepted": [accepted], "growth of memory, MiB": [resident() - before]}
    return [
        Table(f"judging one of {INPUTS:,} inputs", "us of CPU time", rows),
        Table("all of them", "count", counts),
    ]
