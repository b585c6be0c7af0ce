"""Long runs of the placebo in simulated time, and every command that reads what they leave: CPU
time and peak memory of each, and bytes on the disk. ``LONG_SHAPES="100x200 20x1000"`` chooses
hospitals and rounds.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedskd_sim.operate.canary import size_of
from tests.benchmarks.table import Table
from tests.benchmarks.world import TEXT

SHAPES = os.environ.get("LONG_SHAPES", "20x20 20x100")
PARTS = ("logs", "records", "timings", "report.html", "report.json")
COMMANDS = {
    "status": ("status",),
    "verify": ("verify",),
    "report": ("report",),
    "export": ("export",),
    "export, Parquet": ("export", "--format", "parquet"),
}


def measured(*arguments: object) -> tuple[float, float]:
    """Run a command to its end; gives its seconds of CPU time and its peak memory in MiB."""
    with tempfile.TemporaryFile() as printed:
        command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
        files = [(os.POSIX_SPAWN_DUP2, printed.fileno(), one) for one in (1, 2)]
        process = os.posix_spawn(sys.executable, command, os.environ, file_actions=files)
        _, status, used = os.wait4(process, 0)
        if status:
            printed.seek(0)
            raise RuntimeError(printed.read().decode())
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def of_shape(shape: str, place: Path) -> Iterator[tuple[str, float, float]]:
    """Launch a run and read it with every command."""
    hospitals, rounds = map(int, shape.split("x"))
    names = ", ".join(f"{{name: h{number}, architecture: buffer}}" for number in range(hospitals))
    (place / "long.yaml").write_text(
        TEXT.format(hospitals=names).replace("rounds: 1", f"rounds: {rounds}")
    )
    run = place / "run"
    yield "launch", *measured("launch", place / "long.yaml", "--on", "memory", "--out", run)
    for name, (command, *flags) in COMMANDS.items():
        yield name, *measured(command, run, *flags)


def main() -> list[Table]:
    """Measure all shapes."""
    seconds, peaks, sizes = dict[str, list[float]](), dict[str, list[float]](), {}
    for shape in SHAPES.split():
        with tempfile.TemporaryDirectory() as folder:
            for name, spent, peak in of_shape(shape, Path(folder)):
                seconds[f"{shape}: {name}"], peaks[f"{shape}: {name}"] = [spent], [peak]
            for part in PARTS:
                held = Path(folder) / "run" / part
                bytes_ = size_of(held) if held.is_dir() else held.stat().st_size
                sizes[f"{shape}: {part}"] = [bytes_ / 1e6]
    return [
        Table("a long run of the placebo, and what reads it", "CPU s", seconds),
        Table("peak memory of the same", "MiB", peaks),
        Table("what it leaves", "MB", sizes),
    ]
