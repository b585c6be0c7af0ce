"""CPU seconds of commands that a person waits for, and of a comparison of short runs: user and
system, of the whole tree of processes.

``BEFORE=FOLDER`` also takes them with the program in another checkout, in pairs: on a busy machine
only pairs can be compared.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from tests.benchmarks.table import Table

HERE = Path(__file__).parent.parent.parent
PAIRS = int(os.environ.get("PAIRS", "5"))
SUBREAPER = 36
"""``PR_SET_CHILD_SUBREAPER``: processes whose parent has ended become this one's."""
COMPLETION = {
    "_FEDSKD_SIM_COMPLETE": "bash_complete",
    "COMP_WORDS": "fedskd-sim launch quick",
    "COMP_CWORD": "2",
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "completion": (),
    "models": ("models",),
    "status": ("status", "RUN"),
    "validate quickstart": ("validate", "quickstart"),
}
COMPARE = "compare roi-synthetic circulation,local --seeds 2 --jobs 1"


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(place: Path, arguments: tuple[str, ...], more: dict[str, str]) -> float:
    """Carry a command of a checkout out, wait for all that it has started, and give its seconds."""
    begun = spent()
    code = "import sys; sys.argv[0] = 'fedskd-sim'; from fedskd_sim.__main__ import run; run()"
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=place,
        env={**os.environ, **more},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return spent() - begun


def main() -> list[Table]:
    """Measure every command of each checkout in turn; the first round only warms up."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    places = {"": HERE}
    if before := os.environ.get("BEFORE"):
        places = {" before": Path(before), "": HERE}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(made / "bytecode")}
        run = ("launch", "placebo-ok", "--on", "memory", "--out", str(made / "run"))
        seconds(HERE, run, bytecode)
        values: dict[str, list[float]] = {}
        for number in range(PAIRS + 1):
            for (name, command), (label, place) in product(COMMANDS.items(), places.items()):
                given = tuple(str(made / "run") if one == "RUN" else one for one in command)
                more = bytecode if command else bytecode | COMPLETION
                took = seconds(place, given, more)
                if number:
                    values.setdefault(f"{name}{label}", []).append(took)
        compared: dict[str, list[float]] = {}
        for number, (label, place) in product(range(2), places.items()):
            out = str(made / f"compared-{number}{label.strip()}")
            given = (*COMPARE.split()[:2], "--algorithms", *COMPARE.split()[2:], "--out", out)
            compared.setdefault(f"compare{label}", []).append(seconds(place, given, bytecode))
    return [
        Table("Commands, whole tree", "CPU s", values),
        Table(COMPARE, "CPU s", compared, "compare before" if before else None),
    ]
