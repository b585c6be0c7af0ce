"""Schedules of faults, drawn from seeds, in simulated time: runs end as if there had been none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from symbols import SHAPES, lived, scenario_of

from fedskd_sim.scenario import Fault, Scenario
from fedskd_sim.world.world import Weather

SCHEDULES = int(os.environ.get("FEDSKD_SCHEDULES", "100"))
WHAT = ("kill", "restart", "stop", "late", "slow")


class Kept(Weather):
    """Fair weather in which hospitals keep custody and messages take their time."""

    persists = True

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - all links are alike
        """Give the delay of a message."""
        yield 0.05


def fault_of(draw: Random, scenario: Scenario) -> Fault:
    """Draw a fault that a run survives."""
    what = draw.choice(WHAT)
    place = draw.choice(
        [{}, {"after": draw.random()}, {"round": draw.randint(1, scenario.algorithm.rounds + 1)}]
    )
    lasts = {"lasts": draw.uniform(0.1, 20)} if what in ("restart", "stop", "late") else {}
    factor = {"factor": draw.uniform(1, 9)} if what == "slow" else {}
    when = {} if what == "late" else place
    return Fault(
        hospital=draw.choice(scenario.names),
        what=what,
        seed=draw.randint(0, 99),
        **when,
        **lasts,
        **factor,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_after_any_schedule_of_faults_a_run_ends_undisturbed(shape: str, tmp_path: Path) -> None:
    """Up to six faults of any kind that a hospital survives, at any hospital, in any round or at
    any time: all runs end, without an error or a refusal, with the same records and models.
    """
    names = list(SHAPES)
    scenario = scenario_of(tmp_path, shape, held_out=1)
    undisturbed = lived(scenario, Kept())
    deaths = 0
    for seed in range(names.index(shape), SCHEDULES, len(names)):
        draw = Random(seed)
        faults = tuple(fault_of(draw, scenario) for _ in range(draw.randint(1, 6)))
        run = lived(scenario.model_copy(update={"faults": faults}), Kept())
        assert run.world.over, (seed, faults)
        assert not run.world.errors, (seed, faults)
        assert not run.refusals, (seed, faults)
        assert run.result == undisturbed.result, (seed, faults)
        deaths += sum(node.life for node in run.world.nodes.values())
    assert deaths or SCHEDULES < 50
