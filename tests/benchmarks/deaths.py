"""Death at every point of every algorithm for each of three hospitals, by kill and by full disk,
and of all at random instants. ``DEATHS_HOW`` says which deaths, or none of them; ``DEATHS_SEEDS``
how many random runs, and ``DEATHS_FROM`` their first seed; ``DEATHS_DRAWN`` how many runs of each
algorithm in which every hospital is killed at a point that is drawn, too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.benchmarks.table import Table
from tests.ring.fates import ALGORITHMS, POINTS, Death, called, fated, results, scenario

HOSPITALS = ("h0", "h1", "h2")
HOW = tuple(os.environ.get("DEATHS_HOW", "kill full").split())
SEEDS = int(os.environ.get("DEATHS_SEEDS", "50"))
FROM = int(os.environ.get("DEATHS_FROM", "0"))
DRAWN = int(os.environ.get("DEATHS_DRAWN", "0"))
LIVES = 3
VERDICTS = ("the same bytes", "OTHERS, OR AN ERROR", "the same bytes, a point not met by all three")


def main() -> list[Table]:
    """Try them all; a table counts what came of the runs, by algorithm."""
    rows, waits = {}, []
    for algorithm in ALGORITHMS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scenario.yaml"
            path.write_text(scenario(algorithm), encoding="utf-8")
            whole = reference(path)
            for how in HOW:
                rows[f"{algorithm}, {how}"] = counts = [0.0, 0.0, 0.0]
                for point in POINTS:
                    deaths = [
                        (name, point, 1 + number, how) for number, name in enumerate(HOSPITALS)
                    ]
                    verdict = tried(path, deaths, whole, waits)
                    counts[verdict] += 1
                    print(f"{algorithm}: {point}, {how}: {VERDICTS[verdict]}", flush=True)
            rows[f"{algorithm}, kill, drawn"] = drawn(path, algorithm, whole, waits)
            rows[f"{algorithm}, everything at once"] = at_random(
                path, whole, -(-SEEDS // len(ALGORITHMS))
            )
    told = {
        f"{row}: {how}": [count]
        for row, counts in rows.items()
        for how, count in zip(VERDICTS, counts, strict=True)
        if count
    }
    tables = [Table("runs in which every hospital died", "count", told)]
    if waits:
        again = {"from a death that was seen to the links of the next life": waits}
        tables.append(Table("recovery, PyTorch imported by the fork server", "s", again))
    return tables


def reference(path: Path) -> dict[str, bytes]:
    """Run a scenario undisturbed."""
    done = called(
        dict(os.environ), "launch", path, "--on", "memory", "--out", path.parent / "whole"
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return results(path.parent / "whole")


def tried(path: Path, deaths: list[Death], whole: dict[str, bytes], waits: list[float]) -> int:
    """Run a scenario with deaths: 0 the same bytes, 1 others or an error, 2 the same though not
    all were met.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy, out = Path(folder) / "scenario.yaml", Path(folder) / "out"
        copy.write_bytes(path.read_bytes())
        wrong = fated(copy, out, deaths)
        waits += recoveries(out)
        unmet = all("was not met" in words for words in wrong)
        if not unmet or results(out) != whole:
            print("\n".join(wrong))
            return 1
        return 2 if wrong else 0


def drawn(path: Path, algorithm: str, whole: dict[str, bytes], waits: list[float]) -> list[float]:
    """Kill every hospital at a point, and at a time of it, that are drawn."""
    counts = [0.0, 0.0, 0.0]
    for seed in range(FROM, FROM + DRAWN):
        draw = random.Random(f"{algorithm} {seed}")
        deaths = [(name, draw.choice(POINTS), draw.randint(1, 3), "kill") for name in HOSPITALS]
        verdict = tried(path, deaths, whole, waits)
        counts[verdict] += 1
        print(f"{algorithm}, seed {seed}: {deaths}: {VERDICTS[verdict]}", flush=True)
    return counts


def recoveries(out: Path) -> list[float]:
    """Read how long hospitals took from their restart until they listened."""
    waits, since = [], 0.0
    for log in out.glob("logs/h*.jsonl"):
        for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            if line["event"] == "restarted":
                since = line["time"]
            elif line["event"] == "listening" and since:
                waits.append(line["time"] - since)
                since = 0.0
    return waits


def at_random(path: Path, whole: dict[str, bytes], seeds: int) -> list[float]:
    """Kill all processes of runs, again and again at random instants, and resume them."""
    counts = [0.0, 0.0, 0.0]
    for seed in range(FROM, FROM + seeds):
        draw = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            out = Path(folder) / "out"
            arguments: list[object] = ["launch", path, "--out", out]
            for _ in range(LIVES):
                killed_after(draw.uniform(4.0, 9.0), *arguments)
                if (out / "place.json").exists() or [*out.glob("custody/*/commit-*.json")]:
                    arguments = ["resume", out]
                elif out.exists():  # who died before anything began has nothing to go on from
                    shutil.rmtree(out)
            done = called(dict(os.environ), *arguments)
            ended = done.returncode == 0 or "has ended well" in done.stderr
            counts[0 if ended and results(out) == whole else 1] += 1
            if not ended:
                print(seed, done.stderr, flush=True)
    print(f"everything at once, seeds from {FROM}:", counts, flush=True)
    return counts


def killed_after(seconds: float, *arguments: object) -> None:
    """Begin something in a group of its own, and kill all of it."""
    command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    print(*(table.text() for table in main()), sep="\n")
