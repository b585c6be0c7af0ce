"""Proportional memory (PSS) of hospital processes, forked from a server that has imported PyTorch and started each afresh."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.table import rows

MEMBERS = 4
PRELOAD = "fedskd_sim.runtimes.preload"


def pss(process: int) -> float:
    """Read the proportional set size of a process in MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1000


def hold(say: Any, stay: Any) -> None:
    """Import what a hospital needs, say so, and stay until told."""
    __import__(PRELOAD)
    say.send("ready")
    stay.wait(120)


def members(method: str) -> tuple[list[float], list[float]]:
    """Start four idle hospitals; return their PSS in MB and the seconds until all were ready."""
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    stay = context.Event()
    start = time.perf_counter()
    pipes = [context.Pipe() for _ in range(MEMBERS)]
    processes = [context.Process(target=hold, args=(pipe[1], stay)) for pipe in pipes]
    for process in processes:
        process.start()
    for pipe in pipes:
        pipe[0].recv()
    took = time.perf_counter() - start
    found = [pss(process.pid) for process in processes]
    stay.set()
    for process in processes:
        process.join()
    return found, [took]


def main() -> list[str]:
    """Compare both ways of starting hospitals."""
    fresh, fresh_s = members("spawn")
    forked, forked_s = members("forkserver")
    lines = rows("PSS of an idle hospital", {"started afresh": fresh, "forked": forked}, "MB", "started afresh")
    return lines + rows("all four ready", {"started afresh": fresh_s, "forked": forked_s}, "s", "started afresh")
