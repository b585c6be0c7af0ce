"""Links of any kind, drawn from seeds, in simulated time: runs end as over perfect links."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from symbols import SHAPES, prepared, scenario_of
from weather import OneDeath

from fedskd_sim.scenario import Link, Scenario
from fedskd_sim.transport.shaping import Shaping

NETWORKS = int(os.environ.get("FEDSKD_NETWORKS", "42"))


def link_of(draw: Random, scenario: Scenario) -> Link:
    """Draw a rule that a run survives."""
    one, other = draw.sample(scenario.names, 2)
    where = draw.choice([{}, {"from": one}, {"to": one}, {"between": (one, other)}])
    delay = draw.choice([0.0, draw.uniform(0, 3)])
    shares = {name: draw.choice([0.0, 0.3 * draw.random()]) for name in ("loss", "corrupt")}
    shares |= {name: draw.choice([0.0, draw.random()]) for name in ("repeat", "reorder")}
    cut = {"begin": draw.uniform(0, 20), "lasts": draw.uniform(0, 60)}
    values = where | shares | {"delay": delay, "jitter": draw.random() * delay}
    values |= {"bandwidth": draw.choice([None, "10", "1k"]), "seed": draw.randint(0, 9)}
    return Link.model_validate(values | {"partition": draw.choice([(), (cut,)])})


@pytest.mark.parametrize("shape", SHAPES)
def test_over_any_links_a_run_ends_undisturbed(shape: str, tmp_path: Path) -> None:
    """Up to three rules of any kind: all runs end without an error, with the same records and
    models, and nothing is refused but what was changed on the way.
    """
    names, runs = list(SHAPES), []
    scenario = scenario_of(tmp_path, shape, held_out=1)
    for seed in (-1, *range(names.index(shape), NETWORKS, len(names))):
        draw = Random(seed)
        links = tuple(link_of(draw, scenario) for _ in range(draw.randint(1, 3)))
        run = prepared(scenario, OneDeath())
        if seed >= 0:
            run.world.links = Shaping(scenario.model_copy(update={"links": links}))
        run.world.run()
        assert run.world.over, (seed, links)
        assert not run.world.errors, (seed, links)
        assert all(str(one.reason).endswith("changed on the way") for one in run.refusals)
        runs.append(run)
    assert all(run.result == runs[0].result for run in runs)
