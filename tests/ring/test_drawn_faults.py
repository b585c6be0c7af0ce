"""Schedules of faults, drawn from seeds, in real processes; `python -m tests.benchmarks chaos` has
more of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from watching import events, left_behind

sys.path.insert(0, str(Path(__file__).parent.parent / "world"))

from chaos import text_of

from fedskd_sim.scenario import load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("temporary")]
SEEDS = (18, 43)
"""Between them they have every kind of fault."""


def records(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "records").glob("*"))}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_schedule_has_the_same_records_in_real_and_simulated_time(
    seed: int, scenario_file: Callable, run: Callable
) -> None:
    """Several faults in one run: simulated, as processes and without faults it has the same
    records, and no process is left.
    """
    text = text_of(seed)
    path, twin = scenario_file(text), scenario_file(text.partition("faults:")[0], "twin.yaml")
    undisturbed, simulated, real = run(twin), run(path), run(path, "processes")
    assert records(simulated) == records(real) == records(undisturbed) != {}
    wanted = [fault.what for fault in load(path).scenario.faults if fault.what != "late"]
    struck = [one["what"] for one in events(real, name="fault") if one["what"] != "late"]
    assert sorted(struck) == sorted(wanted)
    assert left_behind() == []
