"""What custody costs: the same scenario with and without it, in turn, from its start to its end,
and on the way of a hop.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fedskd_sim import launch, load
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from tests.benchmarks.table import Table

SCENARIO = os.environ.get("KEPT_SCENARIO", "quickstart")
DATA = os.environ.get("KEPT_DATA")
PAIRS = int(os.environ.get("KEPT_PAIRS", "5"))
WITHOUT, WITH = "without custody", "with custody"


def main() -> list[Table]:
    """Run the pairs; every second one begins with custody."""
    whole: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    transfers: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    for pair in range(PAIRS):
        for kind in (WITHOUT, WITH) if pair % 2 else (WITH, WITHOUT):
            seconds, ways = once(kept=kind == WITH)
            whole[kind].append(seconds)
            transfers[kind] += ways
    return [
        Table(f"{SCENARIO}, from its start to its end", "s", whole, WITHOUT),
        Table("a model on its way, until it is acknowledged", "ms", transfers, WITHOUT),
    ]


def once(*, kept: bool) -> tuple[float, list[float]]:
    """Run the scenario as processes; gives the seconds from its start to its end, and the
    milliseconds of every transfer.
    """
    moments: dict[type, float] = {}

    def look(logged: Logged) -> None:
        moments[type(logged.what)] = logged.time

    with tempfile.TemporaryDirectory() as folder:
        change = f"custody.enabled={str(kept).lower()}"
        run = launch(load(Path(SCENARIO), change), out=Path(folder) / "out", data=DATA, watch=look)
        ways = [1e3 * float(row["seconds"]) for row in run.timings if row["what"] == "transfer"]
    return moments[events.EndEvent] - moments[events.StartEvent], ways
