"""What watching costs a run: the same run in memory alone and watched by a page that is asked as a
browser asks, in turns; seconds of CPU, which a busy machine does not change much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from tests.benchmarks.table import Table

PAIRS = int(os.environ.get("PAIRS", "3"))
SCENARIO = """
name: watching
data: {name: synthetic-skin, samples: 200, image_size: 32, classes: 4}
hospitals:
  - {name: aachen, architecture: {name: cnn-plain, options: {width: 16}}}
  - {name: bergen, architecture: {name: cnn-residual, options: {width: 16}}}
  - {name: cork, architecture: cnn-depthwise}
  - {name: delft, architecture: cnn-plain}
algorithm: {name: fedskd, rounds: 6}
"""
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.1


class Cost(NamedTuple):
    """Seconds of CPU: of the run, of the page until it was first there, and after that; and how
    long the run took.
    """

    run: float
    start: float
    page: float
    wall: float


def used(pid: int) -> float:
    """Return the CPU that a process has used by now; raises OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def begun(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def watch(out: Path, run: subprocess.Popen[str]) -> tuple[float, float]:
    """Ask for the page until the run has ended; the CPU of the page before and after the first."""
    while not (out / "logs" / "aachen.jsonl").exists():
        time.sleep(LOOK_S)
    page = begun("watch", out)
    try:
        address = str(page.stdout and page.stdout.readline()).partition("watch: ")[2].strip()
        have, start, last = dict[str, str](), 0.0, 0.0
        while run.poll() is None:
            asked = ",".join(f"{name}:{tag}" for name, tag in have.items())
            with urlopen(f"{address}fragments?have={asked}") as answer:
                told = json.load(answer)
            have |= {name: one["tag"] for name, one in told["fragments"].items()}
            with suppress(OSError):
                last = used(page.pid)
                start = start or last
            deadline = time.monotonic() + told["wait"]
            while run.poll() is None and time.monotonic() < deadline:
                time.sleep(LOOK_S)
        return start, last - start
    finally:
        page.kill()
        page.communicate()


def cost(folder: Path, *, watched: bool) -> Cost:
    """Run once; `watched` or not."""
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    out = folder / ("watched" if watched else "alone")
    before, began = os.times(), time.monotonic()
    run = begun("launch", folder / "scenario.yaml", "--on", "memory", "--out", out)
    start, page = watch(out, run) if watched else (0.0, 0.0)
    run.communicate()
    after = os.times()
    children = after.children_user + after.children_system
    spent = children - before.children_user - before.children_system
    if run.returncode:
        raise RuntimeError(f"the run ended with exit code {run.returncode}")
    wall = time.monotonic() - began
    return Cost(spent - (start + page if watched else 0.0), start, page, wall)


def main() -> list[Table]:
    """Measure all pairs."""
    alone, watched = list[Cost](), list[Cost]()
    for _ in range(PAIRS):
        with tempfile.TemporaryDirectory() as folder:
            alone.append(cost(Path(folder), watched=False))
            watched.append(cost(Path(folder), watched=True))
    seconds = {
        "run alone": [one.run for one in alone],
        "run watched": [one.run for one in watched],
        "page, until it is there": [one.start for one in watched],
        "page, from then on": [one.page for one in watched],
    }
    shares = {
        "of the run's CPU": [100 * one.page / one.run for one in watched],
        "of a processor's time": [100 * one.page / one.wall for one in watched],
    }
    return [
        Table("a run and the page that watches it", "seconds of CPU", seconds),
        Table("the page from then on", "%", shares),
    ]
